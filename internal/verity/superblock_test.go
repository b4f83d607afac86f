// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package verity

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"cocoon/internal/sharedtest"
)

// pattern is what the vectors are over.
func pattern(size uint64) []byte {
	b := make([]byte, size)
	for i := range b {
		b[i] = byte(31*(i/4096) + 7*(i%4096))
	}
	return b
}

func sum(b []byte) string {
	d := sha256.Sum256(b)
	return hex.EncodeToString(d[:])
}

func unhex(t *testing.T, text string) []byte {
	t.Helper()
	b, err := hex.DecodeString(text)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// vector is one of veritysetup.
type vector struct {
	Blocks     uint64 `json:"data_blocks"`
	DataBlock  uint64 `json:"data_block_size"`
	HashBlock  uint64 `json:"hash_block_size"`
	Algorithm  string
	Salt       string
	Data       string `json:"data_sha256"`
	Root       string `json:"root_hash"`
	TreeBytes  int    `json:"hash_tree_bytes"`
	Tree       string `json:"hash_tree_sha256"`
	Device     string `json:"hash_device_with_superblock_sha256"`
	Text       string `json:"kernel_verity_params"`
	Table      string `json:"dm_table_no_superblock"`
	SuperTable string `json:"dm_table_with_superblock"`
}

func TestTreesAreThoseOfVeritysetup(t *testing.T) {
	t.Parallel()
	var file struct {
		UUID       string `json:"superblock_uuid"`
		Superblock string `json:"superblock_129_hex"`
		Vectors    []vector
	}
	if err := json.Unmarshal(sharedtest.Read(t, "measure/verity/verity.json"), &file); err != nil {
		t.Fatal(err)
	}
	uuid := [16]byte(unhex(t, strings.ReplaceAll(file.UUID, "-", "")))
	for n, v := range file.Vectors {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			t.Parallel()
			data := pattern(v.Blocks * v.DataBlock)
			p := Params{Algorithm: v.Algorithm, DataBlock: v.DataBlock, HashBlock: v.HashBlock, DataBlocks: v.Blocks, Salt: unhex(t, v.Salt)}
			tree, err := p.Build(bytes.NewReader(data))
			if err != nil || sum(data) != v.Data {
				t.Fatalf("data of digest %s, want %s (%v)", sum(data), v.Data, err)
			}
			if hex.EncodeToString(p.RootHash) != v.Root || len(tree) != v.TreeBytes || sum(tree) != v.Tree {
				t.Errorf("root hash %x over a tree of %d bytes, want %s and %d", p.RootHash, len(tree), v.Root, v.TreeBytes)
			}
			if v.Text != "" && p.Text() != v.Text {
				t.Errorf("parameters %q, want %q", p.Text(), v.Text)
			}
			for start, want := range []string{v.Table, v.SuperTable} {
				p.HashStart = uint64(start)
				if got := fmt.Sprintf("0 %d verity %s", p.Sectors(), p.TableOn("/dev/vda1", "/dev/vda2")); want != "" && got != want {
					t.Errorf("table %q, want %q", got, want)
				}
			}
			super := p.Superblock(uuid)
			if v.Device != "" && sum(append(super, tree...)) != v.Device {
				t.Errorf("hash device of digest %s, want %s", sum(append(super, tree...)), v.Device)
			}
			s, err := ParseSuperblock(super)
			if err != nil || s.UUID != uuid || s.DataBlocks != v.Blocks || s.Algorithm != v.Algorithm || hex.EncodeToString(s.Salt) != v.Salt {
				t.Errorf("superblock %+v, %v", s, err)
			}
		})
	}
	s, err := ParseSuperblock(unhex(t, file.Superblock))
	if err != nil || s.UUID != uuid || s.DataBlocks != 129 || s.HashStart != 1 || s.HashBlock != 4096 || s.DataBlock != 4096 || s.Algorithm != "sha256" || s.RootHash != nil {
		t.Errorf("superblock %+v, %v", s, err)
	}
	if len(file.Vectors) != 10 {
		t.Errorf("%d vectors", len(file.Vectors))
	}
}

// What the reference writes is read.
func TestTheSuperblockOfTheReferenceIsRead(t *testing.T) {
	t.Parallel()
	tool, err := exec.LookPath("veritysetup")
	if err != nil {
		t.Fatalf("the package cryptsetup-bin is needed: %v", err)
	}
	dir := t.TempDir()
	dataFile, hashFile := filepath.Join(dir, "data"), filepath.Join(dir, "hash")
	data := pattern(501 * 4096)
	p := Params{Algorithm: "sha256", DataBlock: 4096, HashBlock: 4096, DataBlocks: 501, Salt: []byte("a salt")}
	tree, err := p.Build(bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(dataFile, data, 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.CommandContext(t.Context(), tool, "format", "--salt", hex.EncodeToString(p.Salt), dataFile, hashFile).CombinedOutput()
	if err != nil || !strings.Contains(string(out), hex.EncodeToString(p.RootHash)) {
		t.Fatalf("%v\n%s", err, out)
	}
	written, err := os.ReadFile(hashFile)
	if err != nil {
		t.Fatal(err)
	}
	s, err := ParseSuperblock(written)
	if err != nil || s.UUID == ([16]byte{}) || s.DataBlocks != 501 || string(s.Salt) != "a salt" || !bytes.Equal(written[4096:], tree) {
		t.Errorf("%+v, %v", s, err)
	}
}

func superblock() []byte {
	return Params{Algorithm: "sha256", DataBlock: 4096, HashBlock: 4096, DataBlocks: 300, Salt: []byte("0123456789abcdef")}.Superblock([16]byte{1, 2, 3})
}

func TestEveryByteOfASuperblockCounts(t *testing.T) {
	t.Parallel()
	if _, err := ParseSuperblock(superblock()); err != nil {
		t.Fatal(err)
	}
	first, err := ParseSuperblock(superblock()[:SuperblockSize])
	if err != nil {
		t.Fatal(err)
	}
	for at := range SuperblockSize {
		b := superblock()
		b[at] ^= 0x40
		s, err := ParseSuperblock(b)
		if err == nil && fmt.Sprint(*s) == fmt.Sprint(*first) || err != nil && !errors.Is(err, ErrSuperblock) {
			t.Errorf("byte %d: %+v, %v", at, s, err)
		}
	}
}

func TestWhatIsNoSuperblockIsRefused(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func([]byte) []byte{
		"nothing": func([]byte) []byte { return nil }, "cut": func(b []byte) []byte { return b[:SuperblockSize-1] }, "zeros": func(b []byte) []byte { return make([]byte, len(b)) },
		"mark": func(b []byte) []byte { b[0] = 'V'; return b }, "version": func(b []byte) []byte { b[8] = 2; return b }, "Chrome's hash type": func(b []byte) []byte { b[12] = 0; return b },
		"algorithm": func(b []byte) []byte { copy(b[32:], "md5\x00\x00\x00"); return b }, "behind the algorithm": func(b []byte) []byte { b[50] = 'x'; return b },
		"small data blocks": func(b []byte) []byte { b[65] = 1; return b }, "large hash blocks": func(b []byte) []byte { b[70] = 1; return b },
		"no blocks": func(b []byte) []byte { clear(b[72:80]); return b }, "endless": func(b []byte) []byte { b[79] = 0xff; return b },
		"long salt": func(b []byte) []byte { b[81] = 2; return b }, "behind the salt": func(b []byte) []byte { b[88+16] = 1; return b },
		"shorter salt": func(b []byte) []byte { b[80] = 15; return b }, "behind all": func(b []byte) []byte { b[511] = 1; return b }, "padding": func(b []byte) []byte { b[84] = 1; return b },
	} {
		if s, err := ParseSuperblock(change(superblock())); !errors.Is(err, ErrSuperblock) {
			t.Errorf("%s: %+v, %v", name, s, err)
		}
	}
}

func FuzzSuperblock(f *testing.F) {
	f.Add(superblock()[:SuperblockSize])
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := ParseSuperblock(b)
		if err != nil {
			if !errors.Is(err, ErrSuperblock) {
				t.Error(err)
			}
			return
		}
		if !bytes.Equal(s.Superblock(s.UUID)[:SuperblockSize], b[:SuperblockSize]) {
			t.Errorf("%+v is not what was read", s)
		}
	})
}

func BenchmarkBuild(b *testing.B) {
	const blocks = 1 << 15
	data := pattern(blocks * 4096)
	b.SetBytes(int64(len(data)))
	for b.Loop() {
		p := Params{Algorithm: "sha256", DataBlock: 4096, HashBlock: 4096, DataBlocks: blocks, Salt: make([]byte, 32)}
		if _, err := p.Build(bytes.NewReader(data)); err != nil {
			b.Fatal(err)
		}
	}
}
