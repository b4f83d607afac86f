// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package profile_test

import (
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"cocoon/internal/cmdline"
	"cocoon/mkimage/lock"
	"cocoon/mkimage/profile"
	"cocoon/rootfs/boot"
	"cocoon/rootfs/recipe"
)

func TestEveryProfileHasACommandLineThatPID1Accepts(t *testing.T) {
	t.Parallel()
	all, err := profile.All()
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, p := range all {
		names = append(names, p.Name)
		if q, err := profile.Named(p.Name); err != nil || !reflect.DeepEqual(p, q) {
			t.Errorf("%s by its name is %+v, %v", p.Name, q, err)
		}
		c, err := cmdline.Parse(strings.Join(p.Cmdline, " "))
		if err != nil {
			t.Errorf("%s: %v", p.Name, err)
		}
		if v, ok := c.Value(boot.ParamIP); ok {
			if _, err := boot.ParseIP(v); err != nil {
				t.Errorf("%s: %v", p.Name, err)
			}
		}
		if v, _ := c.Value("panic"); v != "-1" {
			t.Errorf("%s: a panic would leave the guest standing: panic=%q", p.Name, v)
		}
	}
	if !slices.IsSorted(names) || !slices.Contains(names, "dev") || slices.Contains(names, "vm") {
		t.Errorf("profiles are %q", names)
	}
}

// A guest is told apart by what it may accept, not by the TEE.
func TestOneGuestServesSeveralTEEs(t *testing.T) {
	t.Parallel()
	guests := map[string]profile.Profile{}
	for _, name := range []string{"snp", "tdx", "snp-verity", "tdx-verity"} {
		p, err := profile.Named(name)
		if err != nil {
			t.Fatal(err)
		}
		if first, ok := guests[p.GuestName()]; ok && !slices.Equal(first.Modules, p.Modules) {
			t.Errorf("%s and %s are guest %q with other modules", first.Name, p.Name, p.GuestName())
		}
		guests[p.GuestName()] = p
	}
	if len(guests) != 1 {
		t.Errorf("guests are %v", guests)
	}
}

// In every cloud the same bytes are measured: only the form of the disk differs.
func TestAMachineIsTheSameInEveryCloud(t *testing.T) {
	t.Parallel()
	one, err := profile.Named("podvm")
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]profile.Format{"podvm-azure": profile.VHD, "podvm-aws": profile.Raw, "podvm-gcp": profile.GCP, "podvm-libvirt": profile.QCOW2} {
		p, err := profile.Named(name)
		if err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(p.Disks, []profile.Format{want}) {
			t.Errorf("%s has disks %q", name, p.Disks)
		}
		p.Name, p.Purpose, p.Disks = one.Name, one.Purpose, one.Disks
		if !reflect.DeepEqual(p, one) {
			t.Errorf("%s is another machine: %+v", name, p)
		}
	}
	if first := one.WantedFirst(); !slices.Contains(first, recipe.Module{Name: "nvme", Optional: true}) || !slices.Contains(first, recipe.Module{Name: "dm_verity"}) {
		t.Errorf("first modules %+v", first)
	}
	if got := one.Roles(); !slices.Equal(got, []lock.Role{lock.KernelTEE, lock.Stub}) {
		t.Errorf("packages %q", got)
	}
}

// Its command line is inside of the image, where nobody could take it out again.
func TestAnImageForSecureExecutionOffersNoConsole(t *testing.T) {
	t.Parallel()
	p, err := profile.Named("se")
	if err != nil {
		t.Fatal(err)
	}
	for _, w := range p.Cmdline {
		if strings.HasPrefix(w, "agent.debug_console") || strings.HasPrefix(w, "console=") || strings.HasPrefix(w, boot.ParamConsole) {
			t.Errorf("word %q", w)
		}
	}
	if got := p.Roles(); p.Arch != profile.S390x || p.GuestName() != "kata" || !slices.Equal(got, []lock.Role{lock.KernelS390x}) {
		t.Errorf("%s for guest %s of %q", p.Arch, p.GuestName(), got)
	}
	for _, m := range p.Wanted() {
		if strings.Contains(m.Name, "intel") || strings.HasSuffix(m.Name, "_guest") {
			t.Errorf("module %q of another processor", m.Name)
		}
	}
}

func TestAnUnknownProfileIsAnErrorThatListsTheKnownOnes(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"", "DEV", "prod", "dev "} {
		if _, err := profile.Named(name); !errors.Is(err, profile.ErrUnknown) || !strings.Contains(err.Error(), "dev") {
			t.Errorf("%q: got %v", name, err)
		}
	}
	if _, err := profile.Named("vm"); !errors.Is(err, profile.ErrInvalid) {
		t.Errorf("an abstract one: %v", err)
	}
}

func file(t *testing.T, text string) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "own.yaml")
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

func TestAFileMayInheritAndAdd(t *testing.T) {
	t.Parallel()
	p, err := profile.Named(file(t, "inherits: snp\npurpose: ours\ncmdline: [agent.log=debug]\nmodules: [nvme]\noptional_modules: [mlx5_core]\nmemory_mib: 1024\n"))
	if err != nil {
		t.Fatal(err)
	}
	snp, err := profile.Named("snp")
	if err != nil {
		t.Fatal(err)
	}
	if p.Name != "own" || p.Purpose != "ours" || p.MemoryMiB != 1024 || p.GuestName() != "kata" || p.Kernel != snp.Kernel ||
		!slices.Equal(p.Cmdline, append(slices.Clone(snp.Cmdline), "agent.log=debug")) || !slices.Equal(p.Modules, append(slices.Clone(snp.Modules), "nvme")) {
		t.Errorf("got %+v", p)
	}
	mods := p.Wanted()
	if !slices.Contains(mods, recipe.Module{Name: "nvme"}) || !slices.Contains(mods, recipe.Module{Name: "mlx5_core", Optional: true}) {
		t.Errorf("modules %+v", mods)
	}
	dump, err := p.Dump()
	if err != nil {
		t.Fatal(err)
	}
	text := strings.Replace(string(dump), "name: own\n", "", 1)
	if q, err := profile.Named(file(t, text)); err != nil || !reflect.DeepEqual(p, q) {
		t.Errorf("what was dumped is another profile: %+v, %v", q, err)
	}
}

func TestProfilesThatMakeNoImageAreRefused(t *testing.T) {
	t.Parallel()
	for name, text := range map[string]string{
		"empty":              "",
		"no YAML":            "inherits: [",
		"unknown key":        "inherits: snp\nshell: true\n",
		"two documents":      "inherits: snp\n---\ninherits: tdx\n",
		"own name":           "inherits: snp\nname: tdx\n",
		"layout":             "inherits: snp\nlayout: floppy\n",
		"no first modules":   "inherits: snp\nlayout: extension\n",
		"no stub":            "inherits: vm\npurpose: x\nlayout: disk\nfirst_modules: [erofs]\ndisks: [raw]\n",
		"no disk":            "inherits: machine\n",
		"stub without disk":  "inherits: snp\nstub: stub\n",
		"disk of a kata":     "inherits: snp\ndisks: [raw]\n",
		"unknown disk":       "inherits: machine\ndisks: [floppy]\n",
		"disk twice":         "inherits: podvm\ndisks: [raw]\n",
		"first of no disk":   "inherits: snp\nfirst_optional_modules: [nvme]\n",
		"first as path":      "inherits: podvm\nfirst_optional_modules: [../evil]\n",
		"too little memory":  "inherits: snp\nmemory_mib: 64\n",
		"module as path":     "inherits: snp\nmodules: [../evil]\n",
		"module with a mark": "inherits: snp\nmodules: ['?x']\n",
		"word with a blank":  "inherits: snp\ncmdline: ['a b']\n",
		"word with a quote":  "inherits: snp\ncmdline: ['a\"']\n",
		"empty word":         "inherits: snp\ncmdline: ['']\n",
		"no architecture":    "inherits: vm\npurpose: x\n",
		"architecture":       "inherits: snp\narch: vax\n",
		"se on x86":          "inherits: se\narch: amd64\n",
		"disk on Z":          "inherits: machine\ndisks: [raw]\narch: s390x\n",
		"se with a disk":     "inherits: se\ndisks: [raw]\n",
		"se with a first":    "inherits: se\nfirst_modules: [erofs]\n",
		"guest's name":       "inherits: snp\nguest: ../x\n",
		"nothing inherited":  "purpose: x\n",
		"abstract":           "inherits: snp\nabstract: true\n",
		"too long":           "inherits: snp\n" + strings.Repeat("#", 64<<10),
	} {
		if p, err := profile.Named(file(t, text)); !errors.Is(err, profile.ErrInvalid) {
			t.Errorf("%s: %+v, %v", name, p, err)
		}
	}
	if _, err := profile.Named(file(t, "inherits: nobody\n")); !errors.Is(err, profile.ErrUnknown) {
		t.Errorf("an unknown parent: %v", err)
	}
	if _, err := profile.Named("./absent.yaml"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a file that is not there: %v", err)
	}
}
