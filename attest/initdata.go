// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package attest

import (
	"context"
	"errors"
	"fmt"

	"cocoon/internal/initdata"
	"cocoon/internal/stage"
)

// InitDataRegister is an Attester whose hardware reports what the host declared
// at launch: HOST_DATA of SNP, MRCONFIGID of TDX. Without a declaration it holds
// zeros.
type InitDataRegister interface {
	InitDataRegister(ctx context.Context) ([]byte, error)
}

// InitDataBinder is an Attester that ties a digest to the guest in a way of its
// own, as a TPM does by extending PCR 8: the verifier compares. It is asked once
// for each boot, since an extension cannot be repeated.
type InitDataBinder interface {
	BindInitData(ctx context.Context, digest []byte) error
}

// ErrNoDigest is returned for a digest without bytes, which would be bound to
// nothing.
var ErrNoDigest = errors.New("empty initdata digest")

// BindInitData ties the digest to the guest. It returns ErrUnsupported if the
// TEE has no place for it; any other error means that the guest is not the one
// that the initdata was made for, or that this could not be found out.
func BindInitData(ctx context.Context, a Attester, digest []byte) (err error) {
	if len(digest) == 0 {
		return stage.Errorf(stage.Initdata, "bind initdata on %s: %w", a.TEE(), ErrNoDigest)
	}
	switch t := a.(type) {
	case InitDataRegister:
		err = withRegister(ctx, t, func(register []byte) error { return initdata.CheckRegister(digest, register) })
	case InitDataBinder:
		err = t.BindInitData(ctx, digest)
	default:
		return fmt.Errorf("bind initdata on %s: %w", a.TEE(), ErrUnsupported)
	}
	if err != nil {
		return stage.Errorf(stage.Initdata, "bind initdata on %s: %w", a.TEE(), err)
	}
	return nil
}

// ConfirmNoInitData makes sure that a guest without initdata was launched
// without. A host that declared some at launch and then keeps it back gets
// initdata.ErrWithheld. A TEE that has no register says nothing, there the
// verifier of its evidence has to notice.
func ConfirmNoInitData(ctx context.Context, a Attester) error {
	t, ok := a.(InitDataRegister)
	if !ok {
		return nil
	}
	if err := withRegister(ctx, t, initdata.CheckAbsent); err != nil {
		return stage.Errorf(stage.Initdata, "look for initdata on %s: %w", a.TEE(), err)
	}
	return nil
}

func withRegister(ctx context.Context, t InitDataRegister, check func([]byte) error) error {
	register, err := t.InitDataRegister(ctx)
	if err != nil {
		return fmt.Errorf("read the initdata register: %w", err)
	}
	return check(register)
}

// BindInitData is the function of this name for the agent's TEE.
func (a *Agent) BindInitData(ctx context.Context, digest []byte) error {
	return BindInitData(ctx, a.deps.Attester, digest)
}
