// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package storage

import (
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Options are the mount options of a storage, told apart.
type Options struct {
	// Flags are the MS_ flags for mount(2), propagation excepted.
	Flags uintptr
	// Propagation is one of MS_SHARED, MS_SLAVE, MS_PRIVATE, MS_UNBINDABLE,
	// each with or without MS_REC, or 0. It takes a mount(2) of its own.
	Propagation uintptr
	// Data are the words that are no flags, in order; the file system's own
	// options.
	Data []string
}

// flagWord is what an option word does to the flags.
type flagWord struct {
	set, clear, propagation uintptr
}

// flagOf returns the meaning of word, and whether it is a flag at all. It is a
// switch and not a table variable, so that nothing can change it.
func flagOf(word string) (flagWord, bool) {
	set, clear, prop := uintptr(0), uintptr(0), uintptr(0)
	switch word {
	case "defaults":
	case "async":
		clear = unix.MS_SYNCHRONOUS
	case "atime":
		clear = unix.MS_NOATIME
	case "dev":
		clear = unix.MS_NODEV
	case "diratime":
		clear = unix.MS_NODIRATIME
	case "exec":
		clear = unix.MS_NOEXEC
	case "loud":
		clear = unix.MS_SILENT
	case "noiversion":
		clear = unix.MS_I_VERSION
	case "nomand":
		clear = unix.MS_MANDLOCK
	case "norelatime":
		clear = unix.MS_RELATIME
	case "nostrictatime":
		clear = unix.MS_STRICTATIME
	case "rw":
		clear = unix.MS_RDONLY
	case "suid":
		clear = unix.MS_NOSUID
	default:
		set, prop = setFlag(word)
		if set|prop == 0 {
			return flagWord{}, false
		}
	}
	return flagWord{set: set, clear: clear, propagation: prop}, true
}

// setFlag returns the flag or the propagation that word sets, or zeros.
func setFlag(word string) (set, propagation uintptr) {
	switch word {
	case "bind":
		return unix.MS_BIND, 0
	case "rbind":
		return unix.MS_BIND | unix.MS_REC, 0
	case "dirsync":
		return unix.MS_DIRSYNC, 0
	case "iversion":
		return unix.MS_I_VERSION, 0
	case "mand":
		return unix.MS_MANDLOCK, 0
	case "noatime":
		return unix.MS_NOATIME, 0
	case "nodev":
		return unix.MS_NODEV, 0
	case "nodiratime":
		return unix.MS_NODIRATIME, 0
	case "noexec":
		return unix.MS_NOEXEC, 0
	case "nosuid":
		return unix.MS_NOSUID, 0
	case "relatime":
		return unix.MS_RELATIME, 0
	case "remount":
		return unix.MS_REMOUNT, 0
	case "ro":
		return unix.MS_RDONLY, 0
	case "silent":
		return unix.MS_SILENT, 0
	case "strictatime":
		return unix.MS_STRICTATIME, 0
	case "sync":
		return unix.MS_SYNCHRONOUS, 0
	}
	return 0, propagationFlag(word)
}

func propagationFlag(word string) uintptr {
	switch word {
	case "shared":
		return unix.MS_SHARED
	case "rshared":
		return unix.MS_SHARED | unix.MS_REC
	case "slave":
		return unix.MS_SLAVE
	case "rslave":
		return unix.MS_SLAVE | unix.MS_REC
	case "private":
		return unix.MS_PRIVATE
	case "rprivate":
		return unix.MS_PRIVATE | unix.MS_REC
	case "unbindable":
		return unix.MS_UNBINDABLE
	case "runbindable":
		return unix.MS_UNBINDABLE | unix.MS_REC
	}
	return 0
}

// ParseOptions tells flags and file-system options apart. An item may hold
// several words joined by commas. It fails with ErrInvalid for "loop", which
// would need a loop device, for a NUL byte, and when the data would not fit
// the page that mount(2) takes.
func ParseOptions(items []string) (Options, error) {
	var o Options
	size := 0
	for _, item := range items {
		if strings.IndexByte(item, 0) >= 0 {
			return Options{}, fmt.Errorf("option %q holds a NUL byte: %w", item, ErrInvalid)
		}
		for word := range strings.SplitSeq(item, ",") {
			if word == "" {
				continue
			}
			if word == "loop" {
				return Options{}, fmt.Errorf("option %q: %w", word, ErrInvalid)
			}
			if f, ok := flagOf(word); ok {
				o.Flags = o.Flags&^f.clear | f.set
				if f.propagation != 0 {
					o.Propagation = f.propagation
				}
				continue
			}
			o.Data = append(o.Data, word)
			size += len(word) + 1
		}
	}
	if size > os.Getpagesize() {
		return Options{}, fmt.Errorf("%d bytes of mount options: %w", size, ErrInvalid)
	}
	return o, nil
}

// take removes the words "key=value" from the data and returns the last
// value, and whether there was one.
func (o *Options) take(key string) (value string, found bool) {
	rest := o.Data[:0:0]
	for _, word := range o.Data {
		if v, ok := strings.CutPrefix(word, key+"="); ok {
			value, found = v, true
			continue
		}
		rest = append(rest, word)
	}
	o.Data = rest
	return value, found
}

// takeGID removes "fsgid=" and returns its group, or -1 without one.
func (o *Options) takeGID() (int, error) {
	v, ok := o.take("fsgid")
	if !ok {
		return -1, nil
	}
	gid, err := strconv.ParseUint(v, 10, 31)
	if err != nil {
		return 0, fmt.Errorf("option fsgid=%q: %w", v, ErrInvalid)
	}
	return int(gid), nil
}

// takeMode removes "mode=" and returns its permission bits, or def without
// one.
func (o *Options) takeMode(def uint32) (uint32, error) {
	v, ok := o.take("mode")
	if !ok {
		return def, nil
	}
	mode, err := strconv.ParseUint(v, 8, 32)
	if err != nil || mode > 0o7777 {
		return 0, fmt.Errorf("option mode=%q: %w", v, ErrInvalid)
	}
	return uint32(mode), nil
}
