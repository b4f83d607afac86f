// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

// Package rest is the HTTP interface through which the pod's workload gets
// resources, tokens and evidence, on 127.0.0.1:8006 of the pod's network.
//
// Every process of the pod can reach it, without authentication; what it may
// have is what the guest as a whole may have. Nothing outside of the pod may
// reach it, hence loopback only. Requests are bounded in size, time and number.
package rest

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"time"

	"cocoon/internal/stage"
)

// DefaultAddress is where the interface listens.
const DefaultAddress = "127.0.0.1:8006"

// Features says which parts of the interface are on.
type Features string

// The values of Features.
const (
	Resource    Features = "resource"
	Attestation Features = "attestation"
	All         Features = "all"
)

func (f Features) resource() bool    { return f == Resource || f == All }
func (f Features) attestation() bool { return f == Attestation || f == All }

// Resources fetches a resource by its URI. The caller owns the result.
type Resources interface {
	GetResource(ctx context.Context, uri string) ([]byte, error)
}

// Attester makes tokens and evidence. The caller owns the results.
type Attester interface {
	Token(ctx context.Context, tokenType string) ([]byte, error)
	Evidence(ctx context.Context, runtimeData []byte) (json.RawMessage, error)
	AdditionalEvidence(ctx context.Context, runtimeData []byte) ([]byte, error)
}

// Measurement is the outcome of a runtime measurement; the values are those of
// the attestation agent's protocol.
type Measurement int

// The outcomes.
const (
	Measured     Measurement = 0
	NotSupported Measurement = 1 // the TEE has no runtime registers
	NotEnabled   Measurement = 2 // the event log is off
)

// Info is what GET /info answers.
type Info struct {
	Version        string   `json:"version"`
	TEE            string   `json:"tee,omitempty"`
	AdditionalTEEs []string `json:"additional_tees,omitempty"`
	Feature        Features `json:"feature"`
}

// Config sets the interface up.
type Config struct {
	Features Features
	// Version, TEE and AdditionalTEEs are shown by GET /info.
	Version        string
	TEE            string
	AdditionalTEEs []string
	// Timeout bounds one request; zero is 50 seconds.
	Timeout time.Duration
}

// Deps is what the interface works with. What a feature needs is required; a
// nil Log discards.
type Deps struct {
	Resources Resources
	Attester  Attester
	// Extend measures an event at run time. Nil means that the platform does
	// not support it.
	Extend func(ctx context.Context, domain, operation, content string) (Measurement, error)
	Log    *slog.Logger
}

// Limits on the workload.
const (
	maxInFlight    = 32
	maxConnections = 128
	maxBody        = 64 << 10
	maxHeader      = 16 << 10
	defaultTimeout = 50 * time.Second
)

type handler struct {
	cfg   Config
	dep   Deps
	slots chan struct{}
}

// NewHandler returns the interface as an HTTP handler.
func NewHandler(cfg Config, dep Deps) http.Handler {
	if cfg.Timeout == 0 {
		cfg.Timeout = defaultTimeout
	}
	if dep.Log == nil {
		dep.Log = slog.New(slog.DiscardHandler)
	}
	return &handler{cfg: cfg, dep: dep, slots: make(chan struct{}, maxInFlight)}
}

// ServeHTTP answers one request. It routes on the path as it was sent: a
// decoded or cleaned path would name another resource.
func (h *handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if peer, err := netip.ParseAddrPort(r.RemoteAddr); err != nil || !peer.Addr().Unmap().IsLoopback() {
		reply(w, http.StatusForbidden, "Forbidden")
		return
	}
	select {
	case h.slots <- struct{}{}:
		defer func() { <-h.slots }()
	default:
		reply(w, http.StatusServiceUnavailable, "Too Many Requests In Flight")
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), h.cfg.Timeout)
	defer cancel()
	r = r.WithContext(ctx)
	r.Body = http.MaxBytesReader(w, r.Body, maxBody)
	h.route(w, r)
}

func (h *handler) route(w http.ResponseWriter, r *http.Request) {
	path := r.URL.EscapedPath()
	resource, isResource := strings.CutPrefix(path, "/cdh/resource/")
	switch {
	case path == "/info":
		h.get(w, r, h.info)
	case strings.HasPrefix(path, "/aa/") && !h.cfg.Features.attestation():
		reply(w, http.StatusNotFound, "Attestation Feature Not Enabled")
	case strings.HasPrefix(path, "/cdh/") && !h.cfg.Features.resource():
		reply(w, http.StatusNotFound, "Resource Feature Not Enabled")
	case path == "/aa/token":
		h.get(w, r, h.token)
	case path == "/aa/evidence":
		h.get(w, r, func(w http.ResponseWriter, r *http.Request) {
			h.evidence(w, r, func(ctx context.Context, data []byte) ([]byte, error) { return h.dep.Attester.Evidence(ctx, data) })
		})
	case path == "/aa/additional-evidence":
		h.get(w, r, func(w http.ResponseWriter, r *http.Request) { h.evidence(w, r, h.dep.Attester.AdditionalEvidence) })
	case path == "/aa/aael":
		h.only(http.MethodPost, w, r, h.extend)
	case isResource:
		h.get(w, r, func(w http.ResponseWriter, r *http.Request) { h.resource(w, r, resource) })
	default:
		reply(w, http.StatusNotFound, "URL NOT FOUND")
	}
}

func (h *handler) get(w http.ResponseWriter, r *http.Request, next http.HandlerFunc) {
	h.only(http.MethodGet, w, r, next)
}

func (h *handler) only(method string, w http.ResponseWriter, r *http.Request, next http.HandlerFunc) {
	if r.Method != method {
		reply(w, http.StatusMethodNotAllowed, "Method Not Allowed")
		return
	}
	next(w, r)
}

func (h *handler) info(w http.ResponseWriter, _ *http.Request) {
	i := Info{Version: h.cfg.Version, Feature: h.cfg.Features}
	if h.cfg.Features.attestation() {
		i.TEE, i.AdditionalTEEs = h.cfg.TEE, h.cfg.AdditionalTEEs
	}
	b, err := json.Marshal(i)
	if err != nil {
		h.failed(w, "info", err)
		return
	}
	h.send(w, "application/json", b)
}

func (h *handler) resource(w http.ResponseWriter, r *http.Request, path string) {
	b, err := h.dep.Resources.GetResource(r.Context(), "kbs:///"+path)
	if err != nil {
		h.failed(w, "resource", err)
		return
	}
	h.send(w, octets, b)
}

func (h *handler) token(w http.ResponseWriter, r *http.Request) {
	q, err := query(r)
	kind := q["token_type"]
	if err != nil || kind == "" {
		reply(w, http.StatusBadRequest, "BAD REQUEST")
		return
	}
	b, err := h.dep.Attester.Token(r.Context(), kind)
	if err != nil {
		h.failed(w, "token", err)
		return
	}
	h.send(w, octets, b)
}

func (h *handler) evidence(w http.ResponseWriter, r *http.Request, get func(context.Context, []byte) ([]byte, error)) {
	data, ok := runtimeData(r)
	if !ok {
		reply(w, http.StatusBadRequest, "BAD REQUEST")
		return
	}
	b, err := get(r.Context(), data)
	if err != nil {
		h.failed(w, "evidence", err)
		return
	}
	h.send(w, octets, b)
}

// runtimeData returns the bytes that evidence is to be bound to: the text of
// the parameter, or what it decodes to.
func runtimeData(r *http.Request) ([]byte, bool) {
	q, err := query(r)
	text, ok := q["runtime_data"]
	if err != nil || !ok {
		return nil, false
	}
	encoding, ok := q["encoding"]
	if !ok {
		return []byte(text), true
	}
	if encoding != "base64" {
		return nil, false
	}
	data, err := base64.RawURLEncoding.DecodeString(text)
	return data, err == nil
}

// query returns the parameters of r; of a repeated one the last counts.
func query(r *http.Request) (map[string]string, error) {
	values, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return nil, err
	}
	q := make(map[string]string, len(values))
	for k, v := range values {
		q[k] = v[len(v)-1]
	}
	return q, nil
}

// extend measures an event. Its answers are fixed strings, truth values
// included.
func (h *handler) extend(w http.ResponseWriter, r *http.Request) {
	var e struct{ Domain, Operation, Content *string }
	body, err := io.ReadAll(r.Body)
	if err == nil {
		err = json.Unmarshal(body, &e)
	}
	if err != nil || e.Domain == nil || e.Operation == nil || e.Content == nil {
		reply(w, http.StatusInternalServerError, "malformed event: domain, operation and content are required")
		return
	}
	result := NotSupported
	if h.dep.Extend != nil {
		if result, err = h.dep.Extend(r.Context(), *e.Domain, *e.Operation, *e.Content); err != nil {
			h.failed(w, "measurement", err)
			return
		}
	}
	h.send(w, "application/json", []byte(measurementText(result)))
}

func measurementText(m Measurement) string {
	const no = `{"success":"false","message": "`
	switch m {
	case Measured:
		return `{"success":"true"}`
	case NotSupported:
		return no + `The platform does not support runtime measurement"}`
	case NotEnabled:
		return no + `Attestation Agent does not enable eventlog recording"}`
	}
	return no + `Unknown runtime measurement result"}`
}

const octets = "application/octet-stream"

// send writes a secret and wipes it.
func (h *handler) send(w http.ResponseWriter, kind string, b []byte) {
	defer clear(b)
	w.Header().Set("Content-Type", kind)
	if _, err := w.Write(b); err != nil {
		h.dep.Log.Debug("rest client went away", "error", err)
	}
}

func (h *handler) failed(w http.ResponseWriter, what string, err error) {
	h.dep.Log.Warn("rest request failed", "what", what, "stage", string(stage.Of(err)), "error", err)
	code := http.StatusInternalServerError
	if stage.Of(err) == stage.NotFound {
		code = http.StatusNotFound
	}
	reply(w, code, "ttrpc request error: "+err.Error())
}

// reply writes an error. It has no content type, as clients are used to.
func reply(w http.ResponseWriter, code int, text string) {
	w.Header()["Content-Type"] = nil
	w.WriteHeader(code)
	// A client that went away needs no answer.
	_, _ = w.Write([]byte(text))
}
