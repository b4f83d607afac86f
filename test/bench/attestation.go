// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"time"

	"cocoon/attest/kbs"
	"cocoon/attest/tee/sample"
	"cocoon/trustee/admin"
	"cocoon/trustee/pki"
	"cocoon/trustee/server"
)

// attestations is how many guests attest, resources how many secrets one of
// them fetches.
const (
	attestations = 100
	resources    = 300
	secretPath   = "default/key/1"
	secretText   = "a secret of a usual size: 32 byte"
	allowSecrets = "package policy\n\ndefault allow := true\n"
)

// measureAttestation times the whole protocol against our broker in this
// process: TLS, key, challenge, evidence, verification, token and secret.
func (b *bench) measureAttestation(ctx context.Context) (err error) {
	t, err := startTrustee(ctx, filepath.Join(b.dir, "trustee"))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, t.stop()) }()
	var fresh, cached []time.Duration
	for range attestations {
		d, err := t.attest(ctx)
		if err != nil {
			return fmt.Errorf("attest: %w", err)
		}
		fresh = append(fresh, d)
	}
	c, err := kbs.New(t.config, sample.New())
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	for i := range resources + 1 {
		start := time.Now()
		if err := fetch(ctx, c); err != nil {
			return err
		}
		if i > 0 { // the first attests
			cached = append(cached, time.Since(start))
		}
	}
	for _, s := range []struct {
		name string
		took []time.Duration
	}{{"attest as a new guest and fetch a secret", fresh}, {"fetch a secret with the token at hand", cached}} {
		b.add(row{Group: "attestation", Name: s.name + ", p50", Unit: "ms", Ours: millis(percentile(s.took, 50))})
		b.add(row{Group: "attestation", Name: s.name + ", p99", Unit: "ms", Ours: millis(percentile(s.took, 99))})
	}
	return b.measureFleet(ctx, t)
}

func fetch(ctx context.Context, c *kbs.Client) error {
	secret, err := c.Resource(ctx, kbs.DefaultPlugin, secretPath, "")
	if err == nil && !bytes.Equal(secret, []byte(secretText)) {
		err = errors.New("the broker gave another secret than was stored")
	}
	return err
}

// trustee is our broker, listening on loopback.
type trustee struct {
	config kbs.Config // of its guests
	rest   string     // URL of the attestation service
	server *server.Server
	cancel context.CancelFunc
	served chan error
}

func startTrustee(ctx context.Context, dir string) (*trustee, error) {
	if err := pki.Init(dir, pki.Config{Hosts: []string{"127.0.0.1"}, Now: time.Now}); err != nil {
		return nil, err
	}
	ca, err := os.ReadFile(filepath.Join(dir, pki.CACert))
	if err != nil {
		return nil, err
	}
	s, err := server.New(server.Config{Dir: dir, AllowSample: true, Audit: io.Discard})
	if err != nil {
		return nil, err
	}
	l, err := listenTwice(ctx)
	if err != nil {
		return nil, errors.Join(err, s.Close())
	}
	t := &trustee{server: s, served: make(chan error, 1)}
	t.config = kbs.Config{URL: "https://" + l.Broker.Addr().String(), RootCertsPEM: ca, PinRoots: true}
	t.rest = "https://" + l.REST.Addr().String()
	ctx, t.cancel = context.WithCancel(ctx)
	go func() { t.served <- s.ServeAll(ctx, l) }()
	if err := t.prepare(ctx, dir); err != nil {
		return nil, errors.Join(err, t.stop())
	}
	return t, nil
}

func listenTwice(ctx context.Context) (l server.Listeners, err error) {
	for _, to := range []*net.Listener{&l.Broker, &l.REST} {
		if *to, err = (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0"); err != nil {
			return l, fmt.Errorf("listen for the broker: %w", err)
		}
	}
	return l, nil
}

// prepare stores the secret and lets every guest have it.
func (t *trustee) prepare(ctx context.Context, dir string) error {
	raw, err := os.ReadFile(filepath.Join(dir, pki.AdminKey))
	if err != nil {
		return err
	}
	key, err := admin.ParsePrivateKey(raw)
	if err != nil {
		return err
	}
	c, err := admin.NewClient(admin.ClientConfig{URL: t.config.URL, CA: t.config.RootCertsPEM, Key: key})
	if err != nil {
		return err
	}
	defer c.Close()
	if err := c.SetResourcePolicy(ctx, allowSecrets); err != nil {
		return err
	}
	return c.SetResource(ctx, secretPath, []byte(secretText))
}

// attest is the whole way of a new guest to a secret.
func (t *trustee) attest(ctx context.Context) (time.Duration, error) {
	start := time.Now()
	c, err := kbs.New(t.config, sample.New())
	if err != nil {
		return 0, err
	}
	err = fetch(ctx, c)
	took := time.Since(start)
	return took, errors.Join(err, c.Close())
}

func (t *trustee) stop() error {
	t.cancel()
	return errors.Join(<-t.served, t.server.Close())
}
