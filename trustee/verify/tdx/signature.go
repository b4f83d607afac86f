// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package tdx

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/x509"
	"encoding/binary"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"time"

	"cocoon/attest/tee/tdx"
)

// Sizes in the signature of a quote, in bytes.
const (
	pointSize    = 64 // of a P-256 signature or public key
	reportSize   = 384
	reportData   = 320 // in the quoting enclave's report
	certReport   = 6   // certification data: report of the quoting enclave
	certPCKChain = 5   // certification data: chain of certificates in PEM
	maxChain     = 5
)

// signature is what stands behind a quote: the quoting enclave's key has signed
// the quote, the enclave's report vouches for that key, and the platform's key
// (PCK) has signed the report.
type signature struct {
	quote, key         []byte
	report, reportSign []byte
	auth               []byte
	chain              []*x509.Certificate // the PCK's first
}

var errShort = errors.New("the signature is cut short")

// cutter takes pieces from the front of bytes.
type cutter struct {
	b   []byte
	err error
}

func (c *cutter) take(n int) []byte {
	if c.err != nil || n > len(c.b) {
		c.err = errShort
		return nil
	}
	piece := c.b[:n]
	c.b = c.b[n:]
	return piece
}

func (c *cutter) u16() int {
	if b := c.take(2); b != nil {
		return int(binary.LittleEndian.Uint16(b))
	}
	return 0
}

func (c *cutter) u32() int {
	if b := c.take(4); b != nil {
		return int(binary.LittleEndian.Uint32(b))
	}
	return 0
}

func parseSignature(b []byte) (*signature, error) {
	c := &cutter{b: b}
	s := &signature{quote: c.take(pointSize), key: c.take(pointSize)}
	if kind := c.u16(); c.err == nil && kind != certReport {
		return nil, fmt.Errorf("certification data of type %d, want %d", kind, certReport)
	}
	inner := &cutter{b: c.take(c.u32()), err: c.err}
	s.report, s.reportSign = inner.take(reportSize), inner.take(pointSize)
	s.auth = inner.take(inner.u16())
	if kind := inner.u16(); inner.err == nil && kind != certPCKChain {
		return nil, fmt.Errorf("certification data of type %d in the quoting enclave's, want %d", kind, certPCKChain)
	}
	text := inner.take(inner.u32())
	if inner.err != nil {
		return nil, inner.err
	}
	var err error
	s.chain, err = parseChain(text)
	return s, err
}

func parseChain(text []byte) ([]*x509.Certificate, error) {
	var chain []*x509.Certificate
	for {
		block, rest := pem.Decode(text)
		if block == nil {
			break
		}
		if len(chain) == maxChain || block.Type != "CERTIFICATE" {
			return nil, fmt.Errorf("chain of the PCK: %q after %d certificates", block.Type, len(chain))
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("chain of the PCK: %w", err)
		}
		chain, text = append(chain, cert), rest
	}
	if len(chain) < 2 {
		return nil, fmt.Errorf("chain of the PCK has %d certificates", len(chain))
	}
	return chain, nil
}

// check follows the chain from Intel's root to the quote.
func (s *signature) check(q *tdx.Quote, root [sha256.Size]byte, now time.Time) error {
	if err := checkChain(s.chain, root, now); err != nil {
		return err
	}
	pck, ok := s.chain[0].PublicKey.(*ecdsa.PublicKey)
	if !ok || pck.Curve != elliptic.P256() {
		return errors.New("the PCK is no P-256 key")
	}
	if !verifyPoint(pck, s.report, s.reportSign) {
		return errors.New("the report of the quoting enclave is not signed by the PCK")
	}
	want := sha256.Sum256(append(bytes.Clone(s.key), s.auth...))
	if !bytes.Equal(s.report[reportData:], append(want[:], make([]byte, 32)...)) {
		return errors.New("the report of the quoting enclave is about another key")
	}
	key, err := point(s.key)
	if err != nil {
		return err
	}
	if !verifyPoint(key, q.Signed, s.quote) {
		return errors.New("the quote is not signed by the key of its quoting enclave")
	}
	return nil
}

// checkChain wants Intel's root, known by its public key, at the end.
func checkChain(chain []*x509.Certificate, root [sha256.Size]byte, now time.Time) error {
	last := chain[len(chain)-1]
	if sha256.Sum256(last.RawSubjectPublicKeyInfo) != root {
		return fmt.Errorf("the chain of the PCK ends at %q, which is not the root that is trusted", last.Subject)
	}
	roots, between := x509.NewCertPool(), x509.NewCertPool()
	roots.AddCert(last)
	for _, c := range chain[1 : len(chain)-1] {
		between.AddCert(c)
	}
	_, err := chain[0].Verify(x509.VerifyOptions{Roots: roots, Intermediates: between, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}})
	if err != nil {
		return fmt.Errorf("chain of the PCK: %w", err)
	}
	return nil
}

func point(b []byte) (*ecdsa.PublicKey, error) {
	k, err := ecdsa.ParseUncompressedPublicKey(elliptic.P256(), append([]byte{4}, b...))
	if err != nil {
		return nil, fmt.Errorf("key of the quoting enclave: %w", err)
	}
	return k, nil
}

func verifyPoint(k *ecdsa.PublicKey, signed, sig []byte) bool {
	d := sha256.Sum256(signed)
	return ecdsa.Verify(k, d[:], new(big.Int).SetBytes(sig[:32]), new(big.Int).SetBytes(sig[32:]))
}
