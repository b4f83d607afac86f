// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package initdata

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// Errors of a search for the disk.
var (
	// ErrNone is returned when no disk carries initdata.
	ErrNone = errors.New("no disk with initdata")
	// ErrTwo is returned when several do: the owner could not tell which one
	// counts.
	ErrTwo = errors.New("two disks with initdata")
)

// Disks says where to look for the disk by which a shim hands over initdata.
// The zero value looks at the disks of the machine.
type Disks struct {
	// Dir is the folder of device nodes, /dev if empty.
	Dir string
	// AnyFile takes every file for a disk, not only block devices.
	AnyFile bool
}

// Find reads the one disk that carries initdata, and returns its path too. The
// disks are looked at once: their drivers are loaded before, and the kernel ends
// the loading of a driver after it has looked for devices. A disk that begins
// like initdata and is none, or one that cannot be read, is an error, since the
// owner's document may be on it.
func (d Disks) Find(opt Options) (doc *Document, disk string, err error) {
	if d.Dir == "" {
		d.Dir = "/dev"
	}
	for _, pattern := range []string{"vd*", "sd*"} {
		names, err := filepath.Glob(filepath.Join(d.Dir, pattern))
		if err != nil {
			return nil, "", fmt.Errorf("list disks: %w", err)
		}
		for _, name := range names {
			found, err := d.read(name, opt)
			if errors.Is(err, ErrNoMagic) {
				continue
			}
			if err != nil {
				return nil, "", fmt.Errorf("read initdata from %q: %w", name, err)
			}
			if doc != nil {
				return nil, "", fmt.Errorf("%q and %q: %w", disk, name, ErrTwo)
			}
			doc, disk = found, name
		}
	}
	if doc == nil {
		return nil, "", ErrNone
	}
	return doc, disk, nil
}

// read returns ErrNoMagic for what is no initdata disk.
func (d Disks) read(name string, opt Options) (*Document, error) {
	f, err := os.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	switch {
	case errors.Is(err, syscall.ENOMEDIUM), errors.Is(err, syscall.ENXIO):
		return nil, ErrNoMagic // a drive without a medium
	case err != nil:
		return nil, err
	}
	defer f.Close() // read only; its error says nothing
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !d.AnyFile && st.Mode().Type() != fs.ModeDevice {
		return nil, ErrNoMagic
	}
	return ReadDevice(f, opt)
}
