// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package verity

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"

	"cocoon/internal/verity"
)

// ErrSuperblock is returned for what is no superblock of a hash tree, or one that
// readers do not agree on.
var ErrSuperblock = errors.New("no superblock of dm-verity")

// SuperblockSize is how many bytes of the first block it takes.
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
	saltEnd     = saltAt + 256
)

// Superblock is what stands in front of a tree. It does not know the root hash.
type Superblock struct {
	verity.Params
	UUID [16]byte
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
	s := &Superblock{UUID: [16]byte(b[uuidAt:]), Params: verity.Params{
		Algorithm: string(algorithm), DataBlock: uint64(binary.LittleEndian.Uint32(b[dataBlockAt:])), HashBlock: uint64(binary.LittleEndian.Uint32(b[hashBlockAt:])),
		DataBlocks: binary.LittleEndian.Uint64(b[blocksAt:]), HashStart: 1, Salt: bytes.Clone(b[saltAt : saltAt+salt]),
	}}
	p := s.Params
	p.RootHash = make([]byte, rootSize(p.Algorithm))
	if err := p.Check(); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrSuperblock, err)
	}
	if !bytes.Equal(p.Superblock(s.UUID)[:SuperblockSize], b) {
		return nil, fmt.Errorf("mark, version or padding differ from what its fields give: %w", ErrSuperblock)
	}
	return s, nil
}
