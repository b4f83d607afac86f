// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

// Package copyfile writes files that the host copies into the guest when it
// shares no file system with it: ConfigMaps, Secrets, /etc/hosts and the like.
//
// Trust boundary. Path, type, mode, owner, offset, size and data come from the
// untrusted host. A policy has approved the path; this package makes sure that
// the file lands there and nowhere else. All walking is done by descriptor
// inside the shared directory, so symbolic links that the host has copied
// before cannot lead out of it. A file appears under its name only when all of
// it has arrived, by rename, and a symbolic link is replaced the same way.
package copyfile

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"cocoon/internal/safepath"
)

var (
	// ErrInvalid is returned for a request that contradicts itself or names a
	// place outside the shared directory.
	ErrInvalid = errors.New("invalid copy request")

	// ErrBusy is returned while another request is writing the same path.
	ErrBusy = errors.New("another copy to this path is under way")
)

// tempPrefix begins the name of an incomplete file. The host may not use it.
const tempPrefix = ".cocoon-copy-"

// Request is one chunk of a file, or a whole directory or symbolic link.
type Request struct {
	// Path is absolute and lies below the shared directory.
	Path string
	// Size is the whole file's size in bytes, Offset where Data belongs.
	Size, Offset int64
	// Mode holds type and permission bits as in st_mode; DirMode the
	// permission bits of parents that have to be made.
	Mode, DirMode uint32
	// UID and GID own the file.
	UID, GID int
	// Data is the chunk, or the target of a symbolic link.
	Data []byte
}

// Copier carries out requests below one directory. It is safe for concurrent
// use.
type Copier struct {
	dir string

	mu   sync.Mutex
	busy map[string]struct{} // paths that are being written
}

// New returns a Copier for the shared directory dir, which is made when the
// first file comes.
func New(dir string) *Copier {
	return &Copier{dir: dir, busy: make(map[string]struct{})}
}

// Copy carries out one request. The error wraps ErrInvalid, ErrBusy or the
// kernel's errno. After an error in the middle of a file the sender starts
// again at offset 0.
func (c *Copier) Copy(r Request) (err error) {
	rel, err := c.check(r)
	if err != nil {
		return err
	}
	if !c.enter(rel) {
		return fmt.Errorf("copy %q: %w", r.Path, ErrBusy)
	}
	defer c.leave(rel)
	dir, base, err := c.parent(rel, r)
	if err != nil {
		return fmt.Errorf("copy %q: %w", r.Path, err)
	}
	defer func() { err = errors.Join(err, dir.Close()) }()
	e := entry{dir: int(dir.Fd()), base: base, temp: tempName(base)}
	switch r.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		err = e.makeDir(r)
	case unix.S_IFLNK:
		err = e.makeLink(r)
	default:
		err = e.writeFile(r)
	}
	if err != nil {
		return fmt.Errorf("copy %q: %w", r.Path, err)
	}
	return nil
}

// check refuses what contradicts itself and returns the path's name below the
// shared directory.
func (c *Copier) check(r Request) (string, error) {
	rel, ok := strings.CutPrefix(r.Path, c.dir+"/")
	if !ok || path.Clean(r.Path) != r.Path || strings.IndexByte(r.Path, 0) >= 0 {
		return "", fmt.Errorf("path %q is not a clean path below %q: %w", r.Path, c.dir, ErrInvalid)
	}
	for part := range strings.SplitSeq(rel, "/") {
		if strings.HasPrefix(part, tempPrefix) {
			return "", fmt.Errorf("path %q uses a reserved name: %w", r.Path, ErrInvalid)
		}
	}
	switch r.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		return rel, nil
	case unix.S_IFLNK:
		return rel, checkTarget(r.Data)
	case unix.S_IFREG:
		return rel, checkRange(r)
	default:
		return "", fmt.Errorf("file type %#o is not supported: %w", r.Mode&unix.S_IFMT, ErrInvalid)
	}
}

func checkTarget(target []byte) error {
	if n := len(target); n == 0 || n >= unix.PathMax {
		return fmt.Errorf("symbolic link with a target of %d bytes: %w", n, ErrInvalid)
	}
	if strings.IndexByte(string(target), 0) >= 0 {
		return fmt.Errorf("symbolic link with a NUL byte: %w", ErrInvalid)
	}
	return nil
}

// checkRange compares without adding, as the numbers may be near the end of
// their range.
func checkRange(r Request) error {
	if r.Size < 0 || r.Offset < 0 || r.Offset > r.Size || int64(len(r.Data)) > r.Size-r.Offset {
		return fmt.Errorf("%d bytes at offset %d of a file of %d: %w", len(r.Data), r.Offset, r.Size, ErrInvalid)
	}
	if len(r.Data) == 0 && r.Size > 0 {
		return fmt.Errorf("empty chunk of a file of %d bytes: %w", r.Size, ErrInvalid)
	}
	return nil
}

func (c *Copier) enter(rel string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, taken := c.busy[rel]; taken {
		return false
	}
	c.busy[rel] = struct{}{}
	return true
}

func (c *Copier) leave(rel string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.busy, rel)
}

// parent opens the directory that rel belongs to, and makes it when needed.
func (c *Copier) parent(rel string, r Request) (_ *os.File, base string, err error) {
	if err := os.MkdirAll(c.dir, 0o755); err != nil {
		return nil, "", err
	}
	root, err := safepath.OpenRoot(c.dir)
	if err != nil {
		return nil, "", err
	}
	defer func() { err = errors.Join(err, root.Close()) }()
	dir, base, err := root.OpenParent(rel)
	if !errors.Is(err, unix.ENOENT) {
		return dir, base, err
	}
	dir, err = root.MkdirAll(path.Dir(rel), r.DirMode&0o777)
	if err != nil {
		return nil, "", err
	}
	fd := int(dir.Fd())
	if err := errors.Join(unix.Fchown(fd, r.UID, r.GID), unix.Fchmod(fd, r.DirMode&0o777)); err != nil {
		return nil, "", errors.Join(err, dir.Close())
	}
	return dir, path.Base(rel), nil
}

// tempName returns the name under which base is collected. It depends on
// nothing but base, so that all chunks of a file meet, and never on its
// extension, so that two files do not.
func tempName(base string) string {
	sum := sha256.Sum256([]byte(base))
	return tempPrefix + hex.EncodeToString(sum[:16])
}
