// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"cocoon/internal/verity"
)

// checkedDisk returns the data of a disk and its hash area.
func checkedDisk(t *testing.T) (data, hashes []byte, p verity.Params) {
	t.Helper()
	data = bytes.Repeat([]byte("cocoon"), 200*4096/6+1)[:200*4096]
	p = verity.Params{Algorithm: "sha256", DataBlock: 4096, HashBlock: 4096, DataBlocks: 200, Salt: bytes.Repeat([]byte{7}, 32)}
	tree, err := p.Build(bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	return data, append(p.Superblock([16]byte{1}), tree...), p
}

func TestTheRootOfADiskIsComputedFromItsData(t *testing.T) {
	t.Parallel()
	data, hashes, p := checkedDisk(t)
	want := fmt.Sprintf("root_hash %x\nalgorithm sha256\nverity_params %s\n", p.RootHash, p.Text())
	one, two := write(t, append(bytes.Clone(data), hashes...)), write(t, hashes)
	for name, args := range map[string][]string{"two files": {write(t, data), two}, "one file": {one, "--hash-offset", "819200"}} {
		if out, err := run(t, append([]string{"verity"}, args...)...); err != nil || out != want {
			t.Errorf("%s: %v:\n%s", name, err, out)
		}
	}
}

func TestADiskOfVeritysetupHasTheRootThatItSays(t *testing.T) {
	t.Parallel()
	tool, err := exec.LookPath("veritysetup")
	if err != nil {
		t.Skip("no veritysetup on this machine")
	}
	data, _, _ := checkedDisk(t)
	dataFile, hashFile := write(t, data), filepath.Join(t.TempDir(), "hashes")
	made, err := exec.CommandContext(t.Context(), tool, "format", dataFile, hashFile, "--hash", "sha512", "--data-block-size", "512").CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, made)
	}
	out, err := run(t, "verity", dataFile, hashFile)
	if err != nil {
		t.Fatal(err)
	}
	root, _, _ := strings.Cut(strings.TrimPrefix(out, "root_hash "), "\n")
	if len(root) != 128 || !strings.Contains(string(made), root) {
		t.Errorf("root %s, veritysetup says:\n%s", root, made)
	}
}

func TestADiskWhoseTreeIsAnothersIsRefused(t *testing.T) {
	t.Parallel()
	data, hashes, _ := checkedDisk(t)
	flipped := func(b []byte, at int) string { c := bytes.Clone(b); c[at] ^= 1; return write(t, c) }
	good, tree := write(t, data), write(t, hashes)
	for name, tc := range map[string]struct {
		args []string
		want error
	}{
		"data":          {[]string{flipped(data, 5), tree}, errTree},
		"last block":    {[]string{flipped(data, len(data)-1), tree}, errTree},
		"tree":          {[]string{good, flipped(hashes, 4096)}, errTree},
		"salt":          {[]string{good, flipped(hashes, 88)}, errTree},
		"superblock":    {[]string{good, flipped(hashes, 0)}, verity.ErrSuperblock},
		"short data":    {[]string{write(t, data[:len(data)-1]), tree}, io.ErrUnexpectedEOF},
		"short tree":    {[]string{good, write(t, hashes[:len(hashes)-1])}, io.ErrUnexpectedEOF},
		"no hashes":     {[]string{good, write(t, nil)}, io.EOF},
		"elsewhere":     {[]string{good, tree, "--hash-offset", "4096"}, verity.ErrSuperblock},
		"no hash area":  {[]string{good}, errFlags},
		"absent data":   {[]string{"/absent", tree}, os.ErrNotExist},
		"absent hashes": {[]string{good, "/absent"}, os.ErrNotExist},
	} {
		if out, err := run(t, append([]string{"verity"}, tc.args...)...); !errors.Is(err, tc.want) {
			t.Errorf("%s: %v\n%s", name, err, out)
		}
	}
}
