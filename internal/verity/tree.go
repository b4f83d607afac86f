// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package verity

import (
	"bytes"
	"fmt"
	"hash"
	"io"
	"math/bits"
	"slices"
)

// readBlocks is how many blocks are read at once.
const readBlocks = 32

// Build reads p.DataBlocks blocks from data and returns the tree as it stands
// on a device, the root's level first, and sets p.RootHash. It keeps the tree
// in memory, a hundredth of the data. The same data give the same bytes.
func (p *Params) Build(data io.Reader) ([]byte, error) {
	h, err := newHash(p.Algorithm)
	if err != nil {
		return nil, err
	}
	p.RootHash = make([]byte, h().Size())
	if err := p.Check(); err != nil {
		return nil, err
	}
	b := builder{hash: h(), salt: p.Salt, block: p.HashBlock}
	level, err := b.hashAll(data, p.DataBlock, p.DataBlocks)
	if err != nil {
		return nil, fmt.Errorf("read data: %w", err)
	}
	var levels [][]byte
	for blocks := p.DataBlocks; blocks > 1; {
		levels = append(levels, level)
		blocks = uint64(len(level)) / p.HashBlock
		if level, err = b.hashAll(bytes.NewReader(level), p.HashBlock, blocks); err != nil {
			return nil, err
		}
	}
	copy(p.RootHash, level)
	var tree []byte
	for i := range levels {
		tree = append(tree, levels[len(levels)-1-i]...)
	}
	return tree, nil
}

// builder hashes blocks into blocks of hashes.
type builder struct {
	hash  hash.Hash
	salt  []byte
	block uint64
}

// hashAll returns the hashes of all blocks, padded as a level of the tree: each
// hash to a power of two, each block of them with zeros.
func (b builder) hashAll(r io.Reader, size, blocks uint64) ([]byte, error) {
	slot := uint64(1) << bits.Len(uint(b.hash.Size()-1))
	perBlock := b.block / slot
	out := make([]byte, 0, (blocks+perBlock-1)/perBlock*b.block)
	buf := make([]byte, size*min(blocks, readBlocks))
	for i := uint64(0); i < blocks; i += readBlocks {
		part := buf[:size*min(blocks-i, readBlocks)]
		if n, err := io.ReadFull(r, part); err != nil {
			return nil, fmt.Errorf("block %d of %d: %w", i+uint64(n)/size, blocks, err)
		}
		for block := range slices.Chunk(part, int(size)) {
			b.hash.Reset()
			b.hash.Write(b.salt)
			b.hash.Write(block)
			start := len(out)
			out = b.hash.Sum(out)
			out = append(out, make([]byte, slot-uint64(len(out)-start))...)
		}
	}
	if rest := uint64(len(out)) % b.block; rest != 0 {
		out = append(out, make([]byte, b.block-rest)...)
	}
	return out, nil
}
