// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

// Package asapi serves the attestation service to relying parties other than
// the broker: over REST and over gRPC, in the shapes of the CoCo attestation
// service.
//
// Whoever connects is not trusted. Evaluation is open to all, as it tells only
// what evidence says; policies and reference values are the operator's, who
// proves himself as with the broker. The service gives out no nonce: what
// evidence has to cover is for the relying party to say, and a token tells what
// that was. No token from here releases a secret of the broker.
package asapi

import (
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"golang.org/x/time/rate"

	"cocoon/trustee/admin"
	"cocoon/trustee/as"
	"cocoon/trustee/audit"
	"cocoon/trustee/policy"
	"cocoon/trustee/rvps"
)

const (
	// MaxRequest bounds a request, in bytes: evidence as large as the broker
	// takes it, in base64.
	MaxRequest = 3 << 20

	maxEvaluating = 32
	maxName       = 64
	maxPolicyIDs  = 16

	refusalsPerSecond = 10
	refusalBurst      = 100
)

// Judge evaluates evidence.
type Judge interface {
	Judge(ctx context.Context, all []as.Submission, policyID string) (map[string]any, error)
	Challenge(ctx context.Context, tee, params string) (string, error)
}

// Tokens signs the claims of an evaluation and tells the key.
type Tokens interface {
	Sign(claims map[string]any) (string, error)
	KeySet() ([]byte, error)
}

// Deps are what an API works with.
type Deps struct {
	Judge           Judge
	Tokens          Tokens
	Policies        *policy.Set
	ReferenceValues *rvps.Registry
	AdminKey        ed25519.PublicKey
	Audit           *audit.Log
	Log             *slog.Logger
	Now             func() time.Time
}

// API is what both interfaces do.
type API struct {
	Deps
	// evaluating bounds how many requests are checked at once.
	evaluating chan struct{}
	// refusals bounds the log lines that strangers can cause.
	refusals *rate.Limiter
}

// New returns an API.
func New(d Deps) *API {
	return &API{Deps: d, evaluating: make(chan struct{}, maxEvaluating), refusals: rate.NewLimiter(refusalsPerSecond, refusalBurst)}
}

// caller is who asks: an address, and the Authorization header.
type caller struct {
	remote, authorization string
}

// evaluate returns the token about q.
func (a *API) evaluate(ctx context.Context, c caller, q request) (string, error) {
	all, err := q.submissions()
	if err != nil {
		return "", err
	}
	id, err := q.policyID()
	if err != nil {
		return "", err
	}
	if err := a.enter(ctx); err != nil {
		return "", err
	}
	defer func() { <-a.evaluating }()
	claims, err := a.Judge.Judge(ctx, all, id)
	if err != nil {
		return "", problemOf(err, refused)
	}
	token, err := a.Tokens.Sign(claims)
	if err != nil {
		return "", fail(refused, err)
	}
	rec := audit.Record{
		Event: "evaluate", Decision: "token", Remote: c.remote, Path: id,
		Token: audit.Digest(token), Evidence: audit.Summary(claims),
	}
	return token, a.Audit.Write(rec)
}

// enter waits for one of the places for evaluations.
func (a *API) enter(ctx context.Context) error {
	select {
	case a.evaluating <- struct{}{}:
		return nil
	case <-ctx.Done():
		return fail(busy, fmt.Errorf("wait for a place: %w", ctx.Err()))
	}
}

func (a *API) challenge(ctx context.Context, tee, params *string) (string, error) {
	if tee == nil || params == nil {
		return "", fail(malformed, errors.New("tee or tee_params is missing"))
	}
	if len(*tee) > maxName {
		return "", fail(malformed, fmt.Errorf("name of a TEE of %d bytes, at most %d", len(*tee), maxName))
	}
	text, err := a.Judge.Challenge(ctx, *tee, *params)
	if err != nil {
		return "", problemOf(err, refused)
	}
	return text, nil
}

// operator admits nobody else.
func (a *API) operator(c caller) error {
	return problemOf(admin.Authorize(a.AdminKey, c.authorization, a.Now()), denied)
}

// changed writes the record of what the operator does, before it is done.
func (a *API) changed(c caller, event, path string) error {
	return a.Audit.Write(audit.Record{Event: event, Decision: "admin", Remote: c.remote, Path: path})
}

// setPolicy stores a policy, whose text comes in base64url.
func (a *API) setPolicy(c caller, id, encoded string) error {
	if err := a.operator(c); err != nil {
		return err
	}
	text, err := base64.RawURLEncoding.Strict().DecodeString(encoded)
	if err != nil {
		return fail(malformed, fmt.Errorf("policy is no base64url without padding: %w", err))
	}
	if err := a.changed(c, "policy-set", id[:min(len(id), maxName)]); err != nil {
		return err
	}
	return problemOf(a.Policies.Put(id, string(text)), internal)
}

// listed is a policy in the list of all.
type listed struct {
	ID     string `json:"policy-id"`
	Digest string `json:"policy-hash"`
}

func (a *API) listPolicies(c caller) ([]listed, error) {
	if err := a.operator(c); err != nil {
		return nil, err
	}
	list := []listed{}
	for _, id := range a.Policies.IDs() {
		p, err := a.Policies.Get(id)
		if err != nil {
			return nil, err
		}
		list = append(list, listed{ID: id, Digest: p.Digest()})
	}
	return list, nil
}

func (a *API) register(c caller, message string) error {
	if err := a.operator(c); err != nil {
		return err
	}
	names, err := a.ReferenceValues.Names([]byte(message))
	if err != nil {
		return problemOf(err, malformed)
	}
	if err := a.changed(c, "reference-value-set", rvps.Listed(names)); err != nil {
		return err
	}
	return problemOf(a.ReferenceValues.Register([]byte(message)), internal)
}

// query returns the JSON of a reference value, nil if there is none.
func (a *API) query(c caller, name string) (*string, error) {
	if err := a.operator(c); err != nil {
		return nil, err
	}
	v, ok := a.ReferenceValues.Query(name)
	if !ok {
		return nil, nil
	}
	raw, err := json.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("encode reference value: %w", err)
	}
	return new(string(raw)), nil
}

// refuse logs a refusal, of which the log takes only so many.
func (a *API) refuse(c caller, what string, err error) {
	if a.refusals.AllowN(a.Now(), 1) {
		a.Log.Info("attestation request refused", "what", what[:min(len(what), maxName)], "remote", c.remote, "error", bound(err.Error()))
	}
}
