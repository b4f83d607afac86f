// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package storage

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"cocoon/agent/device"
	"cocoon/internal/mapper"
	"cocoon/internal/safepath"
	"cocoon/internal/stage"
)

// Mapper makes devices whose blocks the kernel checks. mapper.Mapper is one.
type Mapper interface {
	ReadOnly(ctx context.Context, name string, t mapper.Target) (node string, err error)
	Remove(name string) error
}

// layersDir is where the layers of a container are mounted, in its bundle.
const layersDir = "multi-layer"

// maxMapped is the longest name of a mapped device that peers expect.
const maxMapped = 127

// assembly is a group of layers on its way to a root.
type assembly struct {
	m     *Manager
	base  string        // real path
	undo  []releaseFunc // in the order of the steps
	upper string        // real path of what takes changes
	lower []string      // real paths, the top first
}

// multiLayer joins the layers of a request to a container's root.
func (m *Manager) multiLayer(ctx context.Context, r request) (_ releaseFunc, err error) {
	if r.owner == "" {
		return nil, fmt.Errorf("layers belong to a container: %w", ErrInvalid)
	}
	g, err := parseLayers(r.layers)
	if err != nil {
		return nil, err
	}
	if err := m.allowLayers(ctx, g); err != nil {
		return nil, err
	}
	at, err := m.makeDir(path.Join(m.cfg.Run, r.owner, layersDir))
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, at.close()) }()
	a := &assembly{m: m}
	if a.base, err = at.realPath(); err != nil {
		return nil, err
	}
	if err := m.onRun(at); err != nil {
		return nil, err
	}
	a.undo = append(a.undo, func(context.Context) error { return RemoveTree(a.base) })
	if err := a.build(ctx, g); err != nil {
		return nil, errors.Join(err, a.release(context.WithoutCancel(ctx)))
	}
	return a.release, nil
}

// allowLayers refuses layers that the host can change unnoticed, unless the
// policy that is in force by now allows them.
func (m *Manager) allowLayers(ctx context.Context, g layers) error {
	unchecked := g.unchecked()
	if unchecked == nil {
		return nil
	}
	if m.cfg.UncheckedLayers != nil {
		allowed, err := m.cfg.UncheckedLayers(ctx)
		if err != nil {
			return fmt.Errorf("ask the policy for unchecked layers: %w", err)
		}
		if allowed {
			return nil
		}
	}
	return stage.Wrap(stage.Policy, unchecked)
}

// onRun refuses a directory that does not lie on the mount of the run
// directory: what takes a container's changes, and holds its layers, would then
// be a disk or a share of the host.
func (m *Manager) onRun(at place) error {
	run, err := mountID(unix.AT_FDCWD, m.cfg.Run)
	if err != nil {
		return err
	}
	id, err := mountID(int(at.f.Fd()), "")
	if err != nil {
		return err
	}
	if id != run {
		return fmt.Errorf("something is mounted in the place for layers: %w", ErrInvalid)
	}
	return nil
}

func mountID(dir int, p string) (uint64, error) {
	var st unix.Statx_t
	if err := unix.Statx(dir, p, unix.AT_EMPTY_PATH|unix.AT_SYMLINK_NOFOLLOW, unix.STATX_MNT_ID, &st); err != nil {
		return 0, fmt.Errorf("find the mount of %q: %w", p, err)
	}
	return st.Mnt_id, nil
}

// release undoes the steps, the last first. What cannot be undone stops it, so
// that a layer is never taken from below a root that is mounted.
func (a *assembly) release(ctx context.Context) error {
	for len(a.undo) > 0 {
		last := len(a.undo) - 1
		if err := a.undo[last](ctx); err != nil {
			return err
		}
		a.undo = a.undo[:last]
	}
	return nil
}

func (a *assembly) build(ctx context.Context, g layers) error {
	if err := a.mountUpper(ctx, g.upper); err != nil {
		return fmt.Errorf("upper layer: %w", err)
	}
	for i, l := range g.lowers {
		if err := a.mountLower(ctx, i, l); err != nil {
			return fmt.Errorf("layer %d: %w", i, err)
		}
	}
	for _, t := range g.mkdirs {
		if err := a.mkdir(t); err != nil {
			return err
		}
	}
	return a.overlay(g.target)
}

func (a *assembly) mountUpper(ctx context.Context, l *layer) error {
	dir := filepath.Join(a.base, "upper")
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	a.upper = dir
	if l != nil {
		opts, err := ParseOptions(l.options)
		if err != nil {
			return err
		}
		disk, err := a.disk(ctx, *l)
		if err == nil && l.encrypted {
			err = a.encrypt(ctx, disk, dir)
		} else if err == nil {
			err = a.mount(disk.Path, dir, "ext4", opts)
		}
		if err != nil {
			return err
		}
	}
	for _, name := range []string{"upper", "work"} {
		if err := os.Mkdir(filepath.Join(dir, name), 0o755); err != nil && !errors.Is(err, os.ErrExist) {
			return err
		}
	}
	return nil
}

// encrypt has a new file system made on a disk, which forgets all with the
// container.
func (a *assembly) encrypt(ctx context.Context, disk device.Node, dir string) error {
	if a.m.cfg.SecureMount == nil {
		return ErrNoEncryption
	}
	undo, err := a.m.cfg.SecureMount.SecureMount(ctx, disk.Path, dir)
	if err != nil {
		return err
	}
	a.undo = append(a.undo, undo)
	return nil
}

// hold opens a directory so that it stays the same one, and has a short name in
// mount options, which have to fit one page. A disk of the host may hold a link
// in the place of an upper directory.
func hold(p string) (place, error) {
	fd, err := unix.Open(p, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return place{}, fmt.Errorf("layer directory %q: %w: %w", p, ErrInvalid, err)
	}
	return place{f: os.NewFile(uintptr(fd), p)}, nil
}

func (a *assembly) mountLower(ctx context.Context, i int, l layer) error {
	opts, err := ParseOptions(l.options)
	if err != nil {
		return err
	}
	opts.Flags |= unix.MS_RDONLY
	if !isDiskFileSystem(l.GetFstype()) {
		return fmt.Errorf("file system %q on a disk: %w", l.GetFstype(), ErrInvalid)
	}
	disk, err := a.disk(ctx, l)
	if err != nil {
		return err
	}
	node := disk.Path
	if l.verity != nil {
		if node, err = a.checked(ctx, disk, l); err != nil {
			return err
		}
	}
	dir := filepath.Join(a.base, fmt.Sprintf("lower-%d", i))
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	if err := a.mount(node, dir, l.GetFstype(), opts); err != nil {
		return err
	}
	a.lower = append(a.lower, dir)
	return nil
}

// disk finds a layer's disk or partition.
func (a *assembly) disk(ctx context.Context, l layer) (device.Node, error) {
	if a.m.cfg.Devices == nil {
		return device.Node{}, errors.New("this agent has nothing to find disks with")
	}
	n, err := a.m.cfg.Devices.Block(ctx, l.driverOf(), l.GetSource())
	if err == nil && l.partition > 0 {
		n, err = a.m.cfg.Devices.Partition(ctx, n, l.partition)
	}
	if errors.Is(err, device.ErrInvalid) {
		err = fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	return n, err
}

// checked has the kernel check every block of a layer against its root hash.
func (a *assembly) checked(ctx context.Context, disk device.Node, l layer) (string, error) {
	if a.m.cfg.Mapper == nil {
		return "", errors.New("this agent has no device mapper")
	}
	name := fmt.Sprintf("kata-verity-%s-off%d-%x", filepath.Base(disk.Path), l.verity.DataBlocks*l.verity.DataBlock, l.verity.RootHash)
	name = name[:min(len(name), maxMapped)]
	target := mapper.Target{Type: "verity", Sectors: l.verity.Sectors(), Params: []byte(l.verity.Table(disk.Number()))}
	node, err := a.m.checked.use(ctx, a.m.cfg.Mapper, name, target)
	if err != nil {
		return "", err
	}
	a.undo = append(a.undo, func(ctx context.Context) error { return a.m.checked.drop(ctx, a.m.cfg.Mapper, name) })
	return node, nil
}

// mount mounts on a directory of this assembly, which nobody else can reach
// before the container runs.
func (a *assembly) mount(source, dir, fstype string, opts Options) error {
	if opts.Flags&(unix.MS_BIND|unix.MS_REMOUNT) != 0 || opts.Propagation != 0 {
		return fmt.Errorf("bind, remount and propagation are not for layers: %w", ErrInvalid)
	}
	if n := len(joinWords(opts.Data)); n >= os.Getpagesize() {
		return fmt.Errorf("%d bytes of mount options: %w", n, ErrInvalid)
	}
	if err := unix.Mount(source, dir, fstype, opts.Flags, joinWords(opts.Data)); err != nil {
		return fmt.Errorf("mount %q (%s): %w", source, fstype, err)
	}
	a.undo = append(a.undo, func(context.Context) error { return unmount(dir) })
	return nil
}

// mkdir makes a directory that a template names. Links on the way stay inside
// of the mount.
func (a *assembly) mkdir(template string) error {
	mount, below, err := expand(template)
	if err != nil {
		return err
	}
	top := a.upper
	if mount == 1 {
		top = a.lower[0]
	}
	root, err := safepath.OpenRoot(top)
	if err != nil {
		return err
	}
	dir, err := root.MkdirAll(below, 0o755)
	if err == nil {
		err = dir.Close()
	}
	if err = errors.Join(err, root.Close()); err != nil {
		return fmt.Errorf("make directory %q: %w", template, err)
	}
	return nil
}

// overlay mounts all layers on the container's root.
func (a *assembly) overlay(target string) (err error) {
	var paths []string
	for _, p := range append([]string{filepath.Join(a.upper, "upper"), filepath.Join(a.upper, "work")}, a.lower...) {
		dir, err := hold(p)
		if err != nil {
			return err
		}
		defer dir.f.Close() // opened for its path only; its error says nothing
		paths = append(paths, dir.fdPath())
	}
	data := []string{"lowerdir=" + strings.Join(paths[2:], ":"), "upperdir=" + paths[0], "workdir=" + paths[1]}
	at, err := a.m.makeDir(target)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, at.close()) }()
	real, err := mountAt(mountSpec{source: "overlay", fstype: "overlay", at: at, opts: Options{Data: data}})
	if err != nil {
		return errors.Join(err, a.m.removeMountPoint(at))
	}
	a.undo = append(a.undo, unmountAndRemove(real))
	return nil
}
