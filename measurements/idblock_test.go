// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha512"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"math/big"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/BurntSushi/toml"
)

// keyFile writes a new key on a curve, as PKCS #8 or SEC 1.
func keyFile(t *testing.T, curve elliptic.Curve, sec1 bool) (string, *ecdsa.PrivateKey) {
	t.Helper()
	key, err := ecdsa.GenerateKey(curve, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	block := &pem.Block{Type: "PRIVATE KEY"}
	if sec1 {
		block.Type = "EC PRIVATE KEY"
		block.Bytes, err = x509.MarshalECPrivateKey(key)
	} else {
		block.Bytes, err = x509.MarshalPKCS8PrivateKey(key)
	}
	if err != nil {
		t.Fatal(err)
	}
	parameters := "-----BEGIN EC PARAMETERS-----\nBgUrgQQAIg==\n-----END EC PARAMETERS-----\n"
	return write(t, append([]byte(parameters), pem.EncodeToMemory(block)...)), key
}

// little is a number as the processor has it.
func little(b []byte) *big.Int {
	b = slices.Clone(b)
	slices.Reverse(b)
	return new(big.Int).SetBytes(b)
}

// verifies checks the signature at an offset of the authentication by the key at
// another, and returns the digest of that key.
func verifies(t *testing.T, auth []byte, signature, key int, message []byte) string {
	t.Helper()
	raw := auth[key:][:1028]
	public := &ecdsa.PublicKey{Curve: elliptic.P384(), X: little(raw[4:][:72]), Y: little(raw[76:][:72])} //nolint:staticcheck // the test has the numbers only
	digest := sha512.Sum384(message)
	if !ecdsa.Verify(public, digest[:], little(auth[signature:][:72]), little(auth[signature+72:][:72])) {
		t.Error("the signature does not hold")
	}
	sum := sha512.Sum384(raw)
	return hex.EncodeToString(sum[:])
}

func TestAnIDBlockIsOfTheOneLaunch(t *testing.T) {
	t.Parallel()
	dir, firmware := built(t, "snp")
	id, _ := keyFile(t, elliptic.P384(), true)
	author, _ := keyFile(t, elliptic.P384(), false)
	launch := []string{dir, "--firmware", firmware, "--shim", "rs", "--vcpus", "3"}
	want := valueOf(t, "snp_launch_measurement", append([]string{"snp"}, launch...)...)
	for name, tc := range map[string]struct {
		args   []string
		author bool
	}{
		"key":        {[]string{"--id-key", id}, false},
		"two keys":   {[]string{"--id-key", id, "--author-key", author}, true},
		"nobody's":   {[]string{"--id-key", "none"}, false},
		"of a model": {[]string{"--id-key", "none", "--cpu", "EPYC-v4"}, false},
	} {
		args := append(append([]string{"idblock"}, launch...), tc.args...)
		out, err := run(t, append(args, "--format", "json", "--svn", "7", "--policy", "0x20000", "--image-id", strings.Repeat("ab", 16))...)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		var b idBlock
		if err := json.Unmarshal([]byte(out), &b); err != nil {
			t.Fatal(err)
		}
		block, err1 := base64.StdEncoding.DecodeString(b.Block)
		auth, err2 := base64.StdEncoding.DecodeString(b.Auth)
		if err1 != nil || err2 != nil || len(block) != 96 || len(auth) != 4096 {
			t.Fatalf("%s: blocks of %d and %d bytes, %v, %v", name, len(block), len(auth), err1, err2)
		}
		tail := append(bytes.Repeat([]byte{0xab}, 16), 1, 0, 0, 0, 7, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0)
		if hex.EncodeToString(block[:48]) != want || b.Digest != want || !bytes.Equal(block[64:], tail) {
			t.Errorf("%s: block %x", name, block)
		}
		if got := verifies(t, auth, 0x40, 0x240, block); got != b.IDKeyDigest {
			t.Errorf("%s: digest of the ID key is %s, said is %s", name, got, b.IDKeyDigest)
		}
		if tc.author != (b.AuthorKeyDigest != "") {
			t.Errorf("%s: author %q", name, b.AuthorKeyDigest)
		}
		if tc.author && verifies(t, auth, 0x680, 0x880, auth[0x240:][:1028]) != b.AuthorKeyDigest {
			t.Errorf("%s: another author key than %s", name, b.AuthorKeyDigest)
		}
	}
}

func TestAnIDBlockIsADropInForKata(t *testing.T) {
	t.Parallel()
	dir, firmware := built(t, "snp")
	out, err := run(t, "idblock", dir, "--firmware", firmware, "--shim", "go", "--id-key", "none", "--cpu-signature", "0x800f12")
	if err != nil {
		t.Fatal(err)
	}
	var c struct {
		Hypervisor map[string]struct {
			Block  string `toml:"snp_id_block"`
			Auth   string `toml:"snp_id_auth"`
			Policy uint64 `toml:"snp_guest_policy"`
		}
	}
	if _, err := toml.Decode(out, &c); err != nil {
		t.Fatalf("%v:\n%s", err, out)
	}
	q := c.Hypervisor["qemu"]
	block, err := base64.StdEncoding.DecodeString(q.Block)
	if err != nil || q.Policy != 0x30000 || hex.EncodeToString(block[:48]) != valueOf(t, "snp_launch_measurement", "snp", dir, "--firmware", firmware, "--vcpus", "1", "--shim", "go") {
		t.Errorf("%v:\n%s", err, out)
	}
	again, err := run(t, "idblock", dir, "--firmware", firmware, "--shim", "go", "--id-key", "none")
	if err != nil || again != out {
		t.Errorf("without a key it is another one each time, or the model has another signature (%v)", err)
	}
}

func TestAnIDBlockThatCannotBeIsRefused(t *testing.T) {
	t.Parallel()
	dir, firmware := built(t, "snp")
	p256, _ := keyFile(t, elliptic.P256(), false)
	p384, _ := keyFile(t, elliptic.P384(), false)
	good := []string{dir, "--firmware", firmware, "--shim", "go"}
	for name, tc := range map[string]struct {
		args []string
		want string
	}{
		"no key":         {good, "--id-key is required"},
		"two shims":      {[]string{dir, "--firmware", firmware, "--id-key", "none"}, "name one --shim"},
		"two features":   {append(good, "--id-key", "none", "--features", "1,33"), "one set of --features"},
		"absent key":     {append(good, "--id-key", filepath.Join(dir, "absent")), "absent"},
		"no key in it":   {append(good, "--id-key", firmware), "no private key"},
		"another curve":  {append(good, "--id-key", p256), "P-256, not P-384"},
		"author's curve": {append(good, "--id-key", p384, "--author-key", p256), "author key"},
		"author of none": {append(good, "--id-key", "none", "--author-key", p384), "somebody holds"},
		"short id":       {append(good, "--id-key", "none", "--image-id", "ab"), "--image-id"},
		"text id":        {append(good, "--id-key", "none", "--family-id", strings.Repeat("x", 32)), "--family-id"},
		"model and more": {append(good, "--id-key", "none", "--cpu", "EPYC", "--cpu-signature", "1"), "cpu-signature"},
		"format":         {append(good, "--id-key", "none", "--format", "xml"), "want toml or json"},
		"no processors":  {append(good, "--id-key", "none", "--vcpus", "0"), "0 processors"},
		"no firmware":    {[]string{dir, "--shim", "go", "--id-key", "none"}, "--firmware is required"},
	} {
		out, err := run(t, append([]string{"idblock"}, tc.args...)...)
		if err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v\n%s", name, err, out)
		}
	}
}
