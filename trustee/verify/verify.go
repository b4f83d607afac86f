// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

// Package verify gives out the verifiers of the TEEs that the broker accepts
// and of which evidence can prove something.
package verify

import (
	"net/http"
	"time"

	"golang.org/x/time/rate"

	"cocoon/trustee/as"
	"cocoon/trustee/verify/azvtpm"
	"cocoon/trustee/verify/cca"
	"cocoon/trustee/verify/csv"
	"cocoon/trustee/verify/fetch"
	"cocoon/trustee/verify/se"
	"cocoon/trustee/verify/snp"
	"cocoon/trustee/verify/tdx"
	"cocoon/trustee/verify/tpm"
)

// Config says where verifiers find what evidence does not bring.
type Config struct {
	// SNPCerts is a folder of certificates of AMD's processors. The key
	// service's answers are kept there. "" keeps nothing.
	SNPCerts string
	// SNPKeyService is the address of AMD's key service or a mirror of it; ""
	// asks nobody.
	SNPKeyService string
	// TDXCollateral is a folder of Intel's collateral, which is looked at first;
	// "" has none.
	TDXCollateral string
	// TDXService is the address of Intel's certification service or a cache of
	// it; "" asks nobody. With neither the standing of a platform is unknown.
	TDXService string
	// CSVCerts is a folder of the certificates of Hygon's chips, which is looked
	// at first; "" has none.
	CSVCerts string
	// CSVService is the address of Hygon's service for certificates; "" asks
	// nobody.
	CSVService string
	// TPMKeys is a folder of the keys of plain TPMs that are trusted; "" trusts
	// none, and there is no verifier for them.
	TPMKeys string
	// CCAAnchors is a file of the platforms of Arm CCA that are trusted; ""
	// trusts none, and there is no verifier for them.
	CCAAnchors string
	// SE is what requests to guests of IBM Secure Execution are made with; without
	// host keys there is no verifier for them.
	SE se.Config
	// Now tells the time; nil means time.Now.
	Now func() time.Time
}

const (
	// fetchTimeout bounds one question to a service of a vendor.
	fetchTimeout = 20 * time.Second

	// How often a service is asked: evidence of a processor that nobody knows
	// yet, which strangers can send, has it asked.
	asksPerSecond = 2
	askBurst      = 60
)

// newClient returns a client for one service. A proxy of the operator's network
// may be needed to reach it.
func newClient() *http.Client {
	base := &http.Transport{Proxy: http.ProxyFromEnvironment, ForceAttemptHTTP2: true, TLSHandshakeTimeout: fetchTimeout, IdleConnTimeout: fetchTimeout}
	return &http.Client{
		Timeout:   fetchTimeout,
		Transport: fetch.Limited{Base: base, Limit: rate.NewLimiter(asksPerSecond, askBurst)},
	}
}

// New returns the verifiers by name of the TEE.
func New(cfg Config) (map[string]as.Verifier, error) {
	var sources []snp.Source
	if cfg.SNPCerts != "" {
		sources = append(sources, snp.Folder(cfg.SNPCerts))
	}
	if cfg.SNPKeyService != "" {
		sources = append(sources, snp.KDS{URL: cfg.SNPKeyService, Client: newClient()})
	}
	v, err := snp.New(snp.Config{Sources: sources, Kept: snp.Folder(cfg.SNPCerts), Now: cfg.Now})
	if err != nil {
		return nil, err
	}
	var collateral []tdx.Source
	if cfg.TDXCollateral != "" {
		collateral = append(collateral, tdx.Folder(cfg.TDXCollateral))
	}
	if cfg.TDXService != "" {
		service := tdx.PCS{URL: cfg.TDXService, Client: newClient()}
		if cfg.TDXService == tdx.DefaultPCS {
			service.RootCRL = tdx.RootCRL
		}
		collateral = append(collateral, tdx.NewCache(service, cfg.Now))
	}
	quotes, err := tdx.New(tdx.Config{Sources: collateral, Now: cfg.Now})
	if err != nil {
		return nil, err
	}
	hygon, err := csv.New(csv.Config{Sources: cfg.csvSources()})
	if err != nil {
		return nil, err
	}
	all := map[string]as.Verifier{
		"csv": hygon,
		"snp": v, "tdx": quotes, "az-snp-vtpm": azvtpm.SNP{Reports: v}, "az-tdx-vtpm": azvtpm.TDX{Quotes: quotes},
	}
	if cfg.TPMKeys != "" {
		if all["tpm"], err = tpm.New(cfg.TPMKeys); err != nil {
			return nil, err
		}
	}
	if cfg.CCAAnchors != "" {
		if all["cca"], err = cca.New(cfg.CCAAnchors); err != nil {
			return nil, err
		}
	}
	if cfg.SE.HostKeys != "" {
		cfg.SE.Now = cfg.Now
		if all["se"], err = se.New(cfg.SE); err != nil {
			return nil, err
		}
	}
	return all, nil
}

func (cfg Config) csvSources() []csv.Source {
	var sources []csv.Source
	if cfg.CSVCerts != "" {
		sources = append(sources, csv.Folder(cfg.CSVCerts))
	}
	if cfg.CSVService != "" {
		sources = append(sources, csv.KDS{URL: cfg.CSVService, Client: newClient()})
	}
	return sources
}
