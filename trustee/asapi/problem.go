// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package asapi

import (
	"errors"
	"net/http"
	"strings"

	"google.golang.org/grpc/codes"

	"cocoon/internal/bounded"
	"cocoon/trustee/admin"
	"cocoon/trustee/as"
	"cocoon/trustee/policy"
	"cocoon/trustee/rvps"
	"cocoon/trustee/store"
)

// maxDetail bounds the text of an error, which travels in a header of gRPC.
const maxDetail = 2048

// kind is what went wrong, as far as the caller is concerned.
type kind int

const (
	internal kind = iota
	malformed
	denied
	missing
	tooLarge
	refused
	busy
)

// problem is an error with its kind. The text of internal errors stays here.
type problem struct {
	kind kind
	err  error
}

func (p *problem) Error() string { return p.err.Error() }

func (p *problem) Unwrap() error { return p.err }

func fail(k kind, err error) error { return &problem{kind: k, err: err} }

// problemOf gives err the kind that its cause tells, or otherwise. It keeps a
// kind that is there, and nil.
func problemOf(err error, otherwise kind) error {
	if err == nil {
		return nil
	}
	if p, ok := errors.AsType[*problem](err); ok {
		return &problem{kind: p.kind, err: err}
	}
	for _, c := range causes() {
		if errors.Is(err, c.cause) {
			return fail(c.kind, err)
		}
	}
	return fail(otherwise, err)
}

type cause struct {
	cause error
	kind  kind
}

func causes() []cause {
	return []cause{
		{admin.ErrDenied, denied},
		{bounded.ErrTooLarge, tooLarge},
		{as.ErrUnknownTEE, malformed},
		{as.ErrSampleDisabled, malformed},
		{as.ErrSubmission, malformed},
		{store.ErrBadName, malformed},
		{policy.ErrBadPolicy, malformed},
		{rvps.ErrBadMessage, malformed},
		{store.ErrNotFound, missing},
	}
}

// answer is what an error looks like from outside.
type answer struct {
	status int
	code   codes.Code
	text   string
}

// answerOf maps an error once, for both interfaces. Upstream knows only 500 and
// ABORTED; clients tell success from the rest and show the text, so that REST
// says more here. In gRPC the verdict about evidence stays ABORTED.
func answerOf(err error) answer {
	p, ok := errors.AsType[*problem](err)
	if !ok {
		p = &problem{kind: internal, err: err}
	}
	text := bound(p.err.Error())
	switch p.kind {
	case malformed:
		return answer{http.StatusBadRequest, codes.Aborted, text}
	case denied:
		return answer{http.StatusUnauthorized, codes.Unauthenticated, text}
	case missing:
		return answer{http.StatusNotFound, codes.Aborted, text}
	case tooLarge:
		return answer{http.StatusRequestEntityTooLarge, codes.ResourceExhausted, text}
	case refused:
		return answer{http.StatusUnprocessableEntity, codes.Aborted, text}
	case busy:
		return answer{http.StatusServiceUnavailable, codes.Unavailable, text}
	case internal:
	}
	return answer{http.StatusInternalServerError, codes.Internal, "internal error"}
}

// bound makes one line of text, which an answer or the log holds.
func bound(text string) string {
	text = strings.Join(strings.Fields(text[:min(len(text), 2*maxDetail)]), " ")
	return strings.ToValidUTF8(text[:min(len(text), maxDetail)], "")
}
