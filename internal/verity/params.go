// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

// Package verity speaks of dm-verity: it makes the hash tree that the kernel
// checks blocks against, and the table by which the kernel is told of one. Tree
// and superblock are those of cryptsetup's veritysetup, version 1 of its format.
//
// Trust boundary. Parameters come from the host, in a request that the policy
// has allowed; only the root hash makes the data on a disk more than the host's
// word, and only if the policy pins it. The data and the tree need no trust:
// the kernel checks every block when it is read. What a superblock says is a
// claim.
package verity

import (
	"bytes"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"math/bits"
	"strings"
)

// ErrParams is returned for parameters that describe no tree.
var ErrParams = errors.New("invalid dm-verity parameters")

const (
	sector  = 512
	maxSalt = 256
	maxPage = 4096 // the kernel takes no larger blocks than its pages
)

// Params describe data and hash tree of one device.
type Params struct {
	// Algorithm is sha256 or sha512.
	Algorithm string
	// DataBlock and HashBlock are the sizes of blocks in bytes.
	DataBlock, HashBlock uint64
	// DataBlocks is how many blocks of data there are, from the device's start.
	DataBlocks uint64
	// HashStart is where the tree begins, in blocks of HashBlock bytes.
	HashStart uint64
	// RootHash is what everything depends on.
	RootHash []byte
	// Salt is hashed before every block; it may be empty.
	Salt []byte
}

// newHash returns the hash function of an algorithm.
func newHash(algorithm string) (func() hash.Hash, error) {
	switch algorithm {
	case "sha256":
		return sha256.New, nil
	case "sha512":
		return sha512.New, nil
	}
	return nil, fmt.Errorf("algorithm %.32q: %w", algorithm, ErrParams)
}

// Check returns an error wrapping ErrParams unless the kernel could use p.
func (p Params) Check() error {
	h, err := newHash(p.Algorithm)
	switch {
	case err != nil:
		return err
	case !blockSize(p.DataBlock) || !blockSize(p.HashBlock):
		return fmt.Errorf("blocks of %d and %d bytes: %w", p.DataBlock, p.HashBlock, ErrParams)
	case p.DataBlocks == 0 || p.DataBlocks > 1<<48/p.DataBlock:
		return fmt.Errorf("%d data blocks: %w", p.DataBlocks, ErrParams)
	case p.HashStart > 1<<48/p.HashBlock:
		return fmt.Errorf("hash tree at block %d: %w", p.HashStart, ErrParams)
	case len(p.RootHash) != h().Size():
		return fmt.Errorf("root hash of %d bytes with %s: %w", len(p.RootHash), p.Algorithm, ErrParams)
	case len(p.Salt) > maxSalt:
		return fmt.Errorf("salt of %d bytes: %w", len(p.Salt), ErrParams)
	}
	return nil
}

func blockSize(n uint64) bool { return n >= sector && n <= maxPage && bits.OnesCount64(n) == 1 }

// Sectors is the size of the data in units of 512 bytes.
func (p Params) Sectors() uint64 { return p.DataBlocks * p.DataBlock / sector }

// Table is the parameter text of the kernel's target "verity", for data and
// tree on one device, "major:minor" or a path.
func (p Params) Table(device string) string { return p.TableOn(device, device) }

// TableOn is Table for a tree on a device of its own, with options for the
// target such as panic_on_corruption.
func (p Params) TableOn(data, tree string, options ...string) string {
	words := []string{
		"1", data, tree, fmt.Sprint(p.DataBlock), fmt.Sprint(p.HashBlock), fmt.Sprint(p.DataBlocks), fmt.Sprint(p.HashStart),
		p.Algorithm, hex.EncodeToString(p.RootHash), p.salt(),
	}
	if len(options) > 0 {
		words = append(append(words, fmt.Sprint(len(options))), options...)
	}
	return strings.Join(words, " ")
}

// IsTop tells whether block is the top of the tree, from which the root hash
// is made. Data of a single block have no tree.
func (p Params) IsTop(block []byte) bool {
	h, err := newHash(p.Algorithm)
	if err != nil || uint64(len(block)) != p.HashBlock {
		return false
	}
	sum := h()
	sum.Write(p.Salt)
	sum.Write(block)
	return bytes.Equal(sum.Sum(nil), p.RootHash)
}
