// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package cdh

import (
	"context"
	"crypto/ecdsa"
	"errors"
	"fmt"
	"os"
	"strings"

	"cocoon/cdh/seal"
	"cocoon/internal/bounded"
	"cocoon/internal/stage"
)

// ErrUnseal is returned for a sealed secret that is well-formed and signed,
// but of a kind that this hub does not open.
var ErrUnseal = errors.New("unsupported kind of sealed secret")

// maxKeyFile bounds a verification key in a file.
const maxKeyFile = 16 << 10

// UnsealSecret verifies a sealed secret and returns what it stands for. The
// caller owns the result. A secret that cannot be opened is an error, never
// handed through.
func (h *Hub) UnsealSecret(ctx context.Context, secret []byte) ([]byte, error) {
	s, err := seal.Split(secret)
	if err != nil {
		return nil, stage.Errorf(stage.Decrypt, "parse sealed secret: %w", err)
	}
	if !h.cfg.SkipSealedSecretVerification {
		if err := h.verify(ctx, s); err != nil {
			return nil, stage.Errorf(stage.Decrypt, "verify sealed secret: %w", err)
		}
	}
	p, err := s.Payload()
	if err != nil {
		return nil, stage.Errorf(stage.Decrypt, "parse sealed secret: %w", err)
	}
	if p.Type != "vault" || p.Provider != providerBroker {
		return nil, stage.Errorf(stage.Decrypt, "%s secret of provider %.60q: %w", p.Type, p.Provider, ErrUnseal)
	}
	return h.GetResource(ctx, p.Name)
}

func (h *Hub) verify(ctx context.Context, s *seal.Secret) error {
	header, err := s.Header()
	if err != nil {
		return err
	}
	key, err := h.verificationKey(ctx, header.KeyID)
	if err != nil {
		return fmt.Errorf("verification key %.100q: %w", header.KeyID, err)
	}
	return s.Verify(key)
}

// verificationKey gets a key from the broker, or by name from the hub's folder.
// The name is chosen by whoever wrote the secret: it is opened through a
// descriptor of the folder, which neither dots nor symbolic links leave.
func (h *Hub) verificationKey(ctx context.Context, id string) (*ecdsa.PublicKey, error) {
	if strings.HasPrefix(strings.ToLower(id), "kbs") && strings.Contains(id, "://") {
		jwk, err := h.GetResource(ctx, id)
		if err != nil {
			return nil, err
		}
		return seal.ParseKey(jwk)
	}
	root, err := os.OpenRoot(h.cfg.SealDir)
	if err != nil {
		return nil, fmt.Errorf("neither a resource URI nor a provisioned key: %w", err)
	}
	defer root.Close() // read only; its error says nothing
	f, err := root.Open(id)
	if err != nil {
		return nil, err
	}
	defer f.Close() // as above
	jwk, err := bounded.ReadAll(f, maxKeyFile)
	if err != nil {
		return nil, err
	}
	return seal.ParseKey(jwk)
}
