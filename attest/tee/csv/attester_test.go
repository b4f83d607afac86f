// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package csv

import (
	"bytes"
	"context"
	"crypto/hmac"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"cocoon/internal/sm3"
)

// fake is a secure processor.
type fake struct {
	err    error
	change func(page *[PageSize]byte)
}

func (f fake) Report(_ context.Context, page *[PageSize]byte) error {
	if f.err != nil {
		return f.err
	}
	data, nonce := bytes.Clone(page[:DataSize]), bytes.Clone(page[DataSize:][:nonceSize])
	sum := sm3.Sum(page[:DataSize+nonceSize])
	if !bytes.Equal(sum[:], page[DataSize+nonceSize:][:digestSize]) {
		return errors.New("the request's digest is wrong")
	}
	clear(page[:])
	mask := [4]byte{1, 2, 3, 4}
	copy(page[offData:], data)
	copy(page[offNonce:], nonce)
	copy(page[offOldCert+166:], "pek")
	copy(page[offOldCert+CertSize:], "SERIAL")
	for i := range offMask {
		page[i] ^= mask[i%4]
	}
	for i := range CertSize + serialSize {
		page[offOldCert+i] ^= mask[i%4]
	}
	copy(page[offMask:], mask[:])
	mac := hmac.New(sm3.New, nonce)
	mac.Write(page[offOldCert:][:CertSize+serialSize+digestSize]) //nolint:errcheck // a hash does not fail
	copy(page[offOldCert+CertSize+serialSize+digestSize:], mac.Sum(nil))
	if f.change != nil {
		f.change(page)
	}
	return nil
}

func TestEvidenceIsAboutTheRequest(t *testing.T) {
	t.Parallel()
	raw, err := NewWith(fake{}).Evidence(t.Context(), []byte("digest"))
	if err != nil {
		t.Fatal(err)
	}
	var e Evidence
	if err := json.Unmarshal(raw, &e); err != nil {
		t.Fatal(err)
	}
	r, err := ParseReport(e.Report.Data, e.Report.Magic, e.Report.Flags)
	if err != nil {
		t.Fatal(err)
	}
	want := append([]byte("digest"), make([]byte, DataSize-6)...)
	if !bytes.Equal(r.ReportData(), want) || !bytes.HasPrefix(e.Serial, []byte("SERIAL\x00")) || !bytes.HasPrefix(e.Chain.PEK.Body.Data.UserID[:], []byte("pek\x00")) ||
		!strings.Contains(string(raw), `"cc_eventlog":null`) || strings.Contains(string(raw), "hsk_cek") {
		t.Errorf("%.300s", raw)
	}
	if NewWith(fake{}).TEE() != "csv" {
		t.Error("its name")
	}
}

func TestWhatADeviceGetsWrongIsAnError(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		device fake
		data   []byte
		want   string
	}{
		"unsupported":         {fake{err: ErrUnsupported}, nil, ErrUnsupported.Error()},
		"busy":                {fake{err: unix.EBUSY}, nil, "busy"},
		"too much":            {fake{}, make([]byte, DataSize+1), "65 bytes"},
		"stale":               {fake{change: func(p *[PageSize]byte) { p[offData] ^= 1 }}, nil, ErrStale.Error()},
		"another nonce":       {fake{change: func(p *[PageSize]byte) { p[offNonce] ^= 1 }}, nil, ErrStale.Error()},
		"empty":               {fake{change: func(p *[PageSize]byte) { clear(p[:]) }}, nil, ErrStale.Error()},
		"another certificate": {fake{change: func(p *[PageSize]byte) { p[offOldCert+9] ^= 1 }}, nil, "certificate beside it was changed"},
		"another serial":      {fake{change: func(p *[PageSize]byte) { p[offOldCert+CertSize] ^= 1 }}, nil, "certificate beside it was changed"},
	} {
		if raw, err := NewWith(tc.device).Evidence(t.Context(), tc.data); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %.80s, %v; want %q", name, raw, err, tc.want)
		}
	}
}

func TestAMissingDeviceIsToldApart(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	var page [PageSize]byte
	if err := (driver{filepath.Join(dir, "none")}).Report(t.Context(), &page); !errors.Is(err, ErrUnsupported) {
		t.Error(err)
	}
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := (driver{file}).Report(t.Context(), &page); !errors.Is(err, unix.ENOTTY) {
		t.Errorf("a file in its place: %v", err)
	}
}

func TestCertificatesSurviveTheirForms(t *testing.T) {
	t.Parallel()
	for _, size := range []int{0, CertSize - 1, CertSize + 1} {
		if _, err := ParseCert(make([]byte, size)); !errors.Is(err, ErrCert) {
			t.Errorf("%d bytes: %v", size, err)
		}
	}
	if _, err := ParseCA(make([]byte, CertSize)); !errors.Is(err, ErrCert) {
		t.Error(err)
	}
	b := make([]byte, CertSize)
	for i := range b {
		b[i] = byte(i)
	}
	c, err := ParseCert(b)
	if err != nil {
		t.Fatal(err)
	}
	if signed, err := c.Signed(); err != nil || !bytes.Equal(signed, b[:1044]) {
		t.Errorf("signed %.20x (%v)", signed, err)
	}
	if c.UID() != nil { // 0xa5a4 bytes
		t.Error("a name longer than its room")
	}
	ca, err := ParseCA(b[:CASize])
	if err != nil {
		t.Fatal(err)
	}
	if signed, err := ca.Signed(); err != nil || !bytes.Equal(signed, b[:576]) || ca.UID() != nil {
		t.Errorf("signed %.20x (%v)", signed, err)
	}
}

func FuzzReport(f *testing.F) {
	f.Add(make([]byte, PageSize), uint32(0), false)
	f.Add(make([]byte, PageSize), uint32(3), true)
	f.Fuzz(func(t *testing.T, page []byte, flags uint32, marked bool) {
		var magic [16]byte
		if marked {
			copy(magic[:], extended)
		}
		r, err := ParseReport(page, magic, flags)
		if err != nil {
			return
		}
		if len(r.ReportData()) != DataSize || len(r.Signed()) == 0 || (r.RTMRs() != nil) != (r.Version > 1) || (r.HostData() != nil) != (r.Version == 3) {
			t.Errorf("version %d", r.Version)
		}
		if _, err := r.evidence(); err != nil && !errors.Is(err, ErrReport) {
			t.Error(err)
		}
	})
}
