// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package podvm

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// MaxUserData is the most bytes of a user-data document; providers allow less.
const MaxUserData = 1 << 20

// ErrNoUserData is returned when no disk carries user-data. The caller decides
// whether a guest may start without.
var ErrNoUserData = errors.New("no disk with user-data")

// userDataFiles says where user-data stands on a volume, by the volume's label
// in lower case: of cloud-init's NoCloud source, and of a configuration drive.
func userDataFiles() map[string]string {
	return map[string]string{
		"cidata":   "user-data",
		"config-2": "openstack/latest/user_data",
	}
}

// Disks says where to look for user-data. The zero value looks at the disks of
// the machine.
type Disks struct {
	// Dir is the folder of device nodes, /dev if empty.
	Dir string
	// AnyFile takes every file for a disk, not only block devices.
	AnyFile bool
}

// UserData finds the one disk that carries user-data and returns the document
// and the path of the disk. Two such disks are an error: the owner could not
// tell which one counts.
func (d Disks) UserData() (data []byte, disk string, err error) {
	if d.Dir == "" {
		d.Dir = "/dev"
	}
	for _, pattern := range []string{"vd*", "sd*", "sr*"} {
		names, err := filepath.Glob(filepath.Join(d.Dir, pattern))
		if err != nil {
			return nil, "", fmt.Errorf("list disks: %w", err)
		}
		for _, name := range names {
			b, err := d.read(name)
			if errors.Is(err, ErrNoUserData) {
				continue
			}
			if err != nil {
				return nil, "", fmt.Errorf("read user-data from %q: %w", name, err)
			}
			if disk != "" {
				return nil, "", fmt.Errorf("both %q and %q carry user-data", disk, name)
			}
			data, disk = b, name
		}
	}
	if disk == "" {
		return nil, "", ErrNoUserData
	}
	return data, disk, nil
}

// read returns ErrNoUserData for a device that is somebody else's.
func (d Disks) read(name string) ([]byte, error) {
	st, err := os.Stat(name)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNoUserData, err)
	}
	if !d.AnyFile && st.Mode().Type() != fs.ModeDevice {
		return nil, ErrNoUserData
	}
	// Without O_NONBLOCK an empty CD drive would be asked to close its tray.
	f, err := os.OpenFile(name, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNoUserData, err)
	}
	defer f.Close() // read only; its error says nothing
	v, err := openVolume(f)
	if errors.Is(err, ErrNotISO) {
		return nil, fmt.Errorf("%w: %w", ErrNoUserData, err)
	}
	if err != nil {
		return nil, err
	}
	file, ok := userDataFiles()[strings.ToLower(v.label)]
	if !ok {
		return nil, fmt.Errorf("volume %.32q: %w", v.label, ErrNoUserData)
	}
	return v.readFile(file, MaxUserData)
}
