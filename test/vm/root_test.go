// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package vm_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"cocoon/mkimage/image"
	"cocoon/mkimage/lock"
	"cocoon/test/vm"
)

// TestRootOnADisk boots an image whose root is a guest extension of kata.
func TestRootOnADisk(t *testing.T) {
	t.Parallel()
	needMachine(t)
	p := named(t, "snp-verity")
	p.Kernel, p.OptionalModules = lock.Kernel, nil // the one that emulation is fastest with lacks drivers of TEEs
	p.Cmdline = append(p.Cmdline, "console=ttyS0", "quiet", "cocoon.console=7")
	dir := build(t, p, compile(t, "./internal/testguest"), compile(t, "cocoon/rootfs/first"))
	for name, test := range map[string]func(*testing.T, string){
		"the guest finds the machine that it needs": guestChecks,
		"a changed byte of the data stops it":       changedData,
		"a changed byte of the tree stops it":       changedTree,
		"another root hash finds no root":           anotherRoot,
		"of two roots none is taken":                twoRoots,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, dir)
		})
	}
}

// spoiled returns a copy of the root's disk with one bit changed at the place
// that at finds.
func spoiled(t *testing.T, dir string, at func(disk []byte) int) string {
	t.Helper()
	disk, err := os.ReadFile(filepath.Join(dir, image.RootFile))
	if err != nil {
		t.Fatal(err)
	}
	disk[at(disk)] ^= 1
	file := filepath.Join(t.TempDir(), "root.img")
	if err := os.WriteFile(file, disk, 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

const firstPart = 1 << 20

// changedData changes a byte of the guest binary.
func changedData(t *testing.T, dir string) {
	bad := spoiled(t, dir, func(disk []byte) int {
		return firstPart + strings.Index(string(disk[firstPart:]), "\x7fELF") + 1
	})
	g := boot(t, dir, vm.Options{Root: bad})
	expect(t, g, "root found", "Kernel panic")
	stopped(t, g)
}

// changedTree changes the last digest of the tree's top.
func changedTree(t *testing.T, dir string) {
	m, err := image.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	size := int(m.Verity.DataBlocks * m.Verity.DataBlockSize)
	bad := spoiled(t, dir, func([]byte) int { return firstPart + (size+firstPart-1)/firstPart*firstPart })
	g := boot(t, dir, vm.Options{Root: bad})
	expect(t, g, "no root on a disk")
	stopped(t, g)
}

func anotherRoot(t *testing.T, dir string) {
	m, err := image.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	cmdline := strings.Replace(image.Machine(dir, m).Cmdline, "root_hash="+m.Verity.RootHash[:2], "root_hash=ff", 1)
	if strings.HasPrefix(m.Verity.RootHash, "ff") {
		t.Fatal("the root hash is the one that the test wants not to be there")
	}
	g := boot(t, dir, vm.Options{Cmdline: cmdline})
	expect(t, g, "no root on a disk")
	stopped(t, g)
}

func twoRoots(t *testing.T, dir string) {
	m, err := image.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	g := boot(t, dir, vm.Options{Append: []string{"cocoon.root=" + m.Verity.Text}})
	expect(t, g, "the command line names 2 roots")
	stopped(t, g)
}

// stopped waits for the end of a machine that must not have run the guest.
func stopped(t *testing.T, g *vm.Guest) {
	t.Helper()
	if err := g.Wait(t.Context(), limit); err != nil && !errors.Is(err, vm.ErrEnded) {
		t.Fatal(err)
	}
	if c := g.Console(); strings.Contains(c, "READY") || strings.Contains(c, "boot finished") {
		t.Errorf("the guest was started:\n%s", c)
	}
}
