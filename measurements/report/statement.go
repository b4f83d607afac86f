// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package report

import (
	"io"

	"cocoon/trustee/rvps/intoto"
)

type statement struct {
	Type          string             `json:"_type"`
	Subject       []subject          `json:"subject"`
	PredicateType string             `json:"predicateType"`
	Predicate     referencePredicate `json:"predicate"`
}

type subject struct {
	Name   string            `json:"name"`
	Digest map[string]string `json:"digest"`
}

type referencePredicate struct {
	Values map[string][]string `json:"values"`
}

// writeStatement writes an in-toto Statement v1 of the image's files with the
// reference values as its predicate. It is to be signed in a DSSE envelope by
// whoever vouches for it, and has no times: the signer knows how long it is good.
func writeStatement(w io.Writer, r *Report) error {
	s := statement{
		Type: intoto.StatementType, PredicateType: intoto.PredicateType,
		Predicate: referencePredicate{Values: r.references()},
	}
	for _, f := range r.files() {
		s.Subject = append(s.Subject, subject{Name: f.File, Digest: map[string]string{"sha256": f.SHA256, "sha384": f.SHA384}})
	}
	return Encode(w, s)
}
