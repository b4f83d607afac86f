// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

// Package server puts the parts of the broker together over one folder.
//
// The folder belongs to the operator and is trusted; whoever connects is not.
// One process serves a folder at a time.
package server

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"cocoon/trustee/admin"
	"cocoon/trustee/as"
	"cocoon/trustee/asapi"
	"cocoon/trustee/audit"
	"cocoon/trustee/kbs"
	"cocoon/trustee/pki"
	"cocoon/trustee/policy"
	"cocoon/trustee/rvps"
	"cocoon/trustee/rvps/signer"
	"cocoon/trustee/store"
	"cocoon/trustee/token"
)

const (
	defaultSessions    = 4096
	defaultConns       = 1024
	defaultReadTimeout = 30 * time.Second
	defaultLife        = 5 * time.Minute

	auditFile = "audit.jsonl"
	lockFile  = "lock"
)

// Config says what a Server serves and how.
type Config struct {
	// Dir is a folder that pki.Init made.
	Dir string
	// AllowSample admits guests without a TEE: for tests and demonstrations.
	AllowSample bool
	// Resources keeps the secrets; nil means files in Dir.
	Resources kbs.Resources
	// Verifiers check the evidence of guests, by name of the TEE.
	Verifiers map[string]as.Verifier
	// Now tells the time; nil means time.Now.
	Now func() time.Time
	// Log gets one line per event; nil discards.
	Log *slog.Logger
	// Audit gets the audit records, one Write each, concurrently; nil means
	// the file audit.jsonl in Dir.
	Audit io.Writer
	// TrustedTokens are files with PEM certificates of further attestation
	// services whose tokens are accepted.
	TrustedTokens []string
	// Signers may vouch for reference values. With any, a CoRIM or in-toto
	// statement that none of them signed is refused.
	Signers []signer.Key
	// MaxSessions bounds the handshakes kept; 0 means 4096.
	MaxSessions int
	// MaxConns bounds the open connections of each interface; 0 means 1024.
	MaxConns int
	// SessionLife is how long a handshake lives; 0 means five minutes.
	SessionLife time.Duration
	// ReadTimeout ends clients that do not get on; 0 means 30 seconds.
	ReadTimeout time.Duration
	// CertFile and KeyFile replace the server certificate of Dir if set.
	CertFile, KeyFile string
}

// Server is a broker. Close it when done.
type Server struct {
	cfg     Config
	handler *kbs.Handler
	api     *asapi.API
	cert    tls.Certificate
	closers []func() error
}

// New opens the folder and prepares the broker; it does not listen yet.
func New(cfg Config) (s *Server, err error) {
	cfg.setDefaults()
	s = &Server{cfg: cfg}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.Close())
			s = nil
		}
	}()
	release, err := store.Lock(filepath.Join(cfg.Dir, lockFile))
	if err != nil {
		return s, err
	}
	s.closers = append(s.closers, release)
	if s.cert, err = tls.LoadX509KeyPair(cfg.CertFile, cfg.KeyFile); err != nil {
		return s, fmt.Errorf("load server certificate: %w", err)
	}
	if err := s.open(); err != nil {
		return s, err
	}
	return s, nil
}

func (c *Config) setDefaults() {
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.MaxSessions == 0 {
		c.MaxSessions = defaultSessions
	}
	if c.MaxConns == 0 {
		c.MaxConns = defaultConns
	}
	if c.SessionLife == 0 {
		c.SessionLife = defaultLife
	}
	if c.ReadTimeout == 0 {
		c.ReadTimeout = defaultReadTimeout
	}
	if c.CertFile == "" {
		c.CertFile, c.KeyFile = filepath.Join(c.Dir, pki.ServerCert), filepath.Join(c.Dir, pki.ServerKey)
	}
}

func (s *Server) dir(name string) (*store.Dir, error) {
	d, err := store.OpenDir(filepath.Join(s.cfg.Dir, name))
	if err != nil {
		return nil, err
	}
	s.closers = append(s.closers, d.Close)
	return d, nil
}

func (s *Server) policies(name string, defaults map[string]string) (*policy.Set, error) {
	d, err := s.dir(filepath.Join("policies", name))
	if err != nil {
		return nil, err
	}
	return policy.OpenSet(d, defaults)
}

// open reads everything that lies in the folder.
func (s *Server) open() error {
	d := kbs.Deps{Log: s.cfg.Log, Now: s.cfg.Now}
	d.Resources = s.cfg.Resources
	if d.Resources == nil {
		secrets, err := s.dir("resources")
		if err != nil {
			return err
		}
		d.Resources = store.NewResources(secrets)
	}
	var err error
	if d.ResourcePolicy, err = s.policies("resource", kbs.DefaultPolicies()); err != nil {
		return err
	}
	if d.AttestPolicies, err = s.policies("attestation", as.DefaultPolicies()); err != nil {
		return err
	}
	values, err := s.dir("reference-values")
	if err != nil {
		return err
	}
	if d.ReferenceValues, err = rvps.Open(values, s.cfg.Now, s.cfg.Signers...); err != nil {
		return err
	}
	raw, err := os.ReadFile(filepath.Join(s.cfg.Dir, pki.AdminPub))
	if err != nil {
		return fmt.Errorf("read admin public key: %w", err)
	}
	if d.AdminKey, err = admin.ParsePublicKey(raw); err != nil {
		return err
	}
	if err := s.openAudit(); err != nil {
		return err
	}
	d.Audit = audit.New(s.cfg.Audit, s.cfg.Now)
	return s.assemble(d)
}

// assemble makes the interfaces, of which d has what lies in the folder.
func (s *Server) assemble(d kbs.Deps) error {
	t, err := s.tokens()
	if err != nil {
		return err
	}
	service := as.New(as.Config{Verifiers: s.cfg.Verifiers, AllowSample: s.cfg.AllowSample, Policies: d.AttestPolicies, Lookup: d.ReferenceValues.Query})
	d.Tokens, d.Attester = t, service
	d.Sessions = kbs.NewSessions(s.cfg.MaxSessions, s.cfg.SessionLife, s.cfg.Now)
	s.handler = kbs.NewHandler(d)
	s.api = asapi.New(asapi.Deps{
		Judge: service, Tokens: t, Policies: d.AttestPolicies, ReferenceValues: d.ReferenceValues,
		AdminKey: d.AdminKey, Audit: d.Audit, Log: d.Log, Now: d.Now,
	})
	return nil
}

func (s *Server) openAudit() error {
	if s.cfg.Audit != nil {
		return nil
	}
	f, err := os.OpenFile(filepath.Join(s.cfg.Dir, auditFile), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return fmt.Errorf("open audit log: %w", err)
	}
	s.cfg.Audit = f
	s.closers = append(s.closers, f.Close)
	return nil
}

type tokens struct {
	*token.Signer
	*token.Trust
}

// tokens signs with the key of the folder and trusts it and the configured
// certificates.
func (s *Server) tokens() (*tokens, error) {
	t, err := pki.LoadToken(s.cfg.Dir)
	if err != nil {
		return nil, err
	}
	signer, err := token.NewSigner(t.Key, t.Chain, s.cfg.Now)
	if err != nil {
		return nil, err
	}
	// The leaf alone, so that no other key of its issuer is trusted with it.
	roots := t.Chain[:1]
	for _, file := range s.cfg.TrustedTokens {
		raw, err := os.ReadFile(file)
		if err != nil {
			return nil, fmt.Errorf("read trusted certificates: %w", err)
		}
		certs, err := pki.ParseCerts(raw)
		if err != nil {
			return nil, fmt.Errorf("%q: %w", file, err)
		}
		roots = append(roots[:len(roots):len(roots)], certs...)
	}
	return &tokens{Signer: signer, Trust: token.NewTrust(roots, s.cfg.Now)}, nil
}

// Close releases the folder.
func (s *Server) Close() error {
	var err error
	for i := len(s.closers) - 1; i >= 0; i-- {
		err = errors.Join(err, s.closers[i]())
	}
	s.closers = nil
	return err
}
