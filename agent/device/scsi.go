// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package device

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

const (
	maxSCSIID   = 255   // of virtio-scsi
	maxSCSIUnit = 16383 // of virtio-scsi
)

// parseSCSI reads "id:unit", both decimal.
func parseSCSI(text string) (id, unit uint64, err error) {
	bad := fmt.Errorf("SCSI address %q: %w", text[:min(len(text), maxText)], ErrInvalid)
	a, b, ok := strings.Cut(text, ":")
	if !ok {
		return 0, 0, bad
	}
	if id, err = decimal(a, maxSCSIID); err != nil {
		return 0, 0, bad
	}
	if unit, err = decimal(b, maxSCSIUnit); err != nil {
		return 0, 0, bad
	}
	return id, unit, nil
}

func decimal(text string, most uint64) (uint64, error) {
	n, err := strconv.ParseUint(text, 10, 16)
	if err == nil && (n > most || strconv.FormatUint(n, 10) != text) {
		err = strconv.ErrRange
	}
	return n, err
}

// scsiSearch makes the controllers look for the unit and returns a function
// that looks for its disk. Only disks of virtio controllers count.
func (f *Finder) scsiSearch(address string) (func() (string, error), error) {
	id, unit, err := parseSCSI(address)
	if err != nil {
		return nil, err
	}
	if err := f.scanSCSI(id, unit); err != nil {
		return nil, err
	}
	pattern := filepath.Join(f.cfg.Sys, "bus/scsi/devices", fmt.Sprintf("*:0:%d:%d", id, unit), "block/*")
	return func() (string, error) {
		found, err := filepath.Glob(pattern)
		if err != nil {
			return "", err
		}
		var disks []string
		for _, dir := range found {
			real, err := filepath.EvalSymlinks(dir)
			if err != nil {
				return "", fmt.Errorf("look for SCSI disk: %w", err)
			}
			if strings.Contains(real, "/virtio") {
				disks = append(disks, dir)
			}
		}
		return only(disks, address)
	}, nil
}

// scanSCSI asks every controller to look for one unit. One that does not
// answer is not the one that has it, unless none answers.
func (f *Finder) scanSCSI(id, unit uint64) error {
	hosts, err := entries(filepath.Join(f.cfg.Sys, "class/scsi_host"), "host")
	if err != nil {
		return err
	}
	var errs []error
	for _, h := range hosts {
		file := filepath.Join(f.cfg.Sys, "class/scsi_host", h, "scan")
		errs = append(errs, writeAttribute(file, fmt.Sprintf("0 %d %d", id, unit)))
	}
	for _, err := range errs {
		if err == nil {
			return nil
		}
	}
	return errors.Join(errs...)
}

// writeAttribute sets one attribute of sysfs, and makes no file where there is
// none.
func writeAttribute(file, value string) error {
	f, err := os.OpenFile(file, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(value)
	return errors.Join(err, f.Close())
}
