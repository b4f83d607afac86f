// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package verity

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

func params(blocks uint64) Params {
	return Params{Algorithm: "sha256", DataBlock: 4096, HashBlock: 4096, DataBlocks: blocks, HashStart: blocks + 1, Salt: []byte("0123456789abcdef")}
}

// data are blocks that differ.
func data(blocks, size uint64) []byte {
	b := make([]byte, blocks*size)
	for i := range blocks {
		copy(b[i*size:], fmt.Sprint("block ", i))
	}
	return b
}

// veritysetup is the reference: it has to find the same root hash, and to
// accept what was built.
func TestTheReferenceAgrees(t *testing.T) {
	t.Parallel()
	tool, err := exec.LookPath("veritysetup")
	if err != nil {
		t.Fatalf("the package cryptsetup-bin is needed: %v", err)
	}
	for _, tc := range []struct {
		algorithm            string
		dataBlock, hashBlock uint64
		blocks               uint64
		salt                 string
	}{
		{"sha256", 4096, 4096, 1, "00"}, {"sha256", 4096, 4096, 2, ""}, {"sha256", 4096, 4096, 128, "0011223344"}, {"sha256", 4096, 4096, 129, "ff"},
		{"sha256", 4096, 4096, 128*128 + 1, ""}, {"sha512", 4096, 4096, 65, "ab"}, {"sha256", 1024, 4096, 300, "ab"}, {"sha256", 4096, 1024, 300, "ab"},
		{"sha256", 512, 512, 1000, "cd"},
	} {
		salt, err := hex.DecodeString(tc.salt)
		if err != nil {
			t.Fatal(err)
		}
		p := Params{Algorithm: tc.algorithm, DataBlock: tc.dataBlock, HashBlock: tc.hashBlock, DataBlocks: tc.blocks, HashStart: 1, Salt: salt}
		content := data(tc.blocks, tc.dataBlock)
		tree, err := p.Build(bytes.NewReader(content))
		if err != nil {
			t.Fatalf("%+v: %v", tc, err)
		}
		dir := t.TempDir()
		dataFile, hashFile := filepath.Join(dir, "data"), filepath.Join(dir, "hash")
		if err := errors.Join(os.WriteFile(dataFile, content, 0o600), os.WriteFile(hashFile, append(p.Superblock([16]byte{1}), tree...), 0o600)); err != nil {
			t.Fatal(err)
		}
		root := hex.EncodeToString(p.RootHash)
		if out, err := exec.CommandContext(t.Context(), tool, "verify", dataFile, hashFile, root).CombinedOutput(); err != nil {
			t.Errorf("%+v: the reference refuses root hash %s: %v\n%s", tc, root, err, out)
		}
	}
}

func TestEveryBitOfTheDataMatters(t *testing.T) {
	t.Parallel()
	p := params(130)
	content := data(130, 4096)
	if _, err := p.Build(bytes.NewReader(content)); err != nil {
		t.Fatal(err)
	}
	root := string(p.RootHash)
	for _, at := range []int{0, 4095, 4096 * 127, 130*4096 - 1} {
		content[at] ^= 1
		q := params(130)
		if _, err := q.Build(bytes.NewReader(content)); err != nil || string(q.RootHash) == root {
			t.Errorf("bit at %d: the root hash stays (%v)", at, err)
		}
		content[at] ^= 1
	}
}

func TestTheTableIsTheKernels(t *testing.T) {
	t.Parallel()
	p := params(10)
	p.RootHash = bytes.Repeat([]byte{0xab}, 32)
	want := "1 254:1 254:1 4096 4096 10 11 sha256 " + strings.Repeat("ab", 32) + " 30313233343536373839616263646566"
	if got := p.Table("254:1"); got != want || p.Sectors() != 80 {
		t.Errorf("%d sectors, %q", p.Sectors(), got)
	}
	p.Salt = nil
	if got := p.Table("254:1"); !strings.HasSuffix(got, " -") {
		t.Errorf("%q", got)
	}
}

func TestParametersThatDescribeNoTreeAreRefused(t *testing.T) {
	t.Parallel()
	for name, spoil := range map[string]func(*Params){
		"algorithm":        func(p *Params) { p.Algorithm = "md5" },
		"no algorithm":     func(p *Params) { p.Algorithm = "" },
		"injected":         func(p *Params) { p.Algorithm = "sha256 0 1" },
		"odd block":        func(p *Params) { p.DataBlock = 4095 },
		"small block":      func(p *Params) { p.HashBlock = 256 },
		"large block":      func(p *Params) { p.DataBlock = 1 << 20 },
		"no block":         func(p *Params) { p.HashBlock = 0 },
		"no data":          func(p *Params) { p.DataBlocks = 0 },
		"too much data":    func(p *Params) { p.DataBlocks = 1 << 60 },
		"tree far away":    func(p *Params) { p.HashStart = 1 << 60 },
		"short root":       func(p *Params) { p.RootHash = p.RootHash[:31] },
		"no root":          func(p *Params) { p.RootHash = nil },
		"root of another":  func(p *Params) { p.Algorithm = "sha512" },
		"salt without end": func(p *Params) { p.Salt = make([]byte, maxSalt+1) },
	} {
		p := params(10)
		p.RootHash = make([]byte, 32)
		spoil(&p)
		if err := p.Check(); !errors.Is(err, ErrParams) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestDataThatEndEarlyAreAnError(t *testing.T) {
	t.Parallel()
	p := params(10)
	if tree, err := p.Build(bytes.NewReader(data(9, 4096))); err == nil {
		t.Errorf("%d bytes of tree", len(tree))
	}
}
