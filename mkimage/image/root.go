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

	"cocoon/internal/verity"
	"cocoon/mkimage/format/erofs"
	"cocoon/mkimage/format/mbr"
	"cocoon/mkimage/manifest"
	"cocoon/rootfs/recipe"
)

// block is the size of the blocks that dm-verity checks.
const block = 4096

// root is the guest's root as a file system, with the tree of dm-verity.
type root struct {
	file   *os.File // temporary
	size   int64
	params verity.Params
	tree   []byte
}

func (r *root) content() *io.SectionReader { return io.NewSectionReader(r.file, 0, r.size) }

// close removes the file.
func (r *root) close() error { return errors.Join(r.file.Close(), os.Remove(r.file.Name())) }

// makeRoot makes the root in a temporary file of dir.
func (b *builder) makeRoot(entries []recipe.Entry, dir string) (*root, error) {
	b.progress("make a root of %d files", len(entries))
	file, err := os.CreateTemp(dir, ".root-")
	if err != nil {
		return nil, fmt.Errorf("make the root: %w", err)
	}
	r := &root{file: file}
	if err := r.fill(entries); err != nil {
		return nil, errors.Join(err, r.close())
	}
	p := r.params
	b.man.Verity = &manifest.Verity{
		RootHash: fmt.Sprintf("%x", p.RootHash), Salt: fmt.Sprintf("%x", p.Salt),
		DataBlocks: p.DataBlocks, DataBlockSize: p.DataBlock, HashBlockSize: p.HashBlock, Text: p.Text(),
	}
	return r, nil
}

func (r *root) fill(entries []recipe.Entry) error {
	if err := erofs.Write(r.file, entries); err != nil {
		return err
	}
	var err error
	if r.size, err = r.file.Seek(0, io.SeekEnd); err != nil {
		return fmt.Errorf("make the root: %w", err)
	}
	r.params, r.tree, err = treeOf(r.content)
	return err
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

// writeExtension writes the disk that a kata shim plugs in: the root in the
// first partition and the tree in the second.
func (b *builder) writeExtension(dir string, r *root) error {
	return b.writeTo(dir, RootName, RootFile, func(w io.Writer) error {
		return mbr.Write(w, []mbr.Content{r.content(), bytes.NewReader(r.tree)})
	})
}
