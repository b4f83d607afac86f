// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package registry_test

import (
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	"go.uber.org/goleak"

	"cocoon/imagers/imagetest"
	"cocoon/imagers/registry"
	"cocoon/internal/stage"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func client(t testing.TB, reg *imagetest.Registry, edit func(*registry.Config)) *registry.Client {
	t.Helper()
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM([]byte(reg.CAPEM))
	c := registry.Config{Roots: roots, Log: slog.New(slog.DiscardHandler), IdleTimeout: 5 * time.Second,
		Retry: registry.Retry{First: time.Millisecond, Longest: 2 * time.Millisecond}}
	if edit != nil {
		edit(&c)
	}
	cl := registry.New(c)
	t.Cleanup(cl.Close)
	return cl
}

func open(t testing.TB, c *registry.Client, image string) (*registry.Repository, error) {
	t.Helper()
	ref, err := registry.ParseReference(image)
	must(t, err)
	return c.Open(t.Context(), ref, authn.Anonymous)
}

// blobServer serves one blob through serve, and counts the requests.
func blobServer(t testing.TB, data []byte, serve func(n int64, w http.ResponseWriter, r *http.Request) bool) (*imagetest.Registry, v1.Descriptor, *atomic.Int64) {
	t.Helper()
	reg := imagetest.Serve(t)
	d := reg.Blob(t, "repo", "application/octet-stream", data)
	var count atomic.Int64
	reg.SetIntercept(func(w http.ResponseWriter, r *http.Request) bool {
		if !strings.Contains(r.URL.Path, "/blobs/") {
			return false
		}
		return serve(count.Add(1), w, r)
	})
	return reg, d, &count
}

func fetch(t testing.TB, reg *imagetest.Registry, d v1.Descriptor, edit func(*registry.Config)) ([]byte, error) {
	t.Helper()
	repo, err := open(t, client(t, reg, edit), reg.Host+"/repo")
	must(t, err)
	b, err := repo.Blob(t.Context(), d)
	if err != nil {
		return nil, err
	}
	defer func() { must(t, b.Close()) }()
	return io.ReadAll(b)
}

// part answers with the bytes that the request asks for, and breaks the
// connection after n of them.
func part(w http.ResponseWriter, r *http.Request, data []byte, n int) {
	from := 0
	if h := r.Header.Get("Range"); h != "" {
		from, _ = strconv.Atoi(strings.TrimSuffix(strings.TrimPrefix(h, "bytes="), "-"))
		w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", from, len(data)-1, len(data)))
	}
	w.Header().Set("Content-Length", strconv.Itoa(len(data)-from))
	if from > 0 {
		w.WriteHeader(http.StatusPartialContent)
	}
	_, _ = w.Write(data[from:min(from+n, len(data))])
	if from+n < len(data) {
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	}
}

func TestABrokenTransferGoesOnWhereItBroke(t *testing.T) {
	t.Parallel()
	data := bytes.Repeat([]byte("0123456789"), 10_000)
	for name, tc := range map[string]struct {
		serve    func(n int64, w http.ResponseWriter, r *http.Request) bool
		requests int64
	}{
		"connection reset": {func(_ int64, w http.ResponseWriter, r *http.Request) bool { part(w, r, data, 30_000); return true }, 4},
		"server without ranges": {func(n int64, w http.ResponseWriter, r *http.Request) bool {
			r.Header.Del("Range")
			part(w, r, data, 40_000*int(n))
			return true
		}, 3},
		"short answer": {func(n int64, w http.ResponseWriter, r *http.Request) bool {
			if n == 1 {
				_, _ = w.Write(data[:100])
				return true
			}
			part(w, r, data, len(data))
			return true
		}, 2},
		"busy": {func(n int64, w http.ResponseWriter, _ *http.Request) bool {
			if n <= 2 {
				w.Header().Set("Retry-After", "1")
				w.WriteHeader([]int{429, 503}[n-1])
			}
			return n <= 2
		}, 3},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			reg, d, count := blobServer(t, data, tc.serve)
			got, err := fetch(t, reg, d, nil)
			if err != nil || !bytes.Equal(got, data) {
				t.Errorf("got %d bytes, %v", len(got), err)
			}
			if count.Load() != tc.requests {
				t.Errorf("%d requests, want %d", count.Load(), tc.requests)
			}
		})
	}
}

func TestTransfersThatCannotBeSavedFail(t *testing.T) {
	t.Parallel()
	data := bytes.Repeat([]byte("x"), 50_000)
	for name, tc := range map[string]struct {
		serve    func(n int64, w http.ResponseWriter, r *http.Request) bool
		stage    stage.Stage
		requests int64
	}{
		"other bytes": {func(_ int64, w http.ResponseWriter, r *http.Request) bool {
			part(w, r, bytes.Repeat([]byte("y"), 50_000), 50_000)
			return true
		}, stage.Digest, 1},
		"too many": {func(_ int64, w http.ResponseWriter, r *http.Request) bool {
			part(w, r, append(bytes.Clone(data), 'x'), 60_000)
			return true
		}, stage.Digest, 1},
		"never a byte":  {func(_ int64, w http.ResponseWriter, r *http.Request) bool { part(w, r, data, 0); return true }, stage.Registry, 5},
		"a byte a time": {func(_ int64, w http.ResponseWriter, r *http.Request) bool { part(w, r, data, 1); return true }, stage.Registry, 50},
		"not found":     {func(_ int64, w http.ResponseWriter, _ *http.Request) bool { w.WriteHeader(404); return true }, stage.NotFound, 1},
		"unauthorized":  {func(_ int64, w http.ResponseWriter, _ *http.Request) bool { w.WriteHeader(401); return true }, stage.Unauthorized, 1},
		"always busy":   {func(_ int64, w http.ResponseWriter, _ *http.Request) bool { w.WriteHeader(502); return true }, stage.Registry, 5},
		"to plain http": {func(_ int64, w http.ResponseWriter, r *http.Request) bool {
			http.Redirect(w, r, "http://127.0.0.1:1/elsewhere", http.StatusTemporaryRedirect)
			return true
		}, stage.TLS, 1},
		"wrong range": {func(n int64, w http.ResponseWriter, r *http.Request) bool {
			if n == 1 {
				part(w, r, data, 100)
			}
			w.Header().Set("Content-Range", "bytes 7-49999/50000")
			w.WriteHeader(http.StatusPartialContent)
			return true
		}, stage.Registry, 2},
		"range not asked for": {func(_ int64, w http.ResponseWriter, _ *http.Request) bool {
			w.WriteHeader(http.StatusPartialContent)
			return true
		}, stage.Registry, 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			reg, d, count := blobServer(t, data, tc.serve)
			_, err := fetch(t, reg, d, nil)
			if err == nil || stage.Of(err) != tc.stage {
				t.Errorf("got %v, want stage %q", err, tc.stage)
			}
			if count.Load() != tc.requests {
				t.Errorf("%d requests, want %d", count.Load(), tc.requests)
			}
		})
	}
}

func TestASilentRegistryIsGivenUp(t *testing.T) {
	t.Parallel()
	data := bytes.Repeat([]byte("x"), 1000)
	reg, d, count := blobServer(t, data, func(_ int64, w http.ResponseWriter, r *http.Request) bool {
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
		return true
	})
	_, err := fetch(t, reg, d, func(c *registry.Config) { c.IdleTimeout, c.Retry.Attempts = 500*time.Millisecond, 2 })
	if stage.Of(err) != stage.Registry || !strings.Contains(err.Error(), "sent nothing") || count.Load() != 2 {
		t.Errorf("got %v after %d requests", err, count.Load())
	}
}

func TestATricklingRegistryIsGivenUp(t *testing.T) {
	t.Parallel()
	data := bytes.Repeat([]byte("x"), 100_000)
	reg, d, count := blobServer(t, data, func(_ int64, w http.ResponseWriter, r *http.Request) bool {
		tick := time.NewTicker(5 * time.Millisecond)
		defer tick.Stop()
		for i := range data {
			select {
			case <-tick.C:
			case <-r.Context().Done():
				return true
			}
			if _, err := w.Write(data[i : i+1]); err != nil {
				return true
			}
			_ = http.NewResponseController(w).Flush()
		}
		return true
	})
	_, err := fetch(t, reg, d, func(c *registry.Config) { c.IdleTimeout, c.Retry.Total = 500*time.Millisecond, 2 })
	if stage.Of(err) != stage.Registry || !strings.Contains(err.Error(), "too slowly") || count.Load() != 2 {
		t.Errorf("got %v after %d requests", err, count.Load())
	}
}

func TestDescriptorsWithoutAUsableDigestAreRefused(t *testing.T) {
	t.Parallel()
	reg := imagetest.Serve(t)
	for _, d := range []v1.Descriptor{{}, {Digest: "sha256:abc"}, {Digest: digest.SHA384.FromString("x"), Size: 1}, {Digest: digest.FromString("x"), Size: -1}} {
		if _, err := fetch(t, reg, d, nil); stage.Of(err) != stage.Digest {
			t.Errorf("%+v: %v", d, err)
		}
	}
}

func TestTheIndexEntryForThePlatformIsChosen(t *testing.T) {
	t.Parallel()
	reg := imagetest.Serve(t)
	layer := []imagetest.Layer{imagetest.GzipLayer(t, imagetest.Tar(t, imagetest.File("f", "f")))}
	image := func(arch, variant string) v1.Descriptor {
		d := reg.Image(t, "repo", arch+variant, layer, func(_ *v1.Manifest, c *v1.Image) { c.Architecture, c.Author = arch, variant })
		d.Platform = &v1.Platform{OS: "linux", Architecture: arch, Variant: variant}
		return d
	}
	v7, v8, amd := image("arm", "v7"), image("arm", "v8"), image("amd64", "")
	attestation := amd
	attestation.Platform = &v1.Platform{OS: "unknown", Architecture: "unknown"}
	index := v1.Index{MediaType: v1.MediaTypeImageIndex, Manifests: []v1.Descriptor{attestation, v7, v8, amd}}
	index.SchemaVersion = 2
	top := reg.Manifest(t, "repo", "multi", v1.MediaTypeImageIndex, index)
	docker := index
	docker.MediaType = "application/vnd.docker.distribution.manifest.list.v2+json"
	reg.Manifest(t, "repo", "docker", docker.MediaType, docker)
	nested := index
	top.Platform = &v1.Platform{OS: "linux", Architecture: "amd64"}
	nested.Manifests = []v1.Descriptor{top}
	reg.Manifest(t, "repo", "nested", v1.MediaTypeImageIndex, nested)

	repo, err := open(t, client(t, reg, nil), reg.Host+"/repo")
	must(t, err)
	for _, tc := range []struct {
		tag  string
		want v1.Platform
		d    digest.Digest
	}{
		{"multi", v1.Platform{OS: "linux", Architecture: "amd64"}, amd.Digest}, {"docker", v1.Platform{OS: "linux", Architecture: "amd64"}, amd.Digest},
		{"multi", v1.Platform{OS: "linux", Architecture: "arm"}, v7.Digest}, {"multi", v1.Platform{OS: "linux", Architecture: "arm", Variant: "v8"}, v8.Digest},
		{"multi", v1.Platform{OS: "linux", Architecture: "s390x"}, ""}, {"nested", v1.Platform{OS: "linux", Architecture: "amd64"}, ""},
	} {
		ref, err := registry.ParseReference(reg.Host + "/repo:" + tc.tag)
		must(t, err)
		img, err := repo.Image(t.Context(), ref, tc.want)
		if tc.d == "" {
			if stage.Of(err) != stage.Registry {
				t.Errorf("%s %v: %v", tc.tag, tc.want, err)
			}
			continue
		}
		if err != nil || img.Digest != tc.d || img.Index == "" {
			t.Errorf("%s %v: %+v, %v", tc.tag, tc.want, img, err)
		}
	}
}

func TestFailuresToReachARegistryNameTheirStage(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	closed := l.Addr().String()
	must(t, l.Close())
	plain := httptest.NewServer(http.NotFoundHandler())
	t.Cleanup(plain.Close)
	reg := imagetest.Serve(t)
	for host, want := range map[string]stage.Stage{
		closed: stage.Connect, strings.TrimPrefix(plain.URL, "http://"): stage.TLS, "registry.invalid:5000": stage.DNS,
	} {
		_, err := open(t, client(t, reg, func(c *registry.Config) { c.Retry.Attempts = 1 }), host+"/repo")
		if stage.Of(err) != want {
			t.Errorf("%s: got %v, want stage %q", host, err, want)
		}
	}
}

func TestABearerTokenIsFetchedWithTheCredential(t *testing.T) {
	t.Parallel()
	reg := imagetest.Serve(t)
	d := reg.Blob(t, "repo", "application/octet-stream", []byte("data"))
	reg.SetIntercept(func(w http.ResponseWriter, r *http.Request) bool {
		switch {
		case r.URL.Path == "/token":
			if user, password, _ := r.BasicAuth(); user != "u" || password != "p" || r.URL.Query().Get("scope") != "repository:repo:pull" {
				w.WriteHeader(http.StatusUnauthorized)
				return true
			}
			_, _ = io.WriteString(w, `{"token":"ticket"}`)
			return true
		case r.Header.Get("Authorization") == "Bearer ticket":
			return false
		}
		w.Header().Set("WWW-Authenticate", `Bearer realm="https://`+r.Host+`/token",service="test"`)
		w.WriteHeader(http.StatusUnauthorized)
		return true
	})
	ref, err := registry.ParseReference(reg.Host + "/repo")
	must(t, err)
	c := client(t, reg, nil)
	if _, err := c.Open(t.Context(), ref, authn.FromConfig(authn.AuthConfig{Username: "u", Password: "wrong"})); stage.Of(err) != stage.Unauthorized || strings.Contains(err.Error(), "wrong") {
		t.Errorf("wrong password: %v", err)
	}
	repo, err := c.Open(t.Context(), ref, authn.FromConfig(authn.AuthConfig{Username: "u", Password: "p"}))
	must(t, err)
	b, err := repo.Blob(t.Context(), d)
	must(t, err)
	if got, err := io.ReadAll(b); err != nil || string(got) != "data" {
		t.Errorf("got %q, %v", got, err)
	}
	must(t, b.Close())
}

func TestACancelledTransferEndsAtOnce(t *testing.T) {
	t.Parallel()
	data := bytes.Repeat([]byte("x"), 1000)
	ctx, cancel := context.WithCancel(t.Context())
	reg, d, _ := blobServer(t, data, func(_ int64, w http.ResponseWriter, _ *http.Request) bool {
		cancel()
		w.WriteHeader(http.StatusServiceUnavailable)
		return true
	})
	repo, err := open(t, client(t, reg, func(c *registry.Config) { c.Retry.Longest = time.Hour; c.Retry.First = time.Hour }), reg.Host+"/repo")
	must(t, err)
	b, err := repo.Blob(ctx, d)
	must(t, err)
	if _, err := io.ReadAll(b); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	must(t, b.Close())
	if _, err := b.Read(make([]byte, 1)); err == nil {
		t.Error("a closed blob can be read")
	}
}
