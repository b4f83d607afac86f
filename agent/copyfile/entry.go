// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package copyfile

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// entry is a name in an open directory. No call on it follows a symbolic link
// in that name.
type entry struct {
	dir        int
	base, temp string
}

// writeFile stores one chunk, and gives the file its name after the last.
func (e entry) writeFile(r Request) (err error) {
	fd, err := e.openTemp(r.Offset)
	if err != nil {
		return err
	}
	f := os.NewFile(uintptr(fd), e.temp)
	defer func() {
		err = errors.Join(err, f.Close())
		if err != nil {
			err = errors.Join(err, e.removeTemp())
		}
	}()
	if _, err := f.WriteAt(r.Data, r.Offset); err != nil {
		return err
	}
	if r.Offset+int64(len(r.Data)) < r.Size {
		return nil
	}
	// chown first: it clears the setuid and setgid bits.
	if err := unix.Fchown(fd, r.UID, r.GID); err != nil {
		return fmt.Errorf("set owner: %w", err)
	}
	if err := unix.Fchmod(fd, r.Mode&0o7777); err != nil {
		return fmt.Errorf("set mode: %w", err)
	}
	return e.publish()
}

// openTemp opens the incomplete file: a fresh one for the first chunk, for a
// later chunk the one that ends exactly where the chunk begins.
func (e entry) openTemp(offset int64) (int, error) {
	flags := unix.O_RDWR | unix.O_NOFOLLOW | unix.O_CLOEXEC | unix.O_NONBLOCK
	if offset == 0 {
		if err := e.removeTemp(); err != nil {
			return -1, err
		}
		return unix.Openat(e.dir, e.temp, flags|unix.O_CREAT|unix.O_EXCL, 0o600)
	}
	fd, err := unix.Openat(e.dir, e.temp, flags, 0)
	if errors.Is(err, unix.ENOENT) {
		return -1, fmt.Errorf("chunk at offset %d without those before it: %w", offset, ErrInvalid)
	}
	if err != nil {
		return -1, err
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return -1, errors.Join(err, unix.Close(fd))
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG || st.Size != offset {
		return -1, errors.Join(
			fmt.Errorf("chunk at offset %d, but %d bytes have arrived: %w", offset, st.Size, ErrInvalid),
			unix.Close(fd))
	}
	return fd, nil
}

// makeLink puts a symbolic link under the name, in place of what was there.
func (e entry) makeLink(r Request) error {
	if err := e.removeTemp(); err != nil {
		return err
	}
	if err := unix.Symlinkat(string(r.Data), e.dir, e.temp); err != nil {
		return err
	}
	err := unix.Fchownat(e.dir, e.temp, r.UID, r.GID, unix.AT_SYMLINK_NOFOLLOW)
	if err == nil {
		err = e.publish()
	}
	if err != nil {
		return errors.Join(err, e.removeTemp())
	}
	return nil
}

// makeDir makes a directory. One that exists is kept with its content; a file
// or link of that name gives way.
func (e entry) makeDir(r Request) (err error) {
	fd, err := e.openDir()
	if errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP) {
		if err := unix.Unlinkat(e.dir, e.base, 0); err != nil {
			return err
		}
		err = unix.ENOENT
	}
	if errors.Is(err, unix.ENOENT) {
		if err := unix.Mkdirat(e.dir, e.base, 0o700); err != nil {
			return err
		}
		fd, err = e.openDir()
	}
	if err != nil {
		return err
	}
	err = unix.Fchown(fd, r.UID, r.GID)
	if err == nil {
		err = unix.Fchmod(fd, r.Mode&0o7777)
	}
	return errors.Join(err, unix.Close(fd))
}

func (e entry) openDir() (int, error) {
	return unix.Openat(e.dir, e.base, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
}

// publish gives the temporary entry its real name in one step. An empty
// directory of that name gives way, one with content does not.
func (e entry) publish() error {
	err := unix.Renameat(e.dir, e.temp, e.dir, e.base)
	if errors.Is(err, unix.EISDIR) {
		if err := unix.Unlinkat(e.dir, e.base, unix.AT_REMOVEDIR); err != nil {
			return fmt.Errorf("replace directory: %w", err)
		}
		err = unix.Renameat(e.dir, e.temp, e.dir, e.base)
	}
	if err != nil {
		return fmt.Errorf("rename: %w", err)
	}
	return nil
}

func (e entry) removeTemp() error {
	err := unix.Unlinkat(e.dir, e.temp, 0)
	if err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("remove incomplete file: %w", err)
	}
	return nil
}
