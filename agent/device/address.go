// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package device

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

const (
	// maxElements bounds a PCI path; a machine has a bridge or two.
	maxElements = 16

	// maxSlot is the highest slot of a bus. A higher first element numbers a
	// root bus of its own (pxb-pcie).
	maxSlot = 0x1f

	// maxText bounds an address as the host writes it, in bytes.
	maxText = 128
)

// Address is where a device is on its bus: a PCI path, which names the slots
// from the root bus on since the host cannot know the guest's bus numbers, or
// a CCW bus id.
type Address struct {
	ccw   string   // CCW bus id "0.0.0001", or ""
	root  string   // PCI root bus "00"
	slots []string // "02.0", from the root bus on
}

// ParseAddress reads a PCI path: elements SS or SS.F in hexadecimal, the first
// of three or more being a root bus if it is above every slot. A CCW bus id is
// 0.n.xxxx. Anything else is ErrInvalid.
func ParseAddress(text string) (Address, error) {
	bad := fmt.Errorf("device path %q: %w", text[:min(len(text), maxText)], ErrInvalid)
	if len(text) > maxText {
		return Address{}, bad
	}
	if isBusID(text) {
		return Address{ccw: text}, nil
	}
	elements := strings.Split(text, "/")
	d := Address{root: "00"}
	if len(elements) > maxElements {
		return d, bad
	}
	if bus, err := parseHex(elements[0], 0xff); err == nil && len(elements) >= 3 && bus > maxSlot {
		d.root, elements = fmt.Sprintf("%02x", bus), elements[1:]
	}
	for _, e := range elements {
		slot, function, has := strings.Cut(e, ".")
		if !has {
			function = "0"
		}
		s, err := parseHex(slot, maxSlot)
		f, err2 := parseHex(function, 7)
		if err != nil || err2 != nil {
			return d, bad
		}
		d.slots = append(d.slots, fmt.Sprintf("%02x.%x", s, f))
	}
	return d, nil
}

func parseHex(text string, most uint64) (uint64, error) {
	if len(text) > 2 {
		return 0, strconv.ErrRange
	}
	n, err := strconv.ParseUint(text, 16, 8)
	if err == nil && n > most {
		err = strconv.ErrRange
	}
	return n, err
}

// isBusID reports whether text is a CCW bus id, 0.n.xxxx.
func isBusID(text string) bool {
	return len(text) == 8 && text[:2] == "0." && text[2] >= '0' && text[2] <= '3' && text[3] == '.' &&
		strings.Trim(text[4:], "0123456789abcdef") == ""
}

// find returns the directories that may be the device's; none if it is not
// there.
func (a Address) find(root string) ([]string, error) {
	if a.ccw != "" {
		return filepath.Glob(filepath.Join(root, "devices/css0/0.[0-3].*", a.ccw))
	}
	dir, err := rootBus(root, "pci0000:"+a.root)
	if err != nil || dir == "" {
		return nil, err
	}
	bus := "0000:" + a.root
	for i, slot := range a.slots {
		dir = filepath.Join(dir, bus+":"+slot)
		if i == len(a.slots)-1 {
			break
		}
		if bus, err = secondaryBus(dir); err != nil || bus == "" {
			return nil, err
		}
	}
	return []string{dir}, nil
}

// rootBus returns the directory of a PCI root bus. Without ACPI it is below
// the device that the device tree names.
func rootBus(root, name string) (string, error) {
	direct := filepath.Join(root, "devices", name)
	if _, err := os.Stat(direct); err == nil {
		return direct, nil
	} else if !errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("look for PCI root bus: %w", err)
	}
	found, err := filepath.Glob(filepath.Join(root, "devices/platform/*.pcie", name))
	if err != nil || len(found) == 0 {
		return "", err
	}
	return found[0], nil
}

// secondaryBus returns the bus behind a bridge, "0000:01", or "".
func secondaryBus(bridge string) (string, error) {
	buses, err := entries(filepath.Join(bridge, "pci_bus"), "")
	if err != nil || len(buses) == 1 {
		return strings.Join(buses, ""), err
	}
	devices, err := entries(bridge, "0000:")
	if err != nil || len(devices) == 0 {
		return "", err
	}
	return devices[0][:min(len("0000:00"), len(devices[0]))], nil
}

// entries lists the names in a directory that begin with prefix, sorted. A
// directory that is not there is empty: devices come and go.
func entries(dir, prefix string) ([]string, error) {
	list, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("look for device: %w", err)
	}
	var names []string
	for _, e := range list {
		if strings.HasPrefix(e.Name(), prefix) {
			names = append(names, e.Name())
		}
	}
	slices.Sort(names)
	return names, nil
}
