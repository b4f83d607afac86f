// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"cocoon/internal/bounded"
	"cocoon/internal/stage"
)

const (
	// maxManifest bounds a manifest or index; the distribution specification
	// asks registries to accept 4 MiB.
	maxManifest = 4 << 20
	// maxConfig bounds an image configuration.
	maxConfig = 4 << 20
	// maxLayers is how many lower layers overlayfs takes.
	maxLayers = 500

	dockerManifest = "application/vnd.docker.distribution.manifest.v2+json"
	dockerList     = "application/vnd.docker.distribution.manifest.list.v2+json"
	dockerConfig   = "application/vnd.docker.container.image.v1+json"
)

// Layer is one layer of an image, bottom first.
type Layer struct {
	Descriptor v1.Descriptor // of the blob as the registry stores it
	DiffID     digest.Digest // of the uncompressed, decrypted tar
	Encrypted  bool
}

// Image is what a reference stands for on one platform. All of it was checked
// against digests, back to the one in the reference or, for a tag, to what
// the registry served under it.
type Image struct {
	Digest digest.Digest // of the platform's manifest
	Index  digest.Digest // of the index that named it, or ""
	Config v1.Image
	Layers []Layer
}

// Image fetches manifest and configuration of ref for the platform want.
func (r *Repository) Image(ctx context.Context, ref name.Reference, want v1.Platform) (*Image, error) {
	body, dgst, err := r.manifest(ctx, ref.Identifier())
	if err != nil {
		return nil, err
	}
	img := &Image{Digest: dgst}
	doc, err := parseDocument(body.data, body.mediaType)
	if err != nil {
		return nil, stage.Errorf(stage.Registry, "manifest %s: %w", dgst, err)
	}
	if doc.index != nil {
		d, err := choose(doc.index, want)
		if err != nil {
			return nil, stage.Errorf(stage.Registry, "index %s: %w", dgst, err)
		}
		img.Index, img.Digest = dgst, d.Digest
		if body, _, err = r.manifest(ctx, d.Digest.String()); err != nil {
			return nil, err
		}
		if doc, err = parseDocument(body.data, body.mediaType); err == nil && doc.manifest == nil {
			err = errors.New("an index inside an index")
		}
		if err != nil {
			return nil, stage.Errorf(stage.Registry, "manifest %s: %w", d.Digest, err)
		}
	}
	config, err := r.document(ctx, doc.manifest.Config, maxConfig)
	if err != nil {
		return nil, fmt.Errorf("image configuration: %w", err)
	}
	img.Config, img.Layers, err = parseConfig(config, doc.manifest)
	if err != nil {
		return nil, stage.Errorf(stage.Registry, "image configuration %s: %w", doc.manifest.Config.Digest, err)
	}
	return img, nil
}

// response is a manifest as it arrived, its digest checked.
type response struct {
	data      []byte
	mediaType string
}

// manifest fetches the manifest with the tag or digest id.
func (r *Repository) manifest(ctx context.Context, id string) (response, digest.Digest, error) {
	var out response
	var dgst digest.Digest
	err := r.client.retry.run(ctx, func() (time.Duration, error) {
		var err error
		out, dgst, err = r.manifestOnce(ctx, id)
		if s, ok := errors.AsType[*statusError](err); ok {
			return s.after, err
		}
		return 0, err
	})
	if err != nil {
		return response{}, "", classify(fmt.Errorf("fetch manifest %q: %w", id, err))
	}
	return out, dgst, nil
}

func (r *Repository) manifestOnce(ctx context.Context, id string) (response, digest.Digest, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*r.client.idle)
	defer cancel()
	header := http.Header{"Accept": {strings.Join([]string{
		v1.MediaTypeImageIndex, v1.MediaTypeImageManifest, dockerList, dockerManifest,
	}, ",")}}
	resp, err := r.get(ctx, r.url("manifests", id), header, http.StatusOK)
	if err != nil {
		return response{}, "", err
	}
	data, err := bounded.ReadAll(resp.Body, maxManifest)
	if err := errors.Join(err, resp.Body.Close()); err != nil {
		if errors.Is(err, bounded.ErrTooLarge) {
			err = fmt.Errorf("%w: %w", errProtocol, err)
		}
		return response{}, "", err
	}
	want := digest.Digest(id)
	if !strings.Contains(id, ":") {
		// A tag: the digest is what the registry announces, or nothing.
		want = digest.Digest(resp.Header.Get("Docker-Content-Digest"))
	}
	dgst, err := checkContent(data, want)
	return response{data, resp.Header.Get("Content-Type")}, dgst, err
}

// checkContent compares data with the digest want and returns its digest.
func checkContent(data []byte, want digest.Digest) (digest.Digest, error) {
	if want == "" {
		return digest.FromBytes(data), nil
	}
	if err := checkDigest(want); err != nil {
		return "", stage.Wrap(stage.Digest, err)
	}
	if got := want.Algorithm().FromBytes(data); got != want {
		return "", stage.Errorf(stage.Digest, "content has digest %s, want %s", got, want)
	}
	return want, nil
}

// document is a parsed manifest or index; exactly one of the two is set.
type document struct {
	manifest *v1.Manifest
	index    *v1.Index
}

// parseDocument parses a manifest or index. header is the media type that the
// registry announced; it counts when the document names none itself.
func parseDocument(data []byte, header string) (document, error) {
	var head struct {
		MediaType string            `json:"mediaType"`
		Schema    int               `json:"schemaVersion"`
		Manifests []json.RawMessage `json:"manifests"`
		Layers    []json.RawMessage `json:"layers"`
	}
	if err := json.Unmarshal(data, &head); err != nil {
		return document{}, fmt.Errorf("parse: %w", err)
	}
	if head.Schema != 2 {
		return document{}, fmt.Errorf("schema version %d is not supported", head.Schema)
	}
	if head.Manifests != nil && head.Layers != nil {
		return document{}, errors.New("is a manifest and an index at once")
	}
	mediaType := head.MediaType
	if mediaType == "" {
		mediaType, _, _ = strings.Cut(header, ";")
	}
	switch mediaType {
	case v1.MediaTypeImageIndex, dockerList:
		var index v1.Index
		if err := json.Unmarshal(data, &index); err != nil {
			return document{}, fmt.Errorf("parse index: %w", err)
		}
		return document{index: &index}, nil
	case v1.MediaTypeImageManifest, dockerManifest:
		m, err := parseManifest(data)
		return document{manifest: m}, err
	default:
		return document{}, fmt.Errorf("unknown media type %q", mediaType)
	}
}

func parseManifest(data []byte) (*v1.Manifest, error) {
	var m v1.Manifest
	if err := json.Unmarshal(data, &m); err != nil {
		return nil, fmt.Errorf("parse manifest: %w", err)
	}
	if t := m.Config.MediaType; t != v1.MediaTypeImageConfig && t != dockerConfig {
		return nil, fmt.Errorf("configuration has unknown media type %q: not a container image", t)
	}
	if n := len(m.Layers); n == 0 || n > maxLayers {
		return nil, fmt.Errorf("%d layers, want 1 to %d", n, maxLayers)
	}
	for _, d := range append([]v1.Descriptor{m.Config}, m.Layers...) {
		if err := checkDigest(d.Digest); err != nil {
			return nil, err
		}
		if d.Size < 0 {
			return nil, fmt.Errorf("blob %s: size is %d", d.Digest, d.Size)
		}
	}
	return &m, nil
}

// choose returns the index entry for the platform want: the first with its
// operating system and architecture, save that an equal variant is preferred.
func choose(index *v1.Index, want v1.Platform) (v1.Descriptor, error) {
	var found *v1.Descriptor
	for i := range index.Manifests {
		d := &index.Manifests[i]
		if d.Platform == nil || d.Platform.OS != want.OS || d.Platform.Architecture != want.Architecture {
			continue
		}
		if found == nil || want.Variant != "" && found.Platform.Variant != want.Variant && d.Platform.Variant == want.Variant {
			found = d
		}
	}
	if found == nil {
		return v1.Descriptor{}, fmt.Errorf("no manifest for platform %s/%s", want.OS, want.Architecture)
	}
	return *found, checkDigest(found.Digest)
}

// parseConfig parses an image configuration and pairs its diff ids with the
// manifest's layers.
func parseConfig(data []byte, m *v1.Manifest) (v1.Image, []Layer, error) {
	var config v1.Image
	if err := json.Unmarshal(data, &config); err != nil {
		return v1.Image{}, nil, fmt.Errorf("parse: %w", err)
	}
	if config.OS != "linux" {
		return v1.Image{}, nil, fmt.Errorf("operating system is %q, want \"linux\"", config.OS)
	}
	if config.RootFS.Type != "layers" || len(config.RootFS.DiffIDs) != len(m.Layers) {
		return v1.Image{}, nil, fmt.Errorf("%d diff ids of type %q for %d layers", len(config.RootFS.DiffIDs), config.RootFS.Type, len(m.Layers))
	}
	layers := make([]Layer, len(m.Layers))
	for i, d := range m.Layers {
		if err := checkDigest(config.RootFS.DiffIDs[i]); err != nil {
			return v1.Image{}, nil, fmt.Errorf("diff id: %w", err)
		}
		encrypted, err := layerType(d.MediaType)
		if err != nil {
			return v1.Image{}, nil, fmt.Errorf("layer %s: %w", d.Digest, err)
		}
		layers[i] = Layer{Descriptor: d, DiffID: config.RootFS.DiffIDs[i], Encrypted: encrypted}
	}
	return config, layers, nil
}

// layerType reports whether a layer of the media type is encrypted, and fails
// for types that are no file system layer.
func layerType(mediaType string) (encrypted bool, err error) {
	base, encrypted := strings.CutSuffix(mediaType, "+encrypted")
	switch base {
	case "application/vnd.oci.image.layer.v1.tar",
		"application/vnd.oci.image.layer.v1.tar+gzip",
		"application/vnd.oci.image.layer.v1.tar+zstd",
		"application/vnd.oci.image.layer.nondistributable.v1.tar",
		"application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
		"application/vnd.oci.image.layer.nondistributable.v1.tar+zstd",
		"application/vnd.docker.image.rootfs.diff.tar",
		"application/vnd.docker.image.rootfs.diff.tar.gzip",
		"application/vnd.docker.image.rootfs.diff.tar.zstd",
		"application/vnd.docker.image.rootfs.foreign.diff.tar",
		"application/vnd.docker.image.rootfs.foreign.diff.tar.gzip":
		return encrypted, nil
	}
	return false, fmt.Errorf("unknown layer media type %q", mediaType)
}
