// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package asapi

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"

	"cocoon/internal/bounded"
)

const (
	keySetPath = "/.well-known/jwks.json"

	mimeJSON = "application/json"
	mimeText = "text/plain; charset=utf-8"
)

// reply is the body of a successful answer.
type reply struct {
	mime string
	body []byte
}

func jsonReply(v any) (reply, error) {
	raw, err := json.Marshal(v)
	if err != nil {
		return reply{}, fmt.Errorf("encode answer: %w", err)
	}
	return reply{mimeJSON, raw}, nil
}

// REST returns the interface over HTTP.
func (a *API) REST() http.Handler {
	mux := http.NewServeMux()
	for pattern, h := range map[string]func(*http.Request) (reply, error){
		"POST /attestation": a.postAttestation,
		"POST /challenge":   a.postChallenge,
		"POST /policy":      a.postPolicy,
		"GET /policy":       a.getPolicies,
		"GET " + keySetPath: a.getKeySet,
		"GET /healthz":      func(*http.Request) (reply, error) { return reply{}, nil },
	} {
		mux.Handle(pattern, a.answering(h))
	}
	return mux
}

// answering writes what h returns.
func (a *API) answering(h func(*http.Request) (reply, error)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		out, err := h(r)
		status := http.StatusOK
		if err != nil {
			a.refuse(callerOf(r), r.Method+" "+r.URL.Path, err)
			x := answerOf(err)
			status, out = x.status, reply{mimeText, []byte(x.text)}
		}
		if out.mime != "" {
			w.Header().Set("Content-Type", out.mime)
		}
		w.Header().Set("Cache-Control", "no-store")
		w.Header().Set("X-Content-Type-Options", "nosniff")
		w.WriteHeader(status)
		w.Write(out.body) //nolint:errcheck // the client is gone then, and the status is sent
	})
}

func callerOf(r *http.Request) caller {
	return caller{remote: r.RemoteAddr, authorization: r.Header.Get("Authorization")}
}

// readBody takes a whole body of at most MaxRequest bytes.
func readBody(r *http.Request) ([]byte, error) {
	if r.ContentLength > MaxRequest {
		return nil, fail(tooLarge, fmt.Errorf("body of %d bytes, at most %d", r.ContentLength, MaxRequest))
	}
	raw, err := bounded.ReadAll(r.Body, MaxRequest)
	if err != nil {
		return nil, problemOf(fmt.Errorf("read body: %w", err), malformed)
	}
	return raw, nil
}

// readJSON takes a body and parses it into v.
func readJSON(r *http.Request, v any) error {
	raw, err := readBody(r)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(raw, v); err != nil {
		return fail(malformed, fmt.Errorf("parse request: %w", err))
	}
	return nil
}

func (a *API) postAttestation(r *http.Request) (reply, error) {
	raw, err := readBody(r)
	if err != nil {
		return reply{}, err
	}
	q, err := parseRequest(raw)
	if err != nil {
		return reply{}, err
	}
	token, err := a.evaluate(r.Context(), callerOf(r), q)
	return reply{mimeText, []byte(token)}, err
}

func (a *API) postChallenge(r *http.Request) (reply, error) {
	var q struct {
		TEE    *string `json:"tee"`
		Params *string `json:"tee_params"`
	}
	if err := readJSON(r, &q); err != nil {
		return reply{}, err
	}
	text, err := a.challenge(r.Context(), q.TEE, q.Params)
	return reply{mimeText, []byte(text)}, err
}

func (a *API) postPolicy(r *http.Request) (reply, error) {
	// Strangers are turned away before their body is read.
	if err := a.operator(callerOf(r)); err != nil {
		return reply{}, err
	}
	var q struct {
		ID   string  `json:"policy_id"`
		Text *string `json:"policy"`
	}
	if err := readJSON(r, &q); err != nil {
		return reply{}, err
	}
	if q.Text == nil {
		return reply{}, fail(malformed, errors.New("policy is missing"))
	}
	return reply{}, a.setPolicy(callerOf(r), q.ID, *q.Text)
}

func (a *API) getPolicies(r *http.Request) (reply, error) {
	list, err := a.listPolicies(callerOf(r))
	if err != nil {
		return reply{}, err
	}
	return jsonReply(list)
}

func (a *API) getKeySet(*http.Request) (reply, error) {
	raw, err := a.Tokens.KeySet()
	return reply{mimeJSON, raw}, err
}
