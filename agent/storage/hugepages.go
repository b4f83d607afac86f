// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package storage

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// maxHugePages bounds the pages of one volume: 1 TiB in the smallest size.
const maxHugePages = 1 << 19

// hugeOptions are what a volume of huge pages asks for, in bytes.
type hugeOptions struct{ pageSize, size uint64 }

func (h hugeOptions) pages() uint64 { return h.size / h.pageSize }

// parseHuge takes "pagesize=2097152" and "size=524288000" out of the options;
// both stay with the mount as well.
func parseHuge(opts Options) (hugeOptions, error) {
	var h hugeOptions
	for _, word := range opts.Data {
		name, value, _ := strings.Cut(word, "=")
		var to *uint64
		switch name {
		case "pagesize":
			to = &h.pageSize
		case "size":
			to = &h.size
		case "mode", "uid", "gid", "nr_inodes", "min_size":
			continue
		default:
			return h, fmt.Errorf("option %q is not one of hugetlbfs: %w", word, ErrInvalid)
		}
		n, err := strconv.ParseUint(value, 10, 63)
		if err != nil || *to != 0 {
			return h, fmt.Errorf("option %q of huge pages: %w", word, ErrInvalid)
		}
		*to = n
	}
	if h.pageSize < 1024 || h.pageSize%1024 != 0 || h.size == 0 || h.size%h.pageSize != 0 || h.pages() > maxHugePages {
		return h, fmt.Errorf("%d bytes in pages of %d bytes: %w", h.size, h.pageSize, ErrInvalid)
	}
	return h, nil
}

// hugePages reserves huge pages and mounts a file system on them. The pages are
// added to those of other volumes, and given back with the volume.
func (m *Manager) hugePages(_ context.Context, r request) (_ releaseFunc, err error) {
	opts, err := ParseOptions(r.GetOptions())
	if err != nil {
		return nil, err
	}
	gid, err := opts.takeGID()
	if err != nil {
		return nil, err
	}
	h, err := parseHuge(opts)
	if err != nil {
		return nil, err
	}
	if err := m.reserve(h.pageSize, int64(h.pages())); err != nil {
		return nil, err
	}
	giveBack := func() error { return m.reserve(h.pageSize, -int64(h.pages())) }
	at, err := m.makeDir(r.GetMountPoint())
	if err != nil {
		return nil, errors.Join(err, giveBack())
	}
	defer func() { err = errors.Join(err, at.close()) }()
	real, err := mountAt(mountSpec{source: "nodev", fstype: "hugetlbfs", at: at, opts: opts})
	if err != nil {
		return nil, errors.Join(err, m.removeMountPoint(at), giveBack())
	}
	mounted := true
	release := func(ctx context.Context) error {
		if mounted {
			if err := unmountAndRemove(real)(ctx); err != nil {
				return err
			}
			mounted = false
		}
		return giveBack()
	}
	if err := ownMount(real, gid, r.Storage); err != nil {
		return nil, errors.Join(err, release(context.Background()))
	}
	return release, nil
}

// reserve changes the number of huge pages that the kernel keeps ready by
// pages. When it cannot have them all, the number is put back.
func (m *Manager) reserve(pageSize uint64, pages int64) error {
	m.huge.Lock()
	defer m.huge.Unlock()
	file := filepath.Join(m.cfg.Sys, fmt.Sprintf("kernel/mm/hugepages/hugepages-%dkB/nr_hugepages", pageSize/1024))
	had, err := readCount(file)
	if err != nil {
		return fmt.Errorf("huge pages of %d bytes: %w", pageSize, err)
	}
	want := max(had+pages, 0)
	if err := writeCount(file, want); err != nil {
		return err
	}
	got, err := readCount(file)
	if err != nil {
		return err
	}
	if pages > 0 && got < want {
		err := fmt.Errorf("Only allocated %d of %d hugepages of size %dkB", got-had, pages, pageSize/1024) //nolint:staticcheck // upstream's text
		return errors.Join(err, writeCount(file, had))
	}
	return nil
}

func readCount(file string) (int64, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return 0, err
	}
	n, err := strconv.ParseInt(strings.TrimSpace(string(b)), 10, 64)
	if err != nil {
		return 0, fmt.Errorf("read %q: %w", file, err)
	}
	return n, nil
}

func writeCount(file string, n int64) error {
	f, err := os.OpenFile(file, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(strconv.FormatInt(n, 10) + "\n")
	return errors.Join(err, f.Close())
}
