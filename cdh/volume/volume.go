// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

// Package volume is the part of the confidential data hub that turns a disk of
// the host into storage that the host can neither read nor change unnoticed.
//
// The key is made for each mount, exists only in the kernel, and goes with the
// mount, so there is no header on the disk and nothing to open it again. With
// integrity every sector carries an authentication tag: a changed sector is an
// error when it is read. Without it the host can change what it cannot read.
// A sector that is put back together with its old tag is not noticed by either.
//
// Trust boundary. The disk is the host's: its size is what it says, it may
// answer with anything at any time, and fail. Nothing that it holds is read
// before it was written through the encryption, but for the size that the
// kernel's integrity layer computes and writes itself.
package volume

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"cocoon/internal/ext4"
	"cocoon/internal/mapper"
)

const (
	sector     = 512
	headerSize = 1 << 20 // of the disk that is overwritten first
	cryptBlock = 4096

	// Of the kernel's integrity layer: a tag has room for a nonce of 12 and an
	// authentication code of 16 bytes.
	tagSize      = 28
	magicOffset  = 0
	sizeOffset   = 16
	integrityTag = "integrt"
)

// ErrDisk is returned for a disk that cannot hold a volume.
var ErrDisk = errors.New("unsuitable disk")

// Mapper makes devices of the kernel's device mapper. mapper.Mapper is one.
type Mapper interface {
	ReadWrite(ctx context.Context, name string, t mapper.Target) (node string, err error)
	Remove(name string) error
}

// Config is what Volumes are made with.
type Config struct {
	// Mapper may not be nil.
	Mapper Mapper
	// Integrity has the kernel notice sectors that the host has changed.
	Integrity bool
	// Mount mounts a device; nil means mount(2).
	Mount func(device, target string) error
	// Log gets one line a volume; nil discards.
	Log *slog.Logger
}

// Volumes encrypts disks. It is safe for concurrent use.
type Volumes struct{ cfg Config }

// New returns Volumes.
func New(c Config) *Volumes {
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Mount == nil {
		c.Mount = func(device, target string) error { return unix.Mount(device, target, "ext4", unix.MS_NODEV, "") }
	}
	return &Volumes{cfg: c}
}

// undo is what has been done so far, backwards.
type undo []func() error

func (u *undo) add(f func() error) { *u = append(*u, f) }

// run stops at the first step that cannot be undone, since those before it
// carry it. It can be repeated.
func (u *undo) run(context.Context) error {
	for len(*u) > 0 {
		last := len(*u) - 1
		if err := (*u)[last](); err != nil {
			return err
		}
		*u = (*u)[:last]
	}
	return nil
}

// SecureMount makes an encrypted ext4 file system on the disk at the path of a
// node and mounts it on the directory target. Everything that was on the disk
// is lost. The function that it returns unmounts it and forgets the key. When a
// step fails, nothing is left but a disk that holds garbage.
func (v *Volumes) SecureMount(ctx context.Context, disk, target string) (func(context.Context) error, error) {
	var done undo
	err := v.build(ctx, disk, target, &done)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("encrypt disk %q: %w", disk, err), done.run(ctx))
	}
	v.cfg.Log.Info("disk encrypted", "disk", disk, "integrity", v.cfg.Integrity)
	return done.run, nil
}

func (v *Volumes) build(ctx context.Context, disk, target string, done *undo) error {
	size, err := overwriteHeader(disk)
	if err != nil {
		return err
	}
	node, name := disk, "cocoon-"+filepath.Base(disk)
	if v.cfg.Integrity {
		if node, size, err = v.addIntegrity(ctx, disk, name+"-tags", done); err != nil {
			return err
		}
	}
	plain, err := v.addCrypt(ctx, node, name, size, done)
	if err != nil {
		return err
	}
	if err := makeFileSystem(plain, size); err != nil {
		return err
	}
	if err := v.cfg.Mount(plain, target); err != nil {
		return fmt.Errorf("mount the encrypted file system: %w", err)
	}
	done.add(func() error { return unix.Unmount(target, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW) })
	return nil
}

// overwriteHeader makes the kernel see an empty disk and returns its size in
// bytes.
func overwriteHeader(disk string) (_ uint64, err error) {
	f, err := os.OpenFile(disk, os.O_WRONLY|unix.O_NOFOLLOW|os.O_EXCL, 0)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	end, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return 0, err
	}
	if end < 2*headerSize {
		return 0, fmt.Errorf("%d bytes: %w", end, ErrDisk)
	}
	if _, err := f.WriteAt(make([]byte, headerSize), 0); err != nil {
		return 0, err
	}
	return uint64(end) / cryptBlock * cryptBlock, f.Sync()
}

// addIntegrity puts the kernel's integrity layer on the disk: once to have it
// write its header, which says how much room is left, and once to use it.
func (v *Volumes) addIntegrity(ctx context.Context, disk, name string, done *undo) (node string, size uint64, err error) {
	table := fmt.Appendf(nil, "%s 0 %d D 1 block_size:%d", disk, tagSize, cryptBlock)
	if _, err := v.cfg.Mapper.ReadWrite(ctx, name, mapper.Target{Type: "integrity", Sectors: cryptBlock / sector, Params: table}); err != nil {
		return "", 0, err
	}
	if err := v.cfg.Mapper.Remove(name); err != nil {
		return "", 0, err
	}
	if size, err = providedSize(disk); err != nil {
		return "", 0, err
	}
	node, err = v.cfg.Mapper.ReadWrite(ctx, name, mapper.Target{Type: "integrity", Sectors: size / sector, Params: table})
	if err != nil {
		return "", 0, err
	}
	done.add(func() error { return v.cfg.Mapper.Remove(name) })
	return node, size, nil
}

// providedSize reads from the integrity layer's header how many bytes of data
// fit. A host that lies here gets a device that is too large or too small, and
// errors.
func providedSize(disk string) (_ uint64, err error) {
	f, err := os.Open(disk)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	header := make([]byte, sector)
	if _, err := io.ReadFull(f, header); err != nil {
		return 0, fmt.Errorf("read the integrity layer's header: %w", err)
	}
	if string(header[magicOffset:magicOffset+len(integrityTag)]) != integrityTag {
		return 0, fmt.Errorf("no header of the integrity layer: %w", ErrDisk)
	}
	sectors := binary.LittleEndian.Uint64(header[sizeOffset:])
	if sectors == 0 || sectors > 1<<48/sector {
		return 0, fmt.Errorf("%d sectors behind the integrity layer: %w", sectors, ErrDisk)
	}
	return sectors * sector / cryptBlock * cryptBlock, nil
}

// addCrypt puts the encryption on a device of size bytes, with a key that
// nobody else gets.
func (v *Volumes) addCrypt(ctx context.Context, device, name string, size uint64, done *undo) (string, error) {
	cipher, keySize, options := "aes-xts-plain64", 64, fmt.Sprintf("1 sector_size:%d", cryptBlock)
	if v.cfg.Integrity {
		cipher, keySize, options = "capi:gcm(aes)-random", 32, fmt.Sprintf("2 integrity:%d:aead sector_size:%d", tagSize, cryptBlock)
	}
	key := make([]byte, keySize)
	rand.Read(key) //nolint:errcheck // it does not fail, it ends the process
	text := make([]byte, hex.EncodedLen(keySize))
	hex.Encode(text, key)
	clear(key)
	// Not by package fmt, whose buffers are pooled and would keep the key.
	table := make([]byte, 0, len(cipher)+len(text)+len(device)+len(options)+16)
	table = append(append(append(table, cipher...), ' '), text...)
	table = append(append(append(table, " 0 "...), device...), " 0 "...)
	table = append(table, options...)
	clear(text)
	node, err := v.cfg.Mapper.ReadWrite(ctx, name, mapper.Target{Type: "crypt", Sectors: size / sector, Params: table})
	clear(table)
	if err != nil {
		return "", err
	}
	done.add(func() error { return v.cfg.Mapper.Remove(name) })
	return node, nil
}

func makeFileSystem(node string, size uint64) (err error) {
	f, err := os.OpenFile(node, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	var uuid [16]byte
	rand.Read(uuid[:]) //nolint:errcheck // as above
	if err := ext4.Make(f, size, uuid); err != nil {
		return fmt.Errorf("make file system: %w", err)
	}
	return f.Sync()
}
