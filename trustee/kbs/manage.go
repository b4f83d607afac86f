// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package kbs

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"cocoon/trustee/audit"
	"cocoon/trustee/policy"
	"cocoon/trustee/rvps"
	"cocoon/trustee/store"
)

const mimeJSON = "application/json"

// call is one administration call; the caller is authorised already.
type call func(w http.ResponseWriter, r *http.Request, arg string) error

// adminCall returns the calls of the upstream interface.
func (h *Handler) adminCall(name string) (call, bool) {
	c, ok := map[string]call{
		"POST resource":           h.setResource,
		"DELETE resource":         h.deleteResource,
		"POST resource-policy":    h.setResourcePolicy,
		"GET resource-policy":     h.listResourcePolicies,
		"POST attestation-policy": h.setAttestationPolicy,
		"POST reference-value":    h.register,
		"GET reference-value":     h.getReferenceValue,
	}[name]
	return c, ok
}

// ownCall returns the calls below admin/, which upstream does not have.
func (h *Handler) ownCall(method, path string) (call, string, bool) {
	name, arg, _ := strings.Cut(path, "/")
	c, ok := map[string]call{
		"GET resources":            h.listResources,
		"GET resource":             h.readResource,
		"GET resource-policy":      h.readResourcePolicy,
		"GET attestation-policy":   h.readAttestationPolicy,
		"GET reference-values":     h.listReferenceValues,
		"DELETE reference-value":   h.deleteReferenceValue,
		"GET attestation-policies": h.listAttestationPolicies,
	}[method+" "+name]
	return c, arg, ok
}

// changed writes the record of what the operator does, before it is done.
func (h *Handler) changed(r *http.Request, event, path string) error {
	return h.Audit.Write(audit.Record{Event: event, Decision: "admin", Remote: r.RemoteAddr, Path: path})
}

// outcome maps the error of a store to an answer.
func outcome(variant string, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, store.ErrNotFound):
		return fail(http.StatusNotFound, variant, err)
	case errors.Is(err, store.ErrUnavailable):
		return fail(http.StatusServiceUnavailable, variant, err)
	case errors.Is(err, store.ErrBadName), errors.Is(err, policy.ErrBadPolicy), errors.Is(err, rvps.ErrBadMessage):
		return fail(http.StatusBadRequest, variant, err)
	}
	return err
}

func (h *Handler) setResource(w http.ResponseWriter, r *http.Request, arg string) error {
	path, err := store.ParsePath(arg)
	if err != nil {
		return outcome(variantPath, err)
	}
	secret, err := readBody(r)
	if err != nil {
		return err
	}
	if err := h.changed(r, "resource-set", path.String()); err != nil {
		return err
	}
	if err := h.Resources.Set(r.Context(), path, secret); err != nil {
		return outcome(variantPlugin, err)
	}
	return writeAnswer(w, mimeJSON, nil)
}

func (h *Handler) deleteResource(w http.ResponseWriter, r *http.Request, arg string) error {
	path, err := store.ParsePath(arg)
	if err != nil {
		return outcome(variantPath, err)
	}
	if err := h.changed(r, "resource-delete", path.String()); err != nil {
		return err
	}
	if err := h.Resources.Delete(r.Context(), path); err != nil {
		return outcome(variantPlugin, err)
	}
	return writeAnswer(w, mimeJSON, nil)
}

func (h *Handler) readResource(w http.ResponseWriter, r *http.Request, arg string) error {
	path, err := store.ParsePath(arg)
	if err != nil {
		return outcome(variantPath, err)
	}
	secret, err := h.Resources.Get(r.Context(), path)
	if err != nil {
		return outcome(variantPlugin, err)
	}
	if err := h.changed(r, "resource-read", path.String()); err != nil {
		return err
	}
	return writeAnswer(w, "application/octet-stream", secret)
}

func (h *Handler) listResources(w http.ResponseWriter, r *http.Request, _ string) error {
	names, err := h.Resources.List(r.Context())
	if err != nil {
		return outcome(variantPlugin, err)
	}
	return writeJSON(w, names)
}

// policyMessage is the body that sets a policy.
type policyMessage struct {
	ID   string `json:"policy_id"`
	Text string `json:"policy"`
}

func parsePolicy(raw []byte) (policyMessage, error) {
	var m policyMessage
	if err := json.Unmarshal(raw, &m); err != nil {
		return m, fail(http.StatusBadRequest, variantSerde, fmt.Errorf("parse policy message: %w", err))
	}
	text, err := base64.RawURLEncoding.DecodeString(m.Text)
	if err != nil {
		return m, fail(http.StatusBadRequest, variantPolicy, fmt.Errorf("policy is no base64url: %w", err))
	}
	m.Text = string(text)
	return m, nil
}

func (h *Handler) setResourcePolicy(w http.ResponseWriter, r *http.Request, _ string) error {
	raw, err := readBody(r)
	if err != nil {
		return err
	}
	m, err := parsePolicy(raw)
	if err != nil {
		return err
	}
	m.ID = ResourcePolicyID
	return h.putPolicy(w, r, h.ResourcePolicy, m)
}

func (h *Handler) setAttestationPolicy(w http.ResponseWriter, r *http.Request, _ string) error {
	raw, err := readBody(r)
	if err != nil {
		return err
	}
	m, err := parsePolicy(raw)
	if err != nil {
		return err
	}
	return h.putPolicy(w, r, h.AttestPolicies, m)
}

func (h *Handler) putPolicy(w http.ResponseWriter, r *http.Request, set *policy.Set, m policyMessage) error {
	if err := h.changed(r, "policy-set", m.ID); err != nil {
		return err
	}
	if err := set.Put(m.ID, m.Text); err != nil {
		return outcome(variantPolicy, err)
	}
	return writeAnswer(w, mimeJSON, nil)
}

func (h *Handler) listResourcePolicies(w http.ResponseWriter, _ *http.Request, _ string) error {
	return writeJSON(w, h.ResourcePolicy.IDs())
}

func (h *Handler) listAttestationPolicies(w http.ResponseWriter, _ *http.Request, _ string) error {
	return writeJSON(w, h.AttestPolicies.IDs())
}

func (h *Handler) readResourcePolicy(w http.ResponseWriter, _ *http.Request, _ string) error {
	return writePolicy(w, h.ResourcePolicy, ResourcePolicyID)
}

func (h *Handler) readAttestationPolicy(w http.ResponseWriter, _ *http.Request, arg string) error {
	return writePolicy(w, h.AttestPolicies, arg)
}

func writePolicy(w http.ResponseWriter, set *policy.Set, id string) error {
	p, err := set.Get(id)
	if err != nil {
		return outcome(variantPolicy, err)
	}
	return writeAnswer(w, "text/plain; charset=utf-8", []byte(p.Text()))
}

func (h *Handler) register(w http.ResponseWriter, r *http.Request, _ string) error {
	raw, err := readBody(r)
	if err != nil {
		return err
	}
	names, err := h.ReferenceValues.Names(raw)
	if err != nil {
		return outcome(variantRVPS, err)
	}
	if err := h.changed(r, "reference-value-set", rvps.Listed(names)); err != nil {
		return err
	}
	if err := h.ReferenceValues.Register(raw); err != nil {
		return outcome(variantRVPS, err)
	}
	return writeAnswer(w, mimeJSON, nil)
}

func (h *Handler) getReferenceValue(w http.ResponseWriter, _ *http.Request, arg string) error {
	if arg == "" {
		return writeJSON(w, h.ReferenceValues.List())
	}
	name, err := unescape(arg)
	if err != nil {
		return err
	}
	if err := rvps.CheckName(name); err != nil {
		return fail(http.StatusBadRequest, variantRVPS, err)
	}
	v, ok := h.ReferenceValues.Query(name)
	if !ok {
		return fail(http.StatusNotFound, variantRVPS, fmt.Errorf("reference value %q is missing or expired", name))
	}
	return writeJSON(w, v)
}

func (h *Handler) listReferenceValues(w http.ResponseWriter, _ *http.Request, _ string) error {
	return writeJSON(w, h.ReferenceValues.List())
}

func (h *Handler) deleteReferenceValue(w http.ResponseWriter, r *http.Request, arg string) error {
	name, err := unescape(arg)
	if err != nil {
		return err
	}
	if err := h.changed(r, "reference-value-delete", name); err != nil {
		return err
	}
	if err := h.ReferenceValues.Delete(name); err != nil {
		return outcome(variantRVPS, err)
	}
	return writeAnswer(w, mimeJSON, nil)
}

func writeJSON(w http.ResponseWriter, v any) error {
	raw, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode answer: %w", err)
	}
	return writeAnswer(w, mimeJSON, raw)
}
