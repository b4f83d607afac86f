// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package vtpm

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"maps"
	"slices"
)

// initPCR is the register of initdata, lastPCR the last that software extends.
const (
	initPCR = 8
	lastPCR = 23
)

// Errors about what a guest extends itself.
var (
	// ErrDigest is returned for a digest of initdata that is not of SHA-256, which
	// guests with a TPM do not take.
	ErrDigest = errors.New("a TPM takes initdata by its SHA-256 only")
	// ErrSelection is returned for registers that no policy can name.
	ErrSelection = errors.New("no such registers")
)

// InitData returns PCR 8 of the bank of SHA-256 for a guest whose initdata has a
// digest.
func InitData(digest []byte) ([]byte, []Step, error) {
	if len(digest) != sha256.Size {
		return nil, nil, fmt.Errorf("digest of %d bytes: %w", len(digest), ErrDigest)
	}
	r := &registers{hash: sha256.New, value: map[int][]byte{}}
	r.extend(initPCR, "initdata", "initdata", digest)
	return r.value[initPCR], r.steps, nil
}

// Phases goes on from a value of PCR 11 with the phases of the boot that user
// space extends it with, such as enter-initrd. Cocoon's guests have none.
func Phases(h func() hash.Hash, pcr11 []byte, phases ...string) ([]byte, []Step) {
	r := &registers{hash: h, value: map[int][]byte{11: pcr11}}
	for _, p := range phases {
		r.action(11, p)
	}
	return r.value[11], r.steps
}

// Policy returns the digest of the TPM's policy that asks for the values of
// registers of a bank, whose algorithm has a number of TCG. Secrets that are
// sealed with it open for these values only.
func Policy(algorithm uint16, values map[int][]byte) ([]byte, error) {
	const command, banks, bitmap = 0x17f, 1, 3
	var selected [bitmap]byte
	all := sha256.New()
	for _, pcr := range slices.Sorted(maps.Keys(values)) {
		if pcr < 0 || pcr > lastPCR {
			return nil, fmt.Errorf("PCR %d: %w", pcr, ErrSelection)
		}
		selected[pcr/8] |= 1 << (pcr % 8)
		all.Write(values[pcr])
	}
	if len(values) == 0 {
		return nil, fmt.Errorf("none: %w", ErrSelection)
	}
	b := make([]byte, sha256.Size) // a new policy
	b = binary.BigEndian.AppendUint32(b, command)
	b = binary.BigEndian.AppendUint32(b, banks)
	b = binary.BigEndian.AppendUint16(b, algorithm)
	b = append(append(b, bitmap), selected[:]...)
	sum := sha256.Sum256(all.Sum(b))
	return sum[:], nil
}
