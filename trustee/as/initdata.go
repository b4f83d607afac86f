// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package as

import (
	"crypto/sha256"
	"crypto/sha512"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"cocoon/internal/config/shallow"
)

// maxInitData bounds the document, in bytes.
const maxInitData = 1 << 20

// ErrBadInitData is returned for an init data document that cannot be read.
var ErrBadInitData = errors.New("invalid init data")

// initData is the parsed document.
type initData struct {
	digest []byte
	claims map[string]any
}

// parseInitData reads the TOML text of a guest, whose exact bytes the TEE
// measured, and computes its digest by the algorithm it names.
func parseInitData(body string) (*initData, error) {
	var doc struct {
		Version   string            `toml:"version"`
		Algorithm string            `toml:"algorithm"`
		Data      map[string]string `toml:"data"`
	}
	meta, err := shallow.Decode([]byte(body), maxInitData, &doc)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrBadInitData, err)
	}
	// The decoder leaves a map empty when the document has another type.
	if meta.IsDefined("data") && meta.Type("data") != "Hash" {
		return nil, fmt.Errorf("data is no table: %w", ErrBadInitData)
	}
	if doc.Version != "0.1.0" {
		return nil, fmt.Errorf("version %q, want 0.1.0: %w", doc.Version, ErrBadInitData)
	}
	d, ok := sum(strings.ToLower(doc.Algorithm), []byte(body))
	if !ok {
		return nil, fmt.Errorf("algorithm %q: %w", doc.Algorithm, ErrBadInitData)
	}
	claims := make(map[string]any, len(doc.Data))
	for name, text := range doc.Data {
		claims[name] = text
	}
	expand(claims, doc.Data)
	return &initData{digest: d, claims: claims}, nil
}

// sum is the digest of data, if the algorithm is known.
func sum(algorithm string, data []byte) ([]byte, bool) {
	switch algorithm {
	case "sha256":
		d := sha256.Sum256(data)
		return d[:], true
	case "sha384":
		d := sha512.Sum384(data)
		return d[:], true
	case "sha512":
		d := sha512.Sum512(data)
		return d[:], true
	}
	return nil, false
}

// expand replaces the well-known files by their content, so that policies can
// look inside: configurations that are TOML, and the data at the end of an
// agent policy. A file that does not parse stays text.
func expand(claims map[string]any, files map[string]string) {
	for _, name := range []string{"aa.toml", "cdh.toml"} {
		var v map[string]any
		text, ok := files[name]
		if !ok {
			continue
		}
		if _, err := shallow.Decode([]byte(text), maxInitData, &v); err == nil {
			claims[name] = v
		}
	}
	_, data, found := strings.Cut(files["policy.rego"], "policy_data := ")
	var v any
	if found && json.Unmarshal([]byte(data), &v) == nil {
		delete(claims, "policy.rego")
		claims["agent_policy_claims"] = v
	}
}
