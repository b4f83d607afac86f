// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package image

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"cocoon/internal/verity"
	"cocoon/mkimage/format/erofs"
	"cocoon/mkimage/format/mbr"
	"cocoon/mkimage/manifest"
	"cocoon/rootfs/recipe"
)

// block is the size of the blocks that dm-verity checks.
const block = 4096

// writeRoot writes the disk with the root: erofs in the first partition and
// the tree of dm-verity in the second.
func (b *builder) writeRoot(entries []recipe.Entry, dir string) (err error) {
	b.progress("write root disk with %d files", len(entries))
	data, err := os.CreateTemp(dir, ".root-")
	if err != nil {
		return fmt.Errorf("make the root: %w", err)
	}
	defer func() { err = errors.Join(err, data.Close(), os.Remove(data.Name())) }()
	if err := erofs.Write(data, entries); err != nil {
		return err
	}
	size, err := data.Seek(0, io.SeekEnd)
	if err != nil {
		return fmt.Errorf("make the root: %w", err)
	}
	content := func() *io.SectionReader { return io.NewSectionReader(data, 0, size) }
	p, tree, err := treeOf(content)
	if err != nil {
		return err
	}
	b.man.Verity = &manifest.Verity{
		RootHash: fmt.Sprintf("%x", p.RootHash), Salt: fmt.Sprintf("%x", p.Salt),
		DataBlocks: p.DataBlocks, DataBlockSize: p.DataBlock, HashBlockSize: p.HashBlock, Text: p.Text(),
	}
	return b.writeDisk(filepath.Join(dir, RootFile), content(), bytes.NewReader(tree))
}

// treeOf makes the tree of a file system. Its salt follows from the content,
// so that two builds have the same.
func treeOf(content func() *io.SectionReader) (verity.Params, []byte, error) {
	sum := sha256.New()
	size, err := io.Copy(sum, content())
	if err == nil && size%block != 0 {
		err = fmt.Errorf("%d bytes are no whole blocks", size)
	}
	if err != nil {
		return verity.Params{}, nil, fmt.Errorf("read the root back: %w", err)
	}
	salt := sha256.Sum256(append([]byte("cocoon:verity-salt\x00"), sum.Sum(nil)...))
	p := verity.Params{Algorithm: "sha256", DataBlock: block, HashBlock: block, DataBlocks: uint64(size / block), Salt: salt[:]}
	tree, err := p.Build(content())
	if err != nil {
		return p, nil, fmt.Errorf("make the tree of the root: %w", err)
	}
	return p, tree, nil
}

// writeDisk writes the disk and notes its digests.
func (b *builder) writeDisk(name string, parts ...mbr.Content) (err error) {
	f, err := os.OpenFile(name, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o644)
	if err != nil {
		return fmt.Errorf("write the root disk: %w", err)
	}
	d := manifest.NewDigester(f)
	if err := errors.Join(mbr.Write(d, parts), f.Chmod(0o644), f.Close()); err != nil {
		return fmt.Errorf("write %q: %w", name, err)
	}
	out := d.File(RootName, filepath.Base(name))
	b.man.Outputs = append(b.man.Outputs, out)
	b.progress("wrote %s, %.1f MB", out.File, float64(out.Size)/1e6)
	return nil
}
