// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package vtpm

import (
	"bytes"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/hex"
	"encoding/json"
	"errors"
	"hash"
	"testing"

	"cocoon/internal/sharedtest"
	"cocoon/mkimage/format/uki"
)

func banks() map[string]func() hash.Hash {
	return map[string]func() hash.Hash{"sha256": sha256.New, "sha384": sha512.New384, "sha512": sha512.New}
}

func bytesOf(t *testing.T, text string) []byte {
	t.Helper()
	b, err := hex.DecodeString(text)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// The boots were real: OVMF and a software TPM. Their images are not stored, so
// that digests stand for them.
func TestTheRegistersOfRealBootsComeOut(t *testing.T) {
	t.Parallel()
	var file struct {
		Inputs struct {
			Kernel struct {
				Raw map[string]string `json:"authenticode_raw"`
			}
			Initrd  map[string]any
			Cmdline string
		}
		Sections map[string]map[string]map[string]any `json:"uki_sections"`
		Boots    []struct {
			ID           string
			PCRs         map[string]map[string]string
			Authenticode map[string]string `json:"uki_authenticode"`
		}
	}
	if err := json.Unmarshal(sharedtest.Read(t, "measure/pcr/pcr.json"), &file); err != nil {
		t.Fatal(err)
	}
	seen := 0
	for _, boot := range file.Boots {
		release, ok := map[string]int{"uki252": 252, "uki257": 257, "uki259": 259}[boot.ID]
		if !ok {
			continue
		}
		s, err := stubOf(release)
		if err != nil {
			t.Fatal(err)
		}
		for _, bank := range []string{"sha256", "sha384"} {
			seen++
			r := &registers{hash: banks()[bank], value: map[int][]byte{}}
			r.programs(bytesOf(t, boot.Authenticode[bank]), bytesOf(t, file.Inputs.Kernel.Raw[bank]), s)
			r.sections(s, func(name string) []byte {
				text, ok := file.Sections[boot.ID][name][bank].(string)
				if !ok {
					return nil
				}
				return bytesOf(t, text)
			})
			want := map[int]string{4: boot.PCRs[bank]["4"], 11: boot.PCRs[bank]["11"]}
			if !s.extra { // else the initrd's bytes are needed
				text, ok := file.Inputs.Initrd[bank].(string)
				if !ok {
					t.Fatal("no digest of the initrd")
				}
				r.loaded(file.Inputs.Cmdline, bytesOf(t, text))
				want[9] = boot.PCRs[bank]["9"]
			}
			for pcr, value := range want {
				if got := hex.EncodeToString(r.value[pcr]); got != value {
					t.Errorf("%s, PCR %d of %s: %s, want %s", boot.ID, pcr, bank, got, value)
				}
			}
		}
	}
	if seen != 6 {
		t.Errorf("%d banks of boots were compared", seen)
	}
}

type vectors struct {
	Sections [][2]string
	Banks    []struct {
		Bank   string
		Values []struct{ After, PCR11 string }
	}
}

func TestPCR11OfSectionsAndTheExtraArchive(t *testing.T) {
	t.Parallel()
	var file struct {
		Talos vectors `json:"talos_vector"`
		All   vectors `json:"all_sections_order"`
		Cpio  struct {
			OSRel string
			Hex   string `json:"cpio_hex"`
		} `json:"stub_osrel_cpio"`
	}
	if err := json.Unmarshal(sharedtest.Read(t, "measure/pcr/pcr11.json"), &file); err != nil {
		t.Fatal(err)
	}
	s, err := stubOf(259)
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range []vectors{file.Talos, file.All} {
		for _, b := range v.Banks {
			r := &registers{hash: banks()[b.Bank], value: map[int][]byte{}}
			r.sections(s, func(name string) []byte {
				for _, x := range v.Sections {
					if x[0] == name {
						return r.sum([]byte(x[1]))
					}
				}
				return nil
			})
			if got := hex.EncodeToString(r.value[11]); b.Values[0].After != "sections" || got != b.Values[0].PCR11 {
				t.Errorf("%s of %d sections: %s, want %s", b.Bank, len(v.Sections), got, b.Values[0].PCR11)
			}
		}
	}
	if got := hex.EncodeToString(extraArchive([]byte(file.Cpio.OSRel))); got != file.Cpio.Hex {
		t.Errorf("archive %s, want %s", got, file.Cpio.Hex)
	}
}

// program is a small UEFI program that may be a stub or a kernel.
func program(content string) []byte {
	b := make([]byte, 0x600)
	copy(b, "MZ")
	b[0x3c] = 0x40
	copy(b[0x40:], "PE\x00\x00")
	b[0x46] = 1
	b[0x54] = 240
	copy(b[0x58:], []byte{0x0b, 0x02})
	for at, v := range map[int]byte{32: 0x10, 36: 0x02, 60: 0x04} { // alignments and size of headers
		b[0x58+at+1] = v
	}
	b[0x58+108] = 16 // directories
	s := b[0x58+240:]
	copy(s, ".text")
	s[9], s[13], s[17], s[21] = 0x02, 0x10, 0x02, 0x04
	copy(b[0x400:], content)
	return b
}

func image(t *testing.T, change func([]uki.Section) []uki.Section) []byte {
	t.Helper()
	list := []uki.Section{{Name: ".osrel", Data: []byte("ID=x\n")}, {Name: ".cmdline", Data: []byte("quiet")}, {Name: ".initrd", Data: []byte("initrd")}, {Name: ".linux", Data: program("kernel")}}
	b, err := uki.Write(program("stub"), change(list), 0)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestEachRegisterIsOfItsParts(t *testing.T) {
	t.Parallel()
	same := func(s []uki.Section) []uki.Section { return s }
	base, steps, err := Predict(sha256.New, image(t, same), 252)
	if err != nil || len(base) != 3 || len(steps) != 4+2+8 || !bytes.Equal(steps[3].Value, base[4]) {
		t.Fatalf("%d registers, %d steps, %v", len(base), len(steps), err)
	}
	for name, tc := range map[string]struct {
		release int
		change  func([]uki.Section) []uki.Section
		differ  map[int]bool
	}{
		"the same":     {252, same, map[int]bool{}},
		"command line": {252, func(s []uki.Section) []uki.Section { s[1].Data = []byte("loud"); return s }, map[int]bool{4: true, 9: true, 11: true}},
		"initrd":       {252, func(s []uki.Section) []uki.Section { s[2].Data = []byte("other"); return s }, map[int]bool{4: true, 9: true, 11: true}},
		"kernel":       {252, func(s []uki.Section) []uki.Section { s[3].Data = program("other"); return s }, map[int]bool{4: true, 11: true}},
		"uname":        {252, func(s []uki.Section) []uki.Section { return append(s, uki.Section{Name: ".uname", Data: []byte("6")}) }, map[int]bool{4: true}},
		"stub 257":     {257, same, map[int]bool{9: true}},
		"stub 259":     {259, same, map[int]bool{4: true, 9: true}},
	} {
		got, _, err := Predict(sha256.New, image(t, tc.change), tc.release)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		for pcr := range base {
			if differs := !bytes.Equal(got[pcr], base[pcr]); differs != tc.differ[pcr] {
				t.Errorf("%s: PCR %d differs: %t", name, pcr, differs)
			}
		}
	}
}

func TestImagesThatWouldNotBootAreRefused(t *testing.T) {
	t.Parallel()
	same := func(s []uki.Section) []uki.Section { return s }
	if _, _, err := Predict(sha256.New, image(t, same), 300); !errors.Is(err, ErrStub) {
		t.Errorf("an unknown stub: %v", err)
	}
	for name, b := range map[string][]byte{
		"no image": []byte("x"), "a stub": program("stub"),
		"no kernel": image(t, func(s []uki.Section) []uki.Section { return s[:3] }), "no command line": image(t, func(s []uki.Section) []uki.Section { return append(s[:1], s[2:]...) }),
	} {
		if _, _, err := Predict(sha256.New, b, 252); !errors.Is(err, uki.ErrImage) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, _, err := Predict(sha256.New, image(t, func(s []uki.Section) []uki.Section { s[3].Data = []byte("kernel"); return s }), 252); err == nil {
		t.Error("a kernel that is no program is taken")
	}
}
