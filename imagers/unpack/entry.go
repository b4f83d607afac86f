// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package unpack

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"strings"

	"golang.org/x/sys/unix"
)

// file writes a regular file.
func (a *applier) file(ctx context.Context, at place, hdr *tar.Header, content io.Reader) (err error) {
	fd := -1
	err = a.create(at, func() (err error) {
		const flags = unix.O_WRONLY | unix.O_CREAT | unix.O_EXCL | unix.O_NOFOLLOW | unix.O_CLOEXEC
		fd, err = unix.Openat(at.dir.fd, at.base, flags, 0o600)
		return err
	})
	if err != nil {
		return fmt.Errorf("create file: %w", err)
	}
	defer func() { err = errors.Join(err, unix.Close(fd)) }()
	if err := a.copyContent(ctx, fd, hdr, content); err != nil {
		return err
	}
	if err := unix.Fchown(fd, hdr.Uid, hdr.Gid); err != nil {
		return fmt.Errorf("change owner: %w", err)
	}
	// After the owner: changing it clears set-id bits and capabilities.
	if err := unix.Fchmod(fd, mode(hdr)); err != nil {
		return fmt.Errorf("change mode: %w", err)
	}
	err = eachXattr(hdr, func(name, value string) error { return unix.Fsetxattr(fd, name, []byte(value), 0) })
	if err != nil {
		return err
	}
	return a.times(at, hdr)
}

// copyContent writes the file's content. Blocks of zeros of a sparse file
// become holes, so that it takes no more room than it did at its maker's.
func (a *applier) copyContent(ctx context.Context, fd int, hdr *tar.Header, content io.Reader) error {
	sparse := isSparse(hdr)
	for left := hdr.Size; left > 0; {
		buf := a.buf[:min(left, int64(len(a.buf)))]
		if _, err := io.ReadFull(content, buf); err != nil {
			return corrupt("read file content", err)
		}
		left -= int64(len(buf))
		a.written += int64(len(buf))
		if err := a.lim.check(a.written, a.in.n); err != nil {
			return err
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		if sparse && allZero(buf) {
			if _, err := unix.Seek(fd, int64(len(buf)), io.SeekCurrent); err != nil {
				return fmt.Errorf("make hole: %w", err)
			}
			continue
		}
		if err := writeAll(fd, buf); err != nil {
			return fmt.Errorf("write file: %w", err)
		}
	}
	if sparse {
		if err := unix.Ftruncate(fd, hdr.Size); err != nil {
			return fmt.Errorf("set size of sparse file: %w", err)
		}
	}
	return nil
}

func writeAll(fd int, b []byte) error {
	for len(b) > 0 {
		n, err := unix.Write(fd, b)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return err
		}
		b = b[n:]
	}
	return nil
}

func isSparse(hdr *tar.Header) bool {
	if hdr.Typeflag == tar.TypeGNUSparse {
		return true
	}
	for k := range hdr.PAXRecords {
		if strings.HasPrefix(k, "GNU.sparse.") {
			return true
		}
	}
	return false
}

func allZero(b []byte) bool {
	for _, c := range b {
		if c != 0 {
			return false
		}
	}
	return true
}

// directory makes a directory, or gives an existing one the entry's metadata.
func (a *applier) directory(at place, name string, hdr *tar.Header) error {
	hid, err := a.makeDirectory(at)
	if err != nil {
		return fmt.Errorf("make directory: %w", err)
	}
	const flags = unix.O_RDONLY | unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_CLOEXEC
	fd, err := unix.Openat(at.dir.fd, at.base, flags, 0)
	if err != nil {
		return fmt.Errorf("open directory: %w", err)
	}
	err = a.dirMetadata(fd, name, hdr)
	if err == nil && hid {
		err = setOpaque(fd)
	}
	return errors.Join(err, unix.Close(fd))
}

// makeDirectory makes the directory and reports whether a whiteout of the
// same layer stood there, which must go on hiding what lies below.
func (a *applier) makeDirectory(at place) (hid bool, err error) {
	err = unix.Mkdirat(at.dir.fd, at.base, 0o755)
	if !errors.Is(err, unix.EEXIST) {
		return false, err
	}
	st, err := at.stat()
	if err != nil {
		return false, err
	}
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		return false, nil
	}
	if err := a.replace(at); err != nil {
		return false, err
	}
	return isWhiteout(&st), unix.Mkdirat(at.dir.fd, at.base, 0o755)
}

// applyRoot gives the layer's root the metadata of its entry.
func (a *applier) applyRoot(hdr *tar.Header) error {
	if hdr.Typeflag != tar.TypeDir {
		return fmt.Errorf("root of the layer is no directory: %w", ErrRefused)
	}
	f, err := a.root.Open("/", unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	return errors.Join(a.dirMetadata(int(f.Fd()), "", hdr), f.Close())
}

func (a *applier) dirMetadata(fd int, name string, hdr *tar.Header) error {
	if err := unix.Fchown(fd, hdr.Uid, hdr.Gid); err != nil {
		return fmt.Errorf("change owner: %w", err)
	}
	if err := unix.Fchmod(fd, mode(hdr)); err != nil {
		return fmt.Errorf("change mode: %w", err)
	}
	err := eachXattr(hdr, func(name, value string) error { return unix.Fsetxattr(fd, name, []byte(value), 0) })
	if err != nil {
		return err
	}
	times, err := timesOf(hdr)
	if err != nil {
		return err
	}
	if a.dirBytes += int64(len(name)); a.dirBytes > a.lim.DirBytes {
		return fmt.Errorf("names of directories need more than %d bytes: %w", a.lim.DirBytes, ErrLimit)
	}
	a.late = append(a.late, lateDir{name, times})
	return nil
}

// hardLink links to an entry of the same layer. The last component of the
// target is not followed.
func (a *applier) hardLink(at place, hdr *tar.Header) (err error) {
	target, err := cleanName(hdr.Linkname, a.lim)
	if err != nil {
		return fmt.Errorf("hard link target: %w", err)
	}
	if target == "" {
		return fmt.Errorf("hard link to the root of the layer: %w", ErrRefused)
	}
	f, base, err := a.root.OpenParent(target)
	if err != nil {
		return fmt.Errorf("hard link target: %w: %w", ErrRefused, err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	from := place{&parent{f, int(f.Fd())}, base}
	st, err := from.stat()
	if err != nil {
		return fmt.Errorf("hard link target %s: %w: %w", shorten(target), ErrRefused, err)
	}
	if isWhiteout(&st) || st.Mode&unix.S_IFMT == unix.S_IFDIR {
		return fmt.Errorf("hard link target %s is no file: %w", shorten(target), ErrRefused)
	}
	if there, err := at.stat(); err == nil && there.Dev == st.Dev && there.Ino == st.Ino {
		return nil // replacing the name would remove its own target
	}
	err = a.create(at, func() error { return unix.Linkat(from.dir.fd, from.base, at.dir.fd, at.base, 0) })
	if err != nil {
		return fmt.Errorf("hard link to %s: %w", shorten(target), err)
	}
	return nil
}

// node makes a symbolic link, device or pipe and sets its metadata.
func (a *applier) node(at place, hdr *tar.Header, makeIt func() error) error {
	if err := a.create(at, makeIt); err != nil {
		return fmt.Errorf("make link or device: %w", err)
	}
	if err := unix.Fchownat(at.dir.fd, at.base, hdr.Uid, hdr.Gid, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return fmt.Errorf("change owner: %w", err)
	}
	if hdr.Typeflag != tar.TypeSymlink {
		// Nobody else sees the tree, so the name is still the node made above.
		if err := unix.Fchmodat(at.dir.fd, at.base, mode(hdr), 0); err != nil {
			return fmt.Errorf("change mode: %w", err)
		}
	}
	if err := a.nodeXattrs(at, hdr); err != nil {
		return err
	}
	return a.times(at, hdr)
}

// device returns mode and number of a device or pipe.
func device(hdr *tar.Header) (uint32, uint64, error) {
	kind := uint32(unix.S_IFIFO)
	switch hdr.Typeflag {
	case tar.TypeFifo:
		return kind | 0o600, 0, nil
	case tar.TypeChar:
		kind = unix.S_IFCHR
	case tar.TypeBlock:
		kind = unix.S_IFBLK
	}
	if hdr.Devmajor < 0 || hdr.Devmajor >= 1<<12 || hdr.Devminor < 0 || hdr.Devminor >= 1<<20 {
		return 0, 0, fmt.Errorf("device number %d:%d: %w", hdr.Devmajor, hdr.Devminor, ErrRefused)
	}
	if kind == unix.S_IFCHR && hdr.Devmajor == 0 && hdr.Devminor == 0 {
		return 0, 0, fmt.Errorf("character device 0:0 would act as a whiteout: %w", ErrRefused)
	}
	return kind | 0o600, unix.Mkdev(uint32(hdr.Devmajor), uint32(hdr.Devminor)), nil
}

// checkHeader refuses owners and sizes that the system calls would misread.
func (a *applier) checkHeader(hdr *tar.Header) error {
	// The last id means "leave as it is" to chown(2).
	if hdr.Uid < 0 || hdr.Uid >= math.MaxUint32 || hdr.Gid < 0 || hdr.Gid >= math.MaxUint32 {
		return fmt.Errorf("owner %d:%d: %w", hdr.Uid, hdr.Gid, ErrRefused)
	}
	if hdr.Size < 0 || hdr.Size > a.lim.Bytes {
		return fmt.Errorf("size of %d bytes: %w", hdr.Size, ErrLimit)
	}
	return checkXattrs(hdr, a.lim)
}
