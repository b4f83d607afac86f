// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package verity

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
)

// ErrSuperblock is returned for what is no superblock of a hash tree, or one that
// readers do not agree on.
var ErrSuperblock = errors.New("no superblock of dm-verity")

// SuperblockSize is how many bytes of the first block a superblock takes.
const SuperblockSize = 512

// Places of its fields.
const (
	uuidAt      = 16
	algorithmAt = 32
	dataBlockAt = 64
	hashBlockAt = 68
	blocksAt    = 72
	saltSizeAt  = 80
	saltAt      = 88
	saltEnd     = saltAt + maxSalt
)

// Superblock is what stands in front of a tree. It does not know the root hash.
type Superblock struct {
	Params
	UUID [16]byte
}

// Superblock returns what stands at the beginning of the hash area, a whole
// block of it, in version 1 of the format. uuid is the owner's choice.
func (p Params) Superblock(uuid [16]byte) []byte {
	b := make([]byte, max(SuperblockSize, p.HashBlock))
	copy(b, "verity\x00\x00")
	binary.LittleEndian.PutUint32(b[8:], 1)  // version
	binary.LittleEndian.PutUint32(b[12:], 1) // hash type: salt first
	copy(b[uuidAt:], uuid[:])
	copy(b[algorithmAt:dataBlockAt], p.Algorithm)
	binary.LittleEndian.PutUint32(b[dataBlockAt:], uint32(p.DataBlock))
	binary.LittleEndian.PutUint32(b[hashBlockAt:], uint32(p.HashBlock))
	binary.LittleEndian.PutUint64(b[blocksAt:], p.DataBlocks)
	binary.LittleEndian.PutUint16(b[saltSizeAt:], uint16(len(p.Salt)))
	copy(b[saltAt:saltEnd], p.Salt)
	return b
}

// ParseSuperblock reads one at the start of a hash device of its own, of which b
// has the first bytes. Every byte of it has to be as veritysetup writes it.
func ParseSuperblock(b []byte) (*Superblock, error) {
	if len(b) < SuperblockSize {
		return nil, fmt.Errorf("%d bytes: %w", len(b), ErrSuperblock)
	}
	b = b[:SuperblockSize]
	algorithm, _, _ := bytes.Cut(b[algorithmAt:dataBlockAt], []byte{0})
	salt := int(binary.LittleEndian.Uint16(b[saltSizeAt:]))
	if salt > saltEnd-saltAt {
		return nil, fmt.Errorf("salt of %d bytes: %w", salt, ErrSuperblock)
	}
	s := &Superblock{UUID: [16]byte(b[uuidAt:]), Params: Params{
		Algorithm: string(algorithm), DataBlock: uint64(binary.LittleEndian.Uint32(b[dataBlockAt:])), HashBlock: uint64(binary.LittleEndian.Uint32(b[hashBlockAt:])),
		DataBlocks: binary.LittleEndian.Uint64(b[blocksAt:]), HashStart: 1, Salt: bytes.Clone(b[saltAt : saltAt+salt]),
	}}
	h, err := newHash(s.Algorithm)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrSuperblock, err)
	}
	p := s.Params
	p.RootHash = make([]byte, h().Size())
	if err := p.Check(); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrSuperblock, err)
	}
	if !bytes.Equal(p.Superblock(s.UUID)[:SuperblockSize], b) {
		return nil, fmt.Errorf("mark, version or padding differ from what its fields give: %w", ErrSuperblock)
	}
	return s, nil
}
