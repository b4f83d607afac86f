// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package boot

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// partitions reads the kernel's list of block devices.
func partitions() ([]Partition, error) { return partitionsOf("/sys/class/block") }

// partitionsOf reads such a list. A device that goes away meanwhile is left
// out.
func partitionsOf(dir string) ([]Partition, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var parts []Partition
	for _, e := range entries {
		p, err := partitionAt(filepath.Join(dir, e.Name()))
		if errors.Is(err, fs.ErrNotExist) {
			continue // It is a whole disk, which has no number among its partitions.
		}
		if err != nil {
			return nil, fmt.Errorf("partition %q: %w", e.Name(), err)
		}
		parts = append(parts, p)
	}
	return parts, nil
}

func partitionAt(path string) (Partition, error) {
	index, err := os.ReadFile(filepath.Join(path, "partition"))
	if err != nil {
		return Partition{}, err
	}
	number, err := os.ReadFile(filepath.Join(path, "dev"))
	if err != nil {
		return Partition{}, err
	}
	real, err := filepath.EvalSymlinks(path)
	if err != nil {
		return Partition{}, err
	}
	p := Partition{Name: filepath.Base(path), Disk: filepath.Base(filepath.Dir(real)), Number: strings.TrimSpace(string(number))}
	p.Index, err = strconv.Atoi(strings.TrimSpace(string(index)))
	return p, err
}

func readAt(device string, b []byte, offset int64) error {
	f, err := os.Open(device)
	if err != nil {
		return err
	}
	_, err = f.ReadAt(b, offset)
	return errors.Join(err, f.Close())
}

func isErofs(path string) (bool, error) {
	var st unix.Statfs_t
	err := unix.Statfs(path, &st)
	return st.Type == unix.EROFS_SUPER_MAGIC_V1, err
}
