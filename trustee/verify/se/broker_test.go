// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package se

import (
	"context"
	"crypto/ed25519"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"cocoon/attest/kbs"
	"cocoon/attest/tee/se"
	"cocoon/trustee/admin"
	"cocoon/trustee/as"
	"cocoon/trustee/pki"
	"cocoon/trustee/server"
)

// broker serves v over TLS with one secret in it, and returns its URL and root.
func broker(t *testing.T, v as.Verifier) (url string, ca []byte) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "broker")
	if err := pki.Init(dir, pki.Config{Hosts: []string{"127.0.0.1"}, Now: time.Now}); err != nil {
		t.Fatal(err)
	}
	s := must[*server.Server](t)(server.New(server.Config{Dir: dir, Verifiers: map[string]as.Verifier{"se": v}}))
	l := must[net.Listener](t)((&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0"))
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, l) }()
	t.Cleanup(func() {
		stop()
		if err := errors.Join(<-done, s.Close()); err != nil {
			t.Error(err)
		}
	})
	url, ca = "https://"+l.Addr().String(), must[[]byte](t)(os.ReadFile(filepath.Join(dir, pki.CACert)))
	key := must[ed25519.PrivateKey](t)(admin.ParsePrivateKey(must[[]byte](t)(os.ReadFile(filepath.Join(dir, pki.AdminKey)))))
	operator := must[*admin.Client](t)(admin.NewClient(admin.ClientConfig{URL: url, CA: ca, Key: key}))
	defer operator.Close()
	if err := operator.SetResource(t.Context(), "default/key/1", []byte("secret")); err != nil {
		t.Fatal(err)
	}
	return url, ca
}

// device is the ultravisor as the guest's kernel has it.
type device struct {
	t *testing.T
	u ultravisor
}

func (d device) Attest(_ context.Context, c *se.Call) error {
	e := se.Evidence{CUID: make([]byte, se.CUIDSize), UserData: c.UserData, Additional: make([]byte, len(c.Additional))}
	copy(c.Measurement, measure(d.u.open(d.t, c.Block), d.u.tags, &e))
	return nil
}

// A guest's own client and attester, and a broker, agree on all of it.
func TestAGuestGetsItsSecretFromABroker(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	v := must[*Verifier](t)(New(s.config()))
	url, ca := broker(t, v)
	for image, good := range map[byte]bool{1: true, 2: false} {
		c := must[*kbs.Client](t)(kbs.New(kbs.Config{URL: url, RootCertsPEM: ca, PinRoots: true}, se.NewWith(device{t, s.guest(t, image)})))
		secret, err := c.Resource(t.Context(), "resource", "default/key/1", "")
		if good && (err != nil || string(secret) != "secret") || !good && (err == nil || !strings.Contains(err.Error(), "no image that may run")) {
			t.Errorf("image %d: %q, %v", image, secret, err)
		}
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	}
}
