// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

// Package store keeps unpacked image layers and mounts them as container
// roots.
//
// A layer enters the store only complete and verified: it is filled in a
// directory that nothing refers to, and published by a rename. Layers are
// counted by their users and shared by digest. What the work directory held
// before is removed when the store opens: the directory may lie on a device
// that the host had in its hands, and the list of what was verified is kept
// in memory only.
package store

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"sync"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"cocoon/internal/safepath"
)

var (
	// ErrInUse is returned when another store uses the same work directory,
	// or when something is mounted at a target already.
	ErrInUse = errors.New("in use")

	// ErrNotMounted is returned by Unmount for a target that the store did
	// not mount.
	ErrNotMounted = errors.New("not mounted by this store")
)

const (
	layersDir  = "layers"
	overlayDir = "overlay"
	lockFile   = "lock"
)

// Content is what the store remembers about a filled layer.
type Content struct {
	DiffID digest.Digest
	Opaque bool // hides all layers below
}

// Fill writes a layer below root, which is empty, and returns only after all
// of it was verified.
type Fill func(ctx context.Context, root *safepath.Root) (Content, error)

// Layer is one reference to a layer of the store. Put gives it back.
type Layer struct {
	Content
	store *Store
	entry *entry
}

// entry is a published layer.
type entry struct {
	content Content
	name    string // below layersDir
	refs    int
}

// Store is a layer store. It is safe for concurrent use.
type Store struct {
	dir  string
	log  *slog.Logger
	work *os.File // the work directory
	dirs map[string]*os.File
	lock *os.File

	mu      sync.Mutex // guards what follows; never held over I/O
	next    int
	layers  map[digest.Digest]*entry
	flights map[digest.Digest]chan struct{} // closed when a fill ends
	mounts  map[string]*mounted
}

// New opens the work directory dir, makes it if needed, and removes the
// layers and mount directories that an earlier store left in it. It fails
// with ErrInUse while another process has it open.
func New(dir string, log *slog.Logger) (*Store, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make work directory: %w", err)
	}
	s := &Store{
		dir: dir, log: log, dirs: map[string]*os.File{},
		layers: map[digest.Digest]*entry{}, flights: map[digest.Digest]chan struct{}{}, mounts: map[string]*mounted{},
	}
	if err := s.open(); err != nil {
		return nil, errors.Join(fmt.Errorf("open work directory %q: %w", dir, err), s.Close())
	}
	return s, nil
}

func (s *Store) open() (err error) {
	if s.work, err = os.Open(s.dir); err != nil {
		return err
	}
	s.lock, err = os.OpenFile(filepath.Join(s.dir, lockFile), os.O_CREATE|os.O_RDWR|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return err
	}
	if err := unix.Flock(int(s.lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return fmt.Errorf("%w: %w", ErrInUse, err)
	}
	for _, name := range []string{layersDir, overlayDir} {
		if err := safepath.RemoveAll(s.work, name); err != nil {
			return err
		}
		if err := unix.Mkdirat(int(s.work.Fd()), name, 0o700); err != nil {
			return fmt.Errorf("make %q: %w", name, err)
		}
		if s.dirs[name], err = os.Open(filepath.Join(s.dir, name)); err != nil {
			return err
		}
	}
	return nil
}

// Close gives up the work directory. Layers and mounts stay as they are.
func (s *Store) Close() error {
	var errs []error
	for _, f := range []*os.File{s.dirs[layersDir], s.dirs[overlayDir], s.work, s.lock} {
		if f != nil {
			errs = append(errs, f.Close())
		}
	}
	return errors.Join(errs...)
}

// Layer returns a reference to the layer d, which fill provides if the store
// does not have it. Several callers for one layer cause one fill; if it fails
// each of the others makes its own attempt, since its source may be another.
// A fill that runs out of space is repeated once after unused layers were
// removed.
func (s *Store) Layer(ctx context.Context, d digest.Digest, fill Fill) (*Layer, error) {
	for {
		s.mu.Lock()
		if e := s.layers[d]; e != nil {
			e.refs++
			s.mu.Unlock()
			return &Layer{Content: e.content, store: s, entry: e}, nil
		}
		flight := s.flights[d]
		if flight == nil {
			flight = make(chan struct{})
			s.flights[d] = flight
			s.mu.Unlock()
			return s.lead(ctx, d, fill, flight)
		}
		s.mu.Unlock()
		select {
		case <-flight:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// lead fills the layer and lets those who wait for it go on.
func (s *Store) lead(ctx context.Context, d digest.Digest, fill Fill, flight chan struct{}) (l *Layer, err error) {
	var e *entry
	defer func() {
		s.mu.Lock()
		if e != nil {
			e.refs = 1
			s.layers[d] = e
		}
		delete(s.flights, d)
		s.mu.Unlock()
		close(flight)
	}()
	e, err = s.fill(ctx, fill)
	if errors.Is(err, unix.ENOSPC) && s.Prune() > 0 {
		e, err = s.fill(ctx, fill)
	}
	if err != nil {
		return nil, err
	}
	return &Layer{Content: e.content, store: s, entry: e}, nil
}

// fill runs one fill in a directory of its own, and publishes or removes it.
func (s *Store) fill(ctx context.Context, fill Fill) (e *entry, err error) {
	name := s.number()
	temp := "tmp-" + name
	layers := s.dirs[layersDir]
	if err := unix.Mkdirat(int(layers.Fd()), temp, 0o755); err != nil {
		return nil, fmt.Errorf("make layer directory: %w", err)
	}
	defer func() {
		if e == nil {
			err = errors.Join(err, safepath.RemoveAll(layers, temp))
		}
	}()
	root, err := safepath.OpenRoot(filepath.Join(s.dir, layersDir, temp))
	if err != nil {
		return nil, err
	}
	// Whatever the umask is, processes of the container must get in.
	err = unix.Fchmodat(int(layers.Fd()), temp, 0o755, 0)
	var content Content
	if err == nil {
		content, err = fill(ctx, root)
	}
	if err := errors.Join(err, root.Close()); err != nil {
		return nil, err
	}
	if err := unix.Renameat2(int(layers.Fd()), temp, int(layers.Fd()), name, unix.RENAME_NOREPLACE); err != nil {
		return nil, fmt.Errorf("publish layer: %w", err)
	}
	return &entry{content: content, name: name}, nil
}

// number returns a name that was not used before.
func (s *Store) number() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.next++
	return strconv.Itoa(s.next)
}

// Put gives the reference back. The layer stays for later images.
func (l *Layer) Put() {
	l.store.mu.Lock()
	defer l.store.mu.Unlock()
	l.entry.refs--
}

// Prune removes the layers that nobody refers to and returns how many it
// removed. One that cannot be removed is logged and forgotten.
func (s *Store) Prune() int {
	s.mu.Lock()
	var unused []string
	for d, e := range s.layers {
		if e.refs == 0 {
			unused = append(unused, e.name)
			delete(s.layers, d)
		}
	}
	s.mu.Unlock()
	for _, name := range unused {
		if err := safepath.RemoveAll(s.dirs[layersDir], name); err != nil {
			s.log.Warn("unused layer stays on disk", "error", err)
		}
	}
	return len(unused)
}
