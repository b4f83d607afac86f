// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package ovmf

import (
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"reflect"
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
		"endless":         func(b []byte) []byte { put32(b[sev+12:], 0xffffffff); return b },
	} {
		i, err := Parse(spoil(ovmftest.Firmware()))
		if err == nil {
			_, err = i.Sections()
		}
		if !errors.Is(err, ErrFirmware) {
			t.Errorf("%s: %+v, %v", name, i, err)
		}
	}
	i := parsed(t, ovmftest.Firmware())
	if b, err := i.fromEnd(uint32(len(i.Data)) + 1); !errors.Is(err, ErrFirmware) {
		t.Errorf("%d bytes, %v", len(b), err)
	}
}

func FuzzParse(f *testing.F) {
	f.Add(ovmftest.Firmware())
	f.Fuzz(func(t *testing.T, b []byte) {
		i, err := Parse(b)
		if err != nil {
			return
		}
		a, errA := i.Sections()
		c, errC := i.Sections()
		if !reflect.DeepEqual(a, c) || (errA == nil) != (errC == nil) {
			t.Error("two readings differ")
		}
	})
}
