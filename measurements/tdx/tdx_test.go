// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package tdx

import (
	"bytes"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"cocoon/internal/sharedtest"
	"cocoon/measurements/ovmf"
	"cocoon/measurements/ovmf/ovmftest"
	"cocoon/measurements/pe"
	"cocoon/measurements/pe/direct"
)

func must[T any](t testing.TB) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func image(t testing.TB) *ovmf.Image {
	t.Helper()
	return must[*ovmf.Image](t)(ovmf.Parse(ovmftest.Firmware()))
}

// The expected value is of the whole stream, written down page by page for the
// five sections of the image.
func TestMRTDIsOfEveryPageInTheOrderOfTheMetadata(t *testing.T) {
	t.Parallel()
	i := image(t)
	add := func(gpa uint64) []byte {
		return append([]byte("MEM.PAGE.ADD\x00\x00\x00\x00"), append(binary.LittleEndian.AppendUint64(nil, gpa), make([]byte, 104)...)...)
	}
	var extends []byte
	for at := 0; at < 4096; at += 256 {
		extends = append(extends, "MR.EXTEND\x00\x00\x00\x00\x00\x00\x00"...)
		extends = append(binary.LittleEndian.AppendUint64(extends, 0xfffff000+uint64(at)), make([]byte, 104)...)
		extends = append(extends, i.Data[4096+at:4096+at+256]...)
	}
	stream := bytes.Join([][]byte{add(0xfffff000), extends, add(0xffffe000), add(0x810000), add(0x811000), add(0x809000)}, nil)
	if got, want := must[Register](t)(MRTD(i)), Register(sha512.Sum384(stream)); got != want {
		t.Errorf("%x, want %x", got, want)
	}
	if must[Register](t)(MRTDTwoPass(i)) != must[Register](t)(MRTD(i)) {
		t.Error("a measured section of one page differs by the order")
	}
	i.Data[len(i.Data)-ovmftest.TDXOffset+16+32+28] = 1 // measure the second section too, and make it larger
	i.Data[len(i.Data)-ovmftest.TDXOffset+16+32+17] = 0x20
	if must[Register](t)(MRTDTwoPass(i)) == must[Register](t)(MRTD(i)) {
		t.Error("the order does not matter for a section of two pages")
	}
}

func TestMetadataThatLeadsOutsideIsRefused(t *testing.T) {
	t.Parallel()
	put := func(b []byte, v uint32) []byte { binary.LittleEndian.PutUint32(b, v); return b }
	for name, spoil := range map[string]func([]byte){
		"mark": func(b []byte) { b[0]++ }, "version": func(b []byte) { put(b[8:], 2) }, "many": func(b []byte) { put(b[12:], 100) }, "endless": func(b []byte) { put(b[12:], 0xffffffff) },
		"content outside": func(b []byte) { put(b[16:], 0xfffff000) }, "content too large": func(b []byte) { put(b[20:], 0x2000) }, "odd address": func(b []byte) { put(b[24:], 1) },
		"odd size": func(b []byte) { put(b[32:], 100) }, "no size": func(b []byte) { put(b[32:], 0); put(b[20:], 0) }, "huge": func(b []byte) { put(b[36:], 1) },
		"huge together": func(b []byte) { put(b[16+32*2+16:], 1<<29); put(b[16+32*3+16:], 1<<29) },
	} {
		i := image(t)
		spoil(i.Data[len(i.Data)-ovmftest.TDXOffset:])
		if r, err := MRTD(i); !errors.Is(err, ovmf.ErrFirmware) {
			t.Errorf("%s: %x, %v", name, r, err)
		}
	}
	if _, steps, err := MRTDSteps(must[*ovmf.Image](t)(ovmf.Parse(make([]byte, 4096))), true); !errors.Is(err, ovmf.ErrFirmware) || steps != nil {
		t.Errorf("no metadata: %d steps, %v", len(steps), err)
	}
	if _, err := MRTD(must[*ovmf.Image](t)(ovmf.Parse(make([]byte, 4096)))); !errors.Is(err, ovmf.ErrFirmware) {
		t.Errorf("no metadata: %v", err)
	}
}

// log is a real one, with what it comes to.
type log struct {
	File   string
	SHA256 string
	Events []struct {
		Index  int `json:"mr_index"`
		SHA384 string
	}
	Replayed map[string]string
}

func TestTheEventsOfARealBootAreTheOnesPredicted(t *testing.T) {
	t.Parallel()
	var file struct {
		Constants map[string]string `json:"constant_event_digests"`
		CCEL      []log
	}
	if err := json.Unmarshal(sharedtest.Read(t, "measure/tdx/rtmr.json"), &file); err != nil {
		t.Fatal(err)
	}
	var r register
	for _, action := range []string{"Calling EFI Application from Boot Option", "Returning from EFI Application from Boot Option", "Exit Boot Services Invocation", "Exit Boot Services Returned with Success"} {
		r.action(action)
		if d := r.steps[len(r.steps)-1].Digest; hex.EncodeToString(d[:]) != file.Constants[action] {
			t.Errorf("%q: %x", action, d)
		}
	}
	real := file.CCEL[0]
	kernel := Register(must[[]byte](t)(hex.DecodeString("a2ccae1e7d6c668ca325bb09c882d8ce44d26d714ba6f58d2e8083fe291a704646afe24a2368bca3341728d78ec80a80")))
	r = register{}
	r.kernel("kernel", kernel, 202405)
	if hex.EncodeToString(r.value[:]) != real.Replayed["rtmr1"] {
		t.Errorf("RTMR1 of %s: %x", real.File, r.value)
	}
}

func TestLoadOptionsFollowTheFirmwaresRelease(t *testing.T) {
	t.Parallel()
	var file struct {
		Inputs struct {
			Cmdline string
			Direct  string `json:"load_options_direct_sha256"`
			UKI     string `json:"load_options_uki_sha256"`
		}
	}
	if err := json.Unmarshal(sharedtest.Read(t, "measure/pcr/pcr.json"), &file); err != nil {
		t.Fatal(err)
	}
	of := func(edk2 int, initrd *Register) string {
		_, raw := Boot{Cmdline: file.Inputs.Cmdline, EDK2: edk2, Initrd: initrd}.direct().LoadOptions()
		d := sha256.Sum256(raw)
		return hex.EncodeToString(d[:])
	}
	if got := of(202502, &Register{}); got != file.Inputs.Direct {
		t.Errorf("with an initrd: %s", got)
	}
	if got := of(202502, nil); got != file.Inputs.UKI {
		t.Errorf("without: %s", got)
	}
}

// program is the smallest one that firmware would hash.
func program() []byte {
	b := make([]byte, 0x200)
	copy(b, "MZ")
	b[0x3c] = 0x40
	copy(b[0x40:], "PE\x00\x00")
	b[0x54] = 240
	binary.LittleEndian.PutUint16(b[0x58:], 0x20b)
	binary.LittleEndian.PutUint32(b[0x58+60:], 0x200)
	return b
}

func boot() Boot {
	return Boot{Kernel: program(), Initrd: &Register{1}, Cmdline: "quiet", EDK2: 202511, QEMU: 1100}
}

func TestEachRegisterIsOfItsInputs(t *testing.T) {
	t.Parallel()
	values := func(b Boot) string {
		one, steps, err := b.RTMR1()
		two, more, err2 := b.RTMR2()
		if err := errors.Join(err, err2); err != nil {
			t.Fatal(err)
		}
		if steps[len(steps)-1].Value != one || more[len(more)-1].Value != two {
			t.Error("the last step is not the value")
		}
		if steps[0].Input != "kernel" || more[0].Input != "cmdline" || b.Initrd != nil && more[1].Input != "initrd" {
			t.Errorf("steps of %q, %+v", steps[0].Input, more)
		}
		return hex.EncodeToString(one[:4]) + " " + hex.EncodeToString(two[:4])
	}
	one, two, _ := strings.Cut(values(boot()), " ")
	for name, tc := range map[string]struct {
		change           func(*Boot)
		kernel, cmdlines bool // what changes
	}{
		"kernel": {func(b *Boot) { b.Kernel[0x1ff]++ }, true, false}, "initrd": {func(b *Boot) { b.Initrd = &Register{2} }, false, true}, "cmdline": {func(b *Boot) { b.Cmdline += " " }, false, true},
		"no initrd": {func(b *Boot) { b.Initrd = nil }, false, true}, "edk2 202502": {func(b *Boot) { b.EDK2 = 202502 }, false, true}, "edk2 202408": {func(b *Boot) { b.EDK2 = 202408 }, true, true},
		"QEMU": {func(b *Boot) { b.QEMU = 1002 }, false, false},
	} {
		b := boot()
		tc.change(&b)
		gotOne, gotTwo, _ := strings.Cut(values(b), " ")
		if (gotOne != one) != tc.kernel || (gotTwo != two) != tc.cmdlines {
			t.Errorf("%s: RTMR1 changes %t, RTMR2 %t", name, gotOne != one, gotTwo != two)
		}
	}
}

func TestReleasesThatAreNotKnownAreRefused(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		edk2, qemu int
		want       error
	}{
		"edk2 as text": {2025, 1100, direct.ErrConfig}, "month 13": {202513, 1100, direct.ErrConfig}, "old edk2": {202311, 1100, direct.ErrConfig}, "QEMU as number": {202511, 11, direct.ErrConfig},
		"old QEMU": {202511, 902, direct.ErrPatched}, "QEMU 10.0 with old edk2": {202411, 1000, direct.ErrPatched}, "QEMU 10.1 with old edk2": {202411, 1001, direct.ErrPatched},
	} {
		b := boot()
		b.EDK2, b.QEMU = tc.edk2, tc.qemu
		_, _, one := b.RTMR1()
		_, _, two := b.RTMR2()
		if !errors.Is(one, tc.want) || (tc.want == direct.ErrPatched) != (two == nil) || two != nil && !errors.Is(two, tc.want) { //nolint:errorlint // which sentinel the table names
			t.Errorf("%s: %v, %v", name, one, two)
		}
	}
	b := boot()
	b.Kernel = []byte("MZ")
	if _, _, err := b.RTMR1(); !errors.Is(err, pe.ErrImage) {
		t.Errorf("no kernel: %v", err)
	}
}

// bzImage is program with the header of Linux's boot protocol.
func bzImage() []byte {
	b := make([]byte, 0x1000)
	copy(b, "MZ")
	binary.LittleEndian.PutUint32(b[0x3c:], 0x400)
	copy(b[0x400:], program()[0x40:0x200])
	binary.LittleEndian.PutUint32(b[0x418+60:], 0x1000)
	b[0x206], b[0x207], b[0x211], b[0x236] = 0x0f, 0x02, 1, 0x7f
	copy(b[0x202:], "HdrS")
	return b
}

func TestAKernelThatQEMUChangesIsPredictedForAMachine(t *testing.T) {
	t.Parallel()
	b := boot()
	b.Kernel, b.QEMU, b.Memory, b.InitrdSize = bzImage(), 902, 2<<30, 5000
	one, steps, err := b.RTMR1()
	if err != nil {
		t.Fatal(err)
	}
	changed := bzImage()
	changed[0x210], changed[0x211] = 0xb0, 0x81
	copy(changed[0x218:], "\x00\x60\xfd\x7f\x88\x13\x00\x00")
	copy(changed[0x224:], "\x00\xfe\x00\x00\x00\x00\x02\x00")
	if want := must[[]byte](t)(pe.Authenticode(sha512.New384(), changed)); steps[0].Digest != Register(want) || !strings.Contains(steps[0].What, "QEMU changes") {
		t.Errorf("step %+v, want %x", steps[0], want)
	}
	b.Memory = 1 << 30
	if two, _, err := b.RTMR1(); err != nil || two == one {
		t.Errorf("less memory gives the same value (%v)", err)
	}
	b.QEMU, b.Kernel = 1100, changed
	if three, _, err := b.RTMR1(); err != nil || three != one {
		t.Errorf("%x, want %x (%v)", three, one, err)
	}
}

func TestADocumentsDigestIsPaddedOrCut(t *testing.T) {
	t.Parallel()
	if id := ConfigID([]byte{1, 2}); id[0] != 1 || id[1] != 2 || id[2] != 0 {
		t.Errorf("%x", id)
	}
	if id := ConfigID(bytes.Repeat([]byte{9}, 64)); id[47] != 9 {
		t.Errorf("%x", id)
	}
}

func FuzzMRTD(f *testing.F) {
	f.Add(ovmftest.Firmware())
	f.Fuzz(func(t *testing.T, b []byte) {
		i, err := ovmf.Parse(b)
		if err != nil {
			return
		}
		if _, err := Sections(i); err != nil && !errors.Is(err, ovmf.ErrFirmware) {
			t.Error(err)
		}
	})
}
