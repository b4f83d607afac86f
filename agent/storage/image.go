// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package storage

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"strings"

	"golang.org/x/sys/unix"

	"cocoon/agent/pause"
)

// PullRequest asks for the root file system of one container.
type PullRequest struct {
	// Image is the reference as the host sent it: a name with a tag or a
	// digest.
	Image string
	// Bundle is the container's directory. A successful pull leaves the
	// mounted root file system at Bundle/rootfs.
	Bundle string
	// Metadata are the labels and annotations that came with the reference.
	// They are the host's word.
	Metadata map[string]string
}

// PullResult says what was pulled.
type PullResult struct {
	// Digest is the manifest's digest, "sha256:…".
	Digest string
	// Config is the image configuration as the registry stores it.
	Config []byte
}

// Puller fetches, verifies and mounts images. Errors carry a stage and say
// "Failed to pull image", which users of the peers look for, with the image. A pull
// that fails, or whose context ends, leaves nothing at Bundle/rootfs.
type Puller interface {
	Pull(ctx context.Context, req PullRequest) (PullResult, error)
	// Release unmounts Bundle/rootfs and drops what only this container used.
	// It can be repeated after an error.
	Release(ctx context.Context, bundle string) error
}

const (
	pullOption = "image_guest_pull="

	// maxPullOption bounds the JSON of one driver option; labels and
	// annotations of a pod stay below 256 KiB.
	maxPullOption = 512 << 10

	// rootfs is the directory in a bundle that becomes the container's root.
	rootfs = "rootfs"
)

// imagePull gives a container its root file system: an image that the puller
// fetches inside the guest, or for the sandbox container the built-in pause,
// which needs no registry.
func (m *Manager) imagePull(ctx context.Context, r request) (releaseFunc, error) {
	if r.owner == "" {
		return nil, fmt.Errorf("an image belongs to a container: %w", ErrInvalid)
	}
	bundle := path.Join(m.cfg.Run, r.owner)
	if want := path.Join(bundle, rootfs); r.GetMountPoint() != want {
		return nil, fmt.Errorf("image root at %q instead of %q: %w", r.GetMountPoint(), want, ErrInvalid)
	}
	metadata, err := ParsePullOption(r.GetDriverOptions())
	if err != nil {
		return nil, err
	}
	if IsSandbox(metadata) {
		return m.pauseRoot(bundle)
	}
	if m.cfg.Puller == nil {
		return nil, errors.New("Failed to pull image: this guest has no image puller") //nolint:staticcheck // peers match this text
	}
	if err := m.makeAndClose(bundle); err != nil {
		return nil, err
	}
	res, err := m.cfg.Puller.Pull(ctx, PullRequest{Image: r.GetSource(), Bundle: bundle, Metadata: metadata})
	if err != nil {
		return nil, err
	}
	m.noteImage(r.owner, res.Digest)
	release := func(ctx context.Context) error {
		m.noteImage(r.owner, "")
		return m.cfg.Puller.Release(ctx, bundle)
	}
	if err := m.checkRoot(bundle); err != nil {
		return nil, errors.Join(err, release(context.WithoutCancel(ctx)))
	}
	m.cfg.Log.Info("image pulled", "image", r.GetSource(), "digest", res.Digest, "container", r.owner)
	return release, nil
}

func (m *Manager) noteImage(owner, digest string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if digest == "" {
		delete(m.images, owner)
		return
	}
	m.images[owner] = digest
}

// ImageDigest returns the manifest digest of the image that was pulled for a
// container, or "" if none is attached.
func (m *Manager) ImageDigest(owner string) string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.images[owner]
}

// checkRoot makes sure that the puller left a directory where the runtime
// will look for one.
func (m *Manager) checkRoot(bundle string) (err error) {
	p, err := m.open(path.Join(bundle, rootfs))
	if err != nil {
		return fmt.Errorf("look at the pulled root: %w", err)
	}
	defer func() { err = errors.Join(err, p.close()) }()
	var st unix.Stat_t
	if err := unix.Fstat(int(p.f.Fd()), &st); err != nil {
		return fmt.Errorf("stat the pulled root: %w", err)
	}
	if !dirMode(st.Mode) {
		return fmt.Errorf("the pulled root is not a directory: %w", ErrInvalid)
	}
	return nil
}

// pauseRoot makes a root that holds nothing but the pause program: the
// running binary, bind mounted read-only. The binary is covered by the launch
// measurement, so no pause image has to be trusted, pulled or stored.
func (m *Manager) pauseRoot(bundle string) (_ releaseFunc, err error) {
	file := path.Join(bundle, rootfs, pause.Path)
	at, err := m.newFile(file)
	if err != nil {
		return nil, fmt.Errorf("make pause root: %w", err)
	}
	defer func() { err = errors.Join(err, at.close()) }()
	if err := at.f.Chmod(0o755); err != nil {
		return nil, fmt.Errorf("make pause root: %w", err)
	}
	opts := Options{Flags: unix.MS_BIND | unix.MS_RDONLY | unix.MS_NOSUID | unix.MS_NODEV}
	real, err := mountAt(mountSpec{source: m.cfg.PauseBinary, fstype: "bind", at: at, opts: opts})
	if err != nil {
		return nil, fmt.Errorf("Pause image not present in rootfs: %w", err) //nolint:staticcheck // peers match this text
	}
	return func(context.Context) error {
		if err := unmount(real); err != nil {
			return err
		}
		// Mount points that the runtime made for /proc and the like are empty
		// directories of ours; the tree holds nothing else.
		return RemoveTree(path.Dir(real))
	}, nil
}

// ParsePullOption finds the image metadata in a storage's driver options. The
// option is JSON with a map of strings; without one, or with a broken one, the
// request is refused, as the metadata tells a sandbox from a workload.
func ParsePullOption(options []string) (map[string]string, error) {
	for _, o := range options {
		text, ok := strings.CutPrefix(o, pullOption)
		if !ok {
			continue
		}
		if len(text) > maxPullOption {
			return nil, fmt.Errorf("image metadata of %d bytes: %w", len(text), ErrInvalid)
		}
		var v struct {
			Metadata map[string]string `json:"metadata"`
		}
		if err := json.Unmarshal([]byte(text), &v); err != nil {
			return nil, fmt.Errorf("image metadata: %w: %w", ErrInvalid, err)
		}
		return v.Metadata, nil
	}
	return nil, fmt.Errorf("missing Image information for ImagePull volume: %w", ErrInvalid)
}

// IsSandbox reports whether labels or annotations mark the container that
// holds a pod's sandbox, as containerd or CRI-O write them.
func IsSandbox(m map[string]string) bool {
	return m["io.kubernetes.cri.container-type"] == "sandbox" ||
		m["io.kubernetes.cri-o.ContainerType"] == "sandbox"
}
