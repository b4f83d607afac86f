// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package image

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/google/uuid"
	"github.com/klauspost/compress/gzip"

	"cocoon/mkimage/format/esp"
	"cocoon/mkimage/format/gpt"
	"cocoon/mkimage/format/qcow2"
	"cocoon/mkimage/format/vhd"
	"cocoon/mkimage/profile"
)

const (
	// bootPath is where firmware looks for a program on a disk that it does not
	// know.
	bootPath = "EFI/BOOT/BOOTX64.EFI"
	gib      = 1 << 30

	// gcpMember is the name that Google wants the disk to have in its archive.
	gcpMember = "disk.raw"
)

// DiskName is the name of the output with the disk in a form, and DiskFile that
// of its file.
func DiskName(f profile.Format) string { return "disk-" + string(f) }

// DiskFile is the name of the file with the disk in a form.
func DiskFile(f profile.Format) string {
	if f == profile.GCP {
		return gcpMember + ".tar.gz"
	}
	return "disk." + string(f)
}

// writeMachine writes the disk of a machine that boots itself in every form, and
// the program on it, from which its measurements follow. What is random on other
// disks follows from the content.
func (b *builder) writeMachine(dir string, r *root) error {
	program, err := b.unified()
	if err != nil {
		return err
	}
	if err := b.writeOutput(dir, output{UKIName, UKIFile, program}); err != nil {
		return err
	}
	for _, f := range b.in.Profile.Disks {
		if err := b.writeForm(dir, f, program, r); err != nil {
			return fmt.Errorf("write the disk as %s: %w", f, err)
		}
	}
	return nil
}

// writeForm writes one form by way of the raw disk.
func (b *builder) writeForm(dir string, f profile.Format, program []byte, r *root) (err error) {
	raw, err := os.CreateTemp(dir, ".disk-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, raw.Close(), removeIfThere(raw.Name())) }()
	unit := int64(gpt.MiB)
	if f == profile.GCP {
		unit = gib
	}
	parts, id, err := partitions(program, r)
	if err != nil {
		return err
	}
	size, err := gpt.Write(raw, id, parts, unit)
	if err != nil {
		return err
	}
	content := io.NewSectionReader(raw, 0, size)
	switch f {
	case profile.Raw: // moved, so that it keeps its holes
		return b.keep(dir, DiskName(f), DiskFile(f), raw)
	case profile.QCOW2:
		return b.writeStream(dir, f, func(w io.Writer) error { return qcow2.Write(w, raw, size) })
	case profile.VHD:
		return b.writeStream(dir, f, func(w io.Writer) error { return writeVHD(w, content, b.in.Epoch) })
	case profile.GCP:
		return b.writeStream(dir, f, func(w io.Writer) error { return writeGCP(w, content, b.in.Epoch) })
	}
	return fmt.Errorf("%w: no such form", ErrInput)
}

// partitions are those of the disk, and its identifier. The partitions of the
// root are named by its hash, as the specification of discoverable partitions
// has it.
func partitions(program []byte, r *root) ([]gpt.Source, uuid.UUID, error) {
	digest := sha256.Sum256(program)
	system, size, err := esp.New(binary.LittleEndian.Uint32(digest[:]), []esp.File{{Path: bootPath, Data: program}})
	if err != nil {
		return nil, uuid.UUID{}, err
	}
	if len(r.params.RootHash) != 2*len(uuid.UUID{}) {
		return nil, uuid.UUID{}, fmt.Errorf("%w: root hash of %d bytes", ErrInput, len(r.params.RootHash))
	}
	parts := []gpt.Source{
		{Partition: gpt.Partition{Name: "esp", Type: uuid.MustParse(gpt.TypeESP), ID: gpt.Derive("esp", digest[:]), Size: size}, Content: system},
		{Partition: gpt.Partition{Name: "root", Type: uuid.MustParse(gpt.TypeRoot), ID: uuid.UUID(r.params.RootHash[:16]), Size: r.size}, Content: r.content()},
		{Partition: gpt.Partition{Name: "root-verity", Type: uuid.MustParse(gpt.TypeRootVerity), ID: uuid.UUID(r.params.RootHash[16:]), Size: int64(len(r.tree))}, Content: bytes.NewReader(r.tree)},
	}
	var ids []byte
	for _, p := range parts {
		ids = append(ids, p.ID[:]...)
	}
	return parts, gpt.Derive("disk", ids), nil
}

// writeVHD writes the raw disk with the footer of a VHD.
func writeVHD(w io.Writer, disk *io.SectionReader, epoch int64) error {
	sum := sha256.New()
	if _, err := io.Copy(io.MultiWriter(w, sum), disk); err != nil {
		return err
	}
	footer, err := vhd.Footer(disk.Size(), gpt.Derive("vhd", sum.Sum(nil)), epoch)
	if err != nil {
		return err
	}
	_, err = w.Write(footer)
	return err
}

// writeGCP writes the raw disk into an archive as Google takes it.
func writeGCP(w io.Writer, disk *io.SectionReader, epoch int64) error {
	z, err := gzip.NewWriterLevel(w, gzip.BestSpeed)
	if err != nil {
		return err
	}
	t := tar.NewWriter(z)
	err = t.WriteHeader(&tar.Header{
		Typeflag: tar.TypeReg, Name: gcpMember, Size: disk.Size(), Mode: 0o644, ModTime: time.Unix(epoch, 0), Format: tar.FormatGNU,
	})
	if err == nil {
		_, err = io.Copy(t, disk)
	}
	return errors.Join(err, t.Close(), z.Close())
}

func removeIfThere(name string) error {
	if err := os.Remove(name); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// keep gives a file its name, and notes its digests.
func (b *builder) keep(dir, name, file string, f *os.File) error {
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return err
	}
	if err := b.describe(io.Discard, name, file, func(w io.Writer) error { _, err := io.Copy(w, f); return err }); err != nil {
		return err
	}
	return errors.Join(f.Chmod(0o644), os.Rename(f.Name(), filepath.Join(dir, file)))
}

// writeStream writes the disk in a form.
func (b *builder) writeStream(dir string, form profile.Format, write func(io.Writer) error) error {
	return b.writeTo(dir, DiskName(form), DiskFile(form), write)
}
