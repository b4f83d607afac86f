// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package vault

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"

	"cocoon/internal/bounded"
	"cocoon/trustee/store"
)

// call does one call of the API and decodes the answer into out, if there is
// one and out is not nil. found is false for a path that Vault does not have.
// Errors wrap store.ErrUnavailable, and none holds what was sent.
func (r *Resources) call(ctx context.Context, method, path string, body []byte, out any) (found bool, err error) {
	what := func(err error) error {
		return fmt.Errorf("ask Vault, %s %s: %w: %w", method, path, store.ErrUnavailable, err)
	}
	req, err := r.request(ctx, method, path, body)
	if err != nil {
		return false, what(err)
	}
	resp, err := r.client.Do(req)
	if err != nil {
		return false, what(err)
	}
	defer func() { err = errors.Join(err, resp.Body.Close()) }()
	raw, err := bounded.ReadAll(resp.Body, maxAnswer)
	if err != nil {
		return false, what(fmt.Errorf("read the answer: %w", err))
	}
	switch {
	case resp.StatusCode == http.StatusNotFound && !misplaced(raw):
		return false, nil
	case resp.StatusCode == http.StatusNoContent:
		return true, nil
	case resp.StatusCode != http.StatusOK:
		return false, what(fmt.Errorf("it answers %s%s", resp.Status, complaint(raw)))
	case out == nil:
		return true, nil
	}
	if err := json.Unmarshal(raw, out); err != nil {
		return false, what(errors.New("its answer is not the JSON of the API")) // the error could quote a secret
	}
	return true, nil
}

func (r *Resources) request(ctx context.Context, method, path string, body []byte) (*http.Request, error) {
	token, err := readToken(r.cfg.TokenFile)
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, method, r.cfg.Address+"/v1/"+path, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.Header.Set("X-Vault-Token", token)
	req.Header.Set("X-Vault-Request", "true")
	if r.cfg.Namespace != "" {
		req.Header.Set("X-Vault-Namespace", r.cfg.Namespace)
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	return req, nil
}

func readToken(file string) (string, error) {
	f, err := os.Open(file)
	if err != nil {
		return "", fmt.Errorf("token of the broker: %w", err)
	}
	raw, err := bounded.ReadAll(io.Reader(f), maxToken)
	if err := errors.Join(err, f.Close()); err != nil {
		return "", fmt.Errorf("token of the broker: %w", err)
	}
	token := strings.TrimSpace(string(raw))
	if token == "" || strings.ContainsFunc(token, func(c rune) bool { return c < '!' || c > '~' }) {
		return "", fmt.Errorf("token of the broker: %q holds none", file)
	}
	return token, nil
}

// errorBody is the body of an answer that is no success.
type errorBody struct {
	Errors   []string `json:"errors"`
	Warnings []string `json:"warnings"`
}

// misplaced tells of a 404 by which Vault says that the engine has another
// version than it was asked in the way of.
func misplaced(raw []byte) bool {
	var e errorBody
	return json.Unmarshal(raw, &e) == nil && len(e.Warnings) > 0
}

// complaint is what Vault says about an error, made harmless for a log.
func complaint(raw []byte) string {
	const most = 200
	var e errorBody
	if json.Unmarshal(raw, &e) != nil {
		return ""
	}
	text := strings.Join(append(e.Errors, e.Warnings...), "; ")
	if text == "" {
		return ""
	}
	return fmt.Sprintf(": %q", text[:min(len(text), most)])
}
