// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package tpm

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
)

const (
	readAtOnce = 8 // registers in an answer

	// InitPCR takes the digest of the init data.
	InitPCR = 8
)

// PCR returns a register of the SHA-256 bank.
func (t *TPM) PCR(ctx context.Context, n uint32) ([]byte, error) {
	if n >= PCRs {
		return nil, fmt.Errorf("read PCR: there is no PCR %d", n)
	}
	all, err := with(ctx, t, func(c transport.TPM) ([][]byte, error) { return readPCRs(c, n, n+1) })
	if err != nil {
		return nil, fmt.Errorf("read PCR %d: %w", n, err)
	}
	return all[0], nil
}

// readPCRs reads registers from a to before b.
func readPCRs(c transport.TPM, a, b uint32) ([][]byte, error) {
	var all [][]byte
	for ; a < b; a += readAtOnce {
		var want []uint
		for n := a; n < min(a+readAtOnce, b); n++ {
			want = append(want, uint(n))
		}
		r, err := tpm2.PCRRead{PCRSelectionIn: selection(want...)}.Execute(c)
		if err != nil {
			return nil, err
		}
		if len(r.PCRValues.Digests) != len(want) {
			return nil, fmt.Errorf("%d of %d values; is there a SHA-256 bank?", len(r.PCRValues.Digests), len(want))
		}
		for _, d := range r.PCRValues.Digests {
			if len(d.Buffer) != sha256.Size {
				return nil, fmt.Errorf("a value of %d bytes", len(d.Buffer))
			}
			all = append(all, d.Buffer)
		}
	}
	return all, nil
}

func selection(pcrs ...uint) tpm2.TPMLPCRSelection {
	return tpm2.TPMLPCRSelection{PCRSelections: []tpm2.TPMSPCRSelection{
		{Hash: tpm2.TPMAlgSHA256, PCRSelect: tpm2.PCClientCompatible.PCRs(pcrs...)},
	}}
}

// Extend extends a register of the SHA-256 bank.
func (t *TPM) Extend(ctx context.Context, n uint32, digest []byte) error {
	if n >= PCRs {
		return fmt.Errorf("extend PCR: there is no PCR %d", n)
	}
	if len(digest) != sha256.Size {
		return fmt.Errorf("extend PCR %d with a digest of %d bytes, want one of SHA-256", n, len(digest))
	}
	_, err := with(ctx, t, func(c transport.TPM) (*tpm2.PCRExtendResponse, error) { return extend(c, n, digest) })
	if err != nil {
		return fmt.Errorf("extend PCR %d: %w", n, err)
	}
	return nil
}

func extend(c transport.TPM, n uint32, digest []byte) (*tpm2.PCRExtendResponse, error) {
	h := tpm2.TPMHandle(n)
	return tpm2.PCRExtend{
		PCRHandle: tpm2.AuthHandle{Handle: h, Name: tpm2.HandleName(h), Auth: tpm2.PasswordAuth(nil)},
		Digests:   tpm2.TPMLDigestValues{Digests: []tpm2.TPMTHA{{HashAlg: tpm2.TPMAlgSHA256, Digest: digest}}},
	}.Execute(c)
}

// BindInitData extends PCR 8 with the digest, which must be one of SHA-256. If
// the register holds that already nothing is done, since a guest that starts
// its role again has done it; if it holds something else, ErrTaken is returned.
func (t *TPM) BindInitData(ctx context.Context, digest []byte) error {
	if len(digest) != sha256.Size {
		return fmt.Errorf("a TPM takes initdata by its SHA-256 only, this digest has %d bytes", len(digest))
	}
	zero := make([]byte, sha256.Size)
	want := sha256.Sum256(append(bytes.Clone(zero), digest...))
	_, err := with(ctx, t, func(c transport.TPM) (struct{}, error) {
		now, err := readPCRs(c, InitPCR, InitPCR+1)
		if err != nil || bytes.Equal(now[0], want[:]) {
			return struct{}{}, err
		}
		if !bytes.Equal(now[0], zero) {
			return struct{}{}, fmt.Errorf("%w: it is %x", ErrTaken, now[0])
		}
		_, err = extend(c, InitPCR, digest)
		return struct{}{}, err
	})
	if err != nil {
		return fmt.Errorf("bind initdata to PCR %d: %w", InitPCR, err)
	}
	return nil
}
