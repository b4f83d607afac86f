// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package tpm

import (
	"context"
	"errors"
	"fmt"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
)

const (
	maxNV        = 16 << 10
	nvBufferSafe = 512 // every TPM takes as many bytes at once
)

// ReadNV returns the content of an NV index that the owner may read, or
// ErrNoIndex.
func (t *TPM) ReadNV(ctx context.Context, index uint32) ([]byte, error) {
	b, err := with(ctx, t, func(c transport.TPM) ([]byte, error) {
		public, at, err := nvPublic(c, index)
		if err != nil {
			return nil, err
		}
		if public.DataSize > maxNV {
			return nil, fmt.Errorf("%d bytes, at most %d", public.DataSize, maxNV)
		}
		return readNV(c, at, int(public.DataSize))
	})
	if err != nil {
		return nil, fmt.Errorf("read NV index %#x: %w", index, err)
	}
	return b, nil
}

func nvPublic(c transport.TPM, index uint32) (*tpm2.TPMSNVPublic, tpm2.NamedHandle, error) {
	at := tpm2.NamedHandle{Handle: tpm2.TPMHandle(index)}
	r, err := tpm2.NVReadPublic{NVIndex: at.Handle}.Execute(c)
	if errors.Is(err, tpm2.TPMRCHandle) {
		return nil, at, ErrNoIndex
	}
	if err != nil {
		return nil, at, err
	}
	public, err := r.NVPublic.Contents()
	at.Name = r.NVName
	return public, at, err
}

func readNV(c transport.TPM, at tpm2.NamedHandle, size int) ([]byte, error) {
	var b []byte
	for len(b) < size {
		r, err := tpm2.NVRead{
			AuthHandle: owner(), NVIndex: at,
			Size: uint16(min(size-len(b), nvBufferSafe)), Offset: uint16(len(b)),
		}.Execute(c)
		if err != nil {
			return nil, err
		}
		if len(r.Data.Buffer) == 0 || len(r.Data.Buffer) > size-len(b) {
			return nil, fmt.Errorf("an answer of %d bytes, %d of %d are missing", len(r.Data.Buffer), size-len(b), size)
		}
		b = append(b, r.Data.Buffer...)
	}
	return b, nil
}

// WriteNV writes an NV index of the owner. It is defined, or defined anew, so
// that it has the size of data.
func (t *TPM) WriteNV(ctx context.Context, index uint32, data []byte) error {
	if len(data) == 0 || len(data) > nvBufferSafe {
		return fmt.Errorf("write NV index %#x: %d bytes, want 1 to %d", index, len(data), nvBufferSafe)
	}
	_, err := with(ctx, t, func(c transport.TPM) (struct{}, error) {
		return struct{}{}, writeNV(c, index, data)
	})
	if err != nil {
		return fmt.Errorf("write NV index %#x: %w", index, err)
	}
	return nil
}

func writeNV(c transport.TPM, index uint32, data []byte) error {
	public, at, err := nvPublic(c, index)
	if err == nil && int(public.DataSize) != len(data) {
		if _, err = (tpm2.NVUndefineSpace{AuthHandle: owner(), NVIndex: at}).Execute(c); err != nil {
			return err
		}
		err = ErrNoIndex
	}
	if errors.Is(err, ErrNoIndex) {
		if err = defineNV(c, index, len(data)); err != nil {
			return err
		}
		_, at, err = nvPublic(c, index)
	}
	if err != nil {
		return err
	}
	_, err = tpm2.NVWrite{AuthHandle: owner(), NVIndex: at, Data: tpm2.TPM2BMaxNVBuffer{Buffer: data}}.Execute(c)
	return err
}

func defineNV(c transport.TPM, index uint32, size int) error {
	_, err := tpm2.NVDefineSpace{AuthHandle: owner(), PublicInfo: tpm2.New2B(tpm2.TPMSNVPublic{
		NVIndex: tpm2.TPMHandle(index), NameAlg: tpm2.TPMAlgSHA256, DataSize: uint16(size),
		Attributes: tpm2.TPMANV{OwnerWrite: true, OwnerRead: true, NT: tpm2.TPMNTOrdinary},
	})}.Execute(c)
	return err
}
