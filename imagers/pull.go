// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package imagers

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"cocoon/imagers/decrypt"
	"cocoon/imagers/registry"
	"cocoon/imagers/store"
	"cocoon/imagers/unpack"
	"cocoon/internal/safepath"
	"cocoon/internal/stage"
)

// Annotations in which the peers' container managers repeat the reference.
const (
	containerdImageName = "io.kubernetes.cri.image-name"
	crioImageName       = "io.kubernetes.cri-o.ImageName"
)

// errReferenceDiffers is returned when the host names one image in the
// storage and another in the annotation that the policy saw.
var errReferenceDiffers = errors.New("image differs from the one that its annotation names")

// Request asks for one image.
type Request struct {
	Image  string // reference
	Bundle string // absolute path of a directory, made if missing, in which rootfs and config.json are made
	// Metadata holds the annotations that came with the request. Where they
	// name an image it must be the same one.
	Metadata map[string]string
}

// Result describes a pulled image.
type Result struct {
	ManifestDigest digest.Digest // of the platform's manifest; this is what is measured
	Config         v1.Image
}

// Pull pulls an image, mounts it at <bundle>/rootfs and writes
// <bundle>/config.json. When it fails nothing of it stays in the bundle or the
// work directory, except layers that were complete, for the next attempt. The
// error carries a stage. A registry that sends a few bytes now and then is only
// stopped by the deadline of ctx, which the caller must set.
func (p *Puller) Pull(ctx context.Context, r Request) (Result, error) {
	res, err := p.pull(ctx, r)
	if err != nil {
		// The text is that of the peers, which users and tests look for.
		return Result{}, fmt.Errorf("Failed to pull image %s from all mirror/mapping locations or original location: image: %s, error: %w", //nolint:staticcheck // see above
			quoteReference(r.Image), quoteReference(r.Image), explain(err))
	}
	return res, nil
}

// quoteReference returns the reference as it is when it is printable, since
// tools match on it, and quoted otherwise.
func quoteReference(s string) string {
	for _, c := range s {
		if c <= ' ' || c > '~' {
			return fmt.Sprintf("%q", s)
		}
	}
	return s
}

// explain adds what an owner can do about errors whose text does not say it.
func explain(err error) error {
	if errors.Is(err, unix.ENOSPC) {
		return stage.Errorf(stage.Unpack, "the guest's image storage is full: %w", err)
	}
	return err
}

func (p *Puller) pull(ctx context.Context, r Request) (res Result, err error) {
	ref, err := registry.ParseReference(r.Image)
	if err != nil {
		return res, stage.Wrap(stage.Config, err)
	}
	if err := checkMetadata(r); err != nil {
		return res, stage.Wrap(stage.Policy, err)
	}
	set, err := p.load(ctx)
	if err != nil {
		return res, err
	}
	repo, err := p.registry.Open(ctx, ref, set.credentials.For(ref.Context()))
	if err != nil {
		return res, err
	}
	img, err := repo.Image(ctx, ref, p.config.Platform)
	if err != nil {
		return res, fmt.Errorf("failed to pull image manifest: %w", err)
	}
	if err := set.policy.Check(ref); err != nil {
		return res, err
	}
	layers, err := p.layers(ctx, repo, img)
	if err != nil {
		return res, fmt.Errorf("Errors happened when pulling image: %w", err) //nolint:staticcheck // text of the peers
	}
	if err := p.bundle(r.Bundle, img, layers); err != nil {
		for _, l := range layers {
			l.Put()
		}
		return res, stage.Wrap(stage.Mount, fmt.Errorf("Failed to create bundle: %w", err)) //nolint:staticcheck // text of the peers
	}
	p.log.Info("image pulled", "image", ref.Name(), "digest", img.Digest, "layers", len(img.Layers))
	return Result{ManifestDigest: img.Digest, Config: img.Config}, nil
}

// checkMetadata refuses a request whose parts name different images.
func checkMetadata(r Request) error {
	for _, key := range []string{containerdImageName, crioImageName} {
		if v, ok := r.Metadata[key]; ok && v != r.Image {
			return fmt.Errorf("annotation %q is %q: %w", key, v, errReferenceDiffers)
		}
	}
	return nil
}

// layers fetches all layers of img, several at once, and returns references
// to them, bottom first.
func (p *Puller) layers(ctx context.Context, repo *registry.Repository, img *registry.Image) ([]*store.Layer, error) {
	layers := make([]*store.Layer, len(img.Layers))
	group, gctx := errgroup.WithContext(ctx)
	for i := range img.Layers {
		group.Go(func() error {
			l, err := p.layer(gctx, repo, &img.Layers[i])
			if err != nil {
				return fmt.Errorf("layer %s: %w", img.Layers[i].Descriptor.Digest, err)
			}
			layers[i] = l
			return nil
		})
	}
	err := group.Wait()
	if err == nil {
		return layers, nil
	}
	for _, l := range layers {
		if l != nil {
			l.Put()
		}
	}
	return nil, err
}

// layer returns a reference to one layer, fetched if the store lacks it.
func (p *Puller) layer(ctx context.Context, repo *registry.Repository, l *registry.Layer) (*store.Layer, error) {
	got, err := p.store.Layer(ctx, l.Descriptor.Digest, func(ctx context.Context, root *safepath.Root) (store.Content, error) {
		if err := p.slots.Acquire(ctx, 1); err != nil {
			return store.Content{}, err
		}
		defer p.slots.Release(1)
		res, err := p.fill(ctx, repo, l, root)
		return store.Content{DiffID: l.DiffID, Opaque: res.Opaque}, err
	})
	if err != nil {
		return nil, err
	}
	// One blob has one content, so another image's claim must be the same.
	if got.DiffID != l.DiffID {
		got.Put()
		return nil, stage.Errorf(stage.Digest, "got %s, want %s: %w", got.DiffID, l.DiffID, unpack.ErrDiffID)
	}
	return got, nil
}

// fill streams one layer from the registry into root.
func (p *Puller) fill(ctx context.Context, repo *registry.Repository, l *registry.Layer, root *safepath.Root) (res unpack.Result, err error) {
	blob, err := repo.Blob(ctx, l.Descriptor)
	if err != nil {
		return res, err
	}
	defer func() { err = errors.Join(err, blob.Close()) }()
	plain := io.Reader(blob)
	if l.Encrypted {
		if plain, err = p.decrypt(ctx, l, blob); err != nil {
			return res, err
		}
	}
	res, err = unpack.Layer(ctx, root, plain, unpack.Options{DiffID: l.DiffID, Limits: p.config.Limits, Decoders: &p.decoders})
	if errors.Is(err, unpack.ErrCorrupt) {
		// A wrong key or a changed blob shows as garbage first; its own
		// verdict, at the end, says what was really wrong.
		if _, verdict := io.Copy(io.Discard, plain); verdict != nil {
			err = verdict
		}
	}
	if errors.Is(err, unpack.ErrDiffID) {
		return res, stage.Wrap(stage.Digest, err)
	}
	return res, stage.Wrap(stage.Unpack, err)
}

// decrypt returns the plaintext of an encrypted layer.
func (p *Puller) decrypt(ctx context.Context, l *registry.Layer, blob io.Reader) (io.Reader, error) {
	envelope, err := decrypt.ParseAnnotations(l.Descriptor.Annotations)
	if err != nil {
		return nil, err
	}
	if p.deps.Keys == nil {
		return nil, stage.Errorf(stage.Decrypt, "%w: %w", decrypt.ErrDecrypt, errNoKeys)
	}
	key, err := envelope.Unwrap(ctx, p.deps.Keys)
	if err != nil {
		return nil, err
	}
	return key.Reader(blob)
}

// bundle mounts the layers and writes the runtime configuration.
func (p *Puller) bundle(dir string, img *registry.Image, layers []*store.Layer) (err error) {
	if !filepath.IsAbs(dir) || filepath.Clean(dir) == "/" {
		return fmt.Errorf("bundle %q is not an absolute path of a directory", dir)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	config, rootfs := filepath.Join(dir, "config.json"), filepath.Join(dir, "rootfs")
	if err := writeConfig(config, &img.Config); err != nil {
		return err
	}
	made := os.Mkdir(rootfs, 0o755)
	if made == nil || errors.Is(made, os.ErrExist) {
		if err = p.store.Mount(rootfs, layers); err == nil {
			return nil
		}
	} else {
		err = made
	}
	if made == nil {
		err = errors.Join(err, os.Remove(rootfs))
	}
	return errors.Join(err, os.Remove(config))
}

// Release unmounts <bundle>/rootfs and removes what was written there. The
// image's layers stay for later pulls until space is needed. A bundle that
// was not pulled is an error that wraps store.ErrNotMounted. The runtime
// configuration stays, since the caller may have replaced it by its own. A
// cancelled context does not keep the bundle from being released.
func (p *Puller) Release(_ context.Context, bundle string) error {
	return stage.Wrap(stage.Mount, p.store.Unmount(filepath.Join(bundle, "rootfs")))
}
