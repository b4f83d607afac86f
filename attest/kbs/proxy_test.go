// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package kbs

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"cocoon/internal/stage"
)

const brokerName = "kbs.example.com"

// tunnel is a proxy that leads every name to one address.
type tunnel struct {
	*httptest.Server
	to     string
	status int
	asked  atomic.Int32
	auth   atomic.Value
}

func newTunnel(t *testing.T, to string, status int) *tunnel {
	t.Helper()
	p := &tunnel{to: to, status: status}
	p.Server = httptest.NewServer(p)
	t.Cleanup(p.Close)
	return p
}

func (p *tunnel) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	p.asked.Add(1)
	p.auth.Store(r.Header.Get("Proxy-Authorization"))
	if p.status != http.StatusOK || r.Method != http.MethodConnect || r.Host != brokerName+":443" {
		w.WriteHeader(p.status)
		return
	}
	there, err := net.Dial("tcp", p.to) //nolint:noctx // loopback
	if err != nil {
		w.WriteHeader(http.StatusBadGateway)
		return
	}
	defer there.Close() //nolint:errcheck // both ends are gone
	here, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return
	}
	defer here.Close() //nolint:errcheck // both ends are gone
	if _, err := io.WriteString(here, "HTTP/1.1 200 OK\r\n\r\n"); err != nil {
		return
	}
	var both sync.WaitGroup
	both.Go(func() { pass(there, here) })
	both.Go(func() { pass(here, there) })
	both.Wait()
}

// pass copies until one end is closed, and closes the other for it.
func pass(to, from net.Conn) {
	io.Copy(to, from) //nolint:errcheck // the end of a connection
	to.Close()        //nolint:errcheck // it may be closed
}

// proxied is a broker that only a proxy knows the address of.
func proxied(t *testing.T) (*broker, Config) {
	t.Helper()
	ca := newCA(t)
	b := unstarted(t)
	b.start(ca, ca.leaf(t, time.Now().Add(time.Hour), brokerName))
	cfg := b.config()
	cfg.URL = "https://" + brokerName
	return b, cfg
}

func TestTheBrokerIsReachedThroughAProxy(t *testing.T) {
	t.Parallel()
	b, cfg := proxied(t)
	p := newTunnel(t, b.srv.Listener.Addr().String(), http.StatusOK)
	cfg.Proxy = Proxy{HTTPS: strings.Replace(p.URL, "http://", "http://user:word@", 1)}
	c := newClient(t, cfg, &prover{})
	if _, err := c.Token(t.Context()); err != nil {
		t.Fatal(err)
	}
	if p.asked.Load() == 0 || p.auth.Load() != "Basic dXNlcjp3b3Jk" {
		t.Errorf("the proxy was asked %d times with %q", p.asked.Load(), p.auth.Load())
	}
}

func TestWhatAProxyCannotDoIsAnError(t *testing.T) {
	t.Parallel()
	b, cfg := proxied(t)
	other := newCA(t)
	elsewhere := unstarted(t)
	elsewhere.start(other, other.leaf(t, time.Now().Add(time.Hour), brokerName))
	for name, tc := range map[string]struct {
		to     string
		status int
		want   string
	}{
		"refuses":             {b.srv.Listener.Addr().String(), http.StatusForbidden, "Forbidden"},
		"wants a password":    {b.srv.Listener.Addr().String(), http.StatusProxyAuthRequired, "Proxy Authentication Required"},
		"leads to a stranger": {elsewhere.srv.Listener.Addr().String(), http.StatusOK, "unknown authority"},
	} {
		p := newTunnel(t, tc.to, tc.status)
		cfg.Proxy = Proxy{HTTPS: strings.Replace(p.URL, "http://", "http://user:word@", 1)}
		cfg.Deadline = 5 * time.Second
		c := newClient(t, cfg, &prover{})
		_, err := c.Token(t.Context())
		if err == nil || !strings.Contains(err.Error(), tc.want) || strings.Contains(err.Error(), "word@") || stage.Of(err) == "" {
			t.Errorf("%s: %v", name, err)
		}
	}
	if n := elsewhere.count("auth"); n != 0 {
		t.Errorf("a stranger got %d requests", n)
	}
}

func TestHostsWithoutAProxyAreReachedDirectly(t *testing.T) {
	t.Parallel()
	_, cfg := proxied(t)
	p := newTunnel(t, "", http.StatusOK)
	cfg.Proxy = Proxy{HTTPS: p.URL, No: ".example.com"}
	var direct atomic.Int32
	cfg.DialContext = func(context.Context, string, string) (net.Conn, error) {
		direct.Add(1)
		return nil, net.UnknownNetworkError("none")
	}
	cfg.Deadline = 2 * time.Second
	if _, err := newClient(t, cfg, &prover{}).Token(t.Context()); err == nil {
		t.Error("a name that nobody knows was reached")
	}
	if p.asked.Load() != 0 || direct.Load() == 0 {
		t.Errorf("proxy asked %d times, directly %d", p.asked.Load(), direct.Load())
	}
}

func TestAProxyThatMakesNoSenseIsRefused(t *testing.T) {
	t.Parallel()
	for _, raw := range []string{"x", "socks5://proxy", "http://", "http://user:word@proxy/path", "http://user:word@pro xy", "http://proxy?x", "http://proxy#x"} {
		for _, p := range []Proxy{{HTTPS: raw}, {HTTP: raw}} {
			_, err := New(Config{URL: "https://kbs", Proxy: p}, &prover{})
			if err == nil || stage.Of(err) != stage.Config || strings.Contains(err.Error(), "word") {
				t.Errorf("%q: %v", raw, err)
			}
		}
	}
}
