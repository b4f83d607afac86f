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
	"slices"
	"strings"
	"testing"
	"testing/synctest"
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

// tags are those of a request, TagsSize bytes.
var tags = strings.Repeat("VEFH", TagsSize/3) + "VA=="

// A request as upstream's verifier writes it, and as the client completes it.
var request = `{"request_blob":"AQID","measurement_size":64,"additional_size":4,"encr_measurement_key":"a2V5","encr_request_nonce":"bm9uY2U=",` +
	`"image_hdr_tags":"` + tags + `","runtime_data_digest":"ZGlnZXN0"}`

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
		string(e.Key) != "key" || string(e.Nonce) != "nonce" || string(e.Tags) != strings.Repeat("TAG", TagsSize/3)+"T" {
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
		"no key":          {`"a2V5"`, `""`},
		"no nonce":        {`"bm9uY2U="`, `""`},
		"no tags":         {`"` + tags + `"`, `null`},
		"short tags":      {`"VEFH`, `"`},
		"long tags":       {`"VEFH`, `"VEFHVEFH`},
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
}

// node is a file in the place of the device.
func node(t *testing.T) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "uv")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

func call() *Call {
	return &Call{Block: []byte{1}, UserData: []byte{2}, Measurement: make([]byte, 64), Additional: make([]byte, 64)}
}

func TestAMissingDeviceIsToldApart(t *testing.T) {
	t.Parallel()
	if err := (driver{filepath.Join(t.TempDir(), "absent"), attestCall}).Attest(t.Context(), call()); !errors.Is(err, ErrUnsupported) {
		t.Errorf("no device: %v", err)
	}
	if err := (driver{node(t), attestCall}).Attest(t.Context(), call()); !errors.Is(err, unix.ENOTTY) || errors.Is(err, ErrUnsupported) {
		t.Errorf("a file that is no device: %v", err)
	}
}

// kernel plays the driver: it fails with each of fails in turn, and answers then.
type kernel struct {
	fails  []unix.Errno
	calls  int
	answer answer
	writes byte
}

func (k *kernel) call(_ *os.File, c *Call) (answer, unix.Errno) {
	k.calls++
	if len(k.fails) > 0 {
		errno := k.fails[0]
		k.fails = k.fails[1:]
		return answer{}, errno
	}
	c.Measurement[len(c.Measurement)-1], c.CUID[0] = k.writes, k.writes
	return k.answer, 0
}

func TestTheAnswersOfADeviceAreToldApart(t *testing.T) {
	t.Parallel()
	good := answer{rc: 1, additional: 64}
	for name, tc := range map[string]struct {
		kernel kernel
		want   error
		text   string
	}{
		"unsupported by the device":     {kernel{fails: []unix.Errno{unix.ENOTTY}}, unix.ENOTTY, "measurement"},
		"sizes that the driver refuses": {kernel{fails: []unix.Errno{unix.EINVAL}}, unix.EINVAL, "measurement"},
		"unsupported by the ultravisor": {kernel{answer: answer{rc: 2}}, ErrUnsupported, "rc 0x0002"},
		"a request for other machines":  {kernel{answer: answer{rc: 0x10c, rrc: 7}, writes: 1}, ErrRefused, "rrc 0x0007 it cannot open the request"},
		"a request of another version":  {kernel{answer: answer{rc: 0x106}, writes: 1}, ErrRefused, "version"},
		"another refusal":               {kernel{answer: answer{rc: 0x5, additional: 64}, writes: 1}, ErrRefused, "rc 0x0005"},
		"stale: nothing was measured":   {kernel{answer: good}, ErrAnswer, "no measurement"},
		"more data than there is room":  {kernel{answer: answer{rc: 1, additional: 65}, writes: 1}, ErrAnswer, "65 bytes"},
		"far more":                      {kernel{answer: answer{rc: 1, additional: 1<<32 - 1}, writes: 1}, ErrAnswer, "4294967295 bytes"},
	} {
		if err := (driver{node(t), tc.kernel.call}).Attest(t.Context(), call()); !errors.Is(err, tc.want) || !strings.Contains(err.Error(), tc.text) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for size := range uint32(65) {
		c := call()
		k := kernel{answer: answer{rc: 1, additional: size}, writes: 1}
		if err := (driver{node(t), k.call}).Attest(t.Context(), c); err != nil || len(c.Additional) != int(size) || c.CUID[0] != 1 {
			t.Errorf("additional data of %d bytes: %+v, %v", size, c, err)
		}
	}
}

func TestABusyDeviceIsAskedAgainForAWhile(t *testing.T) {
	t.Parallel()
	busy := func(n int) []unix.Errno {
		return slices.Repeat([]unix.Errno{unix.EBUSY, unix.EINTR, unix.EAGAIN}, n)[:n]
	}
	for n, want := range map[int]error{0: nil, 1: nil, busyTries - 1: nil, busyTries: busy(busyTries)[busyTries-1], busyTries + 1: busy(busyTries)[busyTries-1]} {
		path := node(t)
		synctest.Test(t, func(t *testing.T) {
			k := kernel{fails: busy(n), answer: answer{rc: 1}, writes: 1}
			err := driver{path, k.call}.Attest(t.Context(), call())
			if want == nil && err != nil || want != nil && !errors.Is(err, want) || k.calls != min(n+1, busyTries) {
				t.Errorf("busy %d times, %d calls: %v", n, k.calls, err)
			}
		})
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	lost := errors.New("lost")
	cancel(lost)
	k := kernel{fails: busy(2), answer: answer{rc: 1}, writes: 1}
	if err := (driver{node(t), k.call}).Attest(ctx, call()); !errors.Is(err, lost) || k.calls != 1 {
		t.Errorf("given up, %d calls: %v", k.calls, err)
	}
}

func TestOnlyOneCodeOfTheUltravisorIsSuccess(t *testing.T) {
	t.Parallel()
	for rc := range uint16(0x200) {
		c := call()
		c.Measurement[0] = 1
		if err := (answer{rc: rc, rrc: 7}).check(c); (err == nil) != (rc == 1) || err != nil && !errors.Is(err, ErrRefused) {
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
