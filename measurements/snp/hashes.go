// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package snp

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"

	"cocoon/measurements/ovmf"
)

const (
	hashEntry = 16 + 2 + sha256.Size
	hashTable = 16 + 2 + 3*hashEntry
)

// Identifiers of the table and of its entries, as they lie in memory.
const (
	tableID   = "06d63894224fc94cb479a793d411fd21"
	cmdlineID = "d82dd09720bd944caa78e7714d36ab2a"
	initrdID  = "31f7ba442f3ad74b9af141e29169781d"
	kernelID  = "3794e74dd2ab7f42b835d5b172d2045b"
)

// table makes the table of hashes as QEMU puts it into the guest's memory. The
// command line is hashed with the zero at its end.
func (k Kernel) table() ([]byte, error) {
	b := make([]byte, 0, hashTable)
	head := func(id string, size int) error {
		raw, err := hex.DecodeString(id)
		b = append(b, raw...)
		b = binary.LittleEndian.AppendUint16(b, uint16(size))
		return err
	}
	if err := head(tableID, hashTable); err != nil {
		return nil, err
	}
	for _, e := range []struct {
		id     string
		digest [sha256.Size]byte
	}{{cmdlineID, sha256.Sum256([]byte(k.Cmdline + "\x00"))}, {initrdID, k.Initrd}, {kernelID, k.Kernel}} {
		if err := head(e.id, hashEntry); err != nil {
			return nil, err
		}
		b = append(b, e.digest[:]...)
	}
	for len(b)%16 != 0 {
		b = append(b, 0)
	}
	return b, nil
}

// hashesPage is the page with the table where the firmware looks for it, which
// has to be in the section that is measured.
func (cfg Config) hashesPage(s ovmf.Section) ([]byte, error) {
	base, ok := cfg.Firmware.HashTable()
	if !ok {
		return nil, ErrNoHashes
	}
	t, err := cfg.Kernel.table()
	if err != nil {
		return nil, err
	}
	offset := base % pageSize
	if s.Size != pageSize || base-offset != s.GPA || int(offset)+len(t) > pageSize {
		return nil, fmt.Errorf("it looks for hashes at %#x, but %d bytes at %#x are for them: %w", base, s.Size, s.GPA, ErrNoHashes)
	}
	page := make([]byte, pageSize)
	copy(page[offset:], t)
	return page, nil
}
