// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package snp

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha512"
	"crypto/x509"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"math/big"
	"slices"
	"testing"

	"cocoon/internal/sharedtest"
)

func key(t testing.TB, text string) *ecdsa.PrivateKey {
	t.Helper()
	b, _ := pem.Decode([]byte(text))
	return must[*ecdsa.PrivateKey](t)(x509.ParseECPrivateKey(b.Bytes))
}

// The keys are test keys that the reference publishes.
func TestTheIDBlockIsTheReferences(t *testing.T) {
	t.Parallel()
	var v struct {
		Digest    string `json:"launch_digest_b64"`
		Policy    uint64
		Block     string `json:"id_block_b64"`
		IDDigest  string `json:"id_key_digest_b64"`
		AuDigest  string `json:"author_key_digest_b64"`
		IDKey     string `json:"id_key_pem"`
		AuthorKey string `json:"author_key_pem"`
	}
	if err := json.Unmarshal(sharedtest.Read(t, "measure/snp/id_block.json"), &v); err != nil {
		t.Fatal(err)
	}
	b := IDBlock{LaunchDigest: Digest(must[[]byte](t)(base64.StdEncoding.DecodeString(v.Digest))), Policy: v.Policy}
	if got := base64.StdEncoding.EncodeToString(b.Bytes()); got != v.Block {
		t.Errorf("block %s", got)
	}
	for text, want := range map[string]string{v.IDKey: v.IDDigest, v.AuthorKey: v.AuDigest} {
		if d := must[Digest](t)(KeyDigest(&key(t, text).PublicKey)); base64.StdEncoding.EncodeToString(d[:]) != want {
			t.Errorf("digest of a key: %x", d)
		}
	}
}

func TestAnIDBlockIsSigned(t *testing.T) {
	t.Parallel()
	id := must[*ecdsa.PrivateKey](t)(ecdsa.GenerateKey(elliptic.P384(), rand.Reader))
	author := must[*ecdsa.PrivateKey](t)(ecdsa.GenerateKey(elliptic.P384(), rand.Reader))
	b := IDBlock{Policy: DefaultPolicy, GuestSVN: 3, FamilyID: [16]byte{1}}
	raw := must[[]byte](t)(Auth(b, id, author))
	public := must[[]byte](t)(PublicKey(&id.PublicKey))
	block, vouched := sha512.Sum384(b.Bytes()), sha512.Sum384(public)
	if len(raw) != idAuthSize || !bytes.Equal(raw[atIDKey:atIDKey+keySize], public) || binary.LittleEndian.Uint32(raw[4:]) != 1 {
		t.Error("keys are elsewhere")
	}
	if !ecdsa.Verify(&id.PublicKey, block[:], little(raw, atIDSignature), little(raw, atIDSignature+number)) {
		t.Error("the block's signature does not hold")
	}
	if !ecdsa.Verify(&author.PublicKey, vouched[:], little(raw, atAuthorSignature), little(raw, atAuthorSignature+number)) {
		t.Error("the author's signature does not hold")
	}
	alone := must[[]byte](t)(Auth(b, id, nil))
	if binary.LittleEndian.Uint32(alone[4:]) != 0 || len(bytes.Trim(alone[atAuthorSignature:], "\x00")) != 0 {
		t.Error("an author is there that nobody named")
	}
	other := must[*ecdsa.PrivateKey](t)(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	if _, err := Auth(b, other, nil); !errors.Is(err, ErrConfig) {
		t.Errorf("a key of another curve: %v", err)
	}
}

// little reads a number of an authentication.
func little(raw []byte, at int) *big.Int {
	n := slices.Clone(raw[at : at+number])
	slices.Reverse(n)
	return new(big.Int).SetBytes(n)
}

func TestABlockWithoutAKeyIsBoundByOne(t *testing.T) {
	t.Parallel()
	seen := map[string]bool{}
	for svn := range uint32(8) {
		b := IDBlock{Policy: DefaultPolicy, GuestSVN: svn, LaunchDigest: Digest{1, 2, 3}}
		raw, key, err := AuthWithoutKey(b)
		if err != nil {
			t.Fatal(err)
		}
		digest := sha512.Sum384(b.Bytes())
		if !ecdsa.Verify(key, digest[:], little(raw, atIDSignature), little(raw, atIDSignature+number)) {
			t.Errorf("SVN %d: the signature does not hold", svn)
		}
		if public := must[[]byte](t)(PublicKey(key)); !bytes.Equal(raw[atIDKey:atIDKey+keySize], public) || seen[string(public)] {
			t.Errorf("SVN %d: key %x is elsewhere, or another block's", svn, public)
		} else {
			seen[string(public)] = true
		}
		if len(raw) != idAuthSize || binary.LittleEndian.Uint64(raw) != algoECDSA || len(bytes.Trim(raw[atAuthorSignature:], "\x00")) != 0 {
			t.Errorf("SVN %d: an author is there that nobody named", svn)
		}
		again, _, err := AuthWithoutKey(b)
		if err != nil || !bytes.Equal(raw, again) {
			t.Errorf("SVN %d: twice is not the same (%v)", svn, err)
		}
	}
}

// The digest is what this code gave first; python's cryptography found the
// signature good under the key.
func TestTheKeyOfABlockStaysTheSame(t *testing.T) {
	t.Parallel()
	_, key, err := AuthWithoutKey(IDBlock{Policy: DefaultPolicy, LaunchDigest: Digest{1, 2, 3}})
	if err != nil {
		t.Fatal(err)
	}
	d := must[Digest](t)(KeyDigest(key))
	if got := hex.EncodeToString(d[:]); got != "b7494f70f0dd67a4596880b96a31a4b6b3688cdde37eabbf0ce92fa7e2167eb79947bb8799b027e793731f3551fa68e2" {
		t.Errorf("digest of the key: %s", got)
	}
}

func TestPointsWithOneXHaveNoSum(t *testing.T) {
	t.Parallel()
	p, one := elliptic.P384().Params().P, big.NewInt(1)
	if to := make([]byte, 96); sum(to, p, one, one, one, new(big.Int).Sub(p, one)) {
		t.Errorf("sum %x", to)
	}
}
