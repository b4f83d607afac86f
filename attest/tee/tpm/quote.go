// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package tpm

import (
	"bytes"
	"context"
	"crypto/rsa"
	"crypto/sha256"
	"errors"
	"fmt"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
)

// quoteTries is how often registers may change between quote and reading.
const quoteTries = 3

// Quote is the TPM's statement about its registers.
type Quote struct {
	Key       *rsa.PublicKey
	Signature []byte   // RSASSA with SHA-256
	Message   []byte   // TPMS_ATTEST
	PCRs      [][]byte // SHA-256 bank, 0 to 23
}

// Quote has the persistent key ak sign all registers of the SHA-256 bank and
// nonce.
func (t *TPM) Quote(ctx context.Context, ak uint32, nonce []byte) (*Quote, error) {
	q, err := with(ctx, t, func(c transport.TPM) (*Quote, error) { return quote(c, ak, nonce) })
	if err != nil {
		return nil, fmt.Errorf("quote with key %#x: %w", ak, err)
	}
	return q, nil
}

func quote(c transport.TPM, ak uint32, nonce []byte) (*Quote, error) {
	key, name, err := publicKey(c, ak)
	if err != nil {
		return nil, err
	}
	all := make([]uint, PCRs)
	for i := range all {
		all[i] = uint(i)
	}
	// Somebody may extend a register between the quote and the reading.
	for range quoteTries {
		r, err := tpm2.Quote{
			SignHandle:     tpm2.AuthHandle{Handle: tpm2.TPMHandle(ak), Name: name, Auth: tpm2.PasswordAuth(nil)},
			QualifyingData: tpm2.TPM2BData{Buffer: nonce},
			InScheme:       tpm2.TPMTSigScheme{Scheme: tpm2.TPMAlgNull},
			PCRSelect:      selection(all...),
		}.Execute(c)
		if err != nil {
			return nil, err
		}
		q, err := check(r, nonce)
		if err != nil {
			return nil, err
		}
		values, err := readPCRs(c, 0, PCRs)
		if err != nil {
			return nil, err
		}
		sum := sha256.Sum256(bytes.Join(values, nil))
		if bytes.Equal(sum[:], q.digest) {
			return &Quote{Key: key, Signature: q.signature, Message: r.Quoted.Bytes(), PCRs: values}, nil
		}
	}
	return nil, errors.New("the registers change all the time")
}

// signed is what a quote holds.
type signed struct{ signature, digest []byte }

// check makes sure that the answer belongs to this request.
func check(r *tpm2.QuoteResponse, nonce []byte) (signed, error) {
	a, err := r.Quoted.Contents()
	if err != nil {
		return signed{}, err
	}
	if !bytes.Equal(a.ExtraData.Buffer, nonce) {
		return signed{}, errors.New("the answer is about another request")
	}
	info, err := a.Attested.Quote()
	if err != nil {
		return signed{}, err
	}
	sig, err := r.Signature.Signature.RSASSA()
	if err != nil || sig.Hash != tpm2.TPMAlgSHA256 {
		return signed{}, fmt.Errorf("the key signs by algorithm %#x, want RSASSA with SHA-256", r.Signature.SigAlg)
	}
	return signed{sig.Sig.Buffer, info.PCRDigest.Buffer}, nil
}

func publicKey(c transport.TPM, handle uint32) (*rsa.PublicKey, tpm2.TPM2BName, error) {
	r, err := tpm2.ReadPublic{ObjectHandle: tpm2.TPMHandle(handle)}.Execute(c)
	if errors.Is(err, tpm2.TPMRCHandle) {
		return nil, tpm2.TPM2BName{}, fmt.Errorf("there is no such key, it has to be made beforehand: %w", err)
	}
	if err != nil {
		return nil, tpm2.TPM2BName{}, err
	}
	public, err := r.OutPublic.Contents()
	if err != nil {
		return nil, tpm2.TPM2BName{}, err
	}
	params, err := public.Parameters.RSADetail()
	if err != nil {
		return nil, tpm2.TPM2BName{}, fmt.Errorf("it is no RSA key: %w", err)
	}
	modulus, err := public.Unique.RSA()
	if err != nil {
		return nil, tpm2.TPM2BName{}, err
	}
	key, err := tpm2.RSAPub(params, modulus)
	return key, r.Name, err
}
