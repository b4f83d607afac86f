// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package kbs

import (
	"encoding/json"
	"errors"
	"net/http"
)

// problemBase starts the type of every error answer; clients read what follows.
const problemBase = "https://github.com/confidential-containers/kbs/errors/"

// The variants of error answers, a part of those of the upstream broker.
const (
	variantAdmin    = "AdminAuthAccess"
	variantAttest   = "AttestationError"
	variantHTTP     = "HTTPFailed"
	variantPath     = "InvalidRequestPath"
	variantJWE      = "JweError"
	variantNoPlugin = "PluginNotFound"
	variantPlugin   = "PluginInternalError"
	variantDeny     = "PolicyDeny"
	variantPolicy   = "ParsePolicyError"
	variantEngine   = "PolicyEngineError"
	variantRVPS     = "RvpsError"
	variantSerde    = "SerdeError"
	variantNoToken  = "TokenNotFound"
	variantToken    = "TokenVerifierError"
)

// problem is an error with the answer it gives. Upstream answers 401 to nearly
// everything, on which clients attest anew and try again; that stays where a
// new attestation can help. A missing secret is 404, and one refused under the
// reference values in force is 403: on both they stop and show the detail.
type problem struct {
	status  int
	variant string
	err     error
}

func (p *problem) Error() string { return p.err.Error() }

func (p *problem) Unwrap() error { return p.err }

func fail(status int, variant string, err error) error {
	return &problem{status: status, variant: variant, err: err}
}

func writeProblem(w http.ResponseWriter, err error) error {
	p, ok := errors.AsType[*problem](err)
	if !ok {
		p = &problem{status: http.StatusInternalServerError, variant: variantPlugin, err: errors.New("internal error")}
	}
	body, err := json.Marshal(map[string]string{"type": problemBase + p.variant, "detail": p.err.Error()})
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(p.status)
	_, err = w.Write(body)
	return err
}
