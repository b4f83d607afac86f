// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package tdx

import (
	"crypto/sha512"
	"encoding/binary"
	"errors"
	"strings"
	"testing"

	"cocoon/measurements/ovmf"
	"cocoon/measurements/ovmf/ovmftest"
	"cocoon/measurements/pe/direct"
)

// resource is one block of the list.
type resource struct{ kind, start, size uint64 }

func resources(t *testing.T, b []byte) []resource {
	t.Helper()
	if len(b) < handoffSize || (len(b)-handoffSize)%resourceSize != 0 {
		t.Fatalf("%d bytes", len(b))
	}
	var list []resource
	for b = b[handoffSize:]; len(b) > 0; b = b[resourceSize:] {
		list = append(list, resource{uint64(binary.LittleEndian.Uint32(b[24:])), binary.LittleEndian.Uint64(b[32:]), binary.LittleEndian.Uint64(b[40:])})
	}
	return list
}

// hobSections begin where memory does, lie against each other, and end with it.
func hobSections() []Section {
	return []Section{
		{Type: 0, Address: 0xfffff000, Size: 0x1000}, {Type: typeTempMem, Address: 0x3000, Size: 0x1000}, {Type: typeHOB, Address: 0, Size: 0x1000},
		{Type: typeTempMem, Address: 0x2000, Size: 0x1000}, {Type: typeTempMem, Address: 0xf000, Size: 0x1000}, {Type: 4, Address: 0x5000, Size: 0x1000},
	}
}

func TestSectionsCutTheMemory(t *testing.T) {
	t.Parallel()
	b := must[[]byte](t)(TDHOB(hobSections(), 0x10000))
	want := []resource{{0, 0, 0x1000}, {7, 0x1000, 0x1000}, {0, 0x2000, 0x1000}, {0, 0x3000, 0x1000}, {7, 0x4000, 0xb000}, {0, 0xf000, 0x1000}}
	got := resources(t, b)
	for n := range want {
		if len(got) != len(want) || got[n] != want[n] {
			t.Fatalf("%x, want %x", got, want)
		}
	}
	if end := binary.LittleEndian.Uint64(b[48:]); end != uint64(len(b)+8) {
		t.Errorf("the list ends at %#x", end)
	}
}

func TestMuchMemoryGoesOnAbove4GiB(t *testing.T) {
	t.Parallel()
	const manyMemory = 0xb0000000
	for memory, want := range map[uint64]resource{manyMemory - pageSize: {7, 0x10000, 0xaffef000}, manyMemory: {7, fourGiB, 0x30000000}, 64 << 30: {7, fourGiB, 62 << 30}} {
		list := resources(t, must[[]byte](t)(TDHOB(hobSections(), memory)))
		if got := list[len(list)-1]; got != want {
			t.Errorf("%#x: %x, want %x", memory, got, want)
		}
	}
}

func TestMemoryThatDoesNotFitTheFirmwareIsRefused(t *testing.T) {
	t.Parallel()
	many := append(hobSections(), hobSections()[1:2]...)
	crowded := []Section{{Type: typeHOB, Address: 0, Size: 56 + 8 + 47}}
	for name, tc := range map[string]struct {
		sections []Section
		memory   uint64
		want     error
	}{
		"none": {hobSections(), 0, direct.ErrConfig}, "half a page": {hobSections(), 0x10800, direct.ErrConfig}, "too much": {hobSections(), 1 << 60, direct.ErrConfig},
		"section behind it": {hobSections(), 0xf000, ovmf.ErrFirmware}, "section twice": {many, 0x10000, ovmf.ErrFirmware}, "no section": {nil, 0x10000, ovmf.ErrFirmware},
		"no room": {crowded, 0x10000, ovmf.ErrFirmware}, "section beyond": {[]Section{{Type: typeHOB, Address: 1 << 63, Size: 1 << 63}}, 0x10000, ovmf.ErrFirmware},
	} {
		if b, err := TDHOB(tc.sections, tc.memory); !errors.Is(err, tc.want) {
			t.Errorf("%s: %d bytes, %v", name, len(b), err)
		}
	}
}

func TestKnownEventsAreOfFirmwareAndMemory(t *testing.T) {
	t.Parallel()
	i := image(t)
	known := must[[]Event](t)(Known(i, 2<<30))
	sections := must[[]Section](t)(Sections(i))
	if len(known) != 2+len(constants()) || known[0].Digest != sha512.Sum384(must[[]byte](t)(TDHOB(sections, 2<<30))) || known[1].Digest != sha512.Sum384(i.Data[:4096]) {
		t.Errorf("%d events: %+v", len(known), known)
	}
	if other := must[[]Event](t)(Known(i, 1<<30)); other[0].Digest == known[0].Digest || other[1] != known[1] {
		t.Error("the memory does not matter, or to more than the TD HOB")
	}
	steps := []Step{{What: "variables", Digest: known[1].Digest}, {What: "tables", Digest: Register{1}}}
	if left := Unknown(steps, known); len(left) != 1 || left[0].What != "tables" {
		t.Errorf("%+v", left)
	}
	if _, err := Known(i, 0); !errors.Is(err, direct.ErrConfig) {
		t.Errorf("no memory: %v", err)
	}
	if _, err := Known(must[*ovmf.Image](t)(ovmf.Parse(make([]byte, 4096))), 1<<30); !errors.Is(err, ovmf.ErrFirmware) {
		t.Errorf("no firmware for TDX: %v", err)
	}
}

func TestMRTDComesWithAStepForEachSection(t *testing.T) {
	t.Parallel()
	i := image(t)
	for _, twoPass := range []bool{false, true} {
		value, steps, err := MRTDSteps(i, twoPass)
		if err != nil || len(steps) != 5 || steps[4].Value != value || value != must[Register](t)(MRTD(i)) {
			t.Fatalf("%x after %d steps, %v", value, len(steps), err)
		}
		if steps[0].Digest != sha512.Sum384(i.Data[4096:8192]) || steps[1].Digest != (Register{}) || steps[3].Value != steps[4].Value || steps[2].Value == steps[3].Value {
			t.Errorf("steps %+v", steps)
		}
		for n, want := range []string{"BFV, 1 pages at 0xfffff000, added and measured", "CFV, 1 pages at 0xffffe000, added", "TEMP_MEM, 2 pages", "TD_HOB, 1 pages", "PERM_MEM, 1 pages at 0x900000, not added"} {
			if !strings.HasPrefix(steps[n].What, want) || steps[n].Input != "firmware" {
				t.Errorf("step %d is %q, want %q", n, steps[n].What, want)
			}
		}
	}
	i.Data[len(i.Data)-ovmftest.TDXOffset+16+24] = 99
	if _, steps, err := MRTDSteps(i, false); err != nil || !strings.HasPrefix(steps[0].What, "type 99, ") {
		t.Errorf("%+v, %v", steps, err)
	}
}
