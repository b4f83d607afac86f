// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package direct

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"regexp"
	"strconv"
	"strings"
)

// Fields of the header of Linux's x86 boot protocol, by their place in the file.
const (
	videoMode     = 0x1fa
	headerMark    = 0x202
	protocol      = 0x206
	loaderType    = 0x210
	loadFlags     = 0x211
	initrdAddress = 0x218
	initrdLength  = 0x21c
	heapEnd       = 0x224
	cmdlineAt     = 0x228
	initrdMax     = 0x22c
	xloadFlags    = 0x236
	headerEnd     = 0x268

	loadedHigh = 0x01
	useHeap    = 0x80
	// above4G of the extended flags tells that addresses are not limited.
	above4G = 0x02

	// oldestProtocol is that of Linux 2.4; QEMU does otherwise for older ones.
	oldestProtocol = 0x202
	extFlags       = 0x20c
	hasInitrdMax   = 0x203
)

// What QEMU has chosen.
const (
	qemuLoader  = 0xb0
	qemuHeapEnd = 0xfe00
	qemuCmdline = 0x20000
	// acpiData is kept free at the end of the memory below 4 GiB.
	acpiData = 0x28000
	// lowMemory is how much of it q35 has if there is as much as manyMemory.
	manyMemory = 0xb0000000
	lowMemory  = 0x80000000
	pageSize   = 4096
)

// patch returns the kernel as QEMU hands it over.
func (b Boot) patch() ([]byte, error) {
	k := bytes.Clone(b.Kernel)
	if len(k) < headerEnd || string(k[headerMark:headerMark+4]) != "HdrS" {
		return nil, fmt.Errorf("kernel of %d bytes is no bzImage of Linux: %w", len(k), ErrConfig)
	}
	version := binary.LittleEndian.Uint16(k[protocol:])
	if version < oldestProtocol || k[loadFlags]&loadedHigh == 0 {
		return nil, fmt.Errorf("kernel of boot protocol %#x: %w", version, ErrConfig)
	}
	binary.LittleEndian.PutUint32(k[cmdlineAt:], qemuCmdline)
	if _, after, ok := strings.Cut(b.Cmdline, "vga="); ok {
		mode, err := parseVideo(after)
		if err != nil {
			return nil, err
		}
		binary.LittleEndian.PutUint16(k[videoMode:], mode)
	}
	k[loaderType] = qemuLoader
	k[loadFlags] |= useHeap
	binary.LittleEndian.PutUint16(k[heapEnd:], qemuHeapEnd)
	if !b.Initrd {
		return k, nil
	}
	at, err := b.initrdAt(k, version)
	if err != nil {
		return nil, err
	}
	binary.LittleEndian.PutUint32(k[initrdAddress:], at)
	binary.LittleEndian.PutUint32(k[initrdLength:], uint32(b.InitrdSize))
	return k, nil
}

// Below4GiB is how much of a guest's memory QEMU's machine q35 has below 4 GiB.
// The rest lies above.
func Below4GiB(memory uint64) uint64 {
	if memory >= manyMemory {
		return lowMemory
	}
	return memory
}

// initrdAt is where QEMU puts the initrd: as high as it may.
func (b Boot) initrdAt(k []byte, version uint16) (uint32, error) {
	below := Below4GiB(b.Memory)
	top := uint64(0x37ffffff)
	switch {
	case version >= extFlags && binary.LittleEndian.Uint16(k[xloadFlags:])&above4G != 0:
		top = 0xffffffff
	case version >= hasInitrdMax:
		top = uint64(binary.LittleEndian.Uint32(k[initrdMax:]))
	}
	if below <= acpiData {
		return 0, fmt.Errorf("%d bytes of memory: %w", b.Memory, ErrConfig)
	}
	if top >= below-acpiData {
		top = below - acpiData - 1
	}
	if b.InitrdSize >= top {
		return 0, fmt.Errorf("initrd of %d bytes for %d bytes of memory: %w", b.InitrdSize, b.Memory, ErrConfig)
	}
	return uint32((top - b.InitrdSize) &^ (pageSize - 1)), nil
}

var videoNumber = regexp.MustCompile(`^(0[xX][0-9a-fA-F]{1,8}|[0-9]{1,10})( |$)`)

// parseVideo reads what stands behind the first vga= on the command line.
func parseVideo(text string) (uint16, error) {
	for name, mode := range map[string]uint16{"normal": 0xffff, "ext": 0xfffe, "ask": 0xfffd} {
		if strings.HasPrefix(text, name) {
			return mode, nil
		}
	}
	number := videoNumber.FindString(text)
	mode, err := strconv.ParseUint(strings.TrimSpace(number), 0, 32)
	if err != nil {
		return 0, fmt.Errorf("command line with vga=%.20q, which QEMU does not start: %w", text, ErrConfig)
	}
	return uint16(mode), nil // as QEMU cuts it
}
