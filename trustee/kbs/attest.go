// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package kbs

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"

	"cocoon/trustee/as"
	"cocoon/trustee/audit"
	"cocoon/trustee/teekey"
)

const (
	protocolVersion = "0.4.0"
	cookieName      = "kbs-session-id"
	generationClaim = "ear.cocoon.generation"
)

// authRequest is the body of POST /auth.
type authRequest struct {
	Version string          `json:"version"`
	TEE     string          `json:"tee"`
	Extra   json.RawMessage `json:"extra-params"`
}

// attestRequest is the body of POST /attest.
type attestRequest struct {
	InitData *struct {
		Format string `json:"format"`
		Body   string `json:"body"`
	} `json:"init-data"`
	RuntimeData struct {
		Nonce string          `json:"nonce"`
		Key   json.RawMessage `json:"tee-pubkey"`
	} `json:"runtime-data"`
	Evidence struct {
		Primary    json.RawMessage `json:"primary_evidence"`
		Additional string          `json:"additional_evidence"`
	} `json:"tee-evidence"`
}

func parseAuth(raw []byte) (authRequest, error) {
	var q authRequest
	if err := json.Unmarshal(raw, &q); err != nil {
		return q, fail(http.StatusUnauthorized, variantSerde, fmt.Errorf("parse request: %w", err))
	}
	if q.Version != protocolVersion {
		return q, fail(http.StatusUnauthorized, variantAttest,
			fmt.Errorf("KBS client protocol version mismatch: expect =%s while the request is %q", protocolVersion, q.Version))
	}
	return q, nil
}

// The one TEE whose evidence is over another digest, and that digest.
const (
	teeSE     = "se"
	hashForSE = "sha512"
)

// extraParams answers what a guest says of itself: the digest that its evidence
// has to be over, if that is not the usual one.
func (q authRequest) extraParams() (any, error) {
	var extra struct {
		Hashes []string `json:"supported-hash-algorithms"`
	}
	// Upstream's clients may send an empty text instead.
	if q.TEE != teeSE || !bytes.HasPrefix(bytes.TrimSpace(q.Extra), []byte("{")) {
		return "", nil
	}
	if err := json.Unmarshal(q.Extra, &extra); err != nil {
		return nil, fmt.Errorf("extra-params: %w", err)
	}
	if extra.Hashes == nil {
		return "", nil
	}
	if !slices.Contains(extra.Hashes, hashForSE) {
		return nil, fmt.Errorf("evidence of TEE %q is over %s, the guest knows only %q", q.TEE, hashForSE, extra.Hashes)
	}
	return map[string]string{"selected-hash-algorithm": hashForSE}, nil
}

// attestation is a parsed attestRequest.
type attestation struct {
	nonce      string
	key        *teekey.Key
	initData   string
	primary    json.RawMessage
	additional string
}

func parseAttest(raw []byte) (*attestation, error) {
	var q attestRequest
	if err := json.Unmarshal(raw, &q); err != nil {
		return nil, fail(http.StatusUnauthorized, variantSerde, fmt.Errorf("parse attestation: %w", err))
	}
	key, err := teekey.Parse(q.RuntimeData.Key)
	if err != nil {
		return nil, fail(http.StatusUnauthorized, variantAttest, fmt.Errorf("runtime data: %w", err))
	}
	if len(q.Evidence.Primary) == 0 || bytes.Equal(q.Evidence.Primary, []byte("null")) {
		return nil, fail(http.StatusUnauthorized, variantAttest, errors.New("primary_evidence is missing"))
	}
	a := &attestation{nonce: q.RuntimeData.Nonce, key: key, primary: q.Evidence.Primary, additional: q.Evidence.Additional}
	if q.InitData != nil {
		if q.InitData.Format != "toml" || q.InitData.Body == "" {
			return nil, fail(http.StatusUnauthorized, variantAttest, fmt.Errorf("init data of format %q and %d bytes, want toml", q.InitData.Format, len(q.InitData.Body)))
		}
		a.initData = q.InitData.Body
	}
	return a, nil
}

// identity is a digest of nonce and key: what the token of a session is for.
func (a *attestation) identity() (string, error) {
	raw, err := json.Marshal([]any{a.nonce, a.key.Members()})
	if err != nil {
		return "", err
	}
	d := sha256.Sum256(raw)
	return hex.EncodeToString(d[:]), nil
}

func (h *Handler) auth(w http.ResponseWriter, r *http.Request) error {
	raw, err := readAtMost(r, maxAuth)
	if err != nil {
		return err
	}
	q, err := parseAuth(raw)
	if err != nil {
		return err
	}
	if err := h.Attester.Supports(q.TEE); err != nil {
		return fail(http.StatusUnauthorized, variantAttest, err)
	}
	extra, err := q.extraParams()
	if err != nil {
		return fail(http.StatusUnauthorized, variantAttest, err)
	}
	challenge, err := h.Attester.Challenge(r.Context(), q.TEE, "")
	if err != nil {
		return fail(http.StatusUnauthorized, variantAttest, err)
	}
	s := h.Sessions.open(q.TEE, challenge)
	body, err := json.Marshal(map[string]any{"nonce": s.nonce, "extra-params": extra})
	if err != nil {
		return err
	}
	setCookie(w, s)
	return writeAnswer(w, "application/json", body)
}

func setCookie(w http.ResponseWriter, s session) {
	http.SetCookie(w, &http.Cookie{Name: cookieName, Value: s.id, Expires: s.expires})
}

func (h *Handler) attest(w http.ResponseWriter, r *http.Request) error {
	cookie, err := r.Cookie(cookieName)
	if err != nil {
		return fail(http.StatusUnauthorized, variantAttest, fmt.Errorf("cookie %q is missing", cookieName))
	}
	raw, err := readBody(r)
	if err != nil {
		return err
	}
	a, err := parseAttest(raw)
	if err != nil {
		return err
	}
	s, err := h.Sessions.begin(cookie.Value)
	if err != nil {
		return fail(http.StatusUnauthorized, variantAttest, err)
	}
	token, err := h.tokenFor(r, s, a)
	if err != nil {
		return fail(http.StatusUnauthorized, variantAttest, fmt.Errorf("attestation of a %q guest: %w", s.tee, err))
	}
	body, err := json.Marshal(map[string]string{"token": token})
	if err != nil {
		return err
	}
	setCookie(w, s)
	return writeAnswer(w, "application/json", body)
}

// tokenFor spends the session's one attempt. An attested session answers the
// same guest with the token that it has.
func (h *Handler) tokenFor(r *http.Request, s session, a *attestation) (token string, err error) {
	id, err := a.identity()
	if err != nil {
		return "", err
	}
	if s.phase == attested {
		if subtle.ConstantTimeCompare([]byte(id), []byte(s.key)) != 1 {
			return "", fmt.Errorf("attested already with another key or nonce: %w", ErrSession)
		}
		return s.token, nil
	}
	defer func() {
		if err != nil {
			h.Sessions.drop(s.id)
		}
	}()
	if subtle.ConstantTimeCompare([]byte(a.nonce), []byte(s.nonce)) != 1 {
		return "", fmt.Errorf("nonce is not that of this session: %w", ErrSession)
	}
	if token, err = h.evaluate(r, s, a); err != nil {
		return "", err
	}
	return token, h.Sessions.finish(s.id, token, id)
}

func (h *Handler) evaluate(r *http.Request, s session, a *attestation) (string, error) {
	ctx := r.Context()
	if err := h.enter(ctx); err != nil {
		return "", err
	}
	defer func() { <-h.evaluating }()
	generation := h.generation() // before the evaluation, so that it is never too new
	claims, err := h.Attester.Evaluate(ctx, as.Evidence{
		TEE: s.tee, Primary: a.primary, InitData: a.initData,
		Runtime: as.Runtime{Nonce: a.nonce, Key: a.key, Additional: a.additional},
	})
	if err != nil {
		return "", err
	}
	claims[generationClaim] = generation
	token, err := h.Tokens.Sign(claims)
	if err != nil {
		return "", err
	}
	rec := audit.Record{Event: "attest", Decision: "token", Remote: r.RemoteAddr, Token: audit.Digest(token), Evidence: audit.Summary(claims)}
	return token, h.Audit.Write(rec)
}

// generation names the reference values and attestation policies in force. A
// token carries the one that it was judged by, so that a change of the rules
// counts at once and not only when the token expires.
func (h *Handler) generation() string {
	return fmt.Sprintf("%s%s-%d-%d", h.identity, h.run, h.AttestPolicies.Edits(), h.ReferenceValues.Edits())
}

// enter waits for one of the places for evaluations.
func (h *Handler) enter(ctx context.Context) error {
	select {
	case h.evaluating <- struct{}{}:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("wait for a place: %w", ctx.Err())
	}
}
