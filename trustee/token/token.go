// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

// Package token signs and verifies attestation tokens.
//
// A token is the EAR that the attestation service issues: an ES256 JWT whose
// header carries the public key and its certificate. Whoever presents one may
// be anybody, so a key in a header counts only when its certificate chains to
// one that the operator trusts.
package token

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"time"

	"github.com/go-jose/go-jose/v4"
)

const (
	// Life is how long a token is valid.
	Life = 5 * time.Minute

	// MaxSize is the size of the largest token, in bytes. Clients send it in a
	// header, whose limit lies above.
	MaxSize = 512 << 10

	leeway = time.Minute

	// profile names the shape of the claims for those who parse them.
	profile = "tag:github.com,2024:confidential-containers/Trustee"
	issuer  = "CoCo-Attestation-Service"
)

// ErrInvalid is returned for a token that does not authorise anything.
var ErrInvalid = errors.New("invalid attestation token")

// Signer issues tokens.
type Signer struct {
	signer jose.Signer
	public jose.JSONWebKey
	now    func() time.Time
}

// NewSigner signs with key, which must be P-256; chain is its certificate and,
// optionally, those of the issuers, leaf first.
func NewSigner(key *ecdsa.PrivateKey, chain []*x509.Certificate, now func() time.Time) (*Signer, error) {
	if key.Curve != elliptic.P256() {
		return nil, errors.New("token key is not P-256")
	}
	if len(chain) == 0 || !key.PublicKey.Equal(chain[0].PublicKey) {
		return nil, errors.New("token certificate does not hold the token key")
	}
	jwk := jose.JSONWebKey{Key: key, Algorithm: string(jose.ES256), Certificates: chain}
	opts := (&jose.SignerOptions{EmbedJWK: true}).WithType("JWT")
	s, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: jwk}, opts)
	if err != nil {
		return nil, fmt.Errorf("make token signer: %w", err)
	}
	return &Signer{signer: s, public: jwk.Public(), now: now}, nil
}

// KeySet is the JWK set (RFC 7517) that tokens are verified with by those who
// do not pin the certificate.
func (s *Signer) KeySet() ([]byte, error) {
	raw, err := json.Marshal(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{s.public}})
	if err != nil {
		return nil, fmt.Errorf("encode key set: %w", err)
	}
	return raw, nil
}

// Sign adds the members of the issuer to claims and returns the compact JWT.
func (s *Signer) Sign(claims map[string]any) (string, error) {
	now := s.now()
	all := maps.Clone(claims)
	all["eat_profile"] = profile
	all["iss"] = issuer
	all["iat"] = now.Unix()
	all["exp"] = now.Add(Life).Unix()
	all["ear.verifier-id"] = map[string]any{"developer": "Cocoon", "build": "cocoon trustee"}
	payload, err := json.Marshal(all)
	if err != nil {
		return "", fmt.Errorf("encode token: %w", err)
	}
	jws, err := s.signer.Sign(payload)
	if err != nil {
		return "", fmt.Errorf("sign token: %w", err)
	}
	compact, err := jws.CompactSerialize()
	if err != nil {
		return "", fmt.Errorf("encode token: %w", err)
	}
	if len(compact) > MaxSize {
		return "", fmt.Errorf("token of %d bytes, at most %d: the init data and additional evidence that it repeats are too large", len(compact), MaxSize)
	}
	return compact, nil
}

// Trust verifies tokens.
type Trust struct {
	roots *x509.CertPool
	now   func() time.Time
}

// NewTrust accepts tokens whose keys are endorsed by one of roots.
func NewTrust(roots []*x509.Certificate, now func() time.Time) *Trust {
	pool := x509.NewCertPool()
	for _, c := range roots {
		pool.AddCert(c)
	}
	return &Trust{roots: pool, now: now}
}

// Verify checks signature, endorsement and time of a compact JWT and returns
// its claims. Every failure is ErrInvalid.
func (t *Trust) Verify(compact string) (map[string]any, error) {
	payload, err := t.open(compact)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	var claims map[string]any
	if err := json.Unmarshal(payload, &claims); err != nil {
		return nil, fmt.Errorf("%w: claims: %w", ErrInvalid, err)
	}
	if err := t.checkTime(claims); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	return claims, nil
}

func (t *Trust) open(compact string) ([]byte, error) {
	if len(compact) > MaxSize {
		return nil, fmt.Errorf("%d bytes, at most %d", len(compact), MaxSize)
	}
	jws, err := jose.ParseSignedCompact(compact, []jose.SignatureAlgorithm{jose.ES256, jose.ES384, jose.RS256, jose.PS256})
	if err != nil {
		return nil, err
	}
	head := jws.Signatures[0].Protected
	if head.JSONWebKey == nil {
		return nil, errors.New("header has no jwk")
	}
	if err := t.endorsed(head.JSONWebKey); err != nil {
		return nil, err
	}
	if head.JSONWebKey.Algorithm != head.Algorithm {
		return nil, fmt.Errorf("header says alg %q, its key %q", head.Algorithm, head.JSONWebKey.Algorithm)
	}
	return jws.Verify(head.JSONWebKey.Key)
}

// endorsed checks that the certificate of k holds k and chains to a root.
func (t *Trust) endorsed(k *jose.JSONWebKey) error {
	if len(k.Certificates) == 0 {
		return errors.New("key in the header has no x5c certificate")
	}
	leaf := k.Certificates[0]
	held, err := x509.MarshalPKIXPublicKey(leaf.PublicKey)
	if err != nil {
		return fmt.Errorf("key of the certificate: %w", err)
	}
	used, err := x509.MarshalPKIXPublicKey(k.Key)
	if err != nil {
		return fmt.Errorf("key in the header: %w", err)
	}
	if !bytes.Equal(held, used) {
		return errors.New("certificate holds another key than the header")
	}
	between := x509.NewCertPool()
	for _, c := range k.Certificates[1:] {
		between.AddCert(c)
	}
	_, err = leaf.Verify(x509.VerifyOptions{
		Roots: t.roots, Intermediates: between, CurrentTime: t.now(),
		KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny},
	})
	if err != nil {
		return fmt.Errorf("key is not endorsed: %w", err)
	}
	return nil
}

func (t *Trust) checkTime(claims map[string]any) error {
	now := t.now()
	exp, ok := claims["exp"].(float64)
	if !ok {
		return errors.New("claim exp is missing")
	}
	if float64(now.Add(-leeway).Unix()) >= exp {
		return errors.New("expired")
	}
	if nbf, ok := claims["nbf"].(float64); ok && float64(now.Add(leeway).Unix()) < nbf {
		return errors.New("not yet valid")
	}
	return nil
}
