// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package vtpm

import (
	"bytes"
	"crypto/sha1" //nolint:gosec // TPMs still have banks of it
	"crypto/sha256"
	"crypto/sha512"
	"encoding/hex"
	"encoding/json"
	"errors"
	"hash"
	"slices"
	"strconv"
	"testing"

	"cocoon/internal/sharedtest"
	"cocoon/measurements/pe"
	"cocoon/measurements/pe/direct"
	"cocoon/mkimage/format/uki"
	"cocoon/mkimage/format/uki/ukitest"
)

func banks() map[string]func() hash.Hash {
	return map[string]func() hash.Hash{"sha1": sha1.New, "sha256": sha256.New, "sha384": sha512.New384, "sha512": sha512.New}
}

func bytesOf(t *testing.T, text string) []byte {
	t.Helper()
	b, err := hex.DecodeString(text)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// bootFile are real boots under OVMF with a software TPM. Their images are not
// stored, so that digests stand for them.
type bootFile struct {
	Inputs struct {
		Kernel struct {
			Raw     map[string]string `json:"authenticode_raw"`
			Patched map[string]string `json:"authenticode_qemu_patched_2048MiB"`
		}
		Initrd  map[string]any
		Cmdline string
	}
	Sections map[string]map[string]map[string]any `json:"uki_sections"`
	Boots    []bootVector
}

type bootVector struct {
	ID     string
	Events []struct {
		PCR    int
		SHA256 string
	}
	PCRs         map[string]map[string]string
	Authenticode map[string]string `json:"uki_authenticode"`
}

func bootsOf(t *testing.T) bootFile {
	t.Helper()
	var file bootFile
	if err := json.Unmarshal(sharedtest.Read(t, "measure/pcr/pcr.json"), &file); err != nil {
		t.Fatal(err)
	}
	return file
}

// initrd is its digest of a bank, nil if that is not known.
func (f bootFile) initrd(t *testing.T, bank string) []byte {
	t.Helper()
	text, ok := f.Inputs.Initrd[bank].(string)
	if !ok {
		return nil
	}
	return bytesOf(t, text)
}

// compare looks at the registers, and at the steps if the log has their digests.
func (v bootVector) compare(t *testing.T, bank string, r *registers, pcrs ...int) {
	t.Helper()
	for _, pcr := range pcrs {
		if got, want := hex.EncodeToString(r.value[pcr]), v.PCRs[bank][strconv.Itoa(pcr)]; got != want {
			t.Errorf("%s, PCR %d of %s: %s, want %s", v.ID, pcr, bank, got, want)
		}
		var got, want []string
		for _, s := range r.steps {
			if s.PCR == pcr {
				got = append(got, hex.EncodeToString(s.Digest))
			}
		}
		for _, e := range v.Events {
			if e.PCR == pcr {
				want = append(want, e.SHA256)
			}
		}
		if bank == "sha256" && !slices.Equal(got, want) {
			t.Errorf("%s, PCR %d: events %s, want %s", v.ID, pcr, got, want)
		}
	}
}

func TestTheRegistersOfRealBootsComeOut(t *testing.T) {
	t.Parallel()
	file := bootsOf(t)
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
		for _, bank := range []string{"sha256", "sha384"} { // images have no digest by SHA-1
			seen++
			r := &registers{hash: banks()[bank], value: map[int][]byte{}}
			r.programs(bytesOf(t, boot.Authenticode[bank]), bytesOf(t, file.Inputs.Kernel.Raw[bank]), s)
			boot.compare(t, bank, r, 4)
			initrd := file.initrd(t, bank)
			r.sections(s, func(name string) []byte {
				text, ok := file.Sections[boot.ID][name][bank].(string)
				if !ok {
					return nil
				}
				return bytesOf(t, text)
			})
			boot.compare(t, bank, r, 11)
			if s.extra { // the kernel got more than the section
				if bank != "sha256" {
					continue
				}
				initrd = combined(t)
			}
			r.loaded(file.Inputs.Cmdline, pe.LoadOptions(file.Inputs.Cmdline), initrd)
			boot.compare(t, bank, r, 9)
		}
	}
	if seen != 6 {
		t.Errorf("%d banks of boots were compared", seen)
	}
}

// combined is the digest of the initrd with what the stub adds to it.
func combined(t *testing.T) []byte {
	t.Helper()
	var file struct {
		Cpio struct {
			SHA256 string `json:"combined_sha256"`
		} `json:"stub_osrel_cpio"`
	}
	if err := json.Unmarshal(sharedtest.Read(t, "measure/pcr/pcr11.json"), &file); err != nil {
		t.Fatal(err)
	}
	return bytesOf(t, file.Cpio.SHA256)
}

// The boot named is one of QEMU 7.2 that was given the file etc/boot/kernel, as
// QEMU 10.0 makes it.
func TestTheRegistersOfRealDirectBootsComeOut(t *testing.T) {
	t.Parallel()
	file := bootsOf(t)
	seen := 0
	for _, boot := range file.Boots {
		b, ok := map[string]direct.Boot{"direct12": {EDK2: 202211, QEMU: 702}, "direct13": {EDK2: 202502, QEMU: 702}, "named": {EDK2: 202502, QEMU: 1000}}[boot.ID]
		if !ok {
			continue
		}
		b.Cmdline, b.Initrd = file.Inputs.Cmdline, true
		for _, bank := range []string{"sha1", "sha256", "sha384"} {
			seen++
			kernel := file.Inputs.Kernel.Raw[bank]
			if b.Patched() {
				kernel = file.Inputs.Kernel.Patched[bank]
			}
			r := &registers{hash: banks()[bank], value: map[int][]byte{}}
			initrd := file.initrd(t, bank)
			r.direct(bytesOf(t, kernel), b, initrd)
			boot.compare(t, bank, r, 4)
			if initrd != nil {
				boot.compare(t, bank, r, 9)
			}
		}
	}
	if seen != 9 {
		t.Errorf("%d banks of boots were compared", seen)
	}
}

type vectors struct {
	Sections [][2]string
	Banks    []struct {
		Bank   string
		Values []struct {
			After, PCR11 string
			Policy       string `json:"policy_pcr_digest"`
		}
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
			numbers := map[string]uint16{"sha256": 0xb, "sha384": 0xc, "sha512": 0xd}
			value := r.value[11]
			for n, phase := range b.Values {
				if n > 0 {
					value, _ = Phases(banks()[b.Bank], value, phase.After)
				}
				if got := hex.EncodeToString(value); got != phase.PCR11 {
					t.Errorf("%s after %s: %s, want %s", b.Bank, phase.After, got, phase.PCR11)
				}
				policy, err := Policy(numbers[b.Bank], map[int][]byte{11: value})
				if got := hex.EncodeToString(policy); err != nil || phase.Policy != "" && got != phase.Policy {
					t.Errorf("policy of %s after %s: %s, want %s (%v)", b.Bank, phase.After, got, phase.Policy, err)
				}
			}
		}
	}
	if got := hex.EncodeToString(extraArchive([]byte(file.Cpio.OSRel))); got != file.Cpio.Hex {
		t.Errorf("archive %s, want %s", got, file.Cpio.Hex)
	}
}

func image(t *testing.T, change func([]uki.Section) []uki.Section) []byte {
	t.Helper()
	list := []uki.Section{{Name: ".osrel", Data: []byte("ID=x\n")}, {Name: ".cmdline", Data: []byte("quiet")}, {Name: ".initrd", Data: []byte("initrd")}, {Name: ".linux", Data: ukitest.Program("kernel")}}
	b, err := uki.Write(ukitest.Program("stub"), change(list), 0)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestEachRegisterIsOfItsParts(t *testing.T) {
	t.Parallel()
	same := func(s []uki.Section) []uki.Section { return s }
	base, steps, err := Predict(sha256.New, image(t, same), 252)
	if err != nil || len(base) != 5 || len(steps) != 4+2+8 || !bytes.Equal(steps[3].Value, base[4]) {
		t.Fatalf("%d registers, %d steps, %v", len(base), len(steps), err)
	}
	var inputs []string
	for _, s := range steps {
		inputs = append(inputs, s.Input)
	}
	if want := []string{"", "", "image", ".linux", "cmdline", "initrd", ".linux", ".linux", ".osrel", ".osrel", ".cmdline", ".cmdline", ".initrd", ".initrd"}; !slices.Equal(inputs, want) {
		t.Errorf("steps of %q, want %q", inputs, want)
	}
	for name, tc := range map[string]struct {
		release int
		change  func([]uki.Section) []uki.Section
		differ  map[int]bool
	}{
		"the same":     {252, same, map[int]bool{}},
		"command line": {252, func(s []uki.Section) []uki.Section { s[1].Data = []byte("loud"); return s }, map[int]bool{4: true, 9: true, 11: true}},
		"initrd":       {252, func(s []uki.Section) []uki.Section { s[2].Data = []byte("other"); return s }, map[int]bool{4: true, 9: true, 11: true}},
		"kernel":       {252, func(s []uki.Section) []uki.Section { s[3].Data = ukitest.Program("other"); return s }, map[int]bool{4: true, 11: true}},
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

func TestNothingIsBesideAnImage(t *testing.T) {
	t.Parallel()
	for bank, h := range banks() {
		got, _, err := Predict(h, image(t, func(s []uki.Section) []uki.Section { return s }), 257)
		if zeros := make([]byte, h().Size()); err != nil || !bytes.Equal(got[12], zeros) || !bytes.Equal(got[13], zeros) {
			t.Errorf("%s: PCR 12 is %x, PCR 13 %x, %v", bank, got[12], got[13], err)
		}
	}
}

func TestAStubTellsItsRelease(t *testing.T) {
	t.Parallel()
	with := func(section, text string) []byte {
		b, err := uki.Write(ukitest.Program("stub"), []uki.Section{{Name: section, Data: []byte(text)}}, 0)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	for text, want := range map[string]int{
		"#### LoaderInfo: systemd-stub 252.39-1~deb12u2 ####": 252, "#### LoaderInfo: systemd-stub 257 ####": 257, "#### LoaderInfo: systemd-stub 1000 ####": 1000,
		"#### LoaderInfo: systemd-boot 252 ####": 0, "#### LoaderInfo: systemd-stub 99999 ####": 0, "#### LoaderInfo: systemd-stub v25 ####": 0, "252": 0,
	} {
		got, err := StubRelease(with(".sdmagic", text))
		if got != want || (want == 0) != errors.Is(err, ErrStub) {
			t.Errorf("%q: %d, %v", text, got, err)
		}
	}
	if got, err := StubRelease(with(".other", "#### LoaderInfo: systemd-stub 252 ####")); !errors.Is(err, ErrStub) {
		t.Errorf("in another section: %d, %v", got, err)
	}
	if got, err := StubRelease([]byte("MZ")); !errors.Is(err, pe.ErrImage) {
		t.Errorf("no program: %d, %v", got, err)
	}
}

func TestImagesThatNobodyKnowsAreRefused(t *testing.T) {
	t.Parallel()
	same := func(s []uki.Section) []uki.Section { return s }
	without := func(n int) func([]uki.Section) []uki.Section {
		return func(s []uki.Section) []uki.Section { return slices.Delete(s, n, n+1) }
	}
	with := func(name string) func([]uki.Section) []uki.Section {
		return func(s []uki.Section) []uki.Section { return append(s, uki.Section{Name: name, Data: []byte("x")}) }
	}
	longer := image(t, same) // a section that is longer in memory than in the file
	header := bytes.Index(longer, []byte(".cmdline"))
	longer[header+9] = 0x02
	longer[header+8] = 0x01
	empty := image(t, same)
	copy(empty[bytes.Index(empty, []byte(".cmdline"))+8:], make([]byte, 4))
	for name, tc := range map[string]struct {
		image   []byte
		release int
		want    error
	}{
		"an unknown stub": {image(t, same), 300, ErrStub}, "an older stub": {image(t, same), 251, ErrStub},
		"no image": {[]byte("x"), 252, pe.ErrImage}, "a stub": {ukitest.Program("stub"), 252, ErrSections},
		"no kernel": {image(t, without(3)), 252, ErrSections}, "no command line": {image(t, without(1)), 252, ErrSections},
		"no initrd": {image(t, without(2)), 252, ErrSections}, "no os-release": {image(t, without(0)), 252, ErrSections},
		"microcode": {image(t, with(".ucode")), 259, ErrSections}, "a signed policy": {image(t, with(".pcrsig")), 259, ErrSections},
		"a profile": {image(t, with(".profile")), 257, ErrSections}, "devices": {image(t, with(".dtbauto")), 257, ErrSections},
		"a long section": {longer, 257, ErrSections}, "an empty section": {empty, 257, ErrSections},
		"no program as kernel": {image(t, func(s []uki.Section) []uki.Section { s[3].Data = []byte("kernel"); return s }), 252, pe.ErrImage},
	} {
		if values, steps, err := Predict(sha256.New, tc.image, tc.release); !errors.Is(err, tc.want) || values != nil || steps != nil {
			t.Errorf("%s: %d values, %v", name, len(values), err)
		}
	}
}

func TestADirectBootIsOfItsParts(t *testing.T) {
	t.Parallel()
	boot := func() direct.Boot {
		return direct.Boot{Kernel: ukitest.Program("kernel"), Initrd: true, InitrdSize: 6, Cmdline: "quiet", EDK2: 202511, QEMU: 1100}
	}
	base, steps, err := Direct(sha256.New, boot(), []byte("initrd"))
	if err != nil || len(base) != 2 || len(steps) != 5 || !bytes.Equal(steps[4].Value, base[9]) || !bytes.Equal(steps[2].Value, base[4]) {
		t.Fatalf("%d registers, %d steps, %v", len(base), len(steps), err)
	}
	for name, tc := range map[string]struct {
		change func(*direct.Boot)
		initrd string
		differ map[int]bool
	}{
		"the same":     {func(*direct.Boot) {}, "initrd", map[int]bool{}},
		"kernel":       {func(b *direct.Boot) { b.Kernel = ukitest.Program("other") }, "initrd", map[int]bool{4: true}},
		"command line": {func(b *direct.Boot) { b.Cmdline = "loud" }, "initrd", map[int]bool{9: true}},
		"initrd":       {func(*direct.Boot) {}, "INITRD", map[int]bool{9: true}},
		"firmware":     {func(b *direct.Boot) { b.EDK2 = 202505 }, "initrd", map[int]bool{9: true}},
	} {
		b := boot()
		tc.change(&b)
		got, _, err := Direct(sha256.New, b, []byte(tc.initrd))
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		for pcr := range base {
			if differs := !bytes.Equal(got[pcr], base[pcr]); differs != tc.differ[pcr] {
				t.Errorf("%s: PCR %d differs: %t", name, pcr, differs)
			}
		}
	}
	b := boot()
	b.Initrd, b.InitrdSize = false, 0
	if got, steps, err := Direct(sha256.New, b, nil); err != nil || len(steps) != 4 || bytes.Equal(got[9], base[9]) {
		t.Errorf("without an initrd: %d steps, %v", len(steps), err)
	}
}

func TestDirectBootsThatContradictThemselvesAreRefused(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		boot   direct.Boot
		initrd []byte
		want   error
	}{
		"an initrd too many":   {direct.Boot{Kernel: ukitest.Program(""), EDK2: 202511, QEMU: 1100}, []byte("x"), direct.ErrConfig},
		"no initrd":            {direct.Boot{Kernel: ukitest.Program(""), EDK2: 202511, QEMU: 1100, Initrd: true}, nil, direct.ErrConfig},
		"another size":         {direct.Boot{Kernel: ukitest.Program(""), EDK2: 202511, QEMU: 1100, Initrd: true, InitrdSize: 2}, []byte("x"), direct.ErrConfig},
		"no kernel":            {direct.Boot{EDK2: 202511, QEMU: 1100}, nil, pe.ErrImage},
		"no release":           {direct.Boot{Kernel: ukitest.Program("")}, nil, direct.ErrConfig},
		"an unknown machine":   {direct.Boot{Kernel: ukitest.Program(""), EDK2: 202211, QEMU: 702}, nil, direct.ErrPatched},
		"no kernel to change":  {direct.Boot{Kernel: ukitest.Program(""), EDK2: 202211, QEMU: 702, Memory: 1 << 30}, nil, direct.ErrConfig},
		"an old kernel loader": {direct.Boot{Kernel: ukitest.Program(""), EDK2: 202411, QEMU: 1100, Memory: 1 << 30}, nil, direct.ErrConfig},
	} {
		if values, _, err := Direct(sha256.New, tc.boot, tc.initrd); !errors.Is(err, tc.want) || values != nil {
			t.Errorf("%s: %d values, %v", name, len(values), err)
		}
	}
}

func TestInitdataIsExtendedOnce(t *testing.T) {
	t.Parallel()
	digest := sha256.Sum256([]byte("initdata"))
	want := sha256.Sum256(append(make([]byte, 32), digest[:]...))
	value, steps, err := InitData(digest[:])
	if err != nil || !bytes.Equal(value, want[:]) || len(steps) != 1 || steps[0].PCR != 8 || !bytes.Equal(steps[0].Value, value) {
		t.Errorf("%x after %+v, want %x (%v)", value, steps, want, err)
	}
	for _, size := range []int{0, 20, 31, 33, 48, 64} {
		if value, _, err := InitData(make([]byte, size)); !errors.Is(err, ErrDigest) || value != nil {
			t.Errorf("%d bytes: %x, %v", size, value, err)
		}
	}
}

func TestPoliciesNameTheirRegisters(t *testing.T) {
	t.Parallel()
	value := make([]byte, 32)
	one, err := Policy(0xb, map[int][]byte{4: value, 11: value})
	if err != nil {
		t.Fatal(err)
	}
	for name, other := range map[string]map[int][]byte{"one less": {11: value}, "another": {4: value, 12: value}, "another value": {4: value, 11: bytes.Repeat([]byte{1}, 32)}} {
		if two, err := Policy(0xb, other); err != nil || bytes.Equal(one, two) {
			t.Errorf("%s: %x (%v)", name, two, err)
		}
	}
	for name, none := range map[string]map[int][]byte{"none": nil, "below": {-1: value}, "above": {24: value}} {
		if p, err := Policy(0xb, none); !errors.Is(err, ErrSelection) {
			t.Errorf("%s: %x, %v", name, p, err)
		}
	}
}

func FuzzPredict(f *testing.F) {
	f.Add(ukitest.Program("stub"))
	f.Add([]byte("MZ"))
	f.Fuzz(func(t *testing.T, b []byte) {
		values, steps, err := Predict(sha256.New, b, 257)
		if err != nil {
			if !errors.Is(err, ErrSections) && !errors.Is(err, pe.ErrImage) {
				t.Error(err)
			}
			return
		}
		for _, s := range steps {
			if len(s.Digest) != sha256.Size || len(s.Value) != sha256.Size || s.What == "" {
				t.Errorf("step %+v", s)
			}
		}
		if len(values) != 3 {
			t.Errorf("%d registers", len(values))
		}
	})
}
