// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package vtpm

import (
	"bytes"
	"errors"
	"fmt"
	"hash"
	"regexp"
	"slices"
	"strconv"

	"cocoon/measurements/pe"
)

// Errors that callers branch on.
var (
	// ErrStub is returned for a release of the stub that nothing is known of.
	ErrStub = errors.New("this release of systemd's stub is not known")
	// ErrSections is wrapped by errors about an image whose sections do not make a
	// prediction possible.
	ErrSections = errors.New("unusable unified kernel image")
)

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

// unsupported are sections that change what the kernel gets as its initrd, or
// that the stub chooses by the machine. No boot of an image with them is known.
func unsupported() []string {
	return []string{".ucode", ".pcrsig", ".pcrpkey", ".profile", ".dtbauto", ".hwids", ".efifw"}
}

// content finds the sections by their names, if all that is needed is there and
// nothing else than what is known.
func content(image []byte) (map[string][]byte, error) {
	list, err := pe.Sections(image)
	if err != nil {
		return nil, err
	}
	found := map[string][]byte{}
	for _, s := range list {
		measured := slices.Contains(sections(), s.Name)
		switch {
		case slices.Contains(unsupported(), s.Name):
			return nil, fmt.Errorf("nobody knows what an image with %q measures: %w", s.Name, ErrSections)
		case measured && (len(s.Data) == 0 || s.Zeros > 0):
			return nil, fmt.Errorf("section %q of %d bytes and %d zeros: %w", s.Name, len(s.Data), s.Zeros, ErrSections)
		}
		found[s.Name] = s.Data
	}
	for _, name := range []string{".linux", ".cmdline", ".initrd", ".osrel"} {
		if found[name] == nil {
			return nil, fmt.Errorf("no section %q: %w", name, ErrSections)
		}
	}
	return found, nil
}

var loaderInfo = regexp.MustCompile(`#### LoaderInfo: systemd-stub ([1-9][0-9]{2,3})[^0-9]`)

// StubRelease returns the release of the stub of an image, by what it says of
// itself: 252 for 252.39. A stub may lie; then the prediction does not hold.
func StubRelease(image []byte) (int, error) {
	list, err := pe.Sections(image)
	if err != nil {
		return 0, err
	}
	for _, s := range list {
		if m := loaderInfo.FindSubmatch(s.Data); s.Name == ".sdmagic" && m != nil {
			return strconv.Atoi(string(m[1]))
		}
	}
	return 0, fmt.Errorf("the image does not tell: %w", ErrStub)
}

// Predict returns the PCRs 4, 9, 11, 12 and 13 of the bank of h for an image,
// started by the firmware as the first that it tries, with systemd's stub of a
// release. The last two are zeros: the stub extends them with another command
// line, credentials and extensions, which a host can lay beside the image, and
// no guest is what its image says if they are not compared.
func Predict(h func() hash.Hash, image []byte, release int) (map[int][]byte, []Step, error) {
	s, err := stubOf(release)
	if err != nil {
		return nil, nil, err
	}
	parts, err := content(image)
	if err != nil {
		return nil, nil, err
	}
	r := &registers{hash: h, value: map[int][]byte{12: make([]byte, h().Size()), 13: make([]byte, h().Size())}}
	whole, err := pe.Authenticode(h(), image)
	if err != nil {
		return nil, nil, err
	}
	kernel, err := pe.Authenticode(h(), parts[".linux"])
	if err != nil {
		return nil, nil, fmt.Errorf("kernel in the image: %w", err)
	}
	cmdline := string(parts[".cmdline"])
	r.programs(whole, kernel, s)
	r.loaded(cmdline, pe.LoadOptions(cmdline), r.sum(s.initrd(parts[".initrd"], parts[".osrel"])))
	r.sections(s, func(name string) []byte {
		if parts[name] == nil {
			return nil
		}
		return r.sum(parts[name])
	})
	return r.value, r.steps, nil
}

// programs are PCR 4.
func (r *registers) programs(image, kernel []byte, s stub) {
	r.action(4, calling)
	r.extend(4, "", "separator", r.sum(make([]byte, 4)))
	r.extend(4, "image", "image, by Authenticode", image)
	if s.starts {
		r.extend(4, ".linux", "kernel, by Authenticode", kernel)
	}
}

// sections is PCR 11: the name of each section that is there, and its content.
func (r *registers) sections(s stub, digest func(name string) []byte) {
	for _, name := range s.measured {
		if d := digest(name); d != nil {
			r.extend(11, name, "name of "+name, r.sum([]byte(name+"\x00")))
			r.extend(11, name, "content of "+name, d)
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
