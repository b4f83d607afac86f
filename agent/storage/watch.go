// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package storage

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"cocoon/internal/wire/agentpb"
)

const (
	driverWatch = "watchable-bind"

	// watchEvery is how often the source is looked at.
	watchEvery = 2 * time.Second

	// watchLeave is how long a release waits for a host that does not answer.
	watchLeave = 10 * time.Second

	// maxCopies bounds the copies that are followed, with those whose source
	// did not answer when they were released. Each may keep a thread.
	maxCopies = 1024

	// watchTries is how often a source that changes under the first copy is
	// looked at again.
	watchTries = 3
)

// watch shows a directory of a shared file system by a copy that follows it:
// programs that wait for changes by inotify hear of none that the host makes.
func (m *Manager) watch(ctx context.Context, r request) (releaseFunc, error) {
	if !m.watchable(r.GetMountPoint()) {
		return nil, fmt.Errorf("copies that follow their source lie in %q: %w", watchRoots(m.cfg.Run), ErrInvalid)
	}
	from, err := m.open(r.GetSource())
	if err != nil {
		return nil, fmt.Errorf("source of a copy: %w", err)
	}
	source, err := os.OpenRoot(from.fdPath())
	if errors.Is(err, unix.ENOTDIR) {
		if err := from.close(); err != nil {
			return nil, err
		}
		return m.bind(ctx, request{owner: r.owner, Storage: &agentpb.Storage{
			Source: r.GetSource(), MountPoint: r.GetMountPoint(), Options: []string{"rbind"},
		}})
	}
	if err != nil {
		return nil, errors.Join(err, from.close())
	}
	f := &follower{m: m, from: from, mirror: newMirror(source), ended: make(chan struct{})}
	if err := f.mount(r.GetMountPoint()); err != nil {
		return nil, errors.Join(err, f.close(), f.clean())
	}
	select {
	case err = <-f.start():
	case <-ctx.Done():
		err = fmt.Errorf("make the first copy: %w", context.Cause(ctx))
	}
	if err != nil {
		return nil, errors.Join(err, f.release(context.WithoutCancel(ctx)))
	}
	return f.release, nil
}

// watchRoots are the directories of copies, of the two kinds of shims.
func watchRoots(run string) []string {
	shared := path.Join(run, "shared/containers")
	return []string{path.Join(shared, "watchable"), path.Join(shared, "passthrough/watchable")}
}

func (m *Manager) watchable(point string) bool {
	return slices.ContainsFunc(watchRoots(m.cfg.Run), func(root string) bool { return strings.HasPrefix(point, root+"/") })
}

// follower keeps a copy in step with its source until it is released. The copy
// lies on a file system of its own in memory: neither can the host change it,
// nor has a release to wait for the host.
type follower struct {
	m      *Manager
	from   place // the source
	mirror *mirror
	point  string // real path of the copy; "" before there is one
	stop   context.CancelFunc
	ended  chan struct{} // closed when the goroutine that follows has ended

	mu     sync.Mutex
	left   bool // nothing may be mounted any more
	mounts int  // on the point

	cleaning chan error // of a release under way; releases come one at a time
}

// mount mounts the empty copy.
func (f *follower) mount(point string) (err error) {
	select {
	case f.m.copies <- struct{}{}:
	default:
		return fmt.Errorf("more than %d copies that follow their source: %w", maxCopies, ErrTooMany)
	}
	defer func() {
		if err != nil {
			<-f.m.copies
		}
	}()
	at, err := f.m.makeDir(point)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, at.close()) }()
	if f.point, err = at.realPath(); err != nil {
		return err
	}
	memory, err := memoryDir()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, memory.close()) }()
	if f.mirror.target, err = os.OpenRoot(memory.fdPath()); err != nil {
		return err
	}
	if err := attachMount(memory, at); err != nil {
		return fmt.Errorf("mount the copy on %q: %w", f.point, err)
	}
	f.mounts = 1
	return nil
}

// start begins to follow, and sends how the first copy went.
func (f *follower) start() <-chan error {
	ctx, cancel := context.WithCancel(context.Background())
	f.stop = cancel
	first := make(chan error, 1)
	go func() {
		defer close(f.ended)
		defer func() { <-f.m.copies }()
		f.follow(ctx, first)
		if err := f.close(); err != nil {
			f.m.cfg.Log.Warn("close the ends of a copy", "error", err)
		}
	}()
	return first
}

// follow returns when there is nothing more to copy.
func (f *follower) follow(ctx context.Context, first chan<- error) {
	var done bool
	var err error
	for range watchTries {
		if done, err = f.step(ctx); !errors.Is(err, fs.ErrNotExist) {
			break
		}
	}
	first <- err
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	said := ""
	for !done {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		// A source that is being replaced keeps the copy as it was; it is looked
		// at again. What does not change is said once.
		done, err = f.step(ctx)
		switch {
		case err == nil:
			said = ""
		case err.Error() != said && ctx.Err() == nil:
			said = err.Error()
			f.m.cfg.Log.Warn("a copy does not follow its source", "error", err)
		}
	}
}

// step brings the copy in step, or shows the source itself in its place if that
// has become too large; then there is nothing left to be done.
func (f *follower) step(ctx context.Context) (done bool, err error) {
	err = f.mirror.sync(ctx)
	if !errors.Is(err, errTooLarge) {
		return false, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.left {
		return true, nil
	}
	if err := f.mirror.cover(f.from); err != nil {
		return false, fmt.Errorf("show a source that is too large for a copy: %w", err)
	}
	f.mounts++
	f.m.cfg.Log.Info("a source is too large for a copy and was mounted", "mount_point", f.point)
	return true, nil
}

// close closes what following needs.
func (f *follower) close() error {
	err := errors.Join(f.from.close(), f.mirror.source.Close())
	if f.mirror.target != nil {
		err = errors.Join(err, f.mirror.target.Close())
	}
	return err
}

// release ends the copy. It can be repeated. A host that does not answer keeps
// the goroutine that follows until it does, but not the release; only if it has
// the directory of the mount point as well, that is an error.
func (f *follower) release(ctx context.Context) error {
	f.stop()
	f.mu.Lock()
	f.left = true
	f.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, watchLeave)
	defer cancel()
	if f.cleaning == nil {
		result := make(chan error, 1)
		f.cleaning = result
		go func() { result <- f.clean() }()
	}
	select {
	case err := <-f.cleaning:
		f.cleaning = nil
		if err != nil {
			return err
		}
	case <-ctx.Done():
		return fmt.Errorf("remove the copy at %q: %w", f.point, context.Cause(ctx))
	}
	select {
	case <-f.ended:
	case <-ctx.Done():
		f.m.cfg.Log.Warn("the source of a copy does not answer", "mount_point", f.point)
	}
	return nil
}

// clean removes what is mounted, and the mount point. It can be repeated.
func (f *follower) clean() error {
	for f.mounts > 0 {
		if err := unmount(f.point); err != nil {
			return err
		}
		f.mounts--
	}
	if f.point == "" {
		return nil
	}
	return RemoveTree(f.point)
}
