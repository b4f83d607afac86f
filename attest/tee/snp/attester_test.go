// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package snp

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"cocoon/attest/tee/tsm"
)

// fake is a Device.
type fake struct {
	report func(data [DataSize]byte) []byte
	certs  []byte
	err    error
}

func (f fake) Report(_ context.Context, data [DataSize]byte) (report, certs []byte, err error) {
	if f.err != nil {
		return nil, nil, f.err
	}
	return f.report(data), f.certs, nil
}

func about(data [DataSize]byte) []byte {
	r := made(3, 0x19, 1)
	copy(r[offReportData:], data[:])
	return r[:]
}

func TestEvidenceIsAboutTheRequest(t *testing.T) {
	t.Parallel()
	a := NewWith(fake{err: ErrUnsupported}, fake{report: about, certs: table(guidVCEK)})
	raw, err := a.Evidence(t.Context(), []byte("digest"))
	if err != nil {
		t.Fatal(err)
	}
	var e Evidence
	if err := json.Unmarshal(raw, &e); err != nil {
		t.Fatal(err)
	}
	want := append([]byte("digest"), make([]byte, DataSize-6)...)
	if !bytes.Equal(e.Report.ReportData(), want) || len(e.Certs) != 1 || e.Certs[0].Kind != VCEK {
		t.Errorf("report data %x, %d certificates", e.Report.ReportData(), len(e.Certs))
	}
	none := NewWith(fake{report: about})
	if raw, err = none.Evidence(t.Context(), nil); err != nil || !strings.Contains(string(raw), `"cert_chain":null`) {
		t.Errorf("%.80s (%v)", raw, err)
	}
	register, err := a.InitDataRegister(t.Context())
	if err != nil || !bytes.Equal(register, made(3, 0x19, 1).HostData()) {
		t.Errorf("HOST_DATA %x (%v)", register, err)
	}
}

func TestWhatADeviceGetsWrongIsAnError(t *testing.T) {
	t.Parallel()
	busy := errors.New("busy")
	for name, tc := range map[string]struct {
		device Device
		data   []byte
		want   error
		text   string
	}{
		"unsupported":    {fake{err: ErrUnsupported}, nil, ErrUnsupported, ""},
		"busy":           {fake{err: busy}, nil, busy, ""},
		"short":          {fake{report: func([DataSize]byte) []byte { return make([]byte, 100) }}, nil, ErrReport, "100 bytes"},
		"stale":          {fake{report: func([DataSize]byte) []byte { return about([DataSize]byte{1}) }}, []byte{2}, ErrReport, "another"},
		"odd version":    {fake{report: func(d [DataSize]byte) []byte { b := about(d); b[0] = 9; return b }}, nil, ErrReport, "version 9"},
		"broken table":   {fake{report: about, certs: []byte{1}}, nil, ErrCertTable, ""},
		"too much data":  {fake{report: about}, make([]byte, 65), nil, "65 bytes, at most 64"},
		"no device left": {fake{err: ErrUnsupported}, nil, ErrUnsupported, ""},
	} {
		raw, err := NewWith(tc.device).Evidence(t.Context(), tc.data)
		if err == nil || tc.want != nil && !errors.Is(err, tc.want) || !strings.Contains(err.Error(), tc.text) {
			t.Errorf("%s: %.40s, %v", name, raw, err)
		}
	}
}

// driverThat returns a driver whose kernel answers as f does.
func driverThat(t *testing.T, f func(try int, ask *guestRequest, req *extRequest, resp *response) error) driver {
	t.Helper()
	file := filepath.Join(t.TempDir(), "sev-guest")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	try := 0
	return driver{path: file, ioctl: func(_ int, ask *guestRequest) error {
		try++
		req := at[extRequest](ask.request)
		if req.certsLen > 0x4000 || req.certsLen%4096 != 0 {
			return unix.EINVAL // as the kernel does
		}
		return f(try, ask, req, at[response](ask.response))
	}}
}

// at is what the kernel does with an address.
func at[T any](address uint64) *T {
	return *(**T)(unsafe.Pointer(&address))
}

func answer(req *extRequest, resp *response) {
	resp.size = ReportSize
	copy(resp.report[:], about(req.data))
}

func TestTheDriverIsAskedInItsABI(t *testing.T) {
	t.Parallel()
	if n := unsafe.Sizeof(guestRequest{}); n != 32 {
		t.Errorf("struct snp_guest_request_ioctl has %d bytes", n)
	}
	if n := unsafe.Sizeof(extRequest{}); n != 112 {
		t.Errorf("struct snp_ext_report_req has %d bytes", n)
	}
	if n := unsafe.Sizeof(response{}); n != 4000 {
		t.Errorf("struct snp_report_resp has %d bytes", n)
	}
	if getExtReport != 0xC0205302 {
		t.Errorf("ioctl %#x", uint32(getExtReport))
	}
	d := driverThat(t, func(try int, ask *guestRequest, req *extRequest, resp *response) error {
		if try < 3 {
			ask.exitinfo2 = vmmBusy << 32
			return unix.EAGAIN
		}
		if ask.version != 1 || req.vmpl != 0 || req.certsLen != certsRoom || req.certs%4096 != 0 {
			t.Errorf("asked with %+v %+v", ask, req)
		}
		answer(req, resp)
		copy(unsafe.Slice(at[byte](req.certs), req.certsLen), table(guidVCEK))
		return nil
	})
	raw, err := NewWith(d).Evidence(t.Context(), []byte("x"))
	var e Evidence
	if err != nil || json.Unmarshal(raw, &e) != nil || len(e.Certs) != 1 {
		t.Errorf("%.60s (%v)", raw, err)
	}
}

func TestWhatTheDriverRefusesIsSaid(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		answer func(try int, ask *guestRequest, req *extRequest, resp *response) error
		text   string
	}{
		"always busy": {func(_ int, ask *guestRequest, _ *extRequest, _ *response) error {
			ask.exitinfo2 = vmmBusy << 32
			return unix.EIO
		}, "hypervisor is busy"},
		"table too big": {func(_ int, ask *guestRequest, _ *extRequest, _ *response) error {
			ask.exitinfo2 = vmmInvalidLen << 32
			return unix.EIO
		}, "more than 16384 bytes"},
		"firmware": {func(_ int, ask *guestRequest, _ *extRequest, _ *response) error {
			ask.exitinfo2 = 0x1d
			return unix.EIO
		}, "firmware 0x1d"},
		"an ioctl": {func(int, *guestRequest, *extRequest, *response) error { return unix.ENOTTY }, "inappropriate ioctl"},
		"a status": {func(_ int, _ *guestRequest, req *extRequest, resp *response) error {
			answer(req, resp)
			resp.status = 0x16
			return nil
		}, "status 0x16"},
		"a size": {func(_ int, _ *guestRequest, req *extRequest, resp *response) error {
			answer(req, resp)
			resp.size = 10
			return nil
		}, "10 bytes, want 1184"},
	} {
		_, err := NewWith(driverThat(t, tc.answer)).Evidence(t.Context(), nil)
		if err == nil || !strings.Contains(err.Error(), tc.text) {
			t.Errorf("%s: %v", name, err)
		}
	}
	none := driver{path: filepath.Join(t.TempDir(), "absent")}
	if _, err := NewWith(none, configfs{tsm.Reporter{Dir: t.TempDir() + "/absent"}}).Evidence(t.Context(), nil); !errors.Is(err, ErrUnsupported) {
		t.Errorf("no device at all: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	slow := driverThat(t, func(int, *guestRequest, *extRequest, *response) error { return unix.EAGAIN })
	slow.wait = 1 << 40
	if _, err := NewWith(slow).Evidence(ctx, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("given up: %v", err)
	}
}
