// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package storage

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"cocoon/agent/device"
)

// Devices finds the disks that a host has plugged in. *device.Finder is one.
type Devices interface {
	// Block waits for the disk at an address of the driver's bus.
	Block(ctx context.Context, driver, address string) (device.Node, error)
	// Partition waits for a partition of a disk, counted from 1.
	Partition(ctx context.Context, disk device.Node, number int) (device.Node, error)
	// Existing returns the disk with a name below /dev.
	Existing(path string) (device.Node, error)
}

// SecureMounter encrypts disks. The confidential data hub is one.
type SecureMounter interface {
	// SecureMount encrypts the disk at the path of a node with a key that exists
	// only in memory, makes an ext4 file system on it and mounts it on target.
	// What was on the disk is lost. The function that it returns undoes it, and
	// with the key everything on the disk is lost again.
	SecureMount(ctx context.Context, disk, target string) (func(context.Context) error, error)
}

// driverOptions of a block storage that change what is done with it.
const (
	optionCreate = "create_filesystem"
	optionKey    = "encryption_key="
)

// diskFileSystems are those that a disk of the host may hold. Each is a parser
// in the kernel that the host can feed, so there are no more than are used.
func diskFileSystems() []string {
	return []string{"ext4", "ext3", "ext2", "xfs", "btrfs", "erofs", "squashfs"}
}

func isDiskFileSystem(name string) bool { return slices.Contains(diskFileSystems(), name) }

// block mounts the file system on a disk of the host: a volume, or a
// container's root. Everything on it is the host's word unless the policy
// demands encryption.
func (m *Manager) block(ctx context.Context, r request) (releaseFunc, error) {
	secure, err := wantsEncryption(r.GetDriverOptions())
	if err != nil {
		return nil, err
	}
	if !isDiskFileSystem(r.GetFstype()) {
		return nil, fmt.Errorf("file system %q on a disk: %w", r.GetFstype(), ErrInvalid)
	}
	opts, err := ParseOptions(r.GetOptions())
	if err != nil {
		return nil, err
	}
	if opts.Flags&(unix.MS_BIND|unix.MS_REMOUNT) != 0 {
		return nil, fmt.Errorf("bind and remount are not for disks: %w", ErrInvalid)
	}
	if secure && m.cfg.SecureMount == nil {
		return nil, fmt.Errorf("encrypted file system: %w", ErrNoEncryption)
	}
	if m.cfg.Devices == nil {
		return nil, errors.New("this agent has nothing to find disks with")
	}
	disk, err := m.findDisk(ctx, r)
	if err != nil {
		return nil, err
	}
	if secure {
		return m.secureDisk(ctx, disk, r)
	}
	return m.mountDisk(disk, r, opts)
}

// wantsEncryption reads the driver options. A word that is not known is an
// error: it may have asked for protection.
func wantsEncryption(options []string) (bool, error) {
	var create, encrypt bool
	for _, o := range options {
		key, isKey := strings.CutPrefix(o, optionKey)
		switch {
		case o == optionCreate:
			create = true
		case isKey && key == "ephemeral":
			encrypt = true
		default:
			return false, fmt.Errorf("driver option %q of a disk: %w", o, ErrInvalid)
		}
	}
	switch {
	case encrypt && !create:
		return false, fmt.Errorf("an ephemeral key opens no file system that exists: %s is missing: %w", optionCreate, ErrInvalid)
	case create && !encrypt:
		return false, fmt.Errorf("a new file system without encryption: %w", ErrNoEncryption)
	}
	return encrypt, nil
}

// findDisk waits for the disk that the storage names. The driver for PCI takes
// a path below /dev as well, as upstream's does.
func (m *Manager) findDisk(ctx context.Context, r request) (device.Node, error) {
	var n device.Node
	var err error
	if r.GetDriver() == device.DriverBlk && strings.HasPrefix(r.GetSource(), "/") {
		n, err = m.cfg.Devices.Existing(r.GetSource())
	} else {
		n, err = m.cfg.Devices.Block(ctx, r.GetDriver(), r.GetSource())
	}
	if errors.Is(err, device.ErrInvalid) {
		err = fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	return n, err
}

// mountDisk mounts a disk as it is.
func (m *Manager) mountDisk(disk device.Node, r request, opts Options) (_ releaseFunc, err error) {
	at, err := m.makeDir(r.GetMountPoint())
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, at.close()) }()
	real, err := mountAt(mountSpec{source: disk.Path, fstype: r.GetFstype(), at: at, opts: opts})
	if err != nil {
		return nil, errors.Join(err, m.removeMountPoint(at))
	}
	release := unmountAndRemove(real)
	if err := ownMount(real, -1, r.Storage); err != nil {
		return nil, errors.Join(err, release(context.Background()))
	}
	return release, nil
}

// removeMountPoint removes the directory of a mount that failed.
func (m *Manager) removeMountPoint(at place) error {
	real, err := at.realPath()
	if err != nil {
		return err
	}
	return removeDir(real)
}

// secureDisk has a disk formatted and encrypted.
func (m *Manager) secureDisk(ctx context.Context, disk device.Node, r request) (_ releaseFunc, err error) {
	if r.GetFstype() != "ext4" {
		return nil, fmt.Errorf("encrypted file system of type %q: %w", r.GetFstype(), ErrInvalid)
	}
	at, err := m.makeDir(r.GetMountPoint())
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, at.close()) }()
	real, err := at.realPath()
	if err != nil {
		return nil, err
	}
	undo, err := m.cfg.SecureMount.SecureMount(ctx, disk.Path, real)
	if err != nil {
		return nil, errors.Join(err, removeDir(real))
	}
	release := func(ctx context.Context) error {
		if err := undo(ctx); err != nil {
			return err
		}
		return removeDir(real)
	}
	if err := ownMount(real, -1, r.Storage); err != nil {
		return nil, errors.Join(err, release(context.WithoutCancel(ctx)))
	}
	return release, nil
}
