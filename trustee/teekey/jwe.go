// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package teekey

import (
	"crypto"
	"crypto/aes"
	"crypto/cipher"
	"crypto/ecdh"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"fmt"

	josecipher "github.com/go-jose/go-jose/v4/cipher"
)

const (
	keySize = 32 // A256GCM and A256KW
	ivSize  = 12
)

// Envelope is a JWE in flattened JSON serialisation, the answer to a resource
// request.
type Envelope struct {
	Protected    string `json:"protected"`
	EncryptedKey string `json:"encrypted_key"`
	IV           string `json:"iv"`
	Ciphertext   string `json:"ciphertext"`
	Tag          string `json:"tag"`
}

// header and ephemeral fix the order of the members. Guests written in Rust
// rebuild the authenticated data from the parsed header, alg and enc first
// and the others sorted, so any other order fails to decrypt there.
type header struct {
	Alg string     `json:"alg"`
	Enc string     `json:"enc"`
	EPK *ephemeral `json:"epk,omitempty"`
}

type ephemeral struct {
	Crv string `json:"crv"`
	Kty string `json:"kty"`
	X   string `json:"x"`
	Y   string `json:"y"`
}

// Encrypt returns a JWE of plaintext that only the holder of k's private half
// can open.
func (k *Key) Encrypt(plaintext []byte) (*Envelope, error) {
	cek := make([]byte, keySize)
	_, _ = rand.Read(cek) // never fails: the runtime ends the process instead
	iv := make([]byte, ivSize)
	_, _ = rand.Read(iv)
	head, wrapped, err := k.wrap(cek)
	if err != nil {
		return nil, fmt.Errorf("wrap content key: %w", err)
	}
	return seal(head, wrapped, sealing{cek: cek, iv: iv, plaintext: plaintext})
}

func (k *Key) wrap(cek []byte) (header, []byte, error) {
	if k.rsa != nil {
		wrapped, err := rsa.EncryptOAEP(sha256.New(), rand.Reader, k.rsa, cek, nil)
		return header{Alg: algRSA, Enc: "A256GCM"}, wrapped, err
	}
	eph, err := k.ec.Curve().GenerateKey(rand.Reader)
	if err != nil {
		return header{}, nil, err
	}
	return k.wrapECDH(eph, cek)
}

func (k *Key) wrapECDH(eph *ecdh.PrivateKey, cek []byte) (header, []byte, error) {
	z, err := eph.ECDH(k.ec)
	if err != nil {
		return header{}, nil, err
	}
	kek, err := deriveKEK(z)
	if err != nil {
		return header{}, nil, err
	}
	block, err := aes.NewCipher(kek)
	if err != nil {
		return header{}, nil, err
	}
	wrapped, err := josecipher.KeyWrap(block, cek)
	if err != nil {
		return header{}, nil, err
	}
	point := eph.PublicKey().Bytes()[1:]
	half := len(point) / 2
	return header{Alg: algECDH, Enc: "A256GCM", EPK: &ephemeral{
		Crv: k.curve, Kty: "EC", X: b64(point[:half]), Y: b64(point[half:]),
	}}, wrapped, nil
}

// deriveKEK is the Concat KDF of RFC 7518 section 4.6.2 with empty party
// information.
func deriveKEK(z []byte) ([]byte, error) {
	bits := binary.BigEndian.AppendUint32(nil, keySize*8)
	kdf := josecipher.NewConcatKDF(crypto.SHA256, z, lengthPrefixed(algECDH), lengthPrefixed(""), lengthPrefixed(""), bits, nil)
	kek := make([]byte, keySize)
	if _, err := kdf.Read(kek); err != nil {
		return nil, fmt.Errorf("derive key: %w", err)
	}
	return kek, nil
}

func lengthPrefixed(s string) []byte {
	return append(binary.BigEndian.AppendUint32(nil, uint32(len(s))), s...)
}

type sealing struct {
	cek, iv, plaintext []byte
}

func seal(head header, wrapped []byte, s sealing) (*Envelope, error) {
	raw, err := json.Marshal(head)
	if err != nil {
		return nil, fmt.Errorf("encode header: %w", err)
	}
	block, err := aes.NewCipher(s.cek)
	if err != nil {
		return nil, err
	}
	gcm, err := cipher.NewGCM(block)
	if err != nil {
		return nil, err
	}
	protected := b64(raw)
	sealed := gcm.Seal(nil, s.iv, s.plaintext, []byte(protected))
	cut := len(sealed) - gcm.Overhead()
	return &Envelope{
		Protected: protected, EncryptedKey: b64(wrapped), IV: b64(s.iv),
		Ciphertext: b64(sealed[:cut]), Tag: b64(sealed[cut:]),
	}, nil
}

func b64(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }
