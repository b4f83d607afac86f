// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package csv

import (
	"encoding/binary"
	"errors"
	"fmt"

	"cocoon/internal/octets"
)

// Uses of keys.
const (
	UsageRoot     = 0x0000 // HRK, Hygon's root key
	UsageSigning  = 0x0013 // HSK, signs chips' keys
	UsagePlatform = 0x1002 // PEK, signs reports
	UsageChip     = 0x1004 // CEK

	// SM2 is the algorithm of all signatures.
	SM2 = 4
	// Curve is the group of all keys.
	Curve = 3

	// CASize is the size of a certificate of Hygon's own keys, in bytes.
	CASize = 832
	caBody = 576
	body   = 1044
)

// ErrCert is returned for what is no certificate.
var ErrCert = errors.New("no certificate of Hygon's")

// Point is a public key, or a signature, of two little-endian numbers.
type Point struct {
	X [pointSize]byte `json:"x"`
	Y [pointSize]byte `json:"y"`
}

// RS is a signature.
type RS struct {
	R [pointSize]byte `json:"r"`
	S [pointSize]byte `json:"s"`
}

type groupPoint struct {
	G uint32 `json:"g"`
	Point
}

// Cert is the certificate of a chip's (CEK) or a platform's key (PEK). Its
// members have the names and the order of the JSON in evidence and, one after
// the other in little-endian, are its binary form.
type Cert struct {
	Body struct {
		Ver  uint32 `json:"ver"`
		Data struct {
			Firmware struct {
				Major uint8 `json:"major"`
				Minor uint8 `json:"minor"`
			} `json:"firmware"`
			Reserved1 uint16 `json:"reserved1"`
			PubKey    struct {
				Usage uint32     `json:"usage"`
				Algo  uint32     `json:"algo"`
				Key   groupPoint `json:"key"`
			} `json:"pubkey"`
			UIDSize   uint16    `json:"uid_size"`
			UserID    [254]byte `json:"user_id"`
			SID       [16]byte  `json:"sid"`
			Reserved2 [608]byte `json:"reserved2"`
		} `json:"data"`
	} `json:"body"`
	Sigs [2]struct {
		Usage     uint32    `json:"usage"`
		Algo      uint32    `json:"algo"`
		Signature RS        `json:"signature"`
		Reserved  [368]byte `json:"_reserved"`
	} `json:"sigs"`
}

// CA is the certificate of one of Hygon's own keys (HRK, HSK).
type CA struct {
	Body struct {
		Preamble struct {
			Ver  uint32 `json:"ver"`
			Data struct {
				KID      [16]byte `json:"kid"`
				SID      [16]byte `json:"sid"`
				Usage    uint32   `json:"usage"`
				Reserved [24]byte `json:"reserved"`
			} `json:"data"`
		} `json:"preamble"`
		PubKey   groupPoint `json:"pubkey"`
		UIDSize  uint16     `json:"uid_size"`
		UserID   [254]byte  `json:"user_id"`
		Reserved [108]byte  `json:"reserved"`
	} `json:"body"`
	Signature RS        `json:"signature"`
	Reserved  [112]byte `json:"_reserved"`
}

// ParseCert reads the binary form.
func ParseCert(b []byte) (*Cert, error) {
	c := &Cert{}
	if err := decode(b, CertSize, c); err != nil {
		return nil, err
	}
	return c, nil
}

// ParseCA reads the binary form.
func ParseCA(b []byte) (*CA, error) {
	c := &CA{}
	if err := decode(b, CASize, c); err != nil {
		return nil, err
	}
	return c, nil
}

func decode(b []byte, size int, to any) error {
	if len(b) != size {
		return fmt.Errorf("%w: %d bytes, want %d", ErrCert, len(b), size)
	}
	if _, err := binary.Decode(b, binary.LittleEndian, to); err != nil {
		return fmt.Errorf("%w: %w", ErrCert, err)
	}
	return nil
}

// Signed returns the bytes that are signed.
func (c *Cert) Signed() ([]byte, error) { return encode(&c.Body, body) }

// Signed returns the bytes that are signed.
func (c *CA) Signed() ([]byte, error) { return encode(&c.Body, caBody) }

func encode(v any, size int) ([]byte, error) {
	b, err := binary.Append(make([]byte, 0, size), binary.LittleEndian, v)
	if err != nil || len(b) != size {
		return nil, fmt.Errorf("%w: encoded into %d bytes: %w", ErrCert, len(b), err)
	}
	return b, nil
}

// UID is the name that goes into signatures by this key, nil if its size is
// none.
func (c *Cert) UID() []byte { return uid(c.Body.Data.UIDSize, c.Body.Data.UserID[:]) }

// UID is the name that goes into signatures by this key.
func (c *CA) UID() []byte { return uid(c.Body.UIDSize, c.Body.UserID[:]) }

func uid(size uint16, id []byte) []byte {
	if int(size) > len(id) {
		return nil
	}
	return id[:size]
}

// Evidence is what a guest hands in.
type Evidence struct {
	Report struct {
		Data  octets.Octets `json:"data"`
		Flags uint32        `json:"flags"`
		Magic [16]byte      `json:"magic"`
	} `json:"attestation_report"`
	Chain struct {
		// HSKCEK is absent where the verifier has to look both up.
		HSKCEK *struct {
			HSK CA   `json:"hsk"`
			CEK Cert `json:"cek"`
		} `json:"hsk_cek,omitempty"`
		PEK Cert `json:"pek"`
	} `json:"cert_chain"`
	// Serial names the chip, padded with zeros.
	Serial octets.Octets `json:"serial_number"`
	// EventLog is null if there is no log.
	EventLog []byte `json:"cc_eventlog"`
}
