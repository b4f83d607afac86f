// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package storage

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"

	"cocoon/internal/stage"
	"cocoon/internal/wire/agentpb"
)

var (
	// ErrUnknownDriver is returned for a storage whose driver is not in the
	// table.
	ErrUnknownDriver = errors.New("unknown storage driver")

	// ErrInvalid is returned for a storage message that cannot be carried out
	// as it stands: a path outside the run directory, an option that does not
	// parse, a driver used in the wrong place.
	ErrInvalid = errors.New("invalid storage")

	// ErrNoEncryption is returned for a storage that asks for a new file system
	// where the guest cannot encrypt it. It is never made without.
	ErrNoEncryption = errors.New("this guest encrypts no disks")

	// ErrUnchecked is returned for a container's root with a layer that the host
	// can change unnoticed, unless the policy allows it.
	ErrUnchecked = errors.New("nothing checks what the host has put there, and the policy does not say AllowUncheckedLayers")

	// ErrTooMany is returned when a request lists more storages than any pod
	// needs.
	ErrTooMany = errors.New("too many storages")
)

// maxStorages bounds one request's list. Kubernetes allows fewer volumes.
const maxStorages = 1024

// Config is what a Manager needs.
type Config struct {
	// Run is the directory below which all mount points lie,
	// /run/kata-containers in a guest. It has to exist when storages are
	// attached.
	Run string
	// PauseBinary is the executable that becomes /pause in the root of a
	// sandbox container. It is bind mounted read-only, so its size costs
	// nothing.
	PauseBinary string
	// Puller fetches images. When it is nil, a storage that needs one is an
	// error.
	Puller Puller
	// Devices finds disks. When it is nil, a storage on a disk is an error.
	Devices Devices
	// SecureMount encrypts disks. When it is nil, a storage that asks for it is
	// ErrNoEncryption.
	SecureMount SecureMounter
	// Mapper has the kernel check layers. When it is nil, a layer that asks for
	// it is an error.
	Mapper Mapper
	// UncheckedLayers says whether a container's root may have layers that the
	// host can change unnoticed. When it is nil none may.
	UncheckedLayers func(context.Context) (bool, error)
	// Sys is where sysfs is mounted; "" means /sys.
	Sys string
	// Log gets one line for each life-cycle event; no options, which may hold
	// secrets.
	Log *slog.Logger
}

// Manager attaches and releases storages. It is safe for concurrent use, and
// holds no lock while a driver works.
type Manager struct {
	cfg     Config
	drivers map[string]driver

	copies chan struct{} // holds one token for each copy that is followed

	checked checkedDevices

	huge sync.Mutex // held while the number of huge pages is changed

	mu      sync.Mutex
	entries map[string]*entry   // by mount point
	owners  map[string][]string // mount points in order of attachment
	order   []string            // entries in order of creation
	images  map[string]string   // manifest digests by owner
}

// entry is one mount point in use.
type entry struct {
	driver   string
	source   string
	refs     int
	shared   bool
	ready    chan struct{} // closed when the driver has finished, well or not
	err      error         // the driver's result, valid after ready
	release  releaseFunc   // undoes the driver, valid after ready
	leaving  bool          // a release is under way; wait for gone and try again
	gone     chan struct{} // closed when the release has finished
	leaveErr error         // the release's result, valid after gone
}

// New returns a Manager without any storage.
func New(cfg Config) *Manager {
	if cfg.Sys == "" {
		cfg.Sys = "/sys"
	}
	m := &Manager{
		cfg:     cfg,
		entries: make(map[string]*entry),
		owners:  make(map[string][]string),
		images:  make(map[string]string),
		copies:  make(chan struct{}, maxCopies),
		checked: newCheckedDevices(),
	}
	m.drivers = m.table()
	return m
}

// Attach makes the storages of list available to owner, in list order. owner
// is a container's id, or "" for the sandbox. When one fails, those of this
// list that were attached before are released, and the error names the one
// that failed; it wraps ErrUnknownDriver, ErrInvalid, ErrTooMany or the
// driver's error.
func (m *Manager) Attach(ctx context.Context, owner string, list []*agentpb.Storage) error {
	if len(list) > maxStorages {
		return fmt.Errorf("attach %d storages: %w", len(list), ErrTooMany)
	}
	list, members := joinLayers(list)
	for i, s := range list {
		if err := m.attachOne(ctx, owner, s, members); err != nil {
			undo := context.WithoutCancel(ctx)
			return errors.Join(err, m.drop(undo, owner, i))
		}
	}
	return nil
}

// Detach gives back everything that owner has attached, the last first. A
// storage that others use as well, or that is marked as shared, stays. All are
// tried; the errors are joined, and what failed is kept for another Detach.
func (m *Manager) Detach(ctx context.Context, owner string) error {
	m.mu.Lock()
	n := len(m.owners[owner])
	m.mu.Unlock()
	return m.drop(ctx, owner, n)
}

// Close releases every storage whoever uses it, the last attached first.
func (m *Manager) Close(ctx context.Context) error {
	m.mu.Lock()
	points := slices.Clone(m.order)
	clear(m.owners)
	for _, p := range points {
		if e := m.entries[p]; e != nil {
			e.refs, e.shared = 1, false
		}
	}
	m.mu.Unlock()
	var errs []error
	for _, p := range slices.Backward(points) {
		errs = append(errs, m.unref(ctx, p))
	}
	return errors.Join(errs...)
}

// joinLayers replaces the layers of a container's root by one storage, where
// the first of them stands.
func joinLayers(list []*agentpb.Storage) (joined, members []*agentpb.Storage) {
	at := -1
	for _, s := range list {
		if !isLayer(s) {
			joined = append(joined, s)
			continue
		}
		if members = append(members, s); at < 0 {
			at = len(joined)
			joined = append(joined, s)
		}
	}
	if at >= 0 {
		root := &agentpb.Storage{Driver: DriverLayers, Source: members[0].GetSource(), MountPoint: members[0].GetMountPoint()}
		if g, err := parseLayers(members); err == nil {
			root.MountPoint = g.target
		}
		joined[at] = root
	}
	return joined, members
}

func (m *Manager) attachOne(ctx context.Context, owner string, s *agentpb.Storage, layers []*agentpb.Storage) error {
	if s == nil {
		return fmt.Errorf("empty storage: %w", ErrInvalid)
	}
	drive, ok := m.drivers[s.GetDriver()]
	if !ok {
		return fmt.Errorf("Failed to find the storage handler %s: %w", s.GetDriver(), ErrUnknownDriver) //nolint:staticcheck // peers match this text
	}
	if _, err := m.relative(s.GetMountPoint()); err != nil {
		return fmt.Errorf("storage %q: mount point: %w", s.GetDriver(), err)
	}
	e, first, err := m.acquire(ctx, owner, s)
	if err != nil {
		return err
	}
	if !first {
		return m.join(ctx, owner, s.GetMountPoint(), e)
	}
	release, err := drive(ctx, request{owner: owner, Storage: s, layers: layers})
	if err != nil {
		// What a puller says is for the pod's owner, who does not know the path.
		if s.GetDriver() != DriverImagePull {
			err = fmt.Errorf("storage %q on %q: %w", s.GetDriver(), s.GetMountPoint(), err)
		}
		err = stage.Wrap(stage.Mount, err)
		m.fail(owner, s.GetMountPoint(), e, err)
		return err
	}
	e.release = release
	close(e.ready)
	m.cfg.Log.Info("storage attached", "driver", s.GetDriver(), "mount_point", s.GetMountPoint())
	return nil
}

// acquire counts a use of the storage's mount point. first is true when the
// caller has to do the work. What is attached there already has to be the same
// storage, and never a container's root: else one request could give another
// container a root of the host's choice in place of its image.
func (m *Manager) acquire(ctx context.Context, owner string, s *agentpb.Storage) (e *entry, first bool, err error) {
	point := s.GetMountPoint()
	for {
		m.mu.Lock()
		e = m.entries[point]
		if e == nil || !e.leaving {
			break
		}
		gone := e.gone
		m.mu.Unlock()
		select {
		case <-gone:
		case <-ctx.Done():
			return nil, false, fmt.Errorf("wait for %q to be released: %w", point, context.Cause(ctx))
		}
	}
	defer m.mu.Unlock()
	if e != nil && (e.driver != s.GetDriver() || e.source != s.GetSource() || e.driver == DriverImagePull || e.driver == DriverLayers) {
		return nil, false, fmt.Errorf("storage %q: another storage is attached at %q: %w", s.GetDriver(), point, ErrInvalid)
	}
	if e == nil {
		first = true
		e = &entry{driver: s.GetDriver(), source: s.GetSource(), shared: s.GetShared(), ready: make(chan struct{})}
		m.entries[point] = e
		m.order = append(m.order, point)
	}
	e.refs++
	m.owners[owner] = append(m.owners[owner], point)
	return e, first, nil
}

// join waits until the first user of the mount point has attached it.
func (m *Manager) join(ctx context.Context, owner, point string, e *entry) error {
	var err error
	select {
	case <-e.ready:
		err = e.err
	case <-ctx.Done():
		err = fmt.Errorf("wait for %q: %w", point, context.Cause(ctx))
	}
	if err == nil {
		return nil
	}
	m.mu.Lock()
	m.disown(owner, point)
	e.refs--
	if e.refs == 0 && m.entries[point] == e {
		// The first user left between our wait and now; the entry is ours.
		return errors.Join(err, m.leaveLocked(context.WithoutCancel(ctx), point, e))
	}
	m.mu.Unlock()
	return err
}

// fail takes a mount point off the books whose driver did not succeed.
func (m *Manager) fail(owner, point string, e *entry, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	e.err = err
	e.refs--
	m.disown(owner, point)
	m.forget(point)
	close(e.ready)
}

// drop releases the last n storages of owner.
func (m *Manager) drop(ctx context.Context, owner string, n int) error {
	m.mu.Lock()
	all := m.owners[owner]
	n = min(n, len(all))
	points := slices.Clone(all[len(all)-n:])
	m.mu.Unlock()
	var errs []error
	for _, p := range slices.Backward(points) {
		err := m.unref(ctx, p)
		if err == nil {
			m.mu.Lock()
			m.disown(owner, p)
			m.mu.Unlock()
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// unref gives back one use of point, and releases it after the last.
func (m *Manager) unref(ctx context.Context, point string) error {
	m.mu.Lock()
	e := m.entries[point]
	if e == nil {
		m.mu.Unlock()
		return nil
	}
	if e.refs > 1 || e.shared {
		e.refs = max(e.refs-1, 0)
		m.mu.Unlock()
		return nil
	}
	return m.leaveLocked(ctx, point, e)
}

// leaveLocked undoes the driver's work. When that fails the entry stays, so
// that it can be tried again. The caller holds m.mu, which is given up here:
// that nobody else uses the entry and that it is leaving are one step, or
// somebody could join it in between.
func (m *Manager) leaveLocked(ctx context.Context, point string, e *entry) error {
	if m.entries[point] != e {
		m.mu.Unlock()
		return nil
	}
	if e.leaving {
		gone := e.gone
		m.mu.Unlock()
		<-gone
		return e.leaveErr
	}
	e.leaving, e.gone = true, make(chan struct{})
	m.mu.Unlock()

	<-e.ready
	var err error
	if e.release != nil {
		err = e.release(ctx)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	e.leaving, e.leaveErr = false, err
	close(e.gone)
	if err != nil {
		return fmt.Errorf("release %q: %w", point, err)
	}
	m.forget(point)
	return nil
}

// disown removes the last mention of point from owner's list. The caller holds
// m.mu.
func (m *Manager) disown(owner, point string) {
	list := m.owners[owner]
	for i, p := range slices.Backward(list) {
		if p == point {
			m.owners[owner] = slices.Delete(list, i, i+1)
			break
		}
	}
	if len(m.owners[owner]) == 0 {
		delete(m.owners, owner)
	}
}

// forget takes point off the table. The caller holds m.mu.
func (m *Manager) forget(point string) {
	delete(m.entries, point)
	m.order = slices.DeleteFunc(m.order, func(p string) bool { return p == point })
}
