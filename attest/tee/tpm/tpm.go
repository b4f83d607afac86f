// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

// Package tpm has the guest's TPM 2.0 quote and extend its registers, and makes
// the evidence of a guest that has a TPM and no other TEE.
//
// It follows the TPM 2.0 Library, part 3, and in the evidence the attester of
// that name of CoCo's attestation agent.
//
// Trust: the TPM is given by whoever runs the machine. On Azure that is the
// paravisor, which the hardware has measured; elsewhere it is the host, and a
// verifier has to know the TPM's key.
package tpm

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
)

// PCRs is how many registers the SHA-256 bank has.
const PCRs = 24

// Errors that callers branch on.
var (
	// ErrUnsupported is returned where there is no TPM.
	ErrUnsupported = errors.New("there is no TPM")
	// ErrNoIndex is returned for an NV index that is not defined.
	ErrNoIndex = fmt.Errorf("no such NV index: %w", fs.ErrNotExist)
	// ErrTaken is returned if somebody else has extended a register that is to
	// hold init data and nothing else.
	ErrTaken = errors.New("the register has been extended by another")
)

// TPM carries out one request after the other. It is safe for concurrent use.
type TPM struct {
	open Opener
	turn chan struct{} // holds one token; its owner may talk with the TPM
}

// New returns the TPM that open connects to.
func New(open Opener) *TPM {
	t := &TPM{open: open, turn: make(chan struct{}, 1)}
	t.turn <- struct{}{}
	return t
}

// with has f talk with the TPM. When ctx ends f is left behind: it ends with
// the answer to the command under way, which nothing can hurry, and the next
// request waits for that.
func with[T any](ctx context.Context, t *TPM, f func(transport.TPM) (T, error)) (T, error) {
	var none T
	select {
	case <-t.turn:
	case <-ctx.Done():
		return none, fmt.Errorf("wait for the TPM: %w", context.Cause(ctx))
	}
	type result struct {
		value T
		err   error
	}
	done := make(chan result, 1)
	go func() {
		defer func() { t.turn <- struct{}{} }()
		value, err := talk(ctx, t.open, f)
		done <- result{value, err}
	}()
	select {
	case r := <-done:
		return r.value, r.err
	case <-ctx.Done():
		return none, fmt.Errorf("wait for the TPM's answer: %w", context.Cause(ctx))
	}
}

func talk[T any](ctx context.Context, open Opener, f func(transport.TPM) (T, error)) (value T, err error) {
	device, err := open(ctx)
	if err != nil {
		return value, err
	}
	defer func() { err = errors.Join(err, closeDevice(device)) }()
	return f(line{ctx, device})
}

func closeDevice(c io.Closer) error {
	if err := c.Close(); err != nil {
		return fmt.Errorf("close the TPM: %w", err)
	}
	return nil
}

// owner is the owner's hierarchy, whose password is empty in a guest.
func owner() tpm2.AuthHandle {
	return tpm2.AuthHandle{Handle: tpm2.TPMRHOwner, Name: tpm2.HandleName(tpm2.TPMRHOwner), Auth: tpm2.PasswordAuth(nil)}
}
