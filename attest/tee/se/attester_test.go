// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package se

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
)

// ultravisor plays the device.
type ultravisor struct {
	err error
	got Call
}

func (u *ultravisor) Attest(_ context.Context, c *Call) error {
	u.got = *c
	copy(c.Measurement, "measured")
	copy(c.Additional, "more")
	c.CUID[15] = 9
	return u.err
}

// A request as upstream's verifier writes it, and as the client completes it.
const request = `{"request_blob":"AQID","measurement_size":64,"additional_size":4,"encr_measurement_key":"a2V5","encr_request_nonce":"bm9uY2U=",` +
	`"image_hdr_tags":"dGFncw==","runtime_data_digest":"ZGlnZXN0"}`

func TestARequestIsAnsweredWithTheSessionsDigest(t *testing.T) {
	t.Parallel()
	u := &ultravisor{}
	raw, err := NewWith(u).Evidence(t.Context(), []byte(request))
	if err != nil {
		t.Fatal(err)
	}
	data := append([]byte("digest"), make([]byte, DataSize-6)...)
	if !bytes.Equal(u.got.Block, []byte{1, 2, 3}) || !bytes.Equal(u.got.UserData, data) || len(u.got.Measurement) != 64 || len(u.got.Additional) != 4 {
		t.Errorf("the ultravisor was asked %+v", u.got)
	}
	var e Evidence
	if err := json.Unmarshal(raw, &e); err != nil {
		t.Fatal(err)
	}
	if !bytes.HasPrefix(e.Measurement, []byte("measured")) || string(e.Additional) != "more" || !bytes.Equal(e.UserData, data) || len(e.CUID) != CUIDSize || e.CUID[15] != 9 ||
		string(e.Key) != "key" || string(e.Nonce) != "nonce" || string(e.Tags) != "tags" {
		t.Errorf("evidence %+v", e)
	}
	for _, member := range []string{"measurement", "additional_data", "user_data", "cuid", "encr_measurement_key", "encr_request_nonce", "image_hdr_tags"} {
		if !strings.Contains(string(raw), `"`+member+`":"`) {
			t.Errorf("evidence lacks %q: %s", member, raw)
		}
	}
	if NewWith(u).TEE() != "se" {
		t.Error("name on the wire")
	}
}

func TestWhatIsNoRequestIsRefused(t *testing.T) {
	t.Parallel()
	for name, change := range map[string][2]string{
		"no JSON":         {request, "x"},
		"a list":          {request, "[]"},
		"no block":        {`"AQID"`, `""`},
		"block no base64": {`"AQID"`, `"!"`},
		"no measurement":  {`"measurement_size":64`, `"measurement_size":0`},
		"a large one":     {`"measurement_size":64`, `"measurement_size":32769`},
		"a negative one":  {`"measurement_size":64`, `"measurement_size":-1`},
		"large data":      {`"additional_size":4`, `"additional_size":32769`},
		"no digest":       {`"ZGlnZXN0"`, `""`},
		"long digest":     {`"ZGlnZXN0"`, `"` + strings.Repeat("AAAA", 22) + `"`},
		"a huge block":    {`"AQID"`, `"` + strings.Repeat("AAAA", 1<<19) + `"`},
	} {
		u := &ultravisor{}
		if raw, err := NewWith(u).Evidence(t.Context(), []byte(strings.Replace(request, change[0], change[1], 1))); !errors.Is(err, ErrRequest) || u.got.Block != nil {
			t.Errorf("%s: %s, %v", name, raw, err)
		}
	}
}

func TestADeviceThatFailsGivesNoEvidence(t *testing.T) {
	t.Parallel()
	lost := errors.New("lost")
	if raw, err := NewWith(&ultravisor{err: lost}).Evidence(t.Context(), []byte(request)); !errors.Is(err, lost) || raw != nil {
		t.Errorf("%s, %v", raw, err)
	}
	if err := (driver{path: filepath.Join(t.TempDir(), "absent")}).Attest(t.Context(), &Call{}); !errors.Is(err, ErrUnsupported) {
		t.Errorf("no device: %v", err)
	}
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	c := Call{Block: []byte{1}, UserData: []byte{2}, Measurement: make([]byte, 1)}
	if err := (driver{path: file}).Attest(t.Context(), &c); !errors.Is(err, unix.ENOTTY) {
		t.Errorf("a file that is no device: %v", err)
	}
}

func TestOnlyOneCodeOfTheUltravisorIsSuccess(t *testing.T) {
	t.Parallel()
	for rc := range uint16(0x200) {
		if err := refusal(control{rc: rc, rrc: 7}); (err == nil) != (rc == 1) {
			t.Errorf("rc %#x: %v", rc, err)
		}
	}
}

// The sizes and places are those of the kernel's header.
func TestStructuresAreTheKernels(t *testing.T) {
	t.Parallel()
	var a arguments
	for what, is := range map[string]bool{
		"control": unsafe.Sizeof(control{}) == 0x40, "address": unsafe.Offsetof(control{}.address) == 8, "length": unsafe.Offsetof(control{}.length) == 16,
		"arguments": unsafe.Sizeof(a) == 0x138, "user data": unsafe.Offsetof(a.userData) == 0x18, "cuid": unsafe.Offsetof(a.cuid) == 0x118,
		"block length": unsafe.Offsetof(a.blockLen) == 0x128, "user data length": unsafe.Offsetof(a.userDataLen) == 0x134, "number": attest == 0xC0407501,
	} {
		if !is {
			t.Errorf("%s has another size or place", what)
		}
	}
}

func FuzzRequest(f *testing.F) {
	f.Add([]byte(request))
	f.Fuzz(func(t *testing.T, raw []byte) {
		r, err := parseRequest(raw)
		if (err == nil) != (r != nil) || err != nil && !errors.Is(err, ErrRequest) {
			t.Errorf("%+v, %v", r, err)
		}
	})
}
