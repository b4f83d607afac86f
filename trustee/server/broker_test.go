// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package server_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"cocoon/trustee/admin"
	"cocoon/trustee/pki"
	"cocoon/trustee/rvps"
	"cocoon/trustee/server"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const secretText = "correct horse battery staple"

// clock is a time that tests move.
type clock struct {
	mu sync.Mutex
	t  time.Time
}

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.t
}

func (c *clock) advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.t = c.t.Add(d)
}

// lines is an audit log in memory.
type lines struct {
	mu  sync.Mutex
	buf bytes.Buffer
	err error
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err != nil {
		return 0, l.err
	}
	return l.buf.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

func (l *lines) fail(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.err = err
}

// broker is a running server with its operator.
type broker struct {
	dir   string
	url   string
	addr  string
	rest  string // URL of the attestation service
	grpc  string // its address
	ca    []byte
	key   ed25519.PrivateKey
	clock *clock
	audit *lines
	admin *admin.Client
}

func must[T any](t testing.TB) func(v T, err error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// start runs a broker that accepts sample guests, unless change says otherwise.
func start(t testing.TB, change func(*server.Config)) *broker {
	t.Helper()
	b := &broker{dir: filepath.Join(t.TempDir(), "trustee"), clock: &clock{t: time.Now()}, audit: &lines{}}
	if err := pki.Init(b.dir, pki.Config{Hosts: []string{"127.0.0.1"}, Now: time.Now}); err != nil {
		t.Fatal(err)
	}
	cfg := server.Config{Dir: b.dir, AllowSample: true, Now: b.clock.Now, Audit: b.audit}
	if change != nil {
		change(&cfg)
	}
	s := must[*server.Server](t)(server.New(cfg))
	listen := func() net.Listener {
		return must[net.Listener](t)((&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0"))
	}
	l := server.Listeners{Broker: listen(), REST: listen(), GRPC: listen()}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.ServeAll(ctx, l) }()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Errorf("serve: %v", err)
		}
		if err := s.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	b.addr, b.rest, b.grpc = l.Broker.Addr().String(), "https://"+l.REST.Addr().String(), l.GRPC.Addr().String()
	b.url = "https://" + b.addr
	b.ca = must[[]byte](t)(os.ReadFile(filepath.Join(b.dir, pki.CACert)))
	raw := must[[]byte](t)(os.ReadFile(filepath.Join(b.dir, pki.AdminKey)))
	b.key = must[ed25519.PrivateKey](t)(admin.ParsePrivateKey(raw))
	b.admin = must[*admin.Client](t)(admin.NewClient(admin.ClientConfig{URL: b.url, CA: b.ca, Key: b.key, Now: b.clock.Now}))
	t.Cleanup(b.admin.Close)
	return b
}

// goodValues are the reference values of a sample guest.
func goodValues() map[string]any {
	return map[string]any{
		"launch_digest": []string{"abcde"}, "svn": []string{"1"},
		"major_version": 1, "minimum_minor_version": 1,
	}
}

// ready starts a broker with a secret and the reference values for its guest.
func ready(t testing.TB, change func(*server.Config)) *broker {
	t.Helper()
	b := start(t, change)
	b.register(t, goodValues())
	if err := b.admin.SetResource(t.Context(), "default/key/1", []byte(secretText)); err != nil {
		t.Fatal(err)
	}
	return b
}

func (b *broker) register(t testing.TB, values map[string]any) {
	t.Helper()
	message := must[[]byte](t)(rvps.NewMessage(values, time.Time{}))
	if err := b.admin.RegisterReferenceValues(t.Context(), message); err != nil {
		t.Fatal(err)
	}
}
