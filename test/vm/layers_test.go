// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package vm_test

import (
	"bytes"
	"context"
	"encoding/hex"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"cocoon/internal/verity"
	"cocoon/internal/wire/agentpb"
)

const (
	blockSize  = 4096
	sectorSize = 512
	// partitionStart is where partitions begin at the earliest, in sectors.
	partitionStart = 2048
)

// checkedLayer is a layer of an image with its hash tree behind it.
type checkedLayer struct {
	content []byte // data, superblock, tree
	offset  int    // of the superblock
	root    string // hash
}

// newLayer makes an erofs layer of the tree below dir.
func newLayer(t *testing.T, dir string) checkedLayer {
	t.Helper()
	file := filepath.Join(t.TempDir(), "layer")
	if out, err := exec.CommandContext(t.Context(), "mkfs.erofs", "-T1", file, dir).CombinedOutput(); err != nil {
		t.Fatalf("mkfs.erofs: %v\n%s", err, out)
	}
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if rest := len(data) % blockSize; rest != 0 {
		data = append(data, make([]byte, blockSize-rest)...)
	}
	blocks := uint64(len(data) / blockSize)
	p := verity.Params{Algorithm: "sha256", DataBlock: blockSize, HashBlock: blockSize, DataBlocks: blocks, HashStart: blocks + 1, Salt: []byte("salt")}
	tree, err := p.Build(bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	return checkedLayer{content: bytes.Join([][]byte{data, p.Superblock([16]byte{}), tree}, nil), offset: len(data), root: hex.EncodeToString(p.RootHash)}
}

// layerDisk makes a disk with a partition for each layer.
func layerDisk(t *testing.T, layers ...checkedLayer) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "layers.img")
	script := "label: gpt\n"
	start := partitionStart
	var parts [][]byte
	for _, l := range layers {
		sectors := (len(l.content)/sectorSize + partitionStart - 1) / partitionStart * partitionStart
		script += fmt.Sprintf("start=%d, size=%d\n", start, sectors)
		parts = append(parts, append(bytes.Clone(l.content), make([]byte, sectors*sectorSize-len(l.content))...))
		start += sectors
	}
	content := append(make([]byte, partitionStart*sectorSize), bytes.Join(parts, nil)...)
	content = append(content, make([]byte, 1<<20)...) // the second copy of the table
	if err := os.WriteFile(file, content, 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "sfdisk", "--quiet", file)
	cmd.Stdin = strings.NewReader(script)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("sfdisk: %v\n%s", err, out)
	}
	return file
}

// member is the storage of one layer.
func (l checkedLayer) member(id, path string, partition int) *agentpb.Storage {
	return &agentpb.Storage{
		Driver: "blk", Source: path, Fstype: "erofs", MountPoint: "/run/kata-containers/" + id + "/rootfs",
		Options: []string{
			"ro", "X-kata.multi-layer=true", "X-kata.overlay-lower", "X-kata.gpt-partitioned=true", fmt.Sprintf("X-kata.partition-number=%d", partition),
			"X-kata.dmverity-enabled=true", "X-kata.dmverity.roothash=" + l.root, fmt.Sprintf("X-kata.dmverity.hashoffset=%d", l.offset),
			"X-kata.dmverity.salt=" + hex.EncodeToString([]byte("salt")),
		},
	}
}

// TestLayersOnADiskAreCheckedByTheKernel has a real kernel read an image that
// the host has unpacked to a disk, and refuse one that the host has changed.
func TestLayersOnADiskAreCheckedByTheKernel(t *testing.T) {
	t.Parallel()
	needMachine(t)
	top := t.TempDir()
	if err := os.WriteFile(filepath.Join(top, "greeting"), bytes.Repeat([]byte("from the top layer\n"), 1000), 0o644); err != nil {
		t.Fatal(err)
	}
	layers := []checkedLayer{newLayer(t, top), newLayer(t, rootTree(t))}
	changed := layers[0]
	changed.content = bytes.Replace(changed.content, []byte("from the top layer\nfrom"), []byte("from the host's pen\nfro"), 1)
	if bytes.Equal(changed.content, layers[0].content) {
		t.Fatal("the layer does not have the text as it is")
	}
	disks := append(disk("good", 1, layerDisk(t, layers...)), disk("bad", 2, layerDisk(t, changed, layers[1]))...)
	p := startPod(t, disks...)
	ctx, cancel := context.WithTimeout(t.Context(), podLimit)
	defer cancel()
	if err := p.CreateSandbox(ctx, "pod"); err != nil {
		t.Fatal(err)
	}
	container := func(id, path string, first checkedLayer) error {
		r := p.request(id, 0, "sleep", "100000")
		r.Storages = []*agentpb.Storage{layers[1].member(id, path, 2), first.member(id, path, 1)}
		r.OCI.Root.Readonly = false
		return p.create(ctx, r)
	}
	if err := container("good", "10/01", layers[0]); err != nil {
		t.Fatal(err)
	}
	got, err := p.output(ctx, "good", "read", "sh", "-c", "cat /greeting | while read a; do echo $a; break; done; echo written >/new && cat /new")
	if err != nil || got != "from the top layer\nwritten" {
		t.Errorf("%q (%v)", got, err)
	}
	// A second container has the same partitions, and keeps them after the first.
	if err := container("twin", "10/01", layers[0]); err != nil {
		t.Fatal(err)
	}
	if err := p.Remove(ctx, "good"); err != nil {
		t.Error(err)
	}
	if got, err := p.output(ctx, "twin", "read", "sh", "-c", "cat /greeting | while read a; do echo $a; break; done; cat /new 2>/dev/null || echo none"); err != nil || got != "from the top layer\nnone" {
		t.Errorf("the second container: %q (%v)", got, err)
	}
	if err := p.Remove(ctx, "twin"); err != nil {
		t.Error(err)
	}
	// What the kernel refuses is a block that is read: the file, at the latest.
	if err = container("changed", "10/02", layers[0]); err == nil {
		got, err = p.output(ctx, "changed", "read", "sh", "-c", "cat /greeting || echo unreadable")
		if err != nil || !strings.HasSuffix(got, "unreadable") || strings.Contains(got, "host's pen") {
			t.Errorf("the changed file: %.60q (%v)", got, err)
		}
		if err := p.Remove(ctx, "changed"); err != nil {
			t.Error(err)
		}
	} else if !strings.Contains(err.Error(), "input/output error") {
		t.Errorf("a changed layer: %v", err)
	}
	// A layer that nothing checks, on top of those that are.
	r := p.request("covered", 0, "sleep", "100000")
	cover := layers[0].member("covered", "10/01", 1)
	cover.Options = cover.Options[:5]
	r.Storages = []*agentpb.Storage{layers[1].member("covered", "10/01", 2), cover}
	if err := p.create(ctx, r); err == nil || !strings.Contains(err.Error(), "without dm-verity") || !strings.Contains(err.Error(), "AllowUncheckedLayers") {
		t.Errorf("a layer that nothing checks: %v", err)
	}
	wrong := layers[0]
	wrong.root = strings.Repeat("ab", 32)
	if err := container("foreign", "10/01", wrong); err == nil || !strings.Contains(err.Error(), "input/output error") {
		t.Errorf("a layer with another root hash: %v", err)
	}
	if err := container("good", "10/01", layers[0]); err != nil {
		t.Errorf("after all that: %v", err)
	}
	if err := p.DestroySandbox(ctx); err != nil {
		t.Fatal(err)
	}
	powersOff(t, p.machine)
}
