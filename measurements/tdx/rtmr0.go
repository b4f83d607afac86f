// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package tdx

import (
	"crypto/sha512"
	"encoding/binary"
	"fmt"

	"cocoon/measurements/ovmf"
	"cocoon/measurements/pe"
)

// Event is one of RTMR0 that can be predicted.
type Event struct {
	What   string
	Digest Register
}

// Known returns the events of RTMR0 that a firmware gives for a guest with so
// much memory, in bytes, and without Secure Boot. There are others, such as the
// tables of ACPI, that depend on QEMU and on the guest's devices; so the register
// itself cannot be predicted.
func Known(i *ovmf.Image, memory uint64) ([]Event, error) {
	list, err := Sections(i)
	if err != nil {
		return nil, err
	}
	hob, err := TDHOB(list, memory)
	if err != nil {
		return nil, err
	}
	events := []Event{event(fmt.Sprintf("TD HOB for %d MiB", memory>>20), hob)}
	for _, s := range list {
		if s.Type == typeCFV {
			events = append(events, event("variables in the firmware (CFV)", s.content))
		}
	}
	return append(events, constants()...), nil
}

func event(what string, data []byte) Event { return Event{What: what, Digest: sha512.Sum384(data)} }

// constants are the events that are the same for every firmware of edk2.
func constants() []Event {
	// EFI_GLOBAL_VARIABLE and EFI_IMAGE_SECURITY_DATABASE, as they lie in memory.
	const global, database = "\x61\xdf\xe4\x8b\xca\x93\xd2\x11\xaa\x0d\x00\xe0\x98\x03\x2b\x8c", "\xcb\xb2\x19\xd7\x3a\x3d\x96\x45\xa3\xbc\xda\xd0\x0e\x67\x65\x6f"
	var events []Event
	for _, v := range [][2]string{{"SecureBoot", global}, {"PK", global}, {"KEK", global}, {"db", database}, {"dbx", database}} {
		events = append(events, event("variable "+v[0]+", which is empty", variable(v[1], v[0])))
	}
	return append(events,
		event("separator", make([]byte, 4)),
		event(`BootOrder or fw_cfg "BootMenu": 0`, make([]byte, 2)),
		event(`fw_cfg "bootorder": the loader of -kernel`, []byte("/rom@genroms/linuxboot_dma.bin\x00")),
		event("Boot0000: UiApp of the firmware", uiApp()),
	)
}

// variable is a UEFI_VARIABLE_DATA without content.
func variable(guid, name string) []byte {
	b := binary.LittleEndian.AppendUint64([]byte(guid), uint64(len(name)))
	b = binary.LittleEndian.AppendUint64(b, 0)
	wide := pe.LoadOptions(name)
	return append(b, wide[:len(wide)-2]...) // without the zero
}

// uiApp is the boot option that OVMF makes of its menu: attributes, length of
// the path, name, and the path of a file in a firmware volume.
func uiApp() []byte {
	const (
		volume = "\xc9\xbd\xb8\x7c\xeb\xf8\x34\x4f\xaa\xea\x3e\xe4\xaf\x65\x16\xa1"
		file   = "\x21\xaa\x2c\x46\x14\x76\x03\x45\x83\x6e\x8a\xb6\xf4\x66\x23\x31"
	)
	path := "\x04\x07\x14\x00" + volume + "\x04\x06\x14\x00" + file + "\x7f\xff\x04\x00"
	b := binary.LittleEndian.AppendUint32(nil, 0x109) // active, hidden, an application
	b = binary.LittleEndian.AppendUint16(b, uint16(len(path)))
	return append(append(b, pe.LoadOptions("UiApp")...), path...)
}
