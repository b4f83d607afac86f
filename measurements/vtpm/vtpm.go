// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

// Package vtpm predicts the PCRs of a TPM after a machine booted a unified
// kernel image from its disk: PCR 4 (programs that the firmware started), PCR 9
// (command line and initrd as the kernel got them) and PCR 11 (sections of the
// image, by systemd's stub). The stub's releases measure differently; those
// that are known here were booted under OVMF.
//
// It follows edk2, Linux's EFI stub and systemd's src/boot.
package vtpm

import (
	"bytes"
	"errors"
	"fmt"
	"hash"
	"slices"

	"cocoon/measurements/pe"
	"cocoon/mkimage/format/uki"
)

// ErrStub is returned for a release of the stub that nothing is known of.
var ErrStub = errors.New("this release of systemd's stub is not known")

// stub is how a release behaves.
type stub struct {
	measured []string // sections of PCR 11, in order
	// starts tells that the kernel is started as a program of its own, which the
	// firmware measures too.
	starts bool
	// extra tells that the kernel gets the image's os-release behind the initrd.
	extra bool
}

// sections are those that a stub may measure, in the order in which it does.
func sections() []string {
	return []string{".linux", ".osrel", ".cmdline", ".initrd", ".ucode", ".splash", ".dtb", ".uname", ".sbat", ".pcrpkey", ".profile", ".dtbauto", ".hwids"}
}

func stubOf(release int) (stub, error) {
	switch release {
	case 252:
		return stub{measured: []string{".linux", ".osrel", ".cmdline", ".initrd", ".splash", ".dtb", ".pcrpkey"}, starts: true}, nil
	case 257:
		return stub{measured: sections(), starts: true, extra: true}, nil
	case 259:
		return stub{measured: sections(), extra: true}, nil
	}
	return stub{}, fmt.Errorf("%d, want 252, 257 or 259: %w", release, ErrStub)
}

// Step is one event of a register.
type Step struct {
	PCR           int
	What          string
	Digest, Value []byte
}

// registers are those of one bank.
type registers struct {
	hash  func() hash.Hash
	value map[int][]byte
	steps []Step
}

func (r *registers) sum(parts ...[]byte) []byte {
	h := r.hash()
	for _, p := range parts {
		h.Write(p)
	}
	return h.Sum(nil)
}

func (r *registers) extend(pcr int, what string, digest []byte) {
	old := r.value[pcr]
	if old == nil {
		old = make([]byte, r.hash().Size())
	}
	r.value[pcr] = r.sum(old, digest)
	r.steps = append(r.steps, Step{PCR: pcr, What: what, Digest: digest, Value: r.value[pcr]})
}

// Predict returns the PCRs 4, 9 and 11 of the bank of h for an image, started by
// the firmware as the first that it tries, with systemd's stub of a release.
func Predict(h func() hash.Hash, image []byte, release int) (map[int][]byte, []Step, error) {
	s, err := stubOf(release)
	if err != nil {
		return nil, nil, err
	}
	list, err := uki.Sections(image)
	if err != nil {
		return nil, nil, err
	}
	content := map[string][]byte{}
	for _, x := range list {
		content[x.Name] = x.Data
	}
	for _, name := range []string{".linux", ".cmdline", ".initrd", ".osrel"} {
		if content[name] == nil {
			return nil, nil, fmt.Errorf("the image has no section %s: %w", name, uki.ErrImage)
		}
	}
	r := &registers{hash: h, value: map[int][]byte{}}
	whole, err := pe.Authenticode(h(), image)
	if err != nil {
		return nil, nil, err
	}
	kernel, err := pe.Authenticode(h(), content[".linux"])
	if err != nil {
		return nil, nil, fmt.Errorf("kernel in the image: %w", err)
	}
	r.programs(whole, kernel, s)
	r.loaded(string(content[".cmdline"]), r.sum(s.initrd(content[".initrd"], content[".osrel"])))
	r.sections(s, func(name string) []byte {
		if content[name] == nil {
			return nil
		}
		return r.sum(content[name])
	})
	return r.value, r.steps, nil
}

// programs are PCR 4.
func (r *registers) programs(image, kernel []byte, s stub) {
	const call = "Calling EFI Application from Boot Option"
	r.extend(4, call, r.sum([]byte(call)))
	r.extend(4, "separator", r.sum(make([]byte, 4)))
	r.extend(4, "image, by Authenticode", image)
	if s.starts {
		r.extend(4, "kernel, by Authenticode", kernel)
	}
}

// loaded is PCR 9.
func (r *registers) loaded(cmdline string, initrd []byte) {
	r.extend(9, fmt.Sprintf("load options %q", cmdline), r.sum(pe.LoadOptions(cmdline)))
	r.extend(9, "initrd", initrd)
}

// sections is PCR 11: the name of each section that is there, and its content.
func (r *registers) sections(s stub, digest func(name string) []byte) {
	for _, name := range s.measured {
		if d := digest(name); d != nil {
			r.extend(11, "name of "+name, r.sum([]byte(name+"\x00")))
			r.extend(11, "content of "+name, d)
		}
	}
}

// initrd is what the kernel gets.
func (s stub) initrd(section, osrel []byte) []byte {
	if !s.extra {
		return section
	}
	padded := append(slices.Clone(section), make([]byte, (4-len(section)%4)%4)...)
	return append(padded, extraArchive(osrel)...)
}

// extraArchive is the archive that the stub makes of the image's os-release.
func extraArchive(osrel []byte) []byte {
	var b bytes.Buffer
	record := func(ino, mode, size int, name, end string) {
		fmt.Fprintf(&b, "070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%s%08x%s\x00", ino, mode, 0, 0, 1, 0, size, 0, 0, 0, 0, end, 0, name)
		b.Write(make([]byte, (4-b.Len()%4)%4))
	}
	record(1, 0o040555, 0, ".extra", fmt.Sprintf("%08x", len(".extra")+1))
	record(2, 0o100444, len(osrel), ".extra/os-release", fmt.Sprintf("%08x", len(".extra/os-release")+1))
	b.Write(osrel)
	b.Write(make([]byte, (4-b.Len()%4)%4))
	record(0, 0, 0, "TRAILER!!!", "0000000B")
	return b.Bytes()
}
