// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package kernel

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"testing"
)

// fakeModule makes an ELF object with one section .modinfo.
func fakeModule(t testing.TB, modinfo string) []byte {
	t.Helper()
	const names = "\x00.modinfo\x00.shstrtab\x00"
	head := elf.Header64{
		Type: uint16(elf.ET_REL), Machine: uint16(elf.EM_X86_64), Version: 1, Ehsize: 64, Shentsize: 64, Shnum: 3, Shstrndx: 2,
		Shoff: uint64(64 + len(modinfo) + len(names)),
	}
	copy(head.Ident[:], "\x7fELF\x02\x01\x01")
	var b bytes.Buffer
	for _, part := range []any{
		head, []byte(modinfo), []byte(names), elf.Section64{},
		elf.Section64{Name: 1, Type: uint32(elf.SHT_PROGBITS), Off: 64, Size: uint64(len(modinfo))},
		elf.Section64{Name: 10, Type: uint32(elf.SHT_STRTAB), Off: uint64(64 + len(modinfo)), Size: uint64(len(names))},
	} {
		if err := binary.Write(&b, binary.LittleEndian, part); err != nil {
			t.Fatal(err)
		}
	}
	return b.Bytes()
}

// fakeFiles is a package whose modules depend on each other as deps says.
func fakeFiles(t testing.TB, deps map[string]string) map[string][]byte {
	t.Helper()
	files := map[string][]byte{
		"boot/vmlinuz-6.1":                []byte("kernel"),
		"lib/modules/6.1/modules.builtin": []byte("kernel/fs/ext4.ko\nkernel/net/af-packet.ko\n"),
	}
	for name, d := range deps {
		files["lib/modules/6.1/kernel/"+name+".ko"] = fakeModule(t, "license=GPL\x00depends="+d+"\x00name="+name+"\x00")
	}
	return files
}
