// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package kbs

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"unicode"

	"cocoon/internal/stage"
)

// Problem is a refusal by the key broker.
type Problem struct {
	Status int    // HTTP status
	Type   string // last part of the broker's error type, for example PolicyDeny; "" if it gave none
	Detail string // the broker's text, bounded and printable; may be empty
}

// Error returns what the broker said, in one line.
func (p *Problem) Error() string {
	s := fmt.Sprintf("key broker answered %d", p.Status)
	if p.Type != "" {
		s += " " + p.Type
	}
	if p.Detail != "" {
		s += ": " + p.Detail
	}
	return s
}

const maxDetail = 1024

func problemOf(err error) (*Problem, bool) { return errors.AsType[*Problem](err) }

// readProblem turns an answer other than 200 into an error. Redirects end here
// as well: following one could lead to a peer without TLS.
func readProblem(resp *http.Response) error {
	if resp.StatusCode >= 300 && resp.StatusCode < 400 {
		to := printable(resp.Header.Get("Location"), 200)
		return stage.Wrap(stage.KBS, &Problem{Status: resp.StatusCode, Detail: "redirect to " + to + " is not followed"})
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxProblem))
	if err != nil {
		return networkError(err)
	}
	return stage.Wrap(stage.KBS, parseProblem(resp.StatusCode, body))
}

// parseProblem reads the broker's error JSON; any other body is its detail.
func parseProblem(status int, body []byte) *Problem {
	var raw struct {
		Type   string `json:"type"`
		Detail string `json:"detail"`
	}
	if err := json.Unmarshal(body, &raw); err != nil || raw.Type == "" && raw.Detail == "" {
		return &Problem{Status: status, Detail: printable(string(body), maxDetail)}
	}
	name := raw.Type[strings.LastIndex(raw.Type, "/")+1:]
	return &Problem{Status: status, Type: printable(name, 64), Detail: printable(raw.Detail, maxDetail)}
}

// printable makes text of the broker safe for one line of a log: at most limit
// bytes, no control characters, white space folded.
func printable(s string, limit int) string {
	s = strings.ToValidUTF8(s, "?")
	s = strings.Map(func(r rune) rune {
		switch {
		case unicode.IsSpace(r):
			return ' '
		case !unicode.IsPrint(r):
			return '?'
		}
		return r
	}, s)
	s = strings.Join(strings.Fields(s), " ")
	if len(s) > limit {
		s = strings.ToValidUTF8(s[:limit], "") + "..."
	}
	return s
}

// aboutResource says that the broker took the token and refused the resource.
func (p *Problem) aboutResource() bool {
	switch p.Type {
	case "PolicyDeny", "PluginInternalError", "PluginNotFound", "InvalidRequestPath":
		return true
	}
	return false
}

// teeStage marks the refusal of this kind of guest, its TEE or its protocol, which
// brokers say before they see any evidence.
func teeStage(err error) error {
	if p, ok := problemOf(err); ok && p.Type == "AttestationError" {
		return stage.Wrap(stage.AttestDenied, p)
	}
	return err
}

// attestStage marks a refusal of evidence.
func attestStage(err error) error {
	p, ok := problemOf(err)
	if ok && (p.Status == http.StatusUnauthorized || p.Status == http.StatusForbidden) {
		return stage.Wrap(stage.AttestDenied, p)
	}
	return err
}

// resourceStage marks a refusal of a resource. Brokers report a missing secret
// as 404, or as 401 PluginInternalError.
func resourceStage(p ResourcePath, err error) error {
	pr, ok := problemOf(err)
	if !ok {
		return err
	}
	switch {
	case pr.Type == "PolicyDeny" || pr.Status == http.StatusForbidden:
		return stage.Wrap(stage.ResourcePolicy, pr)
	case pr.Status == http.StatusNotFound,
		pr.Status == http.StatusUnauthorized && pr.Type == "PluginInternalError" && p.plugin == DefaultPlugin:
		return stage.Wrap(stage.NotFound, pr)
	case pr.Status == http.StatusUnauthorized && !pr.aboutResource():
		return stage.Wrap(stage.Unauthorized, pr)
	}
	return err
}
