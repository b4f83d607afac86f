// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package image

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/klauspost/compress/gzip"

	"cocoon/mkimage/format/erofs"
	"cocoon/mkimage/format/gpt"
	"cocoon/mkimage/format/qcow2"
	"cocoon/mkimage/format/vhd"
	"cocoon/mkimage/manifest"
	"cocoon/mkimage/profile"
	"cocoon/mkimage/qemu"
	"cocoon/rootfs/boot"
	"cocoon/rootfs/recipe"
)

// maxDisk bounds a disk that is unpacked.
const maxDisk = 16 * gib

// Machine returns a machine that boots the image in dir. A root on a disk is
// attached and announced as a kata shim does it. A machine that boots itself
// still needs firmware, and a disk that QEMU reads: see RawDisk.
func Machine(dir string, m *manifest.Manifest) qemu.Config {
	c := qemu.Config{MemoryMiB: m.MemoryMiB}
	if m.Layout == string(profile.Disk) {
		return c
	}
	c.Cmdline, c.Kernel, c.Initrd = m.Cmdline, filepath.Join(dir, KernelFile), filepath.Join(dir, InitrdFile)
	if m.Layout == string(profile.Extension) && m.Verity != nil {
		c.Cmdline += " " + boot.ParamExtension + "=" + m.Verity.Text
		c.Disks = []qemu.Disk{{File: filepath.Join(dir, RootFile), ReadOnly: true}}
	}
	return c
}

// formOf is the form in which the image in dir has its disk, the handiest if
// there are several.
func formOf(m *manifest.Manifest) (profile.Format, manifest.File, error) {
	for _, f := range []profile.Format{profile.Raw, profile.VHD, profile.QCOW2, profile.GCP} {
		if out, err := m.Output(DiskName(f)); err == nil {
			return f, out, nil
		}
	}
	return "", manifest.File{}, fmt.Errorf("%w: no disk", manifest.ErrInvalid)
}

// RawDisk writes the disk of the image in dir, whatever its form, to w as it is.
// Zeros are left out.
func RawDisk(dir string, m *manifest.Manifest, w *os.File) (err error) {
	form, out, err := formOf(m)
	if err != nil {
		return err
	}
	f, err := os.Open(filepath.Join(dir, out.File))
	if err != nil {
		return fmt.Errorf("read the disk: %w", err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	r, size, err := rawReader(form, f, out.Size)
	if err == nil {
		err = copySparse(w, r, size)
	}
	if err != nil {
		return fmt.Errorf("read %q: %w", out.File, err)
	}
	return nil
}

// rawReader returns the disk in a file of a form, and its size.
func rawReader(form profile.Format, f *os.File, size int64) (io.Reader, int64, error) {
	switch form {
	case profile.Raw:
		return f, size, nil
	case profile.VHD:
		return f, size - vhd.FooterSize, nil
	case profile.QCOW2:
		d, err := qcow2.Open(f, size)
		if err != nil {
			return nil, 0, err
		}
		return io.NewSectionReader(d, 0, d.Size()), d.Size(), nil
	}
	z, err := gzip.NewReader(f)
	if err != nil {
		return nil, 0, err
	}
	t := tar.NewReader(z)
	h, err := t.Next()
	if err != nil {
		return nil, 0, err
	}
	if h.Name != gcpMember || h.Typeflag != tar.TypeReg {
		return nil, 0, fmt.Errorf("%w: archive with %.40q", manifest.ErrInvalid, h.Name)
	}
	return t, h.Size, nil
}

// copySparse copies size bytes and leaves out zeros.
func copySparse(w *os.File, r io.Reader, size int64) error {
	if size <= 0 || size > maxDisk {
		return fmt.Errorf("%w: disk of %d bytes", manifest.ErrInvalid, size)
	}
	b, zeros := make([]byte, 64<<10), make([]byte, 64<<10)
	for at := int64(0); at < size; {
		part := b[:min(int64(len(b)), size-at)]
		if _, err := io.ReadFull(r, part); err != nil {
			return fmt.Errorf("at %d of %d bytes: %w", at, size, err)
		}
		if !bytes.Equal(part, zeros[:len(part)]) {
			if _, err := w.WriteAt(part, at); err != nil {
				return err
			}
		}
		at += int64(len(part))
	}
	return w.Truncate(size)
}

// rootOfMachine reads the root's partition of the disk.
func rootOfMachine(dir string, m *manifest.Manifest) (entries []recipe.Entry, err error) {
	raw, err := os.CreateTemp("", "cocoon-disk-")
	if err != nil {
		return nil, fmt.Errorf("read the disk: %w", err)
	}
	defer func() { err = errors.Join(err, raw.Close(), os.Remove(raw.Name())) }()
	if err := RawDisk(dir, m, raw); err != nil {
		return nil, err
	}
	size, err := raw.Seek(0, io.SeekEnd)
	if err != nil {
		return nil, fmt.Errorf("read the disk: %w", err)
	}
	table, err := gpt.Read(raw, size)
	if err != nil {
		return nil, fmt.Errorf("read the disk: %w", err)
	}
	for _, p := range table.Partitions {
		if p.Type.String() == gpt.TypeRoot {
			return erofs.Read(io.NewSectionReader(raw, p.Offset, p.Size))
		}
	}
	return nil, fmt.Errorf("%w: the disk has no partition for a root", manifest.ErrInvalid)
}
