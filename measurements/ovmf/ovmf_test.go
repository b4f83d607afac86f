// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package ovmf

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"slices"
	"testing"

	"cocoon/internal/sharedtest"
	"cocoon/measurements/ovmf/ovmftest"
)

func parsed(t testing.TB, data []byte) *Image {
	t.Helper()
	i, err := Parse(data)
	if err != nil {
		t.Fatal(err)
	}
	return i
}

func TestTheTableLeadsToEverything(t *testing.T) {
	t.Parallel()
	i := parsed(t, ovmftest.Firmware())
	eip, err := i.ResetEIP()
	base, ok := i.HashTable()
	if err != nil || !ok || eip != ovmftest.ResetEIP || base != ovmftest.HashTable || i.GPA() != 0xffffe000 {
		t.Errorf("eip %#x, hashes at %#x, image at %#x: %v", eip, base, i.GPA(), err)
	}
	list, err := i.Sections()
	if err != nil || len(list) != 6 || list[5] != (Section{0x810000, 0x1000, KernelHashes}) {
		t.Errorf("sections %+v, %v", list, err)
	}
	if b, err := i.TDXMetadata(); err != nil || len(b) != ovmftest.TDXOffset {
		t.Errorf("%d bytes for TDX, %v", len(b), err)
	}
	if _, err := i.SVSMOffset(); !errors.Is(err, ErrFirmware) {
		t.Errorf("an SVSM that is not there: %v", err)
	}
}

func TestIdentifiersAreInTheirOrder(t *testing.T) {
	t.Parallel()
	seen := map[GUID]bool{{}: true}
	for _, g := range []GUID{footerGUID(), hashesGUID(), resetGUID(), sevGUID(), tdxGUID(), svsmInfoGUID()} {
		if seen[g] {
			t.Errorf("%x is twice or none", g)
		}
		seen[g] = true
	}
	if g := footerGUID(); hex.EncodeToString(g[:]) != "de82b596b21ff745baeaa366c55a082d" {
		t.Errorf("the footer is %x", g)
	}
}

// The tails are edk2's.
func TestRealFirmwareIsRead(t *testing.T) {
	t.Parallel()
	var file struct {
		OVMF map[string]struct {
			Metadata []Section `json:"metadata"`
			EIP      uint32    `json:"sev_es_reset_eip"`
		} `json:"ovmf"`
	}
	if err := json.Unmarshal(sharedtest.Read(t, "measure/snp/intermediate.json"), &file); err != nil {
		t.Fatal(err)
	}
	for name, hashes := range map[string]bool{"ovmf_AmdSev_suffix.bin": true, "ovmf_OvmfX64_suffix.bin": false} {
		i := parsed(t, sharedtest.Read(t, "measure/snp/"+name))
		list, err := i.Sections()
		if _, ok := i.HashTable(); ok != hashes || err != nil || len(list) == 0 {
			t.Errorf("%s: place for hashes %t, %d sections, %v", name, ok, len(list), err)
		}
		if eip, err := i.ResetEIP(); err != nil || eip != 0x80b004 {
			t.Errorf("%s: %#x, %v", name, eip, err)
		}
	}
}

func TestFirmwareWithoutATableHasNothing(t *testing.T) {
	t.Parallel()
	i := parsed(t, make([]byte, 4096))
	list, err := i.Sections()
	if _, ok := i.HashTable(); ok || list != nil || err != nil {
		t.Errorf("%+v, %v", list, err)
	}
	if _, err := i.ResetEIP(); !errors.Is(err, ErrFirmware) {
		t.Errorf("eip: %v", err)
	}
	if _, err := i.TDXMetadata(); !errors.Is(err, ErrFirmware) {
		t.Errorf("TDX: %v", err)
	}
}

func TestOffsetsThatLeadOutsideAreRefused(t *testing.T) {
	t.Parallel()
	put16, put32 := binary.LittleEndian.PutUint16, binary.LittleEndian.PutUint32
	end := len(ovmftest.Firmware()) - behindTable
	sev := len(ovmftest.Firmware()) - ovmftest.SEVOffset
	section := sev + 16
	for name, spoil := range map[string]func([]byte) []byte{
		"empty":           func([]byte) []byte { return nil },
		"short":           func(b []byte) []byte { return b[:49] },
		"table too large": func(b []byte) []byte { put16(b[end-entryHead:], 0xffff); return b },
		"table too small": func(b []byte) []byte { put16(b[end-entryHead:], 17); return b },
		"entry too large": func(b []byte) []byte { put16(b[end-2*entryHead:], 0xfff); return b },
		"entry too small": func(b []byte) []byte { put16(b[end-2*entryHead:], 3); return b },
		"mark":            func(b []byte) []byte { b[sev]++; return b },
		"version":         func(b []byte) []byte { put32(b[sev+8:], 2); return b },
		"many sections":   func(b []byte) []byte { put32(b[sev+12:], 4096); return b },
		"twice":           func(b []byte) []byte { copy(b[end-entryHead-22-16:], b[end-entryHead-16:end-entryHead]); return b },
		"very many": func(b []byte) []byte {
			b = slices.Concat(make([]byte, 1<<16), b)
			put32(b[entryAt(b, sevGUID(), 4):], uint32(len(b)))
			copy(b, "ASEV")
			put32(b[4:], 1<<16)
			put32(b[8:], 1)
			put32(b[12:], maxSections+1)
			return b
		},
		"too large":       func([]byte) []byte { return make([]byte, maxImage+1) },
		"size of less":    func(b []byte) []byte { put32(b[sev+4:], 16+12*6-1); return b },
		"size of more":    func(b []byte) []byte { put32(b[sev+4:], uint32(len(b)-sev+1)); return b },
		"size of nothing": func(b []byte) []byte { put32(b[sev+4:], 0); return b },
		"between pages":   func(b []byte) []byte { put32(b[section:], 0x800800); return b },
		"half a page":     func(b []byte) []byte { put32(b[section+4:], 0x9800); return b },
		"no page":         func(b []byte) []byte { put32(b[section+4:], 0); return b },
		"above 4 GiB":     func(b []byte) []byte { put32(b[section:], 0xfffff000); return b },
		"half the memory": func(b []byte) []byte { put32(b[section:], 0); put32(b[section+4:], 0x80000000); return b },
		"much together": func(b []byte) []byte {
			put32(b[section+4:], 0x20000000)
			put32(b[section+12+4:], 0x20000000)
			return b
		},
		"endless": func(b []byte) []byte { put32(b[sev+12:], 0xffffffff); return b },
	} {
		i, err := Parse(spoil(ovmftest.Firmware()))
		if err == nil {
			_, err = i.Sections()
		}
		if !errors.Is(err, ErrFirmware) {
			t.Errorf("%s: %v", name, err)
		}
	}
	i := parsed(t, ovmftest.Firmware())
	if b, err := i.fromEnd(uint32(len(i.Data)) + 1); !errors.Is(err, ErrFirmware) {
		t.Errorf("%d bytes, %v", len(b), err)
	}
}

// entryAt is where the data of an entry begins.
func entryAt(b []byte, id GUID, size int) int { return bytes.LastIndex(b, id[:]) - 2 - size }

func TestEntriesThatNameNothingAreNotThere(t *testing.T) {
	t.Parallel()
	for name, v := range map[string][2]uint32{"at 0": {0, 0x400}, "small": {ovmftest.HashTable, minHashTable - 1}} {
		b := ovmftest.Firmware()
		at := entryAt(b, hashesGUID(), 8)
		binary.LittleEndian.PutUint32(b[at:], v[0])
		binary.LittleEndian.PutUint32(b[at+4:], v[1])
		if _, ok := parsed(t, b).HashTable(); ok {
			t.Errorf("%s: a place for hashes", name)
		}
	}
	b := ovmftest.Firmware()
	binary.LittleEndian.PutUint32(b[entryAt(b, resetGUID(), 4):], 0)
	if eip, err := parsed(t, b).ResetEIP(); !errors.Is(err, ErrFirmware) {
		t.Errorf("eip %#x, %v", eip, err)
	}
	b = ovmftest.Firmware()
	binary.LittleEndian.PutUint32(b[entryAt(b, tdxGUID(), 4):], uint32(len(b)+1))
	if got, err := parsed(t, b).TDXMetadata(); !errors.Is(err, ErrFirmware) {
		t.Errorf("%d bytes for TDX, %v", len(got), err)
	}
}

func TestAServiceModuleSaysWhereItBegins(t *testing.T) {
	t.Parallel()
	i := parsed(t, ovmftest.SVSM())
	if at, err := i.SVSMOffset(); err != nil || at != ovmftest.SVSMStart {
		t.Errorf("%#x, %v", at, err)
	}
	if list, err := i.Sections(); err != nil || len(list) != 3 || list[0] != (Section{0x806000, 0x1000, CPUID}) {
		t.Errorf("sections %+v, %v", list, err)
	}
}

// What a parsed image gives is bounded, whatever the image says.
func FuzzParse(f *testing.F) {
	f.Add(ovmftest.Firmware())
	f.Add(ovmftest.SVSM())
	f.Fuzz(func(t *testing.T, b []byte) {
		i, err := Parse(b)
		if err != nil {
			if !errors.Is(err, ErrFirmware) {
				t.Errorf("no mark on %v", err)
			}
			return
		}
		list, err := i.Sections()
		if err != nil && !errors.Is(err, ErrFirmware) {
			t.Errorf("no mark on %v", err)
		}
		var sum uint64
		for _, s := range list {
			if s.Size == 0 || (s.GPA|s.Size)%pageSize != 0 || uint64(s.GPA)+uint64(s.Size) > fourGiB {
				t.Errorf("section %+v", s)
			}
			sum += uint64(s.Size)
		}
		if sum > maxMeasured {
			t.Errorf("sections of %d bytes", sum)
		}
		if m, err := i.TDXMetadata(); err == nil && !bytes.HasSuffix(b, m) {
			t.Error("metadata for TDX from elsewhere")
		}
		if eip, err := i.ResetEIP(); err == nil && eip == 0 {
			t.Error("processors begin at 0")
		}
		if base, ok := i.HashTable(); ok && base == 0 {
			t.Error("hashes at 0")
		}
	})
}
