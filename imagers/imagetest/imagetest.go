// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

// Package imagetest makes container images and serves them from a real
// registry over TLS, for the tests of the image puller. It is never linked
// into a program.
package imagetest

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/containers/ocicrypt/blockcipher"
	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// Registry is a registry on the loopback interface.
type Registry struct {
	Host  string // host:port
	CAPEM string // certificate that clients must trust
	// Intercept, when set, sees every request first; it returns true when it
	// answered itself.
	Intercept atomic.Pointer[func(http.ResponseWriter, *http.Request) bool]
	// Requests counts what clients asked for.
	Requests atomic.Int64
	client   *http.Client
}

// Serve starts a registry that ends with the test.
func Serve(t testing.TB) *Registry {
	t.Helper()
	r := &Registry{}
	inner := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		r.Requests.Add(1)
		if f := r.Intercept.Load(); f != nil && (*f)(w, req) {
			return
		}
		inner.ServeHTTP(w, req)
	}))
	srv.Config.ErrorLog = log.New(io.Discard, "", 0)
	srv.StartTLS()
	t.Cleanup(srv.Close)
	r.Host = strings.TrimPrefix(srv.URL, "https://")
	r.CAPEM = string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: srv.Certificate().Raw}))
	r.client = srv.Client()
	return r
}

// SetIntercept sets Intercept.
func (r *Registry) SetIntercept(f func(http.ResponseWriter, *http.Request) bool) {
	r.Intercept.Store(&f)
}

// Blob stores data and returns its descriptor.
func (r *Registry) Blob(t testing.TB, repo, mediaType string, data []byte) v1.Descriptor {
	t.Helper()
	d := digest.FromBytes(data)
	r.send(t, http.MethodPost, "/v2/"+repo+"/blobs/uploads/?digest="+d.String(), "application/octet-stream", data)
	return v1.Descriptor{MediaType: mediaType, Digest: d, Size: int64(len(data))}
}

// Manifest stores a manifest or index under a tag and returns its descriptor.
func (r *Registry) Manifest(t testing.TB, repo, tag, mediaType string, doc any) v1.Descriptor {
	t.Helper()
	data, err := json.Marshal(doc)
	if err != nil {
		t.Fatal(err)
	}
	r.send(t, http.MethodPut, "/v2/"+repo+"/manifests/"+tag, mediaType, data)
	return v1.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(data), Size: int64(len(data))}
}

func (r *Registry) send(t testing.TB, method, path, mediaType string, body []byte) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, "https://"+r.Host+path, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", mediaType)
	resp, err := r.client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusCreated {
		text, _ := io.ReadAll(resp.Body)
		t.Fatalf("%s %s: %s %s", method, path, resp.Status, text)
	}
}

// Layer is a layer as an image maker made it.
type Layer struct {
	MediaType   string // default by content
	Blob        []byte
	DiffID      digest.Digest
	Annotations map[string]string
}

// Image stores an image of the layers under repo:tag and returns the
// descriptor of its manifest. edit, if not nil, may spoil manifest and
// configuration before they are stored.
func (r *Registry) Image(t testing.TB, repo, tag string, layers []Layer, edit func(*v1.Manifest, *v1.Image)) v1.Descriptor {
	t.Helper()
	m := v1.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageManifest}
	config := v1.Image{
		Platform: v1.Platform{OS: "linux", Architecture: "amd64"},
		Config:   v1.ImageConfig{Entrypoint: []string{"/bin/app"}, Cmd: []string{"serve"}, Env: []string{"A=b"}, Labels: map[string]string{"l": "v"}},
		RootFS:   v1.RootFS{Type: "layers"},
	}
	for _, l := range layers {
		d := r.Blob(t, repo, l.MediaType, l.Blob)
		d.Annotations = l.Annotations
		m.Layers = append(m.Layers, d)
		config.RootFS.DiffIDs = append(config.RootFS.DiffIDs, l.DiffID)
	}
	if edit != nil {
		edit(&m, &config)
	}
	data, err := json.Marshal(config)
	if err != nil {
		t.Fatal(err)
	}
	d := r.Blob(t, repo, v1.MediaTypeImageConfig, data)
	if m.Config.MediaType != "" {
		d.MediaType = m.Config.MediaType
	}
	m.Config = d
	return r.Manifest(t, repo, tag, m.MediaType, m)
}

// Entry is one tar entry.
type Entry struct {
	tar.Header
	Content string
}

// File is a regular file.
func File(name, content string) Entry {
	return Entry{Header: tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o644, ModTime: Time}, Content: content}
}

// Dir is a directory.
func Dir(name string) Entry {
	return Entry{Header: tar.Header{Name: name, Typeflag: tar.TypeDir, Mode: 0o755, ModTime: Time}}
}

// Link is a hard link.
func Link(name, target string) Entry {
	return Entry{Header: tar.Header{Name: name, Typeflag: tar.TypeLink, Linkname: target, ModTime: Time}}
}

// Symlink is a symbolic link.
func Symlink(name, target string) Entry {
	return Entry{Header: tar.Header{Name: name, Typeflag: tar.TypeSymlink, Linkname: target, Mode: 0o777, ModTime: Time}}
}

// Time is the time of all entries.
var Time = time.Unix(1700000000, 0)

// Tar returns the archive of the entries.
func Tar(t testing.TB, entries ...Entry) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, e := range entries {
		e.Size = int64(len(e.Content))
		if err := w.WriteHeader(&e.Header); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, e.Content); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

// Gzip compresses data.
func Gzip(t testing.TB, data []byte) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := gzip.NewWriter(&buf)
	if _, err := w.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

// Zstd compresses data.
func Zstd(t testing.TB, data []byte, opts ...zstd.EOption) []byte {
	t.Helper()
	w, err := zstd.NewWriter(nil, opts...)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	return w.EncodeAll(data, nil)
}

// GzipLayer makes a gzip layer of a tar.
func GzipLayer(t testing.TB, data []byte) Layer {
	t.Helper()
	return Layer{MediaType: v1.MediaTypeImageLayerGzip, Blob: Gzip(t, data), DiffID: digest.FromBytes(data)}
}

// packet is the annotation that coco_keyprovider writes.
type packet struct {
	KID      string `json:"kid"`
	Wrapped  []byte `json:"wrapped_data"`
	IV       []byte `json:"iv"`
	WrapType string `json:"wrap_type"`
}

// Encrypt encrypts a layer as skopeo and coco_keyprovider do: the cipher of
// ocicrypt, its options wrapped with kek by AES-256-GCM under the name kid.
func Encrypt(t testing.TB, l Layer, kek []byte, kid string) Layer {
	t.Helper()
	handler, err := blockcipher.NewLayerBlockCipherHandler()
	if err != nil {
		t.Fatal(err)
	}
	r, finish, err := handler.Encrypt(bytes.NewReader(l.Blob), blockcipher.AES256CTR)
	if err != nil {
		t.Fatal(err)
	}
	ciphertext, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	opts, err := finish()
	if err != nil {
		t.Fatal(err)
	}
	opts.Private.Digest = digest.FromBytes(l.Blob)
	private := mustJSON(t, opts.Private)
	iv := make([]byte, 12)
	if _, err := rand.Read(iv); err != nil {
		t.Fatal(err)
	}
	p := packet{KID: kid, Wrapped: gcm(t, kek).Seal(nil, iv, private, nil), IV: iv, WrapType: "A256GCM"}
	return Layer{
		MediaType: l.MediaType + "+encrypted", Blob: ciphertext, DiffID: l.DiffID,
		Annotations: map[string]string{
			"org.opencontainers.image.enc.keys.provider.attestation-agent": base64.StdEncoding.EncodeToString(mustJSON(t, p)),
			"org.opencontainers.image.enc.pubopts":                         base64.StdEncoding.EncodeToString(mustJSON(t, opts.Public)),
		},
	}
}

func mustJSON(t testing.TB, v any) []byte {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func gcm(t testing.TB, kek []byte) cipher.AEAD {
	t.Helper()
	block, err := aes.NewCipher(kek)
	if err != nil {
		t.Fatal(err)
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		t.Fatal(err)
	}
	return aead
}
