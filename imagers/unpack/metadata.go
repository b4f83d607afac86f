// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package unpack

import (
	"archive/tar"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// xattrRecord is the prefix of PAX records that carry extended attributes.
const xattrRecord = "SCHILY.xattr."

// mode returns the permission, set-id and sticky bits.
func mode(hdr *tar.Header) uint32 { return uint32(hdr.Mode & 0o7777) }

// times sets the times of an entry that is no directory.
func (a *applier) times(at place, hdr *tar.Header) error {
	ts, err := timesOf(hdr)
	if err != nil {
		return err
	}
	if err := unix.UtimesNanoAt(at.dir.fd, at.base, ts[:], unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return fmt.Errorf("set times: %w", err)
	}
	return nil
}

// timesOf returns access and modification time. Without an access time the
// modification time stands for both, so that two unpackings are alike.
func timesOf(hdr *tar.Header) (ts [2]unix.Timespec, err error) {
	access := hdr.AccessTime
	if access.IsZero() {
		access = hdr.ModTime
	}
	for i, t := range []time.Time{access, hdr.ModTime} {
		if ts[i], err = unix.TimeToTimespec(t); err != nil {
			return ts, fmt.Errorf("time %v: %w: %w", t, ErrRefused, err)
		}
	}
	return ts, nil
}

// keepXattr tells the attributes that a layer may set. trusted.overlay.* and
// user.overlay.* would steer overlayfs to other directories; labels of
// security modules and integrity hashes belong to the machine that made them.
func keepXattr(name string) bool {
	switch name {
	case "security.capability", "system.posix_acl_access", "system.posix_acl_default":
		return true
	}
	return strings.HasPrefix(name, "user.") && !strings.HasPrefix(name, "user.overlay.")
}

// eachXattr sets the entry's extended attributes by set. A file system
// without user attributes (tmpfs before Linux 6.6) does without them; all
// others are needed, and so is their error.
func eachXattr(hdr *tar.Header, set func(name, value string) error) error {
	for record, value := range hdr.PAXRecords {
		name, ok := strings.CutPrefix(record, xattrRecord)
		if !ok || !keepXattr(name) {
			continue
		}
		err := set(name, value)
		if errors.Is(err, unix.ENOTSUP) && strings.HasPrefix(name, "user.") {
			continue
		}
		if err != nil {
			return fmt.Errorf("set extended attribute %s: %w", shorten(name), err)
		}
	}
	return nil
}

// nodeXattrs sets the extended attributes of a link, device or pipe, which
// cannot be opened for it. The kernel has no user attributes on these.
func (a *applier) nodeXattrs(at place, hdr *tar.Header) error {
	path := "/proc/self/fd/" + strconv.Itoa(at.dir.fd) + "/" + at.base
	return eachXattr(hdr, func(name, value string) error {
		if strings.HasPrefix(name, "user.") {
			return nil
		}
		return unix.Lsetxattr(path, name, []byte(value), 0)
	})
}

// checkXattrs bounds the extended attributes of one entry.
func checkXattrs(hdr *tar.Header, lim *Limits) error {
	total := 0
	for record, value := range hdr.PAXRecords {
		name, ok := strings.CutPrefix(record, xattrRecord)
		if !ok {
			continue
		}
		if strings.IndexByte(name, 0) >= 0 || name == "" {
			return fmt.Errorf("extended attribute %s: %w", shorten(name), ErrRefused)
		}
		total += len(name) + len(value)
	}
	if total > lim.XattrBytes {
		return fmt.Errorf("extended attributes of %d bytes: %w", total, ErrLimit)
	}
	return nil
}
