// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

// Package kbs is the HTTP interface of the key broker: the handshake of
// guests, the release of secrets, and administration.
//
// Everybody can reach it. A guest is believed what its verified evidence says;
// the operator is known by the signature on each call. Secrets leave only
// encrypted to a key that evidence is bound to, after the resource policy
// agreed and the audit log took the record. The protocol is RCAR 0.4.0 of the
// Confidential Containers key broker service.
package kbs

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"time"

	"golang.org/x/time/rate"

	"cocoon/internal/bounded"
	"cocoon/trustee/admin"
	"cocoon/trustee/as"
	"cocoon/trustee/audit"
	"cocoon/trustee/policy"
	"cocoon/trustee/rvps"
	"cocoon/trustee/store"
)

const (
	prefix = "/kbs/v0/"

	// ResourcePolicyID is the id of the one policy that guards resources.
	ResourcePolicyID = "resource-policy"

	maxBody       = store.MaxResource
	maxAuth       = 64 << 10
	maxEvaluating = 32

	maxLogged         = 256
	refusalsPerSecond = 10
	refusalBurst      = 100
)

// Attester evaluates evidence.
type Attester interface {
	Supports(tee string) error
	// Challenge returns what evidence of the TEE has to be made from, or "" for
	// a TEE that takes any nonce.
	Challenge(ctx context.Context, tee, params string) (string, error)
	Evaluate(ctx context.Context, e as.Evidence) (map[string]any, error)
}

// Tokens signs the claims of an evaluation and verifies what a client presents.
type Tokens interface {
	Sign(claims map[string]any) (string, error)
	Verify(token string) (map[string]any, error)
}

// Resources keeps the secrets. Errors wrap store.ErrNotFound for one that is
// not there, and store.ErrUnavailable where that is not known.
type Resources interface {
	Get(ctx context.Context, p store.Path) ([]byte, error)
	Set(ctx context.Context, p store.Path, secret []byte) error
	Delete(ctx context.Context, p store.Path) error
	// List returns the paths of all secrets in lexical order.
	List(ctx context.Context) ([]string, error)
}

// Deps are what a Handler works with.
type Deps struct {
	Attester        Attester
	Tokens          Tokens
	Sessions        *Sessions
	Resources       Resources
	ResourcePolicy  *policy.Set
	AttestPolicies  *policy.Set
	ReferenceValues *rvps.Registry
	AdminKey        ed25519.PublicKey
	Audit           *audit.Log
	Log             *slog.Logger
	Now             func() time.Time
}

// Handler serves the broker's interface.
type Handler struct {
	Deps
	// evaluating bounds how many attestations are checked at once.
	evaluating chan struct{}
	// refusals bounds the log lines that strangers can cause.
	refusals *rate.Limiter
	// identity tells this broker from others, and run this run of it from
	// earlier ones; see generation.
	identity, run string
}

// NewHandler returns a Handler.
func NewHandler(d Deps) *Handler {
	return &Handler{
		Deps: d, evaluating: make(chan struct{}, maxEvaluating),
		refusals: rate.NewLimiter(refusalsPerSecond, refusalBurst),
		identity: fmt.Sprintf("%x-", sha256.Sum256(d.AdminKey)), run: rand.Text(),
	}
}

// ServeHTTP implements http.Handler.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	err := h.route(w, r)
	if err == nil {
		return
	}
	if h.refusals.AllowN(h.Now(), 1) {
		path := r.URL.EscapedPath()
		h.Log.Info("request refused", "method", r.Method, "path", path[:min(len(path), maxLogged)], "remote", r.RemoteAddr, "error", err)
	}
	if err := writeProblem(w, err); err != nil {
		h.Log.Debug("answer not sent", "remote", r.RemoteAddr, "error", err)
	}
}

// route takes the path as it came, without decoding: names never need escapes,
// so an escape is an invalid name and not another way to write one.
func (h *Handler) route(w http.ResponseWriter, r *http.Request) error {
	path := r.URL.EscapedPath()
	if path == "/healthz" && r.Method == http.MethodGet {
		w.WriteHeader(http.StatusOK)
		return nil
	}
	rest, ok := strings.CutPrefix(path, prefix)
	if !ok {
		return fail(http.StatusNotFound, variantPath, fmt.Errorf("path %q does not begin with %q", path, prefix))
	}
	switch r.Method + " " + rest {
	case "POST auth":
		return h.auth(w, r)
	case "POST attest":
		return h.attest(w, r)
	}
	plugin, arg, _ := strings.Cut(rest, "/")
	if r.Method == http.MethodGet && plugin == "resource" {
		return h.getResource(w, r, arg)
	}
	call, ok := h.adminCall(r.Method + " " + plugin)
	if !ok && plugin == "admin" {
		call, arg, ok = h.ownCall(r.Method, arg)
	}
	if !ok {
		return fail(http.StatusNotFound, variantNoPlugin, fmt.Errorf("plugin %q does not take %s", plugin, r.Method))
	}
	if err := h.authorize(r); err != nil {
		return err
	}
	return call(w, r, arg)
}

// authorize admits the operator.
func (h *Handler) authorize(r *http.Request) error {
	if err := admin.Authorize(h.AdminKey, r.Header.Get("Authorization"), h.Now()); err != nil {
		return fail(http.StatusUnauthorized, variantAdmin, err)
	}
	return nil
}

func bearer(r *http.Request) (string, bool) { return admin.Bearer(r.Header.Get("Authorization")) }

// readBody takes a whole body of at most maxBody bytes.
func readBody(r *http.Request) ([]byte, error) { return readAtMost(r, maxBody) }

func readAtMost(r *http.Request, limit int64) ([]byte, error) {
	if r.ContentLength > limit {
		return nil, fail(http.StatusRequestEntityTooLarge, variantHTTP, fmt.Errorf("body of %d bytes, at most %d", r.ContentLength, limit))
	}
	raw, err := bounded.ReadAll(r.Body, limit)
	if errors.Is(err, bounded.ErrTooLarge) {
		return nil, fail(http.StatusRequestEntityTooLarge, variantHTTP, fmt.Errorf("body: %w", err))
	}
	if err != nil {
		return nil, fail(http.StatusBadRequest, variantHTTP, fmt.Errorf("read body: %w", err))
	}
	return raw, nil
}

func writeAnswer(w http.ResponseWriter, contentType string, body []byte) error {
	w.Header().Set("Content-Type", contentType)
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(http.StatusOK)
	// An error here means that the client is gone; the status is sent.
	_, _ = w.Write(body)
	return nil
}

func unescape(arg string) (string, error) {
	name, err := url.PathUnescape(arg)
	if err != nil || name == "" {
		return "", fail(http.StatusNotFound, variantPath, fmt.Errorf("invalid name %q", arg))
	}
	return name, nil
}
