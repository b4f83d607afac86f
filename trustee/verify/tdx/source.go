// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package tdx

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"cocoon/trustee/verify/fetch"
)

// DefaultPCS is Intel's provisioning certification service.
const DefaultPCS = "https://api.trustedservices.intel.com"

const maxAnswer = 1 << 20

// RootCRL is where Intel keeps the list of revoked CAs.
const RootCRL = "https://certificates.trustedservices.intel.com/IntelSGXRootCA.der"

// Folder is a Source on files: <FMSPC>.tcb.json, qe-identity.json, chain.pem,
// <CA>.crl and root.crl, each as Intel's service gives it.
type Folder string

func (d Folder) names(p Platform) [5]string {
	return [5]string{p.FMSPC + ".tcb.json", "qe-identity.json", "chain.pem", p.CA + ".crl", "root.crl"}
}

// Collateral implements Source.
func (d Folder) Collateral(_ context.Context, p Platform) (*Collateral, error) {
	var parts [5][]byte
	for i, name := range d.names(p) {
		b, err := os.ReadFile(filepath.Join(string(d), name))
		if errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("%w: %w", ErrNoCollateral, err)
		}
		if err != nil {
			return nil, err
		}
		parts[i] = b
	}
	return &Collateral{TCBInfo: parts[0], QEIdentity: parts[1], Chain: parts[2], CRL: parts[3], RootCRL: parts[4]}, nil
}

// PCS is a Source that asks Intel's service or a cache of it (PCCS).
type PCS struct {
	URL    string // DefaultPCS
	Client *http.Client
	// RootCRL is where the list of revoked CAs is; "" means at a PCCS's URL.
	RootCRL string
}

// Collateral implements Source.
func (s PCS) Collateral(ctx context.Context, p Platform) (*Collateral, error) {
	c := &Collateral{}
	tcb, header, err := s.get(ctx, "tdx/certification/v4/tcb?fmspc="+p.FMSPC)
	if err != nil {
		return nil, fmt.Errorf("TCB info: %w", err)
	}
	c.TCBInfo = tcb
	chain, err := url.QueryUnescape(header.Get("TCB-Info-Issuer-Chain"))
	if err != nil {
		return nil, fmt.Errorf("chain of the TCB info: %w", err)
	}
	c.Chain = []byte(chain)
	if c.QEIdentity, _, err = s.get(ctx, "tdx/certification/v4/qe/identity"); err != nil {
		return nil, fmt.Errorf("identity of the quoting enclave: %w", err)
	}
	if c.CRL, _, err = s.get(ctx, "sgx/certification/v4/pckcrl?encoding=der&ca="+p.CA); err != nil {
		return nil, fmt.Errorf("revoked PCKs: %w", err)
	}
	if c.RootCRL, err = s.rootCRL(ctx); err != nil {
		return nil, fmt.Errorf("revoked CAs: %w", err)
	}
	return c, nil
}

// rootCRL returns the list of revoked CAs, which a PCCS gives in hexadecimal.
func (s PCS) rootCRL(ctx context.Context) ([]byte, error) {
	if s.RootCRL != "" {
		b, _, err := fetch.Get(ctx, s.Client, s.RootCRL, maxAnswer)
		return b, err
	}
	text, _, err := s.get(ctx, "sgx/certification/v4/rootcacrl")
	if err != nil {
		return nil, err
	}
	return hex.DecodeString(strings.TrimSpace(string(text)))
}

func (s PCS) get(ctx context.Context, path string) ([]byte, http.Header, error) {
	b, header, err := fetch.Get(ctx, s.Client, s.URL+"/"+path, maxAnswer)
	if errors.Is(err, fetch.ErrNotFound) {
		err = fmt.Errorf("%w: %w", ErrNoCollateral, err)
	}
	return b, header, err
}
