// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

// Package imagers pulls container images inside the guest: it resolves a
// reference, applies the owner's image policy, fetches, decrypts, verifies
// and unpacks the layers in one pass, and mounts them as a container's root.
//
// The host chooses the reference and carries every byte; the registry chooses
// the content. Neither is believed: content is bound to digests, access to
// keys and the policy to the guest's attestation, and a layer becomes visible
// only after its last byte was verified. What goes wrong carries a stage
// (package stage), and the texts that users of the peers look for.
package imagers

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"runtime"
	"time"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/net/http/httpproxy"
	"golang.org/x/sync/semaphore"

	"cocoon/imagers/decrypt"
	"cocoon/imagers/registry"
	"cocoon/imagers/store"
	"cocoon/imagers/unpack"
	"cocoon/imagers/verify"
)

// DefaultWorkDir is where layers are kept unless the configuration names
// another place. Peers mount trusted storage there.
const DefaultWorkDir = "/run/kata-containers/image"

// KeyUnwrapper opens a wrapped layer key. annotation is one AnnotationPacket
// (JSON, decoded from the layer annotation of the key provider
// attestation-agent); the result is the cipher's private options (JSON) as
// ocicrypt writes them.
type KeyUnwrapper = decrypt.KeyUnwrapper

// Resources fetches secrets of the owner by their kbs:// address.
type Resources interface {
	Resource(ctx context.Context, uri string) ([]byte, error)
}

// Proxy says through which HTTP proxies registries are reached. All three
// follow the conventions of the environment variables of the same names; the
// environment itself is not looked at.
type Proxy struct {
	HTTPS, HTTP, NoProxy string
}

// Config sets up a Puller. The zero value of a field means its default.
type Config struct {
	WorkDir       string        // default DefaultWorkDir
	ExtraRootsPEM []string      // certificates that are trusted beside the system's
	Proxy         Proxy         // default none
	MaxConcurrent int           // layers unpacked at once, over all images; default one more than cores
	AuthURI       string        // auth.json: kbs://, file:// or a path; default anonymous
	PolicyURI     string        // policy.json, likewise; goes before Policy
	Policy        string        // policy.json itself; with neither every image is accepted
	Platform      v1.Platform   // default linux and the architecture of this program
	Limits        unpack.Limits // of each layer
	Retry         registry.Retry
	IdleTimeout   time.Duration // longest wait for bytes of a registry; default 30 s
	Log           *slog.Logger  // default slog.Default
}

// Deps are the services that a Puller uses.
type Deps struct {
	Keys      KeyUnwrapper // needed for encrypted layers
	Resources Resources    // needed for kbs:// addresses
}

// Puller pulls images. It is safe for concurrent use.
type Puller struct {
	config   Config
	deps     Deps
	log      *slog.Logger
	registry *registry.Client
	store    *store.Store
	slots    *semaphore.Weighted // one per layer that is being unpacked
	decoders unpack.Decoders

	setup    *semaphore.Weighted // held while settings are fetched; a lock that ctx can leave
	settings *settings           // guarded by setup
}

// settings is what the owner configured by address, fetched at first use.
type settings struct {
	credentials *registry.Credentials
	policy      *verify.Policy
}

// New returns a puller and takes its work directory over: layers of an
// earlier puller are removed. Close it at the end.
func New(config Config, deps Deps) (*Puller, error) {
	config = config.withDefaults()
	roots, err := x509.SystemCertPool()
	if err != nil {
		return nil, fmt.Errorf("load system certificates: %w", err)
	}
	for i, pem := range config.ExtraRootsPEM {
		if !roots.AppendCertsFromPEM([]byte(pem)) {
			return nil, fmt.Errorf("extra root certificate %d holds no certificate", i)
		}
	}
	st, err := store.New(config.WorkDir, config.Log)
	if err != nil {
		return nil, err
	}
	client := registry.New(registry.Config{
		Roots: roots, Proxy: config.Proxy.function(), Connections: config.MaxConcurrent + 1,
		IdleTimeout: config.IdleTimeout, Retry: config.Retry, Log: config.Log,
	})
	return &Puller{
		config: config, deps: deps, log: config.Log, registry: client, store: st,
		slots: semaphore.NewWeighted(int64(config.MaxConcurrent)), setup: semaphore.NewWeighted(1),
	}, nil
}

func (c Config) withDefaults() Config {
	if c.WorkDir == "" {
		c.WorkDir = DefaultWorkDir
	}
	if c.MaxConcurrent <= 0 {
		// One more than cores: the last layers of an image seldom end together.
		c.MaxConcurrent = runtime.GOMAXPROCS(0) + 1
	}
	if c.Platform.OS == "" {
		c.Platform.OS = "linux"
	}
	if c.Platform.Architecture == "" {
		c.Platform.Architecture = runtime.GOARCH
	}
	if c.Log == nil {
		c.Log = slog.Default()
	}
	return c
}

// function returns the proxy chooser for an http.Transport.
func (p Proxy) function() func(*http.Request) (*url.URL, error) {
	choose := (&httpproxy.Config{HTTPSProxy: p.HTTPS, HTTPProxy: p.HTTP, NoProxy: p.NoProxy}).ProxyFunc()
	return func(r *http.Request) (*url.URL, error) { return choose(r.URL) }
}

// Close drops connections and gives up the work directory. No pull may be
// under way. Mounted roots stay.
func (p *Puller) Close() error {
	p.registry.Close()
	return p.store.Close()
}

// errNoKeys is returned for an encrypted image where no key can be had.
var errNoKeys = errors.New("no key unwrapper is configured")
