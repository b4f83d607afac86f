// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package image

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/klauspost/compress/zstd"

	"cocoon/internal/bounded"
	"cocoon/mkimage/format/cpio"
	"cocoon/mkimage/format/erofs"
	"cocoon/mkimage/format/mbr"
	"cocoon/mkimage/manifest"
	"cocoon/mkimage/profile"
	"cocoon/mkimage/release"
	"cocoon/rootfs/recipe"
)

// maxInitrd bounds an initramfs after decompression.
const maxInitrd = 1 << 30

// ErrDigest means that a file of an image is not the one of its manifest.
var ErrDigest = errors.New("file does not match the manifest")

// Open reads the manifest of the image in dir and checks every output against
// it.
func Open(dir string) (*manifest.Manifest, error) {
	f, err := os.Open(filepath.Join(dir, manifest.Name))
	if err != nil {
		return nil, fmt.Errorf("open the image: %w", err)
	}
	m, err := manifest.Decode(f)
	if err := errors.Join(err, f.Close()); err != nil {
		return nil, fmt.Errorf("open the image in %q: %w", dir, err)
	}
	for _, out := range m.Outputs {
		if err := checkFile(dir, out); err != nil {
			return nil, err
		}
	}
	docs, err := release.Documents(m)
	if err != nil {
		return nil, err
	}
	for _, d := range docs {
		got, err := os.ReadFile(filepath.Join(dir, d.File))
		if err != nil {
			return nil, fmt.Errorf("open the image: %w", err)
		}
		if !bytes.Equal(got, d.Data) {
			return nil, fmt.Errorf("%w: %q is not what follows from it", ErrDigest, d.File)
		}
	}
	return m, nil
}

func checkFile(dir string, want manifest.File) error {
	if filepath.Base(want.File) != want.File {
		return fmt.Errorf("%w: output %q is no file name", manifest.ErrInvalid, want.File)
	}
	f, err := os.Open(filepath.Join(dir, want.File))
	if err != nil {
		return fmt.Errorf("open the image: %w", err)
	}
	h := sha256.New()
	_, err = io.Copy(h, f)
	if err := errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("read %q: %w", want.File, err)
	}
	if got := hex.EncodeToString(h.Sum(nil)); got != want.SHA256 {
		return fmt.Errorf("%w: %q has sha256 %s, not %s", ErrDigest, want.File, got, want.SHA256)
	}
	return nil
}

// Root returns the entries of the root of the image in dir.
func Root(dir string, m *manifest.Manifest) ([]recipe.Entry, error) {
	switch profile.Layout(m.Layout) {
	case profile.Extension:
		return rootOfExtension(dir, m)
	case profile.Disk:
		return rootOfMachine(dir, m)
	}
	return initramfs(dir, m)
}

// rootOfExtension reads the first partition of the root's disk.
func rootOfExtension(dir string, m *manifest.Manifest) (entries []recipe.Entry, err error) {
	out, err := m.Output(RootName)
	if err != nil {
		return nil, err
	}
	f, err := os.Open(filepath.Join(dir, out.File))
	if err != nil {
		return nil, fmt.Errorf("read the root: %w", err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	parts, err := mbr.Read(f, out.Size)
	if err != nil {
		return nil, fmt.Errorf("read %q: %w", out.File, err)
	}
	return erofs.Read(io.NewSectionReader(f, parts[0].Offset, parts[0].Size))
}

// initramfs returns the entries of the initramfs of the image in dir.
func initramfs(dir string, m *manifest.Manifest) ([]recipe.Entry, error) {
	out, err := m.Output(InitrdName)
	if err != nil {
		return nil, err
	}
	data, err := os.ReadFile(filepath.Join(dir, out.File))
	if err != nil {
		return nil, fmt.Errorf("read the initramfs: %w", err)
	}
	if bytes.HasPrefix(data, []byte{0x28, 0xb5, 0x2f, 0xfd}) {
		if data, err = decompress(data); err != nil {
			return nil, err
		}
	}
	return cpio.Read(data)
}

func decompress(data []byte) ([]byte, error) {
	r, err := zstd.NewReader(bytes.NewReader(data), zstd.WithDecoderConcurrency(1))
	if err != nil {
		return nil, fmt.Errorf("decompress the initramfs: %w", err)
	}
	defer r.Close()
	out, err := bounded.ReadAll(r, maxInitrd)
	if err != nil {
		return nil, fmt.Errorf("decompress the initramfs: %w", err)
	}
	return out, nil
}
