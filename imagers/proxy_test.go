// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package imagers_test

import (
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"cocoon/imagers"
	"cocoon/internal/stage"
)

// tunnels is an HTTP proxy that leads every CONNECT to one address.
type tunnels struct {
	to    string
	conns sync.WaitGroup
	mu    sync.Mutex
	asked []string // guarded by mu
}

func (p *tunnels) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	p.conns.Add(1)
	defer p.conns.Done()
	p.mu.Lock()
	p.asked = append(p.asked, r.Method+" "+r.Host+" "+r.Header.Get("Proxy-Authorization"))
	p.mu.Unlock()
	up, err := net.Dial("tcp", p.to)
	if err != nil {
		w.WriteHeader(http.StatusBadGateway)
		return
	}
	w.WriteHeader(http.StatusOK)
	down, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		_ = up.Close()
		return
	}
	var copies sync.WaitGroup
	for _, c := range [][2]net.Conn{{up, down}, {down, up}} {
		copies.Go(func() {
			_, _ = io.Copy(c[0], c[1])
			_ = c[0].Close()
		})
	}
	copies.Wait()
}

func TestImagesArePulledThroughTheProxy(t *testing.T) {
	t.Parallel()
	p := &tunnels{}
	srv := httptest.NewServer(p)
	t.Cleanup(func() { srv.Close(); p.conns.Wait() })
	r := newRig(t, func(c *imagers.Config, _ *imagers.Deps) {
		c.Proxy.HTTPS = strings.Replace(srv.URL, "http://", "http://u:p@", 1)
		c.Proxy.NoProxy = "direct.invalid"
		c.Retry.Attempts = 1
	})
	p.to = r.reg.Host
	r.reg.Image(t, "app", "latest", layers(t), nil)
	// The name does not lead to the registry except through the proxy; the
	// registry's certificate is for it.
	_, port, _ := strings.Cut(r.reg.Host, ":")
	if _, err := r.Pull(t.Context(), imagers.Request{Image: "example.com:" + port + "/app", Bundle: r.bundle()}); err != nil {
		t.Fatal(err)
	}
	p.mu.Lock()
	if len(p.asked) == 0 || p.asked[0] != "CONNECT example.com:"+port+" Basic dTpw" {
		t.Errorf("the proxy was asked %q", p.asked)
	}
	p.mu.Unlock()
	if _, err := r.Pull(t.Context(), imagers.Request{Image: "direct.invalid:" + port + "/app", Bundle: r.bundle()}); stage.Of(err) != stage.DNS {
		t.Errorf("a host that needs no proxy: %v", err)
	}
}
