// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package boot

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"cocoon/internal/mapper"
	"cocoon/internal/verity"
)

// Parameters of the kernel command line that name the root on a disk. The shim
// writes the first one for a guest extension image called cocoon; the second
// stands in images that bring their own command line. Both are measured.
const (
	ParamExtension = "kata.extension.cocoon.verity_params"
	ParamRoot      = "cocoon.root"
)

const (
	// rootName is the mapped device of the root.
	rootName = "cocoon-root"
	// panicOnCorruption stops the guest at a block that is not the image's. The
	// default would give readers an error each, and they would go on without.
	panicOnCorruption = "panic_on_corruption"
	// diskTimeout is how long the disk may take to appear.
	diskTimeout = 30 * time.Second
	diskLook    = 50 * time.Millisecond
)

// ErrNoRoot is wrapped by errors about a root that is not named or not found.
var ErrNoRoot = errors.New("no root on a disk")

// Partition is one partition of a disk.
type Partition struct {
	// Name is that of the kernel, such as vda2, and Disk that of its disk.
	Name, Disk string
	// Index counts from 1.
	Index int
	// Number is major:minor.
	Number string
}

// rootParams returns the root that the command line names. There must be
// exactly one: of two, an attacker could choose.
func rootParams(s *State) (verity.Params, error) {
	var texts []string
	for _, key := range []string{ParamExtension, ParamRoot} {
		texts = append(texts, s.Cmdline.All(key)...)
	}
	if len(texts) != 1 {
		return verity.Params{}, fmt.Errorf("the command line names %d roots, by %s or %s: %w", len(texts), ParamExtension, ParamRoot, ErrNoRoot)
	}
	p, err := verity.ParseText(texts[0])
	if err != nil {
		return p, fmt.Errorf("root of the command line: %w", err)
	}
	return p, nil
}

// openRoot finds the disk, has the kernel check it and mounts it. Where the
// disk is, the host decides; what it holds, the root hash.
func openRoot(ctx context.Context, s *State) error {
	p, err := rootParams(s)
	if err != nil {
		return err
	}
	data, tree, err := s.findRoot(ctx, &p)
	if err != nil {
		return err
	}
	s.Log.Info("root found", "data", data.Name, "tree", tree.Name, "root_hash", fmt.Sprintf("%x", p.RootHash))
	node, err := s.Deps.Disks.Map(ctx, rootName, mapper.Target{
		Type: "verity", Sectors: p.Sectors(), Params: []byte(p.TableOn(data.Number, tree.Number, panicOnCorruption)),
	})
	if err != nil {
		return err
	}
	if err := makeDir(s.Deps.FS, newRoot); err != nil {
		return err
	}
	// The root brings the few devices that its /init needs before it has /dev.
	if err := s.Deps.FS.Mount(node, newRoot, "erofs", unix.MS_RDONLY|unix.MS_NOSUID, ""); err != nil {
		return fmt.Errorf("mount the root, %q: %w", node, err)
	}
	return nil
}

// findRoot waits for a pair of partitions of which the second begins with the
// top of the tree. It sets where the tree starts.
func (s *State) findRoot(ctx context.Context, p *verity.Params) (data, tree Partition, err error) {
	for deadline := s.Deps.Uptime() + diskTimeout; ; {
		parts, err := s.Deps.Disks.Partitions()
		if err != nil {
			return data, tree, fmt.Errorf("list disks: %w", err)
		}
		for _, tree = range parts {
			i := slices.IndexFunc(parts, func(d Partition) bool { return d.Disk == tree.Disk && d.Index == tree.Index-1 })
			if i >= 0 && s.beginsWithTop(tree, p) {
				return parts[i], tree, nil
			}
		}
		if s.Deps.Uptime() > deadline {
			return data, tree, fmt.Errorf("none of %d partitions begins with the tree of root hash %x, for %s: %w", len(parts), p.RootHash, diskTimeout, ErrNoRoot)
		}
		select {
		case <-ctx.Done():
			return data, tree, fmt.Errorf("wait for the root's disk: %w", ctx.Err())
		case <-s.Deps.After(diskLook):
		}
	}
}

// beginsWithTop looks for the top of the tree in the first block, and in the
// second, where it stands behind a superblock. Nothing of a superblock is read.
// A partition that can't be read is none.
func (s *State) beginsWithTop(part Partition, p *verity.Params) bool {
	for p.HashStart = 0; p.HashStart <= 1; p.HashStart++ {
		block := make([]byte, p.HashBlock)
		if err := s.Deps.Disks.ReadAt("/dev/"+part.Name, block, int64(p.HashStart*p.HashBlock)); err != nil {
			s.Log.Warn("partition can't be read", "partition", part.Name, "error", err)
			return false
		}
		if p.IsTop(block) {
			return true
		}
	}
	return false
}

// leaveInitramfs makes the new root the root and starts its /init, which is
// PID 1 from then on. What the initramfs holds would stay in memory.
func leaveInitramfs(_ context.Context, s *State) error {
	fs := s.Deps.FS
	for _, m := range slices.Backward(firstMounts()) {
		if err := fs.Unmount(m.target, unix.MNT_DETACH); err != nil {
			return fmt.Errorf("unmount %q: %w", m.target, err)
		}
	}
	for _, name := range s.loaded {
		if err := fs.Remove(name); err != nil {
			return fmt.Errorf("free the initramfs: %w", err)
		}
	}
	if err := fs.Chdir(newRoot); err != nil {
		return fmt.Errorf("enter %q: %w", newRoot, err)
	}
	if err := moveToRoot(fs); err != nil {
		return err
	}
	if err := s.Deps.Procs.Exec("/init", []string{"/init"}, RoleEnv()); err != nil {
		return fmt.Errorf("start /init of the root: %w", err)
	}
	return nil
}
