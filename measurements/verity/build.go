// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

// Package verity computes the hash tree of large images with all processors, and
// reads the superblock in front of a tree. Tree, superblock and parameters are
// those of internal/verity, which makes them as cryptsetup's veritysetup does in
// version 1 of its format.
//
// Trust: data and tree may be anybody's. What a superblock says is a claim; the
// root hash that Build returns is of the data that it has read.
package verity

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/bits"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"

	"cocoon/internal/verity"
)

const (
	// smallestSlot is the smallest room that a hash takes in the tree. With it
	// the number of hashes in a block is a multiple of that with larger ones.
	smallestSlot = 32
	// blocksPerTask is how many blocks of hashes a task makes: enough that
	// handing it out costs nothing.
	blocksPerTask = 8
	bufferSize    = 128 << 10
)

// ErrData is returned for data that are shorter than the parameters say.
var ErrData = errors.New("the data end early")

// Build is the method of that name of the parameters, by all processors at once:
// it returns the tree, the root's level first, and sets p.RootHash. Bytes and
// root are the same.
func Build(ctx context.Context, data io.ReaderAt, p *verity.Params) ([]byte, error) {
	p.RootHash = make([]byte, rootSize(p.Algorithm))
	if err := p.Check(); err != nil {
		return nil, err
	}
	var last [1]byte
	if n, err := data.ReadAt(last[:], int64(p.DataBlocks*p.DataBlock)-1); n != 1 {
		return nil, fmt.Errorf("%d blocks of %d bytes: %w: %w", p.DataBlocks, p.DataBlock, ErrData, err)
	}
	perTask := p.HashBlock / smallestSlot * blocksPerTask
	if p.DataBlocks <= perTask {
		return p.Build(section(data, *p, 0, p.DataBlocks))
	}
	level, err := lowest(ctx, data, *p, perTask)
	if err != nil {
		return nil, err
	}
	// What is above the lowest level is the tree of that level.
	upper := *p
	upper.DataBlock, upper.DataBlocks = p.HashBlock, uint64(len(level))/p.HashBlock
	tree, err := upper.Build(bytes.NewReader(level))
	if err != nil {
		return nil, err
	}
	p.RootHash = upper.RootHash
	return append(tree, level...), nil
}

// rootSize is the size of a hash, 0 if there is no such algorithm.
func rootSize(algorithm string) int { return map[string]int{"sha256": 32, "sha512": 64}[algorithm] }

// section reads blocks of the data.
func section(data io.ReaderAt, p verity.Params, first, blocks uint64) io.Reader {
	return bufio.NewReaderSize(io.NewSectionReader(data, int64(first*p.DataBlock), int64(blocks*p.DataBlock)), bufferSize)
}

// lowest is the level of the tree that hashes the data.
func lowest(ctx context.Context, data io.ReaderAt, p verity.Params, perTask uint64) ([]byte, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	parts := make([][]byte, (p.DataBlocks+perTask-1)/perTask)
	var next atomic.Int64
	var workers sync.WaitGroup
	for range min(runtime.GOMAXPROCS(0), len(parts)) {
		workers.Go(func() {
			for ctx.Err() == nil {
				n := next.Add(1) - 1
				if n >= int64(len(parts)) {
					return
				}
				first := uint64(n) * perTask
				part, err := hashes(data, p, first, min(perTask, p.DataBlocks-first))
				if err != nil {
					cancel(fmt.Errorf("hash blocks from %d on: %w", first, err))
					return
				}
				parts[n] = part
			}
		})
	}
	workers.Wait()
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	return slices.Concat(parts...), nil
}

// hashes are those of some blocks of data, in blocks of hashes: the lowest level
// of the tree over them.
func hashes(data io.ReaderAt, p verity.Params, first, blocks uint64) ([]byte, error) {
	p.DataBlocks = blocks
	tree, err := p.Build(section(data, p, first, blocks))
	if err != nil {
		return nil, err
	}
	if blocks == 1 { // has no tree; its hash is the root
		level := make([]byte, p.HashBlock)
		copy(level, p.RootHash)
		return level, nil
	}
	slot := uint64(1) << bits.Len(uint(len(p.RootHash)-1))
	perBlock := p.HashBlock / slot
	size := (blocks + perBlock - 1) / perBlock * p.HashBlock
	return tree[uint64(len(tree))-size:], nil
}
