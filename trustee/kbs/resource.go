// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package kbs

import (
	_ "embed" // the default policy is a file of its own
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"cocoon/trustee/as"
	"cocoon/trustee/audit"
	"cocoon/trustee/policy"
	"cocoon/trustee/store"
	"cocoon/trustee/teekey"
)

//go:embed default_resource.rego
var defaultResource string

// DefaultPolicies returns the built-in resource policy: a secret goes only to
// a guest of which every submodule is affirming.
func DefaultPolicies() map[string]string {
	return map[string]string{ResourcePolicyID: defaultResource}
}

const maxDetail = 2048

// grant is a client with a valid token.
type grant struct {
	token  string
	claims map[string]any
	key    *teekey.Key
}

func (h *Handler) getResource(w http.ResponseWriter, r *http.Request, arg string) error {
	g, err := h.authenticate(r)
	if err != nil {
		return err
	}
	path, err := store.ParsePath(arg)
	if err != nil {
		return fail(http.StatusNotFound, variantPath, err)
	}
	rec := audit.Record{
		Event: "resource", Decision: "refused", Remote: r.RemoteAddr, Path: path.String(),
		Token: audit.Digest(g.token), Evidence: audit.Summary(g.claims),
	}
	body, err := h.release(r, g, path, &rec)
	if err != nil {
		rec.Reason = err.Error()
		return errors.Join(err, h.Audit.Write(rec))
	}
	rec.Decision = "released"
	if err := h.Audit.Write(rec); err != nil {
		return err
	}
	return writeAnswer(w, "application/json", body)
}

// authenticate prefers the session over a bearer token, as upstream does.
func (h *Handler) authenticate(r *http.Request) (*grant, error) {
	token, ok := bearer(r)
	if cookie, err := r.Cookie(cookieName); err == nil {
		held, err := h.Sessions.tokenOf(cookie.Value)
		if err == nil {
			token, ok = held, true
		} else if !ok {
			return nil, fail(http.StatusUnauthorized, variantNoToken, err)
		}
	}
	if !ok {
		return nil, fail(http.StatusUnauthorized, variantNoToken, errors.New("neither an attested session nor a bearer token"))
	}
	claims, err := h.Tokens.Verify(token)
	if err != nil {
		return nil, fail(http.StatusUnauthorized, variantToken, err)
	}
	if _, ok := claims[as.IssuedForMember]; ok {
		return nil, fail(http.StatusUnauthorized, variantToken, errors.New("the token was issued for another relying party and proves nothing about a session with this broker: attest here"))
	}
	key, err := keyOf(claims)
	if err != nil {
		return nil, fail(http.StatusUnauthorized, variantToken, err)
	}
	return &grant{token: token, claims: claims, key: key}, nil
}

// release decides, reads and encrypts. The policy is asked first, so that a
// guest that may not have a secret does not learn whether it exists.
func (h *Handler) release(r *http.Request, g *grant, path store.Path, rec *audit.Record) ([]byte, error) {
	if h.superseded(g.claims) {
		return nil, fail(http.StatusUnauthorized, variantToken, errors.New("reference values or attestation policies changed since this attestation: attest anew"))
	}
	p, err := h.ResourcePolicy.Get(ResourcePolicyID)
	if err != nil {
		return nil, fail(http.StatusUnauthorized, variantEngine, err)
	}
	rec.Policy = p.Digest()
	allowed, err := allows(r, p, g.claims, path)
	if err != nil {
		return nil, fail(http.StatusUnauthorized, variantEngine, err)
	}
	if !allowed {
		return nil, h.deny(path, g.claims)
	}
	secret, err := h.Resources.Get(r.Context(), path)
	if errors.Is(err, store.ErrNotFound) {
		err = fmt.Errorf("resource %w", err)
	}
	if err := outcome(variantPlugin, err); err != nil {
		return nil, err
	}
	envelope, err := g.key.Encrypt(secret)
	if err != nil {
		return nil, fail(http.StatusUnauthorized, variantJWE, err)
	}
	return json.Marshal(envelope)
}

func allows(r *http.Request, p *policy.Policy, claims map[string]any, path store.Path) (bool, error) {
	query, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return false, fmt.Errorf("query: %w", err)
	}
	params := map[string]any{}
	for name, values := range query {
		params[name] = values[0]
	}
	segments := make([]any, 0, 3)
	for _, s := range path.Segments() {
		segments = append(segments, s)
	}
	v, ok, err := p.Value(r.Context(), "allow", policy.Eval{
		Input: claims,
		Data:  map[string]any{"plugin": "resource", "resource-path": segments, "query": params},
	})
	if err != nil {
		return false, err
	}
	yes, isBool := v.(bool)
	return ok && isBool && yes, nil
}

// superseded tells of a token that this broker gave before the last change of
// its rules: the verdict counts no more, for the guest or against it. The answer
// is one on which clients attest anew and try again. A token of an earlier run
// of the broker is older than every change of this one.
func (h *Handler) superseded(claims map[string]any) bool {
	judged, _ := claims[generationClaim].(string)
	if judged == h.generation() || !strings.HasPrefix(judged, h.identity) {
		return false
	}
	changed := h.AttestPolicies.Edits() > 0 || h.ReferenceValues.Edits() > 0
	return changed || strings.HasPrefix(judged, h.identity+h.run)
}

// deny answers 403, on which clients stop, unless an earlier run of the broker
// judged the evidence: then 401, on which they attest anew and try again.
func (h *Handler) deny(path store.Path, claims map[string]any) error {
	err := denial(path, claims)
	judged, _ := claims[generationClaim].(string)
	if strings.HasPrefix(judged, h.identity) && judged != h.generation() {
		return fail(http.StatusUnauthorized, variantToken, fmt.Errorf("%w; the broker was restarted since this attestation", err))
	}
	return fail(http.StatusForbidden, variantDeny, err)
}

// denial explains which rule refused and what was wrong with the evidence.
func denial(path store.Path, claims map[string]any) error {
	var b strings.Builder
	fmt.Fprintf(&b, "resource policy refuses %q: rule data.policy.allow is not true", path)
	submods, _ := claims["submods"].(map[string]any)
	for _, name := range slices.Sorted(maps.Keys(submods)) {
		m, _ := submods[name].(map[string]any)
		fmt.Fprintf(&b, "; %s is %v", name, m[as.StatusMember])
		reasons, _ := m[as.ReasonsMember].([]any)
		for i, reason := range reasons {
			sep := ", "
			if i == 0 {
				sep = ": "
			}
			fmt.Fprintf(&b, "%s%v", sep, reason)
		}
	}
	text := b.String()
	return errors.New(strings.ToValidUTF8(text[:min(len(text), maxDetail)], ""))
}

// keyPointers are where the TEE key stands in the tokens of the attestation
// services that the upstream broker knows.
func keyPointers() []string {
	return []string{
		"tdx/attester_runtime_data/tee-pubkey",
		"tdx/attester_user_data/tee-pubkey",
		"customized_claims/runtime_data/tee-pubkey",
		"submods/cpu0/" + as.EvidenceMember + "/runtime_data_claims/tee-pubkey",
		"tee-pubkey",
	}
}

func keyOf(claims map[string]any) (*teekey.Key, error) {
	for _, pointer := range keyPointers() {
		v, ok := lookup(claims, pointer)
		if !ok {
			continue
		}
		raw, err := json.Marshal(v)
		if err != nil {
			return nil, fmt.Errorf("encode TEE key: %w", err)
		}
		return teekey.Parse(raw)
	}
	return nil, errors.New("token holds no TEE key")
}

func lookup(v any, pointer string) (any, bool) {
	for _, name := range strings.Split(pointer, "/") {
		m, ok := v.(map[string]any)
		if !ok {
			return nil, false
		}
		if v, ok = m[name]; !ok {
			return nil, false
		}
	}
	return v, true
}
