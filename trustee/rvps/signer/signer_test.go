// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package signer

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"os"
	"path/filepath"
	"testing"
)

func pemOf(t *testing.T, public any) []byte {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
}

func folder(t *testing.T, files map[string][]byte) string {
	t.Helper()
	dir := t.TempDir()
	for name, raw := range files {
		if err := os.WriteFile(filepath.Join(dir, name), raw, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestAFolderIsReadWholeOrNotAtAll(t *testing.T) {
	t.Parallel()
	ed, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	ec := func(c elliptic.Curve) []byte {
		k, err := ecdsa.GenerateKey(c, rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		return pemOf(t, k.Public())
	}
	weak, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	good := pemOf(t, ed)
	keys, err := Load(folder(t, map[string][]byte{"a.pem": append(good, ec(elliptic.P256())...), "b.pem": ec(elliptic.P384())}))
	if err != nil || len(keys) != 3 || keys[0].ID == keys[1].ID || len(keys[2].ID) != 64 {
		t.Fatalf("keys %+v, error %v", keys, err)
	}
	for name, files := range map[string]map[string][]byte{
		"no file": {}, "empty file": {"a.pem": nil}, "other name": {"a.pem": good, "b.pub": good}, "text behind": {"a.pem": append(good, "x"...)},
		"RSA": {"a.pem": pemOf(t, weak.Public())}, "P-521": {"a.pem": ec(elliptic.P521())},
		"private key": {"a.pem": pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})},
		"broken":      {"a.pem": pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: []byte("x")})},
		"one bad":     {"a.pem": good, "b.pem": []byte("x")},
		"too large":   {"a.pem": make([]byte, maxFile+1)},
	} {
		if keys, err := Load(folder(t, files)); err == nil {
			t.Errorf("%s: %d keys", name, len(keys))
		}
	}
	if _, err := Load(filepath.Join(t.TempDir(), "none")); err == nil {
		t.Error("a missing folder was read")
	}
}
