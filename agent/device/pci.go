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
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// vfioDriver is the kernel driver that hands a PCI device to a program.
const vfioDriver = "vfio-pci"

// PCI waits for the device at a PCI path and returns its address in the guest,
// "0000:01:02.0". Errors wrap ErrInvalid or ErrNotFound, or are the kernel's.
func (f *Finder) PCI(ctx context.Context, path string) (string, error) {
	dir, err := f.pciDir(ctx, path)
	return filepath.Base(dir), err
}

func (f *Finder) pciDir(ctx context.Context, path string) (string, error) {
	a, err := ParseAddress(path)
	if err != nil {
		return "", err
	}
	if a.ccw != "" {
		return "", fmt.Errorf("device address %q is not of PCI: %w", path, ErrInvalid)
	}
	return f.wait(ctx, fmt.Sprintf("PCI device %q", path), func() (string, error) {
		dirs, err := a.find(f.cfg.Sys)
		if err != nil || len(dirs) == 0 {
			return "", err
		}
		if _, err := os.Stat(dirs[0]); errors.Is(err, fs.ErrNotExist) {
			return "", nil
		} else if err != nil {
			return "", fmt.Errorf("look for PCI device: %w", err)
		}
		return dirs[0], nil
	})
}

// VFIO hands the device at a PCI path to the driver vfio-pci. It returns the
// device's address in the guest and the node of its IOMMU group. A device that
// has no group, since the guest has no IOMMU, is ErrUnsuitable.
func (f *Finder) VFIO(ctx context.Context, path string) (address string, group Node, err error) {
	dir, err := f.pciDir(ctx, path)
	if err != nil {
		return "", Node{}, err
	}
	address = filepath.Base(dir)
	if err := f.bindVFIO(dir); err != nil {
		return "", Node{}, fmt.Errorf("bind PCI device %s to %s: %w", address, vfioDriver, err)
	}
	link, err := os.Readlink(filepath.Join(dir, "iommu_group"))
	if err != nil {
		return "", Node{}, fmt.Errorf("PCI device %s is in no IOMMU group: %w: %w", address, ErrUnsuitable, err)
	}
	number := filepath.Base(link)
	if _, err := strconv.ParseUint(number, 10, 32); err != nil {
		return "", Node{}, fmt.Errorf("IOMMU group %q of PCI device %s: %w", number, address, ErrUnsuitable)
	}
	_, err = f.wait(ctx, "node of IOMMU group "+number, func() (string, error) {
		group, err = f.node(filepath.Join("vfio", number), unix.S_IFCHR)
		if errors.Is(err, ErrNotFound) {
			return "", nil
		}
		return group.Path, err
	})
	return address, group, err
}

// bindVFIO replaces the driver of the device dir.
func (f *Finder) bindVFIO(dir string) error {
	bound, err := os.Readlink(filepath.Join(dir, "driver"))
	switch {
	case err == nil && filepath.Base(bound) == vfioDriver:
		return nil
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return err
	}
	if err := writeAttribute(filepath.Join(dir, "driver_override"), vfioDriver); err != nil {
		return err
	}
	if bound != "" {
		if err := writeAttribute(filepath.Join(dir, "driver/unbind"), filepath.Base(dir)); err != nil {
			return err
		}
	}
	return writeAttribute(filepath.Join(f.cfg.Sys, "bus/pci/drivers_probe"), filepath.Base(dir))
}

// IsPCIAddress reports whether text is a full PCI address, "0000:01:02.0".
func IsPCIAddress(text string) bool {
	if len(text) != len("0000:00:00.0") || text[4] != ':' || text[7] != ':' || text[10] != '.' {
		return false
	}
	digits := text[:4] + text[5:7] + text[8:10] + text[11:]
	return strings.Trim(digits, "0123456789abcdefABCDEF") == ""
}
