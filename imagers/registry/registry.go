// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

// Package registry fetches images from an OCI distribution registry over TLS.
//
// The registry, and on the way to it the host, feed everything here. Nothing
// that arrives is believed before its digest is checked: a manifest against
// the reference or what the registry announced, everything else against the
// manifest. All documents are bounded, every wait ends, and a connection is
// never made without TLS, also where a redirect asks for it.
//
// Formats: OCI distribution and image specifications, Docker schema 2.
package registry

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"sync/atomic"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"

	"cocoon/internal/stage"
)

// ErrReference is returned for an image reference that cannot be parsed. Its
// text is the one that peers print.
var ErrReference = errors.New("Illegal image reference") //nolint:staticcheck // text that users look for

// maxReference bounds the bytes of an image reference.
const maxReference = 1024

// Config sets up a Client. The zero value of a field means its default.
type Config struct {
	Roots       *x509.CertPool                        // trusted certificates; default the system's
	Proxy       func(*http.Request) (*url.URL, error) // default no proxy
	Connections int                                   // idle connections kept per host; default 4
	IdleTimeout time.Duration                         // longest wait for a connection, an answer, or the next bytes; default 30 s
	Retry       Retry
	Log         *slog.Logger // default slog.Default
}

// Client talks to registries. It is safe for concurrent use.
type Client struct {
	base  http.RoundTripper
	close func()
	idle  time.Duration
	retry Retry
	log   *slog.Logger
}

// New returns a client. Close it to drop its connections.
func New(c Config) *Client {
	if c.IdleTimeout == 0 {
		c.IdleTimeout = 30 * time.Second
	}
	if c.Connections == 0 {
		c.Connections = 4
	}
	if c.Log == nil {
		c.Log = slog.Default()
	}
	t := &http.Transport{
		Proxy:                 c.Proxy,
		DialContext:           (&net.Dialer{Timeout: c.IdleTimeout, KeepAlive: 30 * time.Second}).DialContext,
		TLSClientConfig:       &tls.Config{RootCAs: c.Roots, MinVersion: tls.VersionTLS12},
		TLSHandshakeTimeout:   c.IdleTimeout,
		ResponseHeaderTimeout: c.IdleTimeout,
		IdleConnTimeout:       90 * time.Second,
		MaxIdleConnsPerHost:   c.Connections,
		ReadBufferSize:        64 << 10,
		DisableCompression:    true,
		// Bytes of a header are the registry's; the default of 1 MiB is plenty.
		MaxResponseHeaderBytes: 256 << 10,
	}
	return &Client{
		base: tlsOnly{t}, close: t.CloseIdleConnections, idle: c.IdleTimeout,
		retry: c.Retry.withDefaults(), log: c.Log,
	}
}

// Close drops idle connections.
func (c *Client) Close() { c.close() }

// errPlain is returned instead of sending a request without TLS.
var errPlain = errors.New("refused to talk without tls")

// tlsOnly refuses requests that would not be encrypted. The libraries above
// try plain HTTP for some host names by themselves, and follow redirects.
type tlsOnly struct{ next http.RoundTripper }

func (t tlsOnly) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.URL.Scheme != "https" {
		return nil, fmt.Errorf("request to %q: %w", req.URL.Host, errPlain)
	}
	return t.next.RoundTrip(req)
}

// firstError remembers why the first request failed. The library goes on to try
// plain HTTP where it thinks fit and then reports both failures in one text.
type firstError struct {
	next http.RoundTripper
	err  atomic.Pointer[error]
}

func (f *firstError) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := f.next.RoundTrip(req)
	if err != nil {
		f.err.CompareAndSwap(nil, &err)
	}
	return resp, err
}

// registryHost is a host name or address with an optional port.
var registryHost = regexp.MustCompile(`^([A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?$`)

// ParseReference parses an image reference with the usual defaults: a
// registry, the tag "latest". Where a tag and a digest are given the digest
// decides. The error wraps ErrReference.
func ParseReference(s string) (name.Reference, error) {
	if len(s) > maxReference {
		return nil, fmt.Errorf("%w: %d bytes long", ErrReference, len(s))
	}
	ref, err := name.ParseReference(s)
	if err != nil {
		return nil, fmt.Errorf("%w: %q: %w", ErrReference, s, err)
	}
	// The library takes whatever a URL takes as a host.
	if host := ref.Context().RegistryStr(); !registryHost.MatchString(host) {
		return nil, fmt.Errorf("%w: %q: %q is no registry", ErrReference, s, host)
	}
	return ref, nil
}

// Repository is one repository of a registry, logged in to.
type Repository struct {
	client *Client
	http   *http.Client
	repo   name.Repository
}

// Open logs in to the repository that ref names. Errors carry a stage: DNS,
// Connect, TLS, Unauthorized, NotFound or Registry.
func (c *Client) Open(ctx context.Context, ref name.Reference, auth authn.Authenticator) (*Repository, error) {
	repo := ref.Context()
	var rt http.RoundTripper
	err := c.retry.run(ctx, func() (time.Duration, error) {
		// The library's ping has no way to end an attempt that stalls.
		ctx, cancel := context.WithTimeout(ctx, 2*c.idle)
		defer cancel()
		first := &firstError{next: c.base}
		var err error
		rt, err = transport.NewWithContext(ctx, repo.Registry, auth, first, []string{repo.Scope(transport.PullScope)})
		if cause := first.err.Load(); err != nil && cause != nil {
			err = *cause
		}
		return 0, err
	})
	if err != nil {
		return nil, classify(fmt.Errorf("log in to registry %q: %w", repo.RegistryStr(), err))
	}
	return &Repository{client: c, http: &http.Client{Transport: rt}, repo: repo}, nil
}

// url returns the address of an object of the repository.
func (r *Repository) url(kind, id string) string {
	u := url.URL{Scheme: "https", Host: r.repo.RegistryStr(), Path: "/v2/" + r.repo.RepositoryStr() + "/" + kind + "/" + id}
	return u.String()
}

// get sends one request. An answer with another status than those in ok is an
// error that wraps *statusError.
func (r *Repository) get(ctx context.Context, address string, header http.Header, ok ...int) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return nil, err
	}
	for k, v := range header {
		req.Header[k] = v
	}
	resp, err := r.http.Do(req)
	if err != nil {
		return nil, hideQuery(err)
	}
	for _, status := range ok {
		if resp.StatusCode == status {
			return resp, nil
		}
	}
	// The body is the registry's prose; the status says enough.
	return nil, errors.Join(&statusError{resp.StatusCode, retryAfter(resp.Header)}, resp.Body.Close())
}

// hideQuery removes the address from a client error: after a redirect it may
// hold a signed query.
func hideQuery(err error) error {
	if ue, ok := errors.AsType[*url.Error](err); ok {
		if u, perr := url.Parse(ue.URL); perr == nil {
			return fmt.Errorf("%s %q: %w", strings.ToLower(ue.Op), u.Host, ue.Err)
		}
		return ue.Err
	}
	return err
}

// statusError is an answer that is not the one asked for.
type statusError struct {
	status int
	after  time.Duration // what the registry asks to wait
}

func (e *statusError) Error() string {
	return fmt.Sprintf("registry answered %d %s", e.status, http.StatusText(e.status))
}

// status returns the HTTP status that err stands for, or 0.
func statusOf(err error) int {
	if e, ok := errors.AsType[*statusError](err); ok {
		return e.status
	}
	if e, ok := errors.AsType[*transport.Error](err); ok {
		return e.StatusCode
	}
	return 0
}

// classify gives err the stage at which it arose.
func classify(err error) error {
	switch statusOf(err) {
	case http.StatusUnauthorized, http.StatusForbidden:
		return stage.Wrap(stage.Unauthorized, err)
	case http.StatusNotFound:
		return stage.Wrap(stage.NotFound, err)
	}
	if _, ok := errors.AsType[*net.DNSError](err); ok {
		return stage.Wrap(stage.DNS, err)
	}
	if isTLS(err) || onlyPlain(err) {
		return stage.Wrap(stage.TLS, err)
	}
	if op, ok := errors.AsType[*net.OpError](err); ok && op.Op == "dial" {
		return stage.Wrap(stage.Connect, err)
	}
	return stage.Wrap(stage.Registry, err)
}

// isTLS reports whether err is about certificates or the TLS protocol.
func isTLS(err error) bool {
	if _, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		return true
	}
	if _, ok := errors.AsType[tls.RecordHeaderError](err); ok {
		return true
	}
	if _, ok := errors.AsType[tls.AlertError](err); ok {
		return true
	}
	return false
}

// onlyPlain reports whether err is nothing but a request that was refused for
// want of TLS. The login library tries plain HTTP besides TLS for local
// addresses; there the error of the latter counts.
func onlyPlain(err error) bool {
	_, network := errors.AsType[*net.OpError](err)
	return errors.Is(err, errPlain) && !network
}
