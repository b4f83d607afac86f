// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package vm_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"cocoon/internal/wire/agentpb"
	"cocoon/test/volume"
)

// TestADiskOfTheHostIsEncrypted has a container write to a volume on a disk of
// the host and looks for it there.
func TestADiskOfTheHostIsEncrypted(t *testing.T) {
	t.Parallel()
	needMachine(t)
	scratch := filepath.Join(t.TempDir(), "scratch.img")
	if err := os.WriteFile(scratch, bytes.Repeat([]byte("of the host "), 64<<20/12), 0o600); err != nil {
		t.Fatal(err)
	}
	store := filepath.Join(t.TempDir(), "store.img")
	if err := errors.Join(os.WriteFile(store, nil, 0o600), os.Truncate(store, 64<<20)); err != nil {
		t.Fatal(err)
	}
	disks := disk("root", 1, rootDisk(t))
	for i, file := range []string{scratch, store} {
		disks = append(disks, "-drive", fmt.Sprintf("if=none,id=rw%d,format=raw,cache=unsafe,file=%s", i, file),
			"-device", fmt.Sprintf("virtio-blk-pci,drive=rw%d,bus=bridge,addr=%d", i, 2+i))
	}
	p := startPod(t, disks...)
	ctx, cancel := context.WithTimeout(t.Context(), podLimit)
	defer cancel()
	if err := p.CreateSandbox(ctx, "pod"); err != nil {
		t.Fatal(err)
	}
	const where = "/run/kata-containers/sandbox/storage/c2NyYXRjaA"
	encrypted := &agentpb.Storage{
		Driver: "blk", Source: "10/02", Fstype: "ext4", MountPoint: where, DriverOptions: []string{"create_filesystem", "encryption_key=ephemeral"},
	}
	create := func(id string) error {
		r := p.request(id, 0, "sleep", "100000")
		r.Storages = append(r.Storages, encrypted)
		r.OCI.Mounts = append(r.OCI.Mounts, &agentpb.Mount{Destination: "/tmp", Source: where, Type: "bind", Options: []string{"rbind", "rw"}})
		return p.create(ctx, r)
	}
	if err := create("writer"); err != nil {
		t.Fatal(err)
	}
	const secret = "a secret of the workload"
	got, err := p.output(ctx, "writer", "write", "sh", "-c", "i=0; while [ $i -lt 2000 ]; do echo '"+secret+"'; i=$((i+1)); done >/tmp/file; sync; tail -n 1 /tmp/file; ls /tmp")
	if err != nil || got != secret+"\nfile\nlost+found" {
		t.Errorf("%q (%v)", got, err)
	}
	// A second container of the pod has the same volume.
	if err := create("reader"); err != nil {
		t.Fatal(err)
	}
	if got, err := p.output(ctx, "reader", "read", "tail", "-n", "1", "/tmp/file"); err != nil || got != secret {
		t.Errorf("%q (%v)", got, err)
	}
	for _, id := range []string{"writer", "reader"} {
		if err := p.Remove(ctx, id); err != nil {
			t.Error(err)
		}
	}
	// With the last container the key is gone, and a new volume is empty.
	if err := create("next"); err != nil {
		t.Fatal(err)
	}
	if got, err := p.output(ctx, "next", "list", "ls", "/tmp"); err != nil || got != "lost+found" {
		t.Errorf("%q (%v)", got, err)
	}
	// The third disk becomes the image store, and no container gets it.
	r := p.request("store", 0, "sleep", "100000")
	r.Devices = []*agentpb.Device{{Type: "blk", Id: "10/03", ContainerPath: "/dev/trusted_store"}}
	r.OCI.Linux.Devices = []*agentpb.LinuxDevice{{Path: "/dev/trusted_store", Type: "b", Major: 8}}
	if err := p.create(ctx, r); err != nil {
		t.Fatal(err)
	}
	if got, err := p.output(ctx, "store", "list", "sh", "-c", "ls /dev | while read d; do case $d in trusted*) echo $d;; esac; done"); err != nil || got != "" {
		t.Errorf("the container has %q (%v)", got, err)
	}
	if n := strings.Count(p.machine.Console(), `"msg":"disk encrypted"`); n != 3 {
		t.Errorf("%d disks were encrypted, want 3", n)
	}
	if err := p.DestroySandbox(ctx); err != nil {
		t.Fatal(err)
	}
	powersOff(t, p.machine)
	b, err := os.ReadFile(scratch)
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(b, []byte(secret)) {
		t.Error("the host has the text on its disk")
	}
	if bytes.Count(b, []byte("of the host ")) == 64<<20/12 {
		t.Error("nothing was written to the disk")
	}
}

// TestAChangedSectorOfAnEncryptedVolumeIsRefused flips one bit of what a
// container has just written to its volume, on the disk of the host, and has it
// read past all caches.
func TestAChangedSectorOfAnEncryptedVolumeIsRefused(t *testing.T) {
	t.Parallel()
	needMachine(t)
	scratch := filepath.Join(t.TempDir(), "scratch.img")
	if err := errors.Join(os.WriteFile(scratch, nil, 0o600), os.Truncate(scratch, 64<<20)); err != nil {
		t.Fatal(err)
	}
	disks := append(disk("root", 1, rootDisk(t)), "-drive", "if=none,id=rw,format=raw,cache=unsafe,file="+scratch, "-device", "virtio-blk-pci,drive=rw,bus=bridge,addr=2")
	p := startPod(t, disks...)
	ctx, cancel := context.WithTimeout(t.Context(), podLimit)
	defer cancel()
	if err := p.CreateSandbox(ctx, "pod"); err != nil {
		t.Fatal(err)
	}
	const where = "/run/kata-containers/sandbox/storage/c2NyYXRjaA"
	r := p.request("writer", 0, "sleep", "100000")
	r.Storages = append(r.Storages, &agentpb.Storage{
		Driver: "blk", Source: "10/02", Fstype: "ext4", MountPoint: where, DriverOptions: []string{"create_filesystem", "encryption_key=ephemeral"},
	})
	r.OCI.Mounts = append(r.OCI.Mounts, &agentpb.Mount{Destination: "/tmp", Source: where, Type: "bind", Options: []string{"rbind", "rw"}})
	if err := p.create(ctx, r); err != nil {
		t.Fatal(err)
	}
	run := 0
	sh := func(script string) (string, error) {
		run++
		return p.output(ctx, "writer", fmt.Sprint("sh-", run), "sh", "-c", script)
	}
	if got, err := sh("i=0; while [ $i -lt 4096 ]; do echo 'a line of text'; i=$((i+1)); done >/tmp/file && sync"); err != nil {
		t.Fatalf("%q (%v)", got, err)
	}
	before, err := os.ReadFile(scratch)
	if err != nil {
		t.Fatal(err)
	}
	// The third block alone is written again, to see where it lies.
	if got, err := sh("yes | dd of=/tmp/file bs=4096 count=1 seek=2 conv=notrunc iflag=fullblock 2>/dev/null && sync"); err != nil {
		t.Fatalf("%q (%v)", got, err)
	}
	after, err := os.ReadFile(scratch)
	if err != nil {
		t.Fatal(err)
	}
	changed := rewritten(before, after)
	if len(changed) == 0 || len(changed) > 16 {
		t.Fatalf("%d blocks of the disk were written", len(changed))
	}
	read := func(block int) (string, error) {
		return sh(fmt.Sprintf("dd if=/tmp/file bs=4096 count=1 skip=%d iflag=direct | tail -c 2", block))
	}
	if got, err := read(2); err != nil || got != "y" {
		t.Fatalf("as it was written: %q (%v)", got, err)
	}
	flip(t, scratch, changed)
	if got, err := sh("dd if=/tmp/file bs=4096 count=1 skip=2 iflag=direct 2>/dev/null && echo read"); err == nil || got != "" {
		t.Errorf("the changed block: %.60q (%v)", got, err)
	}
	if got, err := read(0); err != nil || got != "a" { // lines of 15 bytes
		t.Errorf("the block beside it: %q (%v)", got, err)
	}
	flip(t, scratch, changed)
	if got, err := read(2); err != nil || got != "y" {
		t.Errorf("with the bits put back: %q (%v)", got, err)
	}
	if c := p.machine.Console(); !strings.Contains(c, "INTEGRITY AEAD ERROR") {
		t.Error("the kernel does not say what it refused")
	}
}

// rewritten returns where the blocks of a disk begin that are almost wholly
// different: those with new ciphertext.
func rewritten(before, after []byte) []int64 {
	var at []int64
	for i := 0; i+blockSize <= len(after); i += blockSize {
		different := 0
		for k := range blockSize {
			if before[i+k] != after[i+k] {
				different++
			}
		}
		if different > blockSize*3/4 {
			at = append(at, int64(i))
		}
	}
	return at
}

// flip turns one bit in the middle of each block.
func flip(t *testing.T, file string, blocks []int64) {
	t.Helper()
	f, err := os.OpenFile(file, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 1)
	for _, at := range blocks {
		_, err = f.ReadAt(b, at+blockSize/2)
		b[0] ^= 4
		if err == nil {
			_, err = f.WriteAt(b, at+blockSize/2)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestImagesAreKeptOnThePartitionForThem(t *testing.T) {
	t.Parallel()
	needMachine(t)
	scratch := filepath.Join(t.TempDir(), "scratch.img")
	if err := errors.Join(os.WriteFile(scratch, nil, 0o600), os.Truncate(scratch, 64<<20)); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "sfdisk", "--quiet", scratch)
	cmd.Stdin = strings.NewReader("label: gpt\nsize=8MiB, name=other\nname=trusted_store\n")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("sfdisk: %v\n%s", err, out)
	}
	_, g := launchPod(t, volume.Pod{Scratch: true}, "-drive", "if=none,id=scratch,format=raw,cache=unsafe,file="+scratch, "-device", "virtio-blk-pci,drive=scratch")
	expect(t, g, `"msg":"disk encrypted"`, `"msg":"ready"`)
	g.Close()
	// Without the partition images would fill memory: the guest does not start.
	_, g = launchPod(t, volume.Pod{Scratch: true})
	expect(t, g, `partition named "trusted_store": device not found`)
	powersOff(t, g)
	if strings.Contains(g.Console(), `"msg":"ready"`) {
		t.Error("the guest is ready all the same")
	}
}
