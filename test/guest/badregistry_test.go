// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package guest_test

import (
	"crypto/tls"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"cocoon/internal/stage"
	"cocoon/trustee/pki"
)

func TestAnUnreachableRegistryIsReported(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	bad := freeAddress(t) + "/app:1"
	refusal{image: bad, good: s.plain(t, "good"), stage: stage.Connect, names: []string{bad}}.check(t, s, start(t, s.settings()))
}

func TestARegistryThatTheOwnerDoesNotTrustIsReported(t *testing.T) {
	t.Parallel()
	for name, host := range map[string]func(*testing.T, *site) string{
		"unknown authority": strangeRegistry,
		"other name": func(_ *testing.T, s *site) string {
			return strings.Replace(s.registry.Host, "127.0.0.1", "localhost", 1)
		},
		"no TLS": func(t *testing.T, _ *site) string {
			srv := httptest.NewServer(http.NotFoundHandler())
			t.Cleanup(srv.Close)
			return strings.TrimPrefix(srv.URL, "http://")
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSite(t)
			bad := host(t, s) + "/app:1"
			refusal{image: bad, good: s.plain(t, "good"), stage: stage.TLS, names: []string{bad}}.check(t, s, start(t, s.settings()))
		})
	}
}

func TestAnImageThatDoesNotExistIsReported(t *testing.T) {
	t.Parallel()
	for name, suffix := range map[string]string{
		"tag": "absent:1", "digest": "good@" + digest.FromString("another").String(),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSite(t)
			refusal{
				image: s.ref(suffix), good: s.plain(t, "good"), stage: stage.NotFound, names: []string{s.ref(suffix)},
			}.check(t, s, start(t, s.settings()))
		})
	}
}

func TestAManifestThatIsNotOfItsDigestIsReported(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	good := s.plain(t, "good")
	wrong := digest.FromString("another")
	s.registry.SetIntercept(func(_ http.ResponseWriter, r *http.Request) bool {
		r.URL.Path = strings.Replace(r.URL.Path, wrong.String(), "1", 1)
		return false
	})
	refusal{
		image: s.ref("good@" + wrong.String()), good: good, stage: stage.Digest, names: []string{wrong.String()},
	}.check(t, s, start(t, s.settings()))
}

// strangeRegistry serves with a certificate that nobody vouches for.
func strangeRegistry(t *testing.T, _ *site) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "strange")
	if err := pki.Init(dir, pki.Config{Hosts: []string{"127.0.0.1"}, Now: time.Now}); err != nil {
		t.Fatal(err)
	}
	cert := must[tls.Certificate](t)(tls.LoadX509KeyPair(filepath.Join(dir, pki.ServerCert), filepath.Join(dir, pki.ServerKey)))
	srv := httptest.NewUnstartedServer(http.NotFoundHandler())
	srv.TLS = &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12}
	srv.Config.ErrorLog = log.New(io.Discard, "", 0)
	srv.StartTLS()
	t.Cleanup(srv.Close)
	return strings.TrimPrefix(srv.URL, "https://")
}
