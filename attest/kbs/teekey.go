// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package kbs

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/binary"
	"encoding/pem"
	"fmt"

	"github.com/go-jose/go-jose/v4"
)

// The TEE key algorithms of Config.TEEKeyAlgorithm.
const (
	KeyP256 = "ECDH-ES+A256KW-P256"
	KeyP521 = "ECDH-ES+A256KW-P521"
	KeyRSA  = "RSA-OAEP-256"
)

const rsaBits = 2048

// keyAlgorithm is a kind of TEE key and the one JWE algorithm it is used with.
type keyAlgorithm struct {
	alg   jose.KeyAlgorithm
	curve elliptic.Curve // nil for RSA
}

func keyAlgorithmOf(name string) (keyAlgorithm, error) {
	switch name {
	case "", KeyP256:
		return keyAlgorithm{jose.ECDH_ES_A256KW, elliptic.P256()}, nil
	case KeyP521:
		return keyAlgorithm{jose.ECDH_ES_A256KW, elliptic.P521()}, nil
	case KeyRSA:
		return keyAlgorithm{jose.RSA_OAEP_256, nil}, nil
	}
	return keyAlgorithm{}, fmt.Errorf("TEE key algorithm %q is not one of %s, %s, %s", name, KeyP256, KeyP521, KeyRSA)
}

// teeKey is the key pair of one attestation. Exactly one of ec and rsa is set.
type teeKey struct {
	alg jose.KeyAlgorithm
	ec  *ecdsa.PrivateKey
	rsa *rsa.PrivateKey
	jwk jwk
}

func newTEEKey(a keyAlgorithm) (*teeKey, error) {
	if a.curve == nil {
		k, err := rsa.GenerateKey(rand.Reader, rsaBits)
		if err != nil {
			return nil, fmt.Errorf("make TEE key: %w", err)
		}
		return rsaTEEKey(k), nil
	}
	k, err := ecdsa.GenerateKey(a.curve, rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make TEE key: %w", err)
	}
	return ecTEEKey(k)
}

func ecTEEKey(k *ecdsa.PrivateKey) (*teeKey, error) {
	point, err := k.PublicKey.Bytes() // 4, x, y at full length
	if err != nil {
		return nil, fmt.Errorf("encode TEE key: %w", err)
	}
	half := len(point) / 2
	return &teeKey{alg: jose.ECDH_ES_A256KW, ec: k, jwk: jwk{
		Kty: "EC", Crv: k.Curve.Params().Name, Alg: string(jose.ECDH_ES_A256KW),
		X: base64.RawURLEncoding.EncodeToString(point[1 : 1+half]),
		Y: base64.RawURLEncoding.EncodeToString(point[1+half:]),
	}}, nil
}

func rsaTEEKey(k *rsa.PrivateKey) *teeKey {
	e := binary.BigEndian.AppendUint32(nil, uint32(k.E))
	for e[0] == 0 {
		e = e[1:]
	}
	return &teeKey{alg: jose.RSA_OAEP_256, rsa: k, jwk: jwk{
		Kty: "RSA", Alg: string(jose.RSA_OAEP_256),
		N: base64.RawURLEncoding.EncodeToString(k.N.Bytes()),
		E: base64.RawURLEncoding.EncodeToString(e),
	}}
}

func (k *teeKey) public() jwk { return k.jwk }

func (k *teeKey) private() any {
	if k.rsa != nil {
		return k.rsa
	}
	return k.ec
}

// pem returns the private key as consumers of a token expect it.
func (k *teeKey) pem() ([]byte, error) {
	if k.rsa != nil {
		return pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(k.rsa)}), nil
	}
	der, err := x509.MarshalPKCS8PrivateKey(k.ec)
	if err != nil {
		return nil, fmt.Errorf("encode TEE key: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}
