// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package cdh

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"

	"cocoon/internal/bounded"
)

// ErrKeyProvider is returned for a request that is not in the key-provider
// protocol of image encryption.
var ErrKeyProvider = errors.New("malformed key provider request")

// maxKeyProvider bounds a request: a packet as an array of numbers, with room.
const maxKeyProvider = 1 << 20

// byteList is a byte string that JSON shows as an array of numbers, the only
// form that Rust clients read. It is read from that form and from base64.
type byteList []byte

// MarshalJSON returns the array form.
func (l byteList) MarshalJSON() ([]byte, error) {
	b := []byte{'['}
	for i, c := range l {
		if i > 0 {
			b = append(b, ',')
		}
		b = strconv.AppendUint(b, uint64(c), 10)
	}
	return append(b, ']'), nil
}

// UnmarshalJSON reads an array of numbers or a base64 string.
func (l *byteList) UnmarshalJSON(data []byte) error {
	if !bytes.HasPrefix(bytes.TrimSpace(data), []byte("[")) {
		return json.Unmarshal(data, (*[]byte)(l))
	}
	var numbers []uint16
	if err := json.Unmarshal(data, &numbers); err != nil {
		return err
	}
	*l = make([]byte, 0, len(numbers))
	for _, n := range numbers {
		if n > 255 {
			return errors.New("number above 255 in a byte string")
		}
		*l = append(*l, byte(n))
	}
	return nil
}

// parseUnwrapRequest returns the annotation packet inside a keyunwrap request.
// The decryption configuration is ignored: the hub has its own.
func parseUnwrapRequest(data []byte) ([]byte, error) {
	if len(data) > maxKeyProvider {
		return nil, fmt.Errorf("%w: %w", ErrKeyProvider, bounded.ErrTooLarge)
	}
	var req struct {
		Op     *string         `json:"op"`
		Wrap   json.RawMessage `json:"keywrapparams"`
		Unwrap *struct {
			Annotation byteList `json:"annotation"`
		} `json:"keyunwrapparams"`
	}
	if err := json.Unmarshal(data, &req); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrKeyProvider, jsonPosition(err))
	}
	if req.Op == nil || req.Wrap == nil || req.Unwrap == nil || len(req.Unwrap.Annotation) == 0 {
		return nil, fmt.Errorf("%w: a field is missing", ErrKeyProvider)
	}
	return req.Unwrap.Annotation, nil
}

// unwrapResponse is the answer that carries plain.
func unwrapResponse(plain []byte) ([]byte, error) {
	type results struct {
		OptsData byteList `json:"optsdata"`
	}
	b, err := json.Marshal(struct {
		Results results `json:"keyunwrapresults"`
	}{results{plain}})
	if err != nil {
		return nil, fmt.Errorf("encode key provider response: %w", err)
	}
	return b, nil
}
