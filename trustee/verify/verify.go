// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

// Package verify gives out the verifiers of the TEEs that the broker accepts
// and of which evidence can prove something.
package verify

import (
	"net/http"
	"time"

	"cocoon/trustee/as"
	"cocoon/trustee/verify/snp"
	"cocoon/trustee/verify/tdx"
)

// Config says where verifiers find what evidence does not bring.
type Config struct {
	// SNPCerts is a folder of certificates of AMD's processors. The key
	// service's answers are kept there. "" keeps nothing.
	SNPCerts string
	// SNPKeyService is the address of AMD's key service or a mirror of it; ""
	// asks nobody.
	SNPKeyService string
	// Now tells the time; nil means time.Now.
	Now func() time.Time
}

// fetchTimeout bounds one question to a service of a vendor.
const fetchTimeout = 20 * time.Second

// New returns the verifiers by name of the TEE.
func New(cfg Config) (map[string]as.Verifier, error) {
	var sources []snp.Source
	if cfg.SNPCerts != "" {
		sources = append(sources, snp.Folder(cfg.SNPCerts))
	}
	if cfg.SNPKeyService != "" {
		client := &http.Client{Timeout: fetchTimeout}
		sources = append(sources, snp.KDS{URL: cfg.SNPKeyService, Client: client, Cache: snp.Folder(cfg.SNPCerts)})
	}
	v, err := snp.New(snp.Config{Sources: sources, Now: cfg.Now})
	if err != nil {
		return nil, err
	}
	quotes, err := tdx.New(tdx.Config{Now: cfg.Now})
	if err != nil {
		return nil, err
	}
	return map[string]as.Verifier{"snp": v, "tdx": quotes}, nil
}
