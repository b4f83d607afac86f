// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package guest_test

import (
	"context"
	"crypto/ed25519"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"cocoon/trustee/admin"
	"cocoon/trustee/pki"
	"cocoon/trustee/rvps"
	"cocoon/trustee/server"
)

// broker is a running key broker and its operator.
type broker struct {
	url   string
	ca    string // PEM
	admin *admin.Client
}

// startBroker serves an empty broker that expects the sample TEE's values.
func startBroker(t *testing.T, change func(*server.Config)) *broker {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "broker")
	if err := pki.Init(dir, pki.Config{Hosts: []string{"127.0.0.1"}, Now: time.Now}); err != nil {
		t.Fatal(err)
	}
	cfg := server.Config{Dir: dir, AllowSample: true}
	if change != nil {
		change(&cfg)
	}
	s := must[*server.Server](t)(server.New(cfg))
	l := must[net.Listener](t)((&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0"))
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, l) }()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Errorf("serve the broker: %v", err)
		}
		if err := s.Close(); err != nil {
			t.Errorf("close the broker: %v", err)
		}
	})
	b := &broker{url: "https://" + l.Addr().String(), ca: string(must[[]byte](t)(os.ReadFile(filepath.Join(dir, pki.CACert))))}
	raw := must[[]byte](t)(os.ReadFile(filepath.Join(dir, pki.AdminKey)))
	key := must[ed25519.PrivateKey](t)(admin.ParsePrivateKey(raw))
	b.admin = must[*admin.Client](t)(admin.NewClient(admin.ClientConfig{URL: b.url, CA: []byte(b.ca), Key: key}))
	t.Cleanup(b.admin.Close)
	b.expect(t, "abcde")
	return b
}

// expect registers what a guest has to report; the sample TEE reports abcde.
func (b *broker) expect(t *testing.T, digest string) {
	t.Helper()
	message := must[[]byte](t)(rvps.NewMessage(map[string]any{
		"launch_digest": []string{digest}, "svn": []string{"1"}, "major_version": 1, "minimum_minor_version": 1,
	}, time.Time{}))
	if err := b.admin.RegisterReferenceValues(t.Context(), message); err != nil {
		t.Fatal(err)
	}
}

// hold stores a secret.
func (b *broker) hold(t *testing.T, path string, secret []byte) {
	t.Helper()
	if err := b.admin.SetResource(t.Context(), path, secret); err != nil {
		t.Fatal(err)
	}
}

// ask gets the site's secret by the REST API of a guest.
func (g *guest) ask(t *testing.T) (status int, text string) {
	t.Helper()
	req := must[*http.Request](t)(http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+g.rest+"/cdh/resource/"+secretPath, nil))
	res := must[*http.Response](t)(http.DefaultClient.Do(req))
	body, err := io.ReadAll(res.Body)
	if err = errors.Join(err, res.Body.Close()); err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, string(body)
}

func TestAnAttachedDeviceHasToPassToo(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	o := s.settings()
	o.flags = []string{"--sample-device"}
	if status, text := start(t, o).ask(t); status == http.StatusOK || !strings.Contains(text, "gpu0 is contraindicated") {
		t.Errorf("a device that nobody vouches for: %d %s", status, text)
	}
	const good = "package policy\ntrust_claims := {\"hardware\": 2} if input.sampledevice.svn == \"2\""
	if err := s.broker.admin.SetAttestationPolicy(t.Context(), "default_gpu", good); err != nil {
		t.Fatal(err)
	}
	if status, text := start(t, o).ask(t); status != http.StatusOK || text != s.secret {
		t.Errorf("a device that passes: %d %q", status, text)
	}
}
