// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package eventlog

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// The types whose data this code can read.
const (
	evPostCode        = 0x1
	evSeparator       = 0x4
	evAction          = 0x5
	evConfigFlags     = 0xA
	evIPL             = 0xD
	efiBase           = 0x80000000
	efiVarConfig      = efiBase + 0x1
	efiVarBoot        = efiBase + 0x2
	efiBootServices   = efiBase + 0x3
	efiGPT            = efiBase + 0x6
	efiAction         = efiBase + 0x7
	efiFirmwareBlob2  = efiBase + 0xA
	efiHandoffTables2 = efiBase + 0xB
	efiVarBoot2       = efiBase + 0xC
	efiVarAuthority   = efiBase + 0xE0
)

func typeNames() map[uint32]string {
	return map[uint32]string{
		0x0: "EV_PREBOOT_CERT", evPostCode: "EV_POST_CODE", 0x2: "EV_UNUSED", EvNoAction: "EV_NO_ACTION", evSeparator: "EV_SEPARATOR",
		evAction: "EV_ACTION", EvTag: "EV_EVENT_TAG", 0x7: "EV_S_CRTM_CONTENTS", 0x8: "EV_S_CRTM_VERSION", 0x9: "EV_CPU_MICROCODE",
		evConfigFlags: "EV_PLATFORM_CONFIG_FLAGS", 0xB: "EV_TABLE_OF_DEVICES", 0xC: "EV_COMPACT_HASH", evIPL: "EV_IPL",
		0xE: "EV_IPL_PARTITION_DATA", 0xF: "EV_NONHOST_CODE", 0x10: "EV_NONHOST_CONFIG", 0x11: "EV_NONHOST_INFO", 0x12: "EV_OMIT_BOOT_DEVICE_EVENTS",
		efiBase: "EV_EFI_EVENT_BASE", efiVarConfig: "EV_EFI_VARIABLE_DRIVER_CONFIG", efiVarBoot: "EV_EFI_VARIABLE_BOOT",
		efiBootServices: "EV_EFI_BOOT_SERVICES_APPLICATION", efiBase + 0x4: "EV_EFI_BOOT_SERVICES_DRIVER", efiBase + 0x5: "EV_EFI_RUNTIME_SERVICES_DRIVER",
		efiGPT: "EV_EFI_GPT_EVENT", efiAction: "EV_EFI_ACTION", efiBase + 0x8: "EV_EFI_PLATFORM_FIRMWARE_BLOB", efiBase + 0x9: "EV_EFI_HANDOFF_TABLES",
		efiFirmwareBlob2: "EV_EFI_PLATFORM_FIRMWARE_BLOB2", efiHandoffTables2: "EV_EFI_HANDOFF_TABLES2", efiVarBoot2: "EV_EFI_VARIABLE_BOOT2",
		efiBase + 0xD: "EV_EFI_GPT_EVENT2", efiBase + 0x10: "EV_EFI_HCRTM_EVENT", efiVarAuthority: "EV_EFI_VARIABLE_AUTHORITY",
		efiBase + 0xE1: "EV_EFI_SPDM_FIRMWARE_BLOB", efiBase + 0xE2: "EV_EFI_SPDM_FIRMWARE_CONFIG",
	}
}

// TypeName is the event type's name in TCG's profile.
func (e Event) TypeName() (string, bool) {
	name, ok := typeNames()[e.Type]
	return name, ok
}

// Claims returns the events in the form in which Trustee gives them to
// attestation policies. A type that TCG does not define is an error.
func (l *Log) Claims() ([]any, error) {
	list := []any{}
	for i, e := range l.Events {
		name, ok := e.TypeName()
		if !ok {
			return nil, fmt.Errorf("%w: event %d has the unknown type %#x", ErrLog, i, e.Type)
		}
		var digests []any
		matches := false
		for _, d := range e.Digests {
			digests = append(digests, map[string]any{"alg": d.Alg.String(), "digest": hex.EncodeToString(d.Sum)})
			matches = matches || bytes.Equal(d.Alg.Sum(e.Data), d.Sum)
		}
		list = append(list, map[string]any{
			"index": e.Register, "type_name": name, "event": base64.StdEncoding.EncodeToString(e.Data), "digests": digests,
			"digest_matches_event": matches, "details": e.details(),
		})
	}
	return list, nil
}

// details says what is in an event's data, as far as it can be read.
func (e Event) details() map[string]any {
	if entry, ok := e.AsEntry(); ok {
		var content any
		if json.Unmarshal([]byte(entry.Content), &content) != nil {
			content = entry.Content
		}
		return map[string]any{
			"unicode_name": "AAEL", "string": entry.text(),
			"data": map[string]any{"domain": entry.Domain, "operation": entry.Operation, "content": content},
		}
	}
	switch e.Type {
	case efiAction, evAction, evPostCode:
		return map[string]any{"string": text(e.Data)}
	case evIPL:
		// systemd's EFI loader names sections of a kernel image with their dot.
		return map[string]any{"string": strings.TrimPrefix(text(e.Data), ".")}
	case EvTag:
		if len(e.Data) >= 8 {
			return map[string]any{"string": text(e.Data[8:])}
		}
	case evConfigFlags:
		return map[string]any{"string": configText(e.Data)}
	case efiFirmwareBlob2, efiHandoffTables2:
		if len(e.Data) > 0 && int(e.Data[0]) < len(e.Data) {
			return map[string]any{"string": text(e.Data[1:][:e.Data[0]])}
		}
	case efiVarConfig, efiVarBoot, efiVarBoot2, efiVarAuthority:
		return variable(e.Data)
	case efiBootServices:
		if paths := imagePaths(e.Data); paths != nil {
			return map[string]any{"device_paths": paths}
		}
	}
	return map[string]any{}
}

// text returns what stands before the first zero, in UTF-8 or in UTF-16; ""
// if it is neither.
func text(b []byte) string {
	if len(b) >= 4 && len(b)%2 == 0 && b[1] == 0 && b[3] == 0 {
		return wide(b)
	}
	b, _, _ = bytes.Cut(b, []byte{0})
	if !utf8.Valid(b) {
		return ""
	}
	return string(b)
}

func wide(b []byte) string {
	var units []uint16
	for ; len(b) >= 2; b = b[2:] {
		u := binary.LittleEndian.Uint16(b)
		if u == 0 {
			break
		}
		units = append(units, u)
	}
	return string(utf16.Decode(units))
}

// configText knows the form of td-shim: a name of 16 bytes, a size, and data.
func configText(b []byte) string {
	const head = 20
	if len(b) < head || int(binary.LittleEndian.Uint32(b[16:])) != len(b)-head {
		return text(b)
	}
	if name := text(b[:16]); name == "td_payload_info" {
		return name + " " + text(b[head:])
	}
	return "" // the data of others is binary
}

// variable reads a UEFI_VARIABLE_DATA.
func variable(b []byte) map[string]any {
	const head = 32
	if len(b) < head {
		return map[string]any{}
	}
	name, data := binary.LittleEndian.Uint64(b[16:]), binary.LittleEndian.Uint64(b[24:])
	rest := b[head:]
	if name > uint64(len(rest))/2 || data > uint64(len(rest))-2*name {
		return map[string]any{}
	}
	g := b[:16]
	return map[string]any{
		"variable_name": fmt.Sprintf("%x-%x-%x-%x-%x", g[:4], g[4:6], g[6:8], g[8:10], g[10:]),
		"unicode_name":  wide(rest[:2*name]), "unicode_name_length": name,
		"variable_data": base64.StdEncoding.EncodeToString(rest[2*name:][:data]), "variable_data_length": data,
	}
}

// imagePaths reads the device path of a UEFI_IMAGE_LOAD_EVENT, nil if it has
// none.
func imagePaths(b []byte) []string {
	const head = 32
	if len(b) < head {
		return nil
	}
	b = b[head:]
	var paths []string
	for len(b) >= 4 {
		kind, sub, size := b[0], b[1], int(binary.LittleEndian.Uint16(b[2:]))
		if kind == 0x7F || size < 4 || size > len(b) {
			break
		}
		paths = append(paths, node(kind, sub, b[4:size]))
		b = b[size:]
	}
	return paths
}

// node writes one node of a device path as UEFI's text form, roughly.
func node(kind, sub byte, b []byte) string {
	switch {
	case kind == 4 && sub == 4:
		return "File(" + wide(b) + ")"
	case kind == 4 && sub == 3 && len(b) >= 16:
		return "VenMedia(" + guid(b) + "," + hex.EncodeToString(b[16:]) + ")"
	case kind == 4 && sub == 1 && len(b) >= 38 && b[36] == 2:
		return fmt.Sprintf("HD(%d,GPT,%s,%#x,%#x)", binary.LittleEndian.Uint32(b), guid(b[20:]), binary.LittleEndian.Uint64(b[4:]), binary.LittleEndian.Uint64(b[12:]))
	case kind == 1 && sub == 1 && len(b) == 2:
		return fmt.Sprintf("Pci(%x,%x)", b[0], b[1])
	case kind == 2 && sub == 1 && len(b) == 8 && binary.LittleEndian.Uint16(b) == 0x41D0:
		return fmt.Sprintf("ACPI(PNP%04X,%d)", binary.LittleEndian.Uint16(b[2:]), binary.LittleEndian.Uint32(b[4:]))
	}
	return fmt.Sprintf("Path(%d,%d,%x)", kind, sub, b)
}

func guid(b []byte) string {
	return strings.ToUpper(fmt.Sprintf("%08x-%04x-%04x-%x-%x", binary.LittleEndian.Uint32(b), binary.LittleEndian.Uint16(b[4:]), binary.LittleEndian.Uint16(b[6:]), b[8:10], b[10:16]))
}
