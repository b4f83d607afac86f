// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package cdh

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"encoding/json"
	"errors"
	"fmt"

	"cocoon/internal/bounded"
	"cocoon/internal/stage"
)

// Errors of key unwrapping.
var (
	// ErrPacket is returned for an annotation that is not a key packet.
	ErrPacket = errors.New("malformed annotation packet")
	// ErrProvider is returned for a packet of a key service other than the
	// key broker.
	ErrProvider = errors.New("unsupported key provider")
	// ErrUnwrap is returned when the key of the broker does not open the
	// packet.
	ErrUnwrap = errors.New("key does not open the packet")
)

// The ciphers of a packet.
const (
	wrapGCM = "A256GCM" // tag behind the ciphertext, no additional data
	wrapCTR = "A256CTR" // whole-block big-endian counter, not authenticated
)

const (
	packetVersion  = "0.1.0"
	providerBroker = "kbs"
	kekSize        = 32
	maxPacket      = 64 << 10
)

// packet is the annotation of an encrypted layer. One parser reads both
// versions: version 1 lacks the fields that have defaults.
type packet struct {
	Version          string         `json:"version"`
	Provider         string         `json:"provider"`
	KeyID            string         `json:"kid"`
	WrappedData      []byte         `json:"wrapped_data"`
	IV               []byte         `json:"iv"`
	WrapType         string         `json:"wrap_type"`
	ProviderSettings map[string]any `json:"provider_settings"`
	Annotations      map[string]any `json:"annotations"`
}

// parsePacket reads and checks a packet; what it returns needs only a key.
func parsePacket(data []byte) (*packet, error) {
	if len(data) > maxPacket {
		return nil, fmt.Errorf("%w: %d bytes: %w", ErrPacket, len(data), bounded.ErrTooLarge)
	}
	p := &packet{Version: packetVersion, Provider: providerBroker}
	if err := json.Unmarshal(data, p); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrPacket, jsonPosition(err))
	}
	if p.Provider != providerBroker {
		return nil, fmt.Errorf("provider %.60q: %w", p.Provider, ErrProvider)
	}
	if p.Version != packetVersion {
		return nil, fmt.Errorf("%w: version %.60q", ErrPacket, p.Version)
	}
	if p.KeyID == "" || len(p.WrappedData) == 0 {
		return nil, fmt.Errorf("%w: kid or wrapped_data is missing", ErrPacket)
	}
	want, ok := map[string]int{wrapGCM: 12, wrapCTR: aes.BlockSize}[p.WrapType]
	if !ok {
		return nil, fmt.Errorf("%w: wrap_type %.60q", ErrPacket, p.WrapType)
	}
	if len(p.IV) != want {
		return nil, fmt.Errorf("%w: iv of %d bytes for %s", ErrPacket, len(p.IV), p.WrapType)
	}
	return p, nil
}

// jsonPosition reduces a JSON error to what does not quote the document.
func jsonPosition(err error) error {
	if e, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
		return fmt.Errorf("field %q has the wrong type", e.Field)
	}
	if e, ok := errors.AsType[*json.SyntaxError](err); ok {
		return fmt.Errorf("not JSON at byte %d", e.Offset)
	}
	return errors.New("not valid JSON or base64")
}

// UnwrapKey opens an annotation packet (the JSON text, after base64) with the
// key that the broker holds, and returns the private options of the layer. The
// caller owns the result and should wipe it.
func (h *Hub) UnwrapKey(ctx context.Context, annotation []byte) ([]byte, error) {
	p, err := parsePacket(annotation)
	if err != nil {
		return nil, stage.Errorf(stage.Decrypt, "parse key packet: %w", err)
	}
	kek, err := h.GetResource(ctx, p.KeyID)
	if err != nil {
		return nil, err // it names the key
	}
	defer wipe(kek)
	plain, err := p.open(kek)
	if err != nil {
		return nil, stage.Errorf(stage.Decrypt, "unwrap with key %q: %w", p.KeyID, err)
	}
	return plain, nil
}

func (p *packet) open(kek []byte) ([]byte, error) {
	if len(kek) != kekSize {
		return nil, fmt.Errorf("key of %d bytes instead of %d: %w", len(kek), kekSize, ErrUnwrap)
	}
	block, err := aes.NewCipher(kek)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnwrap, err)
	}
	if p.WrapType == wrapCTR {
		plain := make([]byte, len(p.WrappedData))
		cipher.NewCTR(block, p.IV).XORKeyStream(plain, p.WrappedData)
		return plain, nil
	}
	gcm, err := cipher.NewGCM(block)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnwrap, err)
	}
	plain, err := gcm.Open(nil, p.IV, p.WrappedData, nil)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnwrap, err)
	}
	return plain, nil
}
