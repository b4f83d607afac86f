// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

// Package azvtpmtest plays Azure's paravisor on a software TPM, for tests.
package azvtpmtest

import (
	"context"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"math/big"
	"testing"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"

	"cocoon/attest/tee/tpm"
	"cocoon/attest/tee/tpm/tpmtest"
)

// What Azure's paravisor keeps in a TPM.
const (
	reportIndex = 0x01400001
	userIndex   = 0x01400002
	azureAK     = 0x81000003

	hardwareOff = 32
	runtimeOff  = hardwareOff + 1184
	varDataOff  = runtimeOff + 20
	hclSize     = 2048 // as on old hosts; a software TPM has no more room
	userSize    = 64
	tdxKind     = 4
	nvPart      = 512
)

// Paravisor plays Azure's on a software TPM: it makes a new report some time
// after the guest has written user data.
type Paravisor struct {
	*tpm.TPM
	soft tpmtest.TPM
	key  *rsa.PublicKey

	// Kind is the type of hardware, 2 for SNP and 4 for TDX.
	Kind uint32
	// Late is how often the old report is read before the new one is there.
	Late int
	// ChangeData alters the variable data of reports, and Change their bytes;
	// nil does not.
	ChangeData func(string) string
	Change     func([]byte)

	user []byte
	old  int
}

// New starts a TPM with a paravisor's key.
func New(t *testing.T, kind uint32) *Paravisor {
	t.Helper()
	p := &Paravisor{soft: tpmtest.Start(t), Kind: kind, user: make([]byte, userSize)}
	p.TPM = tpm.New(p.soft.Open)
	p.soft.Talk(t, func(c transport.TPM) error {
		public, err := tpmtest.Keep(c, azureAK, tpmtest.AK())
		if err != nil {
			return err
		}
		params, err := public.Parameters.RSADetail()
		if err != nil {
			return err
		}
		modulus, err := public.Unique.RSA()
		if err != nil {
			return err
		}
		if p.key, err = tpm2.RSAPub(params, modulus); err != nil {
			return err
		}
		_, err = tpm2.NVDefineSpace{AuthHandle: tpmtest.Owner(), PublicInfo: tpm2.New2B(tpm2.TPMSNVPublic{
			NVIndex: reportIndex, NameAlg: tpm2.TPMAlgSHA256, DataSize: hclSize,
			Attributes: tpm2.TPMANV{OwnerWrite: true, OwnerRead: true, NT: tpm2.TPMNTOrdinary},
		})}.Execute(c)
		return err
	})
	if err := p.publish(t.Context()); err != nil {
		t.Fatal(err)
	}
	return p
}

// WriteNV notes what the guest writes as user data.
func (p *Paravisor) WriteNV(ctx context.Context, index uint32, data []byte) error {
	if index == userIndex {
		p.user, p.old = make([]byte, userSize), p.Late
		copy(p.user, data)
	}
	return p.TPM.WriteNV(ctx, index, data)
}

// ReadNV makes a new report when it is time for it.
func (p *Paravisor) ReadNV(ctx context.Context, index uint32) ([]byte, error) {
	if p.old--; index == reportIndex && p.old < 0 {
		if err := p.publish(ctx); err != nil {
			return nil, err
		}
	}
	return p.TPM.ReadNV(ctx, index)
}

// Report is the paravisor's report about the user data.
func (p *Paravisor) Report() []byte {
	text := base64.RawURLEncoding.EncodeToString
	data := fmt.Sprintf(`{"keys":[{"kid":"HCLAkPub","key_ops":["sign"],"kty":"RSA","e":%q,"n":%q}],"vm-configuration":{"secure-boot":true},"user-data":"%X"}`,
		text(big.NewInt(int64(p.key.E)).Bytes()), text(p.key.N.Bytes()), p.user)
	if p.ChangeData != nil {
		data = p.ChangeData(data)
	}
	b := make([]byte, hclSize)
	copy(b, "HCLA")
	sum := sha256.Sum256([]byte(data))
	if p.Kind == tdxKind {
		copy(b[hardwareOff+128:], sum[:])
	} else {
		b[hardwareOff] = 3
		copy(b[hardwareOff+0x50:], sum[:])
		copy(b[hardwareOff+0x188:], []byte{0x19, 0x11})
	}
	for i, v := range []uint32{0, 1, p.Kind, 1, uint32(len(data))} {
		binary.LittleEndian.PutUint32(b[runtimeOff+4*i:], v)
	}
	copy(b[varDataOff:], data)
	if p.Change != nil {
		p.Change(b)
	}
	return b
}

func (p *Paravisor) publish(ctx context.Context) error {
	c, err := p.soft.Open(ctx)
	if err != nil {
		return err
	}
	defer c.Close() //nolint:errcheck // the answers have been read
	tpmOf := transport.FromReadWriter(c)
	at, err := tpm2.NVReadPublic{NVIndex: tpm2.TPMHandle(reportIndex)}.Execute(tpmOf)
	if err != nil {
		return err
	}
	report := p.Report()
	for off := 0; off < len(report); off += nvPart {
		_, err := tpm2.NVWrite{
			AuthHandle: tpmtest.Owner(), NVIndex: tpm2.NamedHandle{Handle: reportIndex, Name: at.NVName},
			Data: tpm2.TPM2BMaxNVBuffer{Buffer: report[off:min(off+nvPart, len(report))]}, Offset: uint16(off),
		}.Execute(tpmOf)
		if err != nil {
			return fmt.Errorf("write the report: %w", err)
		}
	}
	return nil
}
