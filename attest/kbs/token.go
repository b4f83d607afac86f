// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package kbs

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

const (
	// maxBearer leaves room below the 128 KiB that brokers take as the head of
	// a request. A token repeats the initdata and device evidence and may be
	// larger; then the session speaks for it.
	maxBearer = 120 << 10
	maxToken  = 768 << 10
	// clockLeeway is the difference between the broker's clock and the guest's
	// that is put up with.
	clockLeeway = 60 * time.Second
	// maxUnix is the last second of the year 9999.
	maxUnix = 253402300799
)

// claims are the parts of a token that the client looks at. It does not verify
// the signature: the token is for the broker, and came over its TLS connection.
type claims struct {
	expiry    time.Time
	notBefore time.Time // zero if the token has none
}

func parseAttestResponse(body []byte) (string, error) {
	var r struct {
		Token string `json:"token"`
	}
	if err := json.Unmarshal(body, &r); err != nil {
		return "", fmt.Errorf("parse %d bytes: %w", len(body), err)
	}
	if r.Token == "" {
		return "", errors.New("no token in it")
	}
	return r.Token, nil
}

// parseToken reads the claims of a signed JWT in compact form (RFC 7519).
func parseToken(jwt string) (claims, error) {
	if len(jwt) > maxToken {
		return claims{}, fmt.Errorf("%d bytes, at most %d are taken", len(jwt), maxToken)
	}
	parts := strings.SplitN(jwt, ".", 4)
	if len(parts) != 3 || parts[2] == "" {
		return claims{}, errors.New("not a signed JWT")
	}
	var header struct {
		Alg string `json:"alg"`
	}
	var payload struct {
		Exp *float64 `json:"exp"`
		Nbf *float64 `json:"nbf"`
	}
	if err := decodePart(parts[0], &header); err != nil {
		return claims{}, fmt.Errorf("header: %w", err)
	}
	if !slices.Contains(signatureAlgorithms(), header.Alg) {
		return claims{}, fmt.Errorf("signature algorithm %.32q is not accepted", header.Alg)
	}
	if err := decodePart(parts[1], &payload); err != nil {
		return claims{}, fmt.Errorf("payload: %w", err)
	}
	if _, err := strictBase64(parts[2]); err != nil {
		return claims{}, fmt.Errorf("signature: %w", err)
	}
	return claimTimes(payload.Exp, payload.Nbf)
}

func claimTimes(exp, nbf *float64) (claims, error) {
	if exp == nil {
		return claims{}, errors.New("no expiry")
	}
	if *exp < 0 || *exp > maxUnix {
		return claims{}, fmt.Errorf("expiry %g is no time", *exp)
	}
	c := claims{expiry: time.Unix(int64(*exp), 0)}
	if nbf != nil {
		if *nbf < 0 || *nbf > maxUnix {
			return claims{}, fmt.Errorf("start %g is no time", *nbf)
		}
		c.notBefore = time.Unix(int64(*nbf), 0)
	}
	return c, nil
}

// check refuses a token that is not valid when it arrives. The broker just made
// it, so one of the two clocks is wrong.
func (c claims) check(now time.Time) error {
	const format = time.RFC3339
	if now.After(c.expiry.Add(clockLeeway)) {
		return fmt.Errorf("expired at %s, but the guest's clock says %s", c.expiry.UTC().Format(format), now.UTC().Format(format))
	}
	if now.Add(clockLeeway).Before(c.notBefore) {
		return fmt.Errorf("valid from %s, but the guest's clock says %s", c.notBefore.UTC().Format(format), now.UTC().Format(format))
	}
	return nil
}

func signatureAlgorithms() []string {
	return []string{"ES256", "ES384", "ES512", "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "EdDSA"}
}

func decodePart(part string, into any) error {
	b, err := strictBase64(part)
	if err != nil {
		return err
	}
	if len(b) == 0 || b[0] != '{' {
		return errors.New("not a JSON object")
	}
	return json.Unmarshal(b, into)
}
