// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"runtime"
	"time"

	"github.com/containers/ocicrypt"
	"github.com/containers/ocicrypt/config"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// layerKey is the key that the key broker holds and that wraps each layer's
// own key, as the coco_keyprovider does it.
type layerKey struct {
	id  string // kbs:///repository/type/tag
	kek []byte // 32 bytes
}

const keyProviderAnnotation = "org.opencontainers.image.enc.keys.provider.attestation-agent"

// The methods of keywrap.KeyWrapper.

func (k layerKey) GetAnnotationID() string { return keyProviderAnnotation }

func (k layerKey) WrapKeys(_ *config.EncryptConfig, opts []byte) ([]byte, error) {
	block, err := aes.NewCipher(k.kek)
	if err != nil {
		return nil, err
	}
	gcm, err := cipher.NewGCM(block)
	if err != nil {
		return nil, err
	}
	iv := make([]byte, gcm.NonceSize())
	if _, err := rand.Read(iv); err != nil {
		return nil, err
	}
	return json.Marshal(struct {
		KID         string `json:"kid"`
		WrappedData []byte `json:"wrapped_data"`
		IV          []byte `json:"iv"`
		WrapType    string `json:"wrap_type"`
	}{k.id, gcm.Seal(nil, iv, opts, nil), iv, "A256GCM"})
}

func (layerKey) UnwrapKey(*config.DecryptConfig, []byte) ([]byte, error) {
	return nil, fmt.Errorf("the demo only encrypts; the guest decrypts")
}
func (layerKey) NoPossibleKeys(map[string][][]byte) bool     { return true }
func (layerKey) GetPrivateKeys(map[string][][]byte) [][]byte { return nil }
func (layerKey) GetKeyIdsFromPacket( //nolint:revive // the interface spells it so
	string) ([]uint64, error) {
	return nil, nil
}
func (layerKey) GetRecipients(string) ([]string, error) { return nil, nil }

// imageRegistry is an OCI registry on loopback with TLS.
type imageRegistry struct {
	port   int
	server *http.Server
	done   chan error
}

func startRegistry(ctx context.Context, cert tls.Certificate) (*imageRegistry, error) {
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("listen for the registry: %w", err)
	}
	r := &imageRegistry{
		port: l.Addr().(*net.TCPAddr).Port,
		server: &http.Server{
			Handler:           registry.New(registry.Logger(log.New(io.Discard, "", 0))),
			TLSConfig:         &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12},
			ReadHeaderTimeout: 10 * time.Second,
			ErrorLog:          log.New(io.Discard, "", 0),
		},
		done: make(chan error, 1),
	}
	go func() { r.done <- r.server.ServeTLS(l, "", "") }()
	return r, nil
}

func (r *imageRegistry) stop() error {
	if err := r.server.Close(); err != nil {
		return err
	}
	if err := <-r.done; !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// pushEncrypted makes an image of one busybox layer, encrypts the layer under
// key and pushes it. It returns the digest of the manifest.
func pushEncrypted(ctx context.Context, rt http.RoundTripper, ref string, key layerKey) (digest.Digest, error) {
	tarball, err := busyboxLayer()
	if err != nil {
		return "", err
	}
	layer, err := encryptLayer(tarball, key)
	if err != nil {
		return "", fmt.Errorf("encrypt the layer: %w", err)
	}
	cfg, err := json.Marshal(ocispec.Image{
		Platform: ocispec.Platform{Architecture: runtime.GOARCH, OS: "linux"},
		Config:   ocispec.ImageConfig{Env: []string{"PATH=/bin"}, Cmd: []string{"/bin/sh"}},
		RootFS:   ocispec.RootFS{Type: "layers", DiffIDs: []digest.Digest{digest.FromBytes(tarball)}},
	})
	if err != nil {
		return "", err
	}
	manifest, err := json.Marshal(ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2},
		MediaType: ocispec.MediaTypeImageManifest,
		Config:    ocispec.Descriptor{MediaType: ocispec.MediaTypeImageConfig, Digest: digest.FromBytes(cfg), Size: int64(len(cfg))},
		Layers:    []ocispec.Descriptor{layer.desc},
	})
	if err != nil {
		return "", err
	}
	r, err := name.ParseReference(ref)
	if err != nil {
		return "", err
	}
	opts := []remote.Option{remote.WithContext(ctx), remote.WithTransport(rt)}
	for _, b := range []struct {
		data []byte
		mt   string
	}{{cfg, ocispec.MediaTypeImageConfig}, {layer.data, layer.desc.MediaType}} {
		if err := remote.WriteLayer(r.Context(), static.NewLayer(b.data, types.MediaType(b.mt)), opts...); err != nil {
			return "", fmt.Errorf("push a blob: %w", err)
		}
	}
	if err := remote.Put(r, rawManifest(manifest), opts...); err != nil {
		return "", fmt.Errorf("push the manifest: %w", err)
	}
	return digest.FromBytes(manifest), nil
}

type rawManifest []byte

func (m rawManifest) RawManifest() ([]byte, error)      { return m, nil }
func (rawManifest) MediaType() (types.MediaType, error) { return types.OCIManifestSchema1, nil }

type encryptedLayer struct {
	desc ocispec.Descriptor
	data []byte
}

func encryptLayer(tarball []byte, key layerKey) (encryptedLayer, error) {
	var zipped bytes.Buffer
	zw := gzip.NewWriter(&zipped)
	if _, err := zw.Write(tarball); err != nil {
		return encryptedLayer{}, err
	}
	if err := zw.Close(); err != nil {
		return encryptedLayer{}, err
	}
	ocicrypt.RegisterKeyWrapper("provider.attestation-agent", key)
	plain := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayerGzip, Digest: digest.FromBytes(zipped.Bytes()), Size: int64(zipped.Len())}
	ec := &config.EncryptConfig{Parameters: map[string][][]byte{"attestation-agent": {[]byte("keyid=" + key.id)}}}
	r, finish, err := ocicrypt.EncryptLayer(ec, &zipped, plain)
	if err != nil {
		return encryptedLayer{}, err
	}
	data, err := io.ReadAll(r)
	if err != nil {
		return encryptedLayer{}, err
	}
	annotations, err := finish()
	if err != nil {
		return encryptedLayer{}, err
	}
	return encryptedLayer{data: data, desc: ocispec.Descriptor{
		MediaType:   ocispec.MediaTypeImageLayerGzip + "+encrypted",
		Digest:      digest.FromBytes(data),
		Size:        int64(len(data)),
		Annotations: annotations,
	}}, nil
}

// busyboxLayer is a tar of Debian's static busybox with links for the applets
// that the demo's containers call.
func busyboxLayer() ([]byte, error) {
	bin, err := os.ReadFile("/bin/busybox")
	if err != nil {
		return nil, fmt.Errorf("read the busybox of package busybox-static: %w", err)
	}
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	add := func(h *tar.Header, body []byte) error {
		h.Size = int64(len(body))
		if err := w.WriteHeader(h); err != nil {
			return err
		}
		_, err := w.Write(body)
		return err
	}
	for _, d := range []string{"bin/", "etc/", "dev/", "proc/", "sys/", "tmp/"} {
		if err := add(&tar.Header{Name: d, Typeflag: tar.TypeDir, Mode: 0o755}, nil); err != nil {
			return nil, err
		}
	}
	if err := add(&tar.Header{Name: "bin/busybox", Typeflag: tar.TypeReg, Mode: 0o755}, bin); err != nil {
		return nil, err
	}
	for _, a := range []string{"sh", "wget", "cat", "echo", "hostname", "id", "sleep", "ls", "uname"} {
		if err := add(&tar.Header{Name: "bin/" + a, Typeflag: tar.TypeSymlink, Linkname: "busybox", Mode: 0o777}, nil); err != nil {
			return nil, err
		}
	}
	if err := add(&tar.Header{Name: "etc/passwd", Typeflag: tar.TypeReg, Mode: 0o644}, []byte("root:x:0:0:root:/:/bin/sh\n")); err != nil {
		return nil, err
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return buf.Bytes(), nil
}
