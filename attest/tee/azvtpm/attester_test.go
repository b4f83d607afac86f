// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package azvtpm_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"io/fs"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"cocoon/attest/eventlog"
	"cocoon/attest/tee/azvtpm"
	"cocoon/attest/tee/azvtpm/azvtpmtest"
	"cocoon/attest/tee/tdx"
	"cocoon/attest/tee/tpm"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// signer is Azure's metadata service.
type signer struct {
	err   error
	quote func(report []byte) []byte
}

func (s signer) VCEK(context.Context) ([]byte, error) { return []byte("vcek"), s.err }

func (s signer) TDQuote(_ context.Context, report []byte) ([]byte, error) {
	if s.err != nil {
		return nil, s.err
	}
	return s.quote(report), nil
}

// tdQuote is a quote about a report.
func tdQuote(report []byte) []byte {
	b := make([]byte, 48+584+4)
	b[0], b[4] = 4, 0x81
	copy(b[48+520:], report[128:][:tdx.DataSize])
	return b
}

func decode(t *testing.T, raw []byte) azvtpm.Evidence {
	t.Helper()
	var e azvtpm.Evidence
	if err := json.Unmarshal(raw, &e); err != nil {
		t.Fatal(err)
	}
	return e
}

func TestReportAndQuoteAreAboutTheRequest(t *testing.T) {
	t.Parallel()
	for kind, name := range map[uint32]string{azvtpm.SNP: "az-snp-vtpm", azvtpm.TDX: "az-tdx-vtpm"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := azvtpmtest.New(t, kind)
			p.Late = 2
			a := azvtpm.NewAttester(kind, p, signer{quote: tdQuote}, filepath.Join(t.TempDir(), "none"))
			if a.TEE() != name {
				t.Errorf("its name is %q", a.TEE())
			}
			for _, data := range []string{"the first digest", "another"} {
				raw, err := a.Evidence(t.Context(), []byte(data))
				if err != nil {
					t.Fatal(err)
				}
				e := decode(t, raw)
				h, err := azvtpm.ParseHCL(e.HCL)
				if err != nil || e.Version != 2 || !bytes.HasPrefix(h.UserData, []byte(data+"\x00")) {
					t.Fatalf("version %d, a report about %q (%v)", e.Version, h.UserData, err)
				}
				sum := sha256.Sum256(e.Quote.Message)
				if err := rsa.VerifyPKCS1v15(h.AK, crypto.SHA256, sum[:], e.Quote.Signature); err != nil {
					t.Error(err)
				}
				if !bytes.Contains(e.Quote.Message, []byte(data)) || len(e.Quote.PCRs) != tpm.PCRs || strings.Contains(string(raw), "cc_eventlog") {
					t.Errorf("%.200s", raw)
				}
				if snp := kind == azvtpm.SNP; snp != (string(e.VCEK) == "vcek") || snp != (e.TDQuote == nil) {
					t.Errorf("VCEK %q, quote of %d bytes", e.VCEK, len(e.TDQuote))
				}
			}
		})
	}
}

func TestAGuestOnAzureBindsAndMeasures(t *testing.T) {
	t.Parallel()
	p := azvtpmtest.New(t, azvtpm.SNP)
	dir := t.TempDir()
	g := azvtpm.Guest{Attester: azvtpm.NewAttester(azvtpm.SNP, p, signer{}, filepath.Join(dir, eventlog.File)), TPM: p.TPM}
	digest := sha256.Sum256([]byte("document"))
	if err := g.BindInitData(t.Context(), digest[:]); err != nil {
		t.Fatal(err)
	}
	regs, err := g.Registers()
	if err != nil {
		t.Fatal(err)
	}
	j, err := eventlog.Open(t.Context(), dir, regs)
	if err != nil {
		t.Fatal(err)
	}
	if err := j.Measure(t.Context(), g.MapPCR(17), eventlog.Entry{Domain: "cocoon.test", Operation: "Run"}); err != nil {
		t.Fatal(err)
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	raw, err := g.Evidence(t.Context(), []byte("digest"))
	if err != nil {
		t.Fatal(err)
	}
	e := decode(t, raw)
	want := sha256.Sum256(append(make([]byte, 32), digest[:]...))
	if !bytes.Equal(e.Quote.PCRs[tpm.InitPCR], want[:]) {
		t.Errorf("PCR 8 is %x", e.Quote.PCRs[tpm.InitPCR])
	}
	l, err := eventlog.Parse(e.EventLog)
	if err != nil {
		t.Fatal(err)
	}
	sums, err := l.Replay(eventlog.SHA256)
	if err != nil || len(sums) != 1 || !bytes.Equal(sums[15], e.Quote.PCRs[15]) {
		t.Errorf("the log gives %x (%v)", sums, err)
	}
}

func TestWhatAParavisorGetsWrongIsAnError(t *testing.T) {
	t.Parallel()
	broken := errors.New("broken")
	other := azvtpmtest.New(t, azvtpm.SNP)
	for name, tc := range map[string]struct {
		kind   uint32
		change func(*azvtpmtest.Paravisor)
		signer signer
		data   string
		want   string
	}{
		"no data":        {azvtpm.SNP, nil, signer{}, "", "report data of 0 bytes"},
		"too much":       {azvtpm.SNP, nil, signer{}, strings.Repeat("x", 65), "report data of 65 bytes"},
		"no service":     {azvtpm.SNP, nil, signer{err: broken}, "x", "broken"},
		"no TD quote":    {azvtpm.TDX, nil, signer{err: broken}, "x", "broken"},
		"short TD quote": {azvtpm.TDX, nil, signer{quote: func([]byte) []byte { return []byte("x") }}, "x", "quote"},
		"other TD quote": {azvtpm.TDX, nil, signer{quote: func(r []byte) []byte { q := tdQuote(r); q[48+520] ^= 1; return q }}, "x", "its report data is another"},
		"other hardware": {azvtpm.SNP, func(p *azvtpmtest.Paravisor) { p.Kind = azvtpm.TDX }, signer{}, "x", "hardware of type 4"},
		"no report":      {azvtpm.SNP, func(p *azvtpmtest.Paravisor) { p.Change = func(b []byte) { clear(b) } }, signer{}, "x", "no HCL report"},
		"odd hardware report": {azvtpm.SNP, func(p *azvtpmtest.Paravisor) {
			p.Change = func(b []byte) { b[32] = 9 }
		}, signer{}, "x", "version 9"},
		"another key": {azvtpm.SNP, func(p *azvtpmtest.Paravisor) {
			p.ChangeData = func(string) string {
				h, err := azvtpm.ParseHCL(other.Report())
				if err != nil {
					t.Error(err)
				}
				return strings.Replace(string(h.VarData), `"user-data":"00`, `"user-data":"78`, 1)
			}
		}, signer{}, "x", azvtpm.ErrKey.Error()},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := azvtpmtest.New(t, tc.kind)
			if tc.change != nil {
				tc.change(p)
			}
			raw, err := azvtpm.NewAttester(tc.kind, p, tc.signer, "/none").Evidence(t.Context(), []byte(tc.data))
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("%.80s, %v; want %q", raw, err, tc.want)
			}
		})
	}
}

// memory is a TPM whose report never changes.
type memory struct {
	report []byte
	err    error
}

func (m memory) ReadNV(context.Context, uint32) ([]byte, error) { return m.report, m.err }
func (memory) WriteNV(context.Context, uint32, []byte) error    { return nil }
func (memory) Quote(context.Context, uint32, []byte) (*tpm.Quote, error) {
	return nil, errors.New("it was asked for a quote")
}

func TestAReportThatStaysTheSameIsRefused(t *testing.T) {
	t.Parallel()
	p := azvtpmtest.New(t, azvtpm.SNP)
	old := p.Report()
	p.ChangeData = func(s string) string {
		return strings.Replace(s, `"user-data":"`+strings.Repeat("00", 64)+`"`, `"user-data":""`, 1)
	}
	none := p.Report()
	p.ChangeData = nil
	p.Change = func(b []byte) { b[32+0x50] ^= 1 }
	between := p.Report()
	synctest.Test(t, func(t *testing.T) {
		for name, tc := range map[string]struct {
			report []byte
			data   string
			want   string
		}{
			"stale":          {old, "digest", azvtpm.ErrStale.Error()},
			"old host":       {none, "digest", "no user data"},
			"not yet signed": {between, "\x00", "not yet reported"},
		} {
			begin := time.Now()
			_, err := azvtpm.NewAttester(azvtpm.SNP, memory{report: tc.report}, signer{}, "/none").Evidence(t.Context(), []byte(tc.data))
			if !errors.Is(err, azvtpm.ErrStale) || !strings.Contains(err.Error(), tc.want) || time.Since(begin) < 3*time.Second {
				t.Errorf("%s: %v after %s", name, err, time.Since(begin))
			}
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err := azvtpm.NewAttester(azvtpm.SNP, memory{report: old}, signer{}, "/none").Evidence(ctx, []byte("digest"))
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("with a deadline: %v", err)
		}
	})
}

func TestTheKindOfHardwareIsRead(t *testing.T) {
	t.Parallel()
	p := azvtpmtest.New(t, azvtpm.TDX)
	for name, tc := range map[string]struct {
		chip azvtpm.Chip
		kind uint32
		err  error
	}{
		"Azure":      {p, azvtpm.TDX, nil},
		"nothing":    {memory{err: tpm.ErrNoIndex}, 0, fs.ErrNotExist},
		"other data": {memory{report: make([]byte, 2600)}, 0, nil},
		"short data": {memory{report: []byte("HCLA")}, 0, nil},
		"no TPM":     {memory{err: tpm.ErrUnsupported}, 0, tpm.ErrUnsupported},
	} {
		if kind, err := azvtpm.HardwareType(t.Context(), tc.chip); kind != tc.kind || !errors.Is(err, tc.err) {
			t.Errorf("%s: %d, %v", name, kind, err)
		}
	}
}
