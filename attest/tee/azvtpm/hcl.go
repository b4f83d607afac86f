// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

// Package azvtpm knows the evidence of confidential VMs on Azure, where a
// paravisor (HCL) stands between guest and hardware and offers a TPM: the
// hardware report is about the TPM's key, and the TPM's quote about the guest.
//
// Trust: on the guest's side all of it comes from the paravisor, which is part
// of what was launched; on the verifier's side it is a claim until the chain
// from the hardware to the quote holds.
package azvtpm

import (
	"bytes"
	"crypto/rsa"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
)

// Report types, which are the kinds of hardware.
const (
	SNP = 2
	TDX = 4
)

const (
	reportOff, reportSize = 32, 1184
	runtimeOff            = reportOff + reportSize
	varDataOff            = runtimeOff + 20
	maxHCL                = 16 << 10
	hashSHA256            = 1
	akID                  = "HCLAkPub"
	rsaBits               = 2048
)

// ErrHCL is returned for what is no HCL report.
var ErrHCL = errors.New("no HCL report")

// HCL is the report of the paravisor.
type HCL struct {
	Kind     uint32
	Hardware []byte // 1184 bytes: an SNP report, or a TDREPORT and padding
	VarData  []byte // JSON; its SHA-256 is in the hardware's report data
	AK       *rsa.PublicKey
	UserData []byte // what the guest asked to have in the report, may be empty
}

// ParseHCL reads the content of NV index 0x01400001.
func ParseHCL(b []byte) (*HCL, error) {
	if len(b) < varDataOff || len(b) > maxHCL || !bytes.Equal(b[:4], []byte("HCLA")) {
		return nil, fmt.Errorf("%w: %d bytes", ErrHCL, len(b))
	}
	u32 := func(off int) uint32 { return binary.LittleEndian.Uint32(b[off:]) }
	h := &HCL{Kind: u32(runtimeOff + 8), Hardware: b[reportOff:runtimeOff]}
	if h.Kind != SNP && h.Kind != TDX {
		return nil, fmt.Errorf("%w: hardware of type %d", ErrHCL, h.Kind)
	}
	if hash := u32(runtimeOff + 12); hash != hashSHA256 {
		return nil, fmt.Errorf("%w: hash of type %d", ErrHCL, hash)
	}
	size := u32(runtimeOff + 16)
	if int64(size) > int64(len(b)-varDataOff) {
		return nil, fmt.Errorf("%w: variable data of %d bytes is cut short", ErrHCL, size)
	}
	h.VarData = b[varDataOff:][:size]
	if err := h.readVarData(); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrHCL, err)
	}
	return h, nil
}

func (h *HCL) readVarData() error {
	var data struct {
		Keys []struct {
			ID  string `json:"kid"`
			Kty string `json:"kty"`
			N   string `json:"n"`
			E   string `json:"e"`
		} `json:"keys"`
		UserData string `json:"user-data"`
	}
	if err := json.Unmarshal(h.VarData, &data); err != nil {
		return fmt.Errorf("variable data: %w", err)
	}
	var err error
	if h.UserData, err = hex.DecodeString(data.UserData); err != nil {
		return fmt.Errorf("user data: %w", err)
	}
	for _, k := range data.Keys {
		if k.ID != akID {
			continue
		}
		if h.AK != nil || k.Kty != "RSA" {
			return fmt.Errorf("key %s of type %q, or more than one", akID, k.Kty)
		}
		n, err := base64.RawURLEncoding.DecodeString(k.N)
		if err != nil {
			return fmt.Errorf("modulus: %w", err)
		}
		e, err := base64.RawURLEncoding.DecodeString(k.E)
		if err != nil || len(e) == 0 || len(e) > 4 {
			return fmt.Errorf("exponent %.16q", k.E)
		}
		h.AK = &rsa.PublicKey{N: new(big.Int).SetBytes(n), E: int(new(big.Int).SetBytes(e).Int64())}
		if h.AK.N.BitLen() != rsaBits || h.AK.E < 3 {
			return fmt.Errorf("attestation key of %d bits", h.AK.N.BitLen())
		}
	}
	if h.AK == nil {
		return fmt.Errorf("there is no key %s", akID)
	}
	return nil
}

// Quote is the TPM's.
type Quote struct {
	Signature Hex   `json:"signature"` // RSASSA
	Message   Hex   `json:"message"`   // TPMS_ATTEST
	PCRs      []Hex `json:"pcrs"`      // SHA-256, 0 to 23
}

// Hex is bytes that JSON shows in hexadecimal.
type Hex []byte

// MarshalText implements encoding.TextMarshaler.
func (h Hex) MarshalText() ([]byte, error) { return []byte(hex.EncodeToString(h)), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (h *Hex) UnmarshalText(text []byte) error {
	b, err := hex.DecodeString(string(text))
	*h = b
	return err
}

// Blob is bytes that JSON shows in base64 for URLs, written with padding and
// read with or without.
type Blob []byte

// MarshalText implements encoding.TextMarshaler.
func (b Blob) MarshalText() ([]byte, error) { return []byte(base64.URLEncoding.EncodeToString(b)), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (b *Blob) UnmarshalText(text []byte) error {
	raw, err := base64.RawURLEncoding.DecodeString(string(bytes.TrimRight(text, "=")))
	*b = raw
	return err
}

// Evidence is what the guest hands in, in versions 1 and 2.
type Evidence struct {
	Version int   `json:"version"`
	Quote   Quote `json:"tpm_quote"`
	HCL     Blob  `json:"hcl_report"`
	VCEK    Blob  `json:"vcek,omitempty"`     // DER, on SNP
	TDQuote Blob  `json:"td_quote,omitempty"` // on TDX
	// EventLog is absent if there is no log.
	EventLog []byte `json:"cc_eventlog,omitempty"`
}
