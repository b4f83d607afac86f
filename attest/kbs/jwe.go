// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package kbs

import (
	"crypto/ecdh"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/go-jose/go-jose/v4"
)

// errSealed is the one text for every failure behind the header checks, so that
// an answer's sender learns nothing from it.
var errSealed = errors.New("not encrypted to this guest's key, or altered")

const (
	gcmIV  = 12
	gcmTag = 16
)

// decrypt opens a flattened JWE (RFC 7516, 7.2.2) that was encrypted to k. Only
// the key's own algorithm and A256GCM are accepted. All that steers decryption
// must stand in the protected header, which is authenticated as received.
func (k *teeKey) decrypt(body []byte) ([]byte, error) {
	compact, err := k.checkJWE(body)
	if err != nil {
		return nil, err
	}
	obj, err := jose.ParseEncryptedCompact(compact, []jose.KeyAlgorithm{k.alg}, []jose.ContentEncryption{jose.A256GCM})
	if err != nil {
		return nil, fmt.Errorf("parse JWE: %w", err)
	}
	plain, err := obj.Decrypt(k.private())
	if err != nil {
		return nil, errSealed
	}
	return plain, nil
}

// checkJWE validates the JSON form and returns the compact one. Members that
// the RFC does not define say nothing; those that it defines for other forms
// would steer decryption from outside of the protected header.
func (k *teeKey) checkJWE(body []byte) (string, error) {
	var all map[string]json.RawMessage
	if err := json.Unmarshal(body, &all); err != nil {
		return "", errors.New("answer is not a flattened JWE")
	}
	for _, name := range []string{"header", "unprotected", "recipients", "aad"} {
		// Brokers may send an empty aad member.
		if v := string(all[name]); v != "" && v != "null" && v != `""` {
			return "", fmt.Errorf("JWE member %q is not allowed", name)
		}
	}
	parts := []string{"protected", "encrypted_key", "iv", "ciphertext", "tag"}
	raw, text := make([][]byte, len(parts)), make([]string, len(parts))
	for i, name := range parts {
		var v *string
		if err := json.Unmarshal(all[name], &v); err != nil || v == nil {
			return "", fmt.Errorf("JWE has no %s", name)
		}
		// Strict: encoding what was decoded gives the received characters
		// again, which is what the tag is computed over.
		b, err := strictBase64(*v)
		if err != nil {
			return "", fmt.Errorf("JWE %s: %w", name, err)
		}
		raw[i], text[i] = b, *v
	}
	if len(raw[2]) != gcmIV || len(raw[4]) != gcmTag {
		return "", fmt.Errorf("JWE has an iv of %d and a tag of %d bytes, want %d and %d", len(raw[2]), len(raw[4]), gcmIV, gcmTag)
	}
	if err := k.checkHeader(raw[0]); err != nil {
		return "", fmt.Errorf("JWE header: %w", err)
	}
	return strings.Join(text, "."), nil
}

func strictBase64(s string) ([]byte, error) {
	if strings.ContainsAny(s, "\r\n") { // the decoder would skip them
		return nil, errors.New("line break in base64")
	}
	return base64.RawURLEncoding.Strict().DecodeString(s)
}

func (k *teeKey) checkHeader(raw []byte) error {
	var h map[string]json.RawMessage
	if err := json.Unmarshal(raw, &h); err != nil || h == nil {
		return errors.New("not a JSON object")
	}
	// Other members are not understood and change nothing (RFC 7516, 4).
	for _, name := range []string{"crit", "zip", "apu", "apv", "jwk"} {
		if _, ok := h[name]; ok {
			return fmt.Errorf("member %s is not accepted", name)
		}
	}
	if _, ok := h["epk"]; ok && k.ec == nil {
		return errors.New("ephemeral key with an RSA algorithm")
	}
	if err := wantString(h, "alg", string(k.alg)); err != nil {
		return err
	}
	if err := wantString(h, "enc", string(jose.A256GCM)); err != nil {
		return err
	}
	if k.ec == nil {
		return nil
	}
	return k.checkEphemeral(h["epk"])
}

func wantString(h map[string]json.RawMessage, name, want string) error {
	var got string
	if err := json.Unmarshal(h[name], &got); err != nil {
		return fmt.Errorf("no %s", name)
	}
	if got != want {
		return fmt.Errorf("%s %.32q is not accepted, want %s", name, got, want)
	}
	return nil
}

// checkEphemeral refuses a key that is not a point on the TEE key's own curve,
// which would leak the private key bit by bit.
func (k *teeKey) checkEphemeral(raw json.RawMessage) error {
	var all map[string]json.RawMessage
	if err := json.Unmarshal(raw, &all); err != nil || all == nil {
		return errors.New("no ephemeral key")
	}
	epk := map[string]string{}
	for _, member := range []string{"kty", "crv", "x", "y"} {
		var v string
		if err := json.Unmarshal(all[member], &v); err != nil {
			return fmt.Errorf("ephemeral key has no %s", member)
		}
		epk[member] = v
	}
	name := k.ec.Curve.Params().Name
	if _, private := all["d"]; private || epk["kty"] != "EC" || epk["crv"] != name {
		return fmt.Errorf("ephemeral key is not a public EC key on %s", name)
	}
	size := (k.ec.Curve.Params().BitSize + 7) / 8
	point := []byte{4}
	for _, c := range []string{"x", "y"} {
		b, err := strictBase64(epk[c])
		if err != nil || len(b) != size {
			return fmt.Errorf("ephemeral key: %s is not %d bytes of base64url", c, size)
		}
		point = append(point, b...)
	}
	curve := ecdh.P256()
	if size == 66 {
		curve = ecdh.P521()
	}
	if _, err := curve.NewPublicKey(point); err != nil {
		return fmt.Errorf("ephemeral key is not on %s", name)
	}
	return nil
}
