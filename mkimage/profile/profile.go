// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

// Package profile holds the kinds of image that can be built, as data.
//
// What an image may do follows from its profile, and the profile's name and
// command line are part of what is measured: debugging is another profile and
// never a switch of a release image.
package profile

import (
	"bytes"
	"embed"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"cocoon/mkimage/lock"
	"cocoon/rootfs/recipe"
)

//go:embed data/*.yaml
var data embed.FS

var (
	// ErrUnknown is returned for a name that no profile has.
	ErrUnknown = errors.New("unknown profile")
	// ErrInvalid is wrapped by errors about the content of a profile.
	ErrInvalid = errors.New("invalid profile")
)

// Layout says where the guest's root is.
type Layout string

// The layouts.
const (
	// Initramfs has the root in the initramfs.
	Initramfs Layout = "initramfs"
	// Extension has it on a disk that a kata shim plugs in as a guest extension
	// image, checked by dm-verity, and an initramfs that leads to it.
	Extension Layout = "extension"
	// Disk has it on the disk of a machine that boots itself: firmware starts a
	// unified kernel image from the first partition, whose initramfs leads to the
	// root in the second.
	Disk Layout = "disk"
	// SecureExecution has it in the initramfs of an image that IBM's tools make of
	// kernel, initramfs and command line, encrypted for the machines that may run
	// it.
	SecureExecution Layout = "se"
)

// The architectures.
const (
	AMD64 = "amd64"
	S390x = "s390x"
)

// OnDisk tells whether an initramfs has to lead to the root.
func (l Layout) OnDisk() bool { return l == Extension || l == Disk }

// Format is a form of the disk of a machine that boots itself.
type Format string

// The formats.
const (
	// Raw is the disk as it is.
	Raw Format = "raw"
	// QCOW2 is QEMU's own.
	QCOW2 Format = "qcow2"
	// VHD is Azure's: of fixed size, in whole MiB.
	VHD Format = "vhd"
	// GCP is Google's: a packed archive with a disk of whole GiB.
	GCP Format = "gcp"
)

func formats() []Format { return []Format{Raw, QCOW2, VHD, GCP} }

const (
	maxInherits = 8
	maxFile     = 64 << 10
)

// Profile is everything that tells one kind of image from another.
type Profile struct {
	// Name is what the user asks for: the file's name.
	Name string `yaml:"name,omitempty"`
	// Inherits names the profile from which everything comes that is not here.
	// Lists are added to the end of its own.
	Inherits string `yaml:"inherits,omitempty"`
	// Abstract profiles are only there to inherit from.
	Abstract bool `yaml:"abstract,omitempty"`
	// Purpose is one line for the user.
	Purpose string `yaml:"purpose"`
	// Guest is the name by which the guest knows what it may accept; Name if
	// empty.
	Guest string `yaml:"guest,omitempty"`
	// Arch is the machine's architecture, as GOARCH names it.
	Arch string `yaml:"arch"`
	// TEEs are those that measure the image.
	TEEs []string `yaml:"tees,omitempty"`
	// Layout says where the root is.
	Layout Layout `yaml:"layout"`
	// Kernel is the role of the kernel's package in the lock.
	Kernel lock.Role `yaml:"kernel"`
	// Cmdline is the kernel command line, or what a shim is to add to its own.
	Cmdline []string `yaml:"cmdline"`
	// Modules are the kernel modules, without what they depend on.
	Modules []string `yaml:"modules"`
	// OptionalModules are for hardware that may be absent.
	OptionalModules []string `yaml:"optional_modules,omitempty"`
	// FirstModules are those that it takes to find a root on a disk.
	FirstModules []string `yaml:"first_modules,omitempty"`
	// FirstOptionalModules are those of them for hardware that may be absent.
	FirstOptionalModules []string `yaml:"first_optional_modules,omitempty"`
	// Stub is the role of the package of the stub, for a machine that boots itself.
	Stub lock.Role `yaml:"stub,omitempty"`
	// Disks are the forms in which its disk is written.
	Disks []Format `yaml:"disks,omitempty"`
	// Compress makes the initramfs one zstd frame: less to load and to measure.
	// Under emulation a plain archive boots faster.
	Compress bool `yaml:"compress,omitempty"`
	// MemoryMiB is what the guest needs at least.
	MemoryMiB int `yaml:"memory_mib"`
}

// All returns every profile that an image can be built of, sorted by name.
func All() ([]Profile, error) {
	files, err := fs.Glob(data, "data/*.yaml")
	if err != nil {
		return nil, err
	}
	var all []Profile
	for _, f := range files {
		p, err := named(strings.TrimSuffix(path.Base(f), ".yaml"), 0)
		if err != nil {
			return nil, err
		}
		if !p.Abstract {
			all = append(all, p)
		}
	}
	slices.SortFunc(all, func(a, b Profile) int { return strings.Compare(a.Name, b.Name) })
	return all, nil
}

// Named returns the profile called name with all that it inherits, or the one
// of a file, if name has a slash or the suffix .yaml. The error wraps
// ErrUnknown, and lists the known names, or ErrInvalid.
func Named(name string) (Profile, error) {
	var p Profile
	var err error
	if strings.Contains(name, "/") || strings.HasSuffix(name, ".yaml") {
		p, err = fromFile(name)
	} else {
		p, err = named(name, 0)
	}
	if err != nil {
		return p, err
	}
	return p, p.check()
}

func fromFile(file string) (Profile, error) {
	raw, err := os.ReadFile(file)
	if err != nil {
		return Profile{}, fmt.Errorf("read profile: %w", err)
	}
	return parse(strings.TrimSuffix(filepath.Base(file), ".yaml"), raw, 0)
}

func named(name string, depth int) (Profile, error) {
	raw, err := data.ReadFile("data/" + name + ".yaml")
	if err != nil {
		return Profile{}, fmt.Errorf("%w %q: there is %s", ErrUnknown, name, strings.Join(names(), ", "))
	}
	return parse(name, raw, depth)
}

func names() []string {
	all, err := All()
	if err != nil {
		return []string{err.Error()}
	}
	list := make([]string, len(all))
	for i, p := range all {
		list[i] = p.Name
	}
	return list
}

// parse reads one profile and adds what it inherits.
func parse(name string, raw []byte, depth int) (Profile, error) {
	var p Profile
	if len(raw) > maxFile {
		return p, fmt.Errorf("profile %q has %d bytes: %w", name, len(raw), ErrInvalid)
	}
	dec := yaml.NewDecoder(bytes.NewReader(raw))
	dec.KnownFields(true)
	if err := dec.Decode(&p); err != nil {
		return p, fmt.Errorf("profile %q: %w: %w", name, ErrInvalid, err)
	}
	if err := dec.Decode(&yaml.Node{}); !errors.Is(err, io.EOF) {
		return p, fmt.Errorf("profile %q: more than one document: %w", name, ErrInvalid)
	}
	if p.Name != "" {
		return p, fmt.Errorf("profile %q: the file's name is the profile's: %w", name, ErrInvalid)
	}
	p.Name = name
	if p.Inherits == "" {
		return p, nil
	}
	if depth == maxInherits {
		return p, fmt.Errorf("profile %q inherits %q, and that goes on: %w", name, p.Inherits, ErrInvalid)
	}
	parent, err := named(p.Inherits, depth+1)
	if err != nil {
		return p, fmt.Errorf("profile %q: %w", name, err)
	}
	return p.over(parent), nil
}

// over returns p with what it lacks taken from parent.
func (p Profile) over(parent Profile) Profile {
	p.Inherits, p.Compress = "", p.Compress || parent.Compress
	for to, from := range map[*string]string{
		&p.Purpose: parent.Purpose, &p.Guest: parent.Guest, &p.Arch: parent.Arch, (*string)(&p.Layout): string(parent.Layout), (*string)(&p.Kernel): string(parent.Kernel),
		(*string)(&p.Stub): string(parent.Stub),
	} {
		if *to == "" {
			*to = from
		}
	}
	if p.MemoryMiB == 0 {
		p.MemoryMiB = parent.MemoryMiB
	}
	for to, from := range map[*[]string][]string{
		&p.TEEs: parent.TEEs, &p.Cmdline: parent.Cmdline, &p.Modules: parent.Modules, &p.OptionalModules: parent.OptionalModules,
		&p.FirstModules: parent.FirstModules, &p.FirstOptionalModules: parent.FirstOptionalModules,
	} {
		*to = slices.Concat(from, *to)
	}
	p.Disks = slices.Concat(parent.Disks, p.Disks)
	return p
}

var (
	validName   = regexp.MustCompile(`^[a-z][a-z0-9-]{0,30}$`)
	validModule = regexp.MustCompile(`^[a-z0-9][a-z0-9_]*$`)
)

// check returns an error unless an image can be built of p.
func (p Profile) check() error {
	bad := func(format string, args ...any) error {
		return fmt.Errorf("profile %q: %s: %w", p.Name, fmt.Sprintf(format, args...), ErrInvalid)
	}
	switch {
	case !validName.MatchString(p.Name) || !validName.MatchString(p.GuestName()):
		return bad("name %q, guest %q", p.Name, p.GuestName())
	case p.Abstract:
		return bad("it is only there to inherit from")
	case !slices.Contains([]Layout{Initramfs, Extension, Disk, SecureExecution}, p.Layout):
		return bad("layout %q", p.Layout)
	case !slices.Contains([]string{AMD64, S390x}, p.Arch):
		return bad("arch %q, want %s or %s", p.Arch, AMD64, S390x)
	case p.Layout == Disk && p.Arch != AMD64 || p.Layout == SecureExecution && p.Arch != S390x:
		return bad("layout %s on %s", p.Layout, p.Arch)
	case (len(p.FirstModules) > 0) != p.Layout.OnDisk() || len(p.FirstOptionalModules) > 0 && !p.Layout.OnDisk():
		return bad("first_modules are for a root on a disk, and needed there")
	case (p.Stub != "") != (p.Layout == Disk) || (len(p.Disks) > 0) != (p.Layout == Disk):
		return bad("stub and disks are for a machine that boots itself, and needed there")
	case p.MemoryMiB < 192:
		return bad("memory_mib is %d, at least 192", p.MemoryMiB)
	case len(p.Modules) == 0 || p.Purpose == "" || p.Kernel == "":
		return bad("modules, purpose or kernel is missing")
	}
	for i, f := range p.Disks {
		if !slices.Contains(formats(), f) || slices.Contains(p.Disks[:i], f) {
			return bad("disk %q", f)
		}
	}
	for _, m := range slices.Concat(p.Modules, p.OptionalModules, p.FirstModules, p.FirstOptionalModules) {
		if !validModule.MatchString(m) {
			return bad("module %q", m)
		}
	}
	for _, w := range p.Cmdline {
		if w == "" || strings.ContainsAny(w, " \t\n\"") {
			return bad("word %q of the command line", w)
		}
	}
	return nil
}

// GuestName is the name of the profile in the guest's root.
func (p Profile) GuestName() string {
	if p.Guest != "" {
		return p.Guest
	}
	return p.Name
}

// Wanted are the modules of the root as the recipe takes them.
func (p Profile) Wanted() []recipe.Module {
	var list []recipe.Module
	for _, n := range p.Modules {
		list = append(list, recipe.Module{Name: n})
	}
	for _, n := range p.OptionalModules {
		list = append(list, recipe.Module{Name: n, Optional: true})
	}
	return list
}

// WantedFirst are those of an initramfs that leads to a root on a disk.
func (p Profile) WantedFirst() []recipe.Module {
	return Profile{Modules: p.FirstModules, OptionalModules: p.FirstOptionalModules}.Wanted()
}

// Roles are those of the packages that the image is made of.
func (p Profile) Roles() []lock.Role {
	if p.Stub == "" {
		return []lock.Role{p.Kernel}
	}
	return []lock.Role{p.Kernel, p.Stub}
}

// Dump returns the profile as YAML, with nothing left to inherit.
func (p Profile) Dump() ([]byte, error) { return yaml.Marshal(p) }
