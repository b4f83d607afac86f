// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package image

import (
	"context"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"

	"cocoon/measurements/pe"
	"cocoon/mkimage/deb"
	"cocoon/mkimage/format/uki"
	"cocoon/mkimage/manifest"
)

// stubPath is where the package has the stub.
const stubPath = "usr/lib/systemd/boot/efi/linuxx64.efi.stub"

// readStub reads the stub from its package or from a file.
func (b *builder) readStub(ctx context.Context) error {
	var err error
	if b.in.StubDeb == "" {
		if b.in.Stub == "" {
			return fmt.Errorf("%w: neither a package of the stub nor a stub", ErrInput)
		}
		b.stub, err = b.readInput("stub", b.in.Stub)
		return err
	}
	if b.in.Stub != "" {
		return fmt.Errorf("%w: both a package of the stub and a stub", ErrInput)
	}
	if err := b.readPackage("stub-package", b.in.StubDeb, b.in.StubSHA256); err != nil {
		return err
	}
	files, err := deb.Files(ctx, b.in.StubDeb, func(name string) bool { return name == stubPath })
	if err != nil {
		return err
	}
	if b.stub = files[stubPath]; len(b.stub) == 0 {
		return fmt.Errorf("%w: package %q has no %s", ErrInput, b.in.StubDeb, stubPath)
	}
	return nil
}

// unified returns the unified kernel image.
func (b *builder) unified() ([]byte, error) {
	if b.in.Epoch > math.MaxUint32 {
		return nil, fmt.Errorf("%w: build time %d for a program of UEFI", ErrInput, b.in.Epoch)
	}
	image, err := uki.Write(b.stub, []uki.Section{
		{Name: ".osrel", Data: b.osRelease()}, {Name: ".cmdline", Data: []byte(b.man.Cmdline)}, {Name: ".uname", Data: []byte(b.man.Release)},
		{Name: ".initrd", Data: b.initrd}, {Name: ".linux", Data: b.kern.Image},
	}, uint32(b.in.Epoch))
	if err != nil {
		return nil, fmt.Errorf("make the unified kernel image: %w", err)
	}
	return image, nil
}

// UnpackKernel writes the kernel in the program of the image in dir to a file.
func UnpackKernel(dir string, m *manifest.Manifest, file string) error {
	out, err := m.Output(UKIName)
	if err != nil {
		return err
	}
	program, err := os.ReadFile(filepath.Join(dir, out.File))
	if err != nil {
		return fmt.Errorf("read the program: %w", err)
	}
	list, err := pe.Sections(program)
	if err != nil {
		return fmt.Errorf("read %q: %w", out.File, err)
	}
	for _, s := range list {
		if s.Name == ".linux" {
			return writeFile(file, s.Data)
		}
	}
	return fmt.Errorf("%w: %q has no kernel", manifest.ErrInvalid, out.File)
}

// osRelease names the image to boot menus.
func (b *builder) osRelease() []byte {
	_, tree, _ := strings.Cut(b.man.Tree, ":")
	return fmt.Appendf(nil, "ID=cocoon\nNAME=Cocoon\nVERSION_ID=%.12s\nVARIANT_ID=%s\n", tree, b.man.Guest)
}
