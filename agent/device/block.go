// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package device

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Names of the drivers of block devices, as shims send them in storages and in
// devices.
const (
	DriverBlk     = "blk"     // virtio-blk at a PCI path
	DriverBlkCCW  = "blk-ccw" // virtio-blk with a CCW bus id
	DriverSCSI    = "scsi"    // virtio-scsi, by SCSI id and unit
	DriverMMIOBlk = "mmioblk" // virtio-blk without a bus, by the node's name
	DriverNVDIMM  = "nvdimm"  // persistent memory, by the node's name
)

// Block waits for the disk that the host means by address under one of the
// driver names of this package, and returns its node. Errors wrap ErrInvalid,
// ErrNotFound or ErrUnsuitable, or are the kernel's.
func (f *Finder) Block(ctx context.Context, driver, address string) (Node, error) {
	look, err := f.blockSearch(driver, address)
	if err != nil {
		return Node{}, err
	}
	dir, err := f.wait(ctx, fmt.Sprintf("%s device %q", driver, address), look)
	if err != nil {
		return Node{}, err
	}
	// The kernel makes the directory before the node.
	var n Node
	_, err = f.wait(ctx, fmt.Sprintf("node of %s device %q", driver, address), func() (string, error) {
		var err error
		n, err = f.blockNode(dir)
		if errors.Is(err, ErrNotFound) {
			return "", nil
		}
		return n.Path, err
	})
	return n, err
}

// blockSearch returns a function that looks for the directory of a disk.
func (f *Finder) blockSearch(driver, address string) (func() (string, error), error) {
	switch driver {
	case DriverBlk:
		return f.virtioSearch(address, false)
	case DriverBlkCCW:
		return f.virtioSearch(address, true)
	case DriverSCSI:
		return f.scsiSearch(address)
	case DriverMMIOBlk:
		return f.namedSearch(address, "vd")
	case DriverNVDIMM:
		return f.namedSearch(address, "pmem")
	}
	return nil, fmt.Errorf("block device driver %q: %w", driver, ErrInvalid)
}

func (f *Finder) virtioSearch(address string, ccw bool) (func() (string, error), error) {
	a, err := ParseAddress(address)
	if err != nil {
		return nil, err
	}
	if ccw != (a.ccw != "") {
		return nil, fmt.Errorf("device address %q is of another bus: %w", address, ErrInvalid)
	}
	return func() (string, error) {
		dirs, err := a.find(f.cfg.Sys)
		if err != nil {
			return "", err
		}
		var disks []string
		for _, d := range dirs {
			found, err := disksBelow(d)
			if err != nil {
				return "", err
			}
			disks = append(disks, found...)
		}
		return only(disks, address)
	}, nil
}

// disksBelow returns the disks of the virtio functions of the device dir.
func disksBelow(dir string) ([]string, error) {
	functions, err := entries(dir, "virtio")
	if err != nil {
		return nil, err
	}
	var all []string
	for _, v := range functions {
		block := filepath.Join(dir, v, "block")
		names, err := entries(block, "")
		if err != nil {
			return nil, err
		}
		for _, name := range names {
			all = append(all, filepath.Join(block, name))
		}
	}
	return all, nil
}

// only returns the one member of found, or "" if it has none.
func only(found []string, address string) (string, error) {
	switch len(found) {
	case 0:
		return "", nil
	case 1:
		return found[0], nil
	}
	return "", fmt.Errorf("%d disks at %q: %w", len(found), address, ErrUnsuitable)
}

// namedSearch looks for a disk that has no address but its name. A name that
// the kernel gives to another kind of disk is refused: the host has no
// business with those that the guest made for itself.
func (f *Finder) namedSearch(path, prefix string) (func() (string, error), error) {
	name, ok := strings.CutPrefix(path, "/dev/")
	rest, is := strings.CutPrefix(name, prefix)
	if !ok || !is || rest == "" || len(rest) > 8 || strings.Trim(rest, "abcdefghijklmnopqrstuvwxyz0123456789.") != "" || strings.Contains(rest, "..") {
		return nil, fmt.Errorf("device %q is not named /dev/%s…: %w", path[:min(len(path), maxText)], prefix, ErrInvalid)
	}
	return func() (string, error) {
		list, err := entries(filepath.Join(f.cfg.Sys, "class/block"), name)
		if err != nil || len(list) == 0 || list[0] != name {
			return "", err
		}
		return filepath.Join(f.cfg.Sys, "class/block", name), nil
	}, nil
}

// Existing returns the node of a disk that the host names by its path below
// the device directory, and does not wait for it.
func (f *Finder) Existing(path string) (Node, error) {
	name, ok := strings.CutPrefix(path, "/dev/")
	if !ok || name == "" || strings.ContainsAny(name, "/\x00") || name == "." || name == ".." {
		return Node{}, fmt.Errorf("device %q is not directly below /dev: %w", path[:min(len(path), maxText)], ErrInvalid)
	}
	return f.node(name, unix.S_IFBLK)
}

// partitionWait is how long the kernel may take to read a partition table.
const partitionWait = time.Second

// Partition waits for a partition of a disk, counted from 1. Errors wrap
// ErrNotFound or ErrUnsuitable, or are the kernel's.
func (f *Finder) Partition(ctx context.Context, disk Node, number int) (Node, error) {
	name := filepath.Base(disk.Path)
	part := fmt.Sprintf("%s%d", name, number)
	if last := name[len(name)-1]; last >= '0' && last <= '9' {
		part = fmt.Sprintf("%sp%d", name, number)
	}
	ctx, cancel := context.WithTimeout(ctx, partitionWait)
	defer cancel()
	var n Node
	_, err := f.wait(ctx, fmt.Sprintf("partition %d of %q", number, disk.Path), func() (string, error) {
		dir := filepath.Join(f.cfg.Sys, "class/block", name, part)
		if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
			return "", nil
		}
		var err error
		n, err = f.blockNode(dir)
		if errors.Is(err, ErrNotFound) {
			return "", nil
		}
		return n.Path, err
	})
	return n, err
}

// Named waits for the one partition whose entry in its disk's table has the
// name. Several are ErrUnsuitable; other errors wrap ErrNotFound or are the
// kernel's.
func (f *Finder) Named(ctx context.Context, name string) (Node, error) {
	dir, err := f.wait(ctx, fmt.Sprintf("partition named %q", name), func() (string, error) {
		files, err := filepath.Glob(filepath.Join(f.cfg.Sys, "class/block/*/uevent"))
		if err != nil {
			return "", err
		}
		var found []string
		for _, file := range files {
			b, err := os.ReadFile(file)
			if errors.Is(err, fs.ErrNotExist) {
				continue // it has just gone
			}
			if err != nil {
				return "", fmt.Errorf("look for partition: %w", err)
			}
			for line := range strings.Lines(string(b)) {
				if strings.TrimSuffix(line, "\n") == "PARTNAME="+name {
					found = append(found, filepath.Dir(file))
				}
			}
		}
		return only(found, name)
	})
	if err != nil {
		return Node{}, err
	}
	return f.blockNode(dir)
}
