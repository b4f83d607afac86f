// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package cpio_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"strconv"
	"testing"

	"github.com/google/go-cmp/cmp"

	"cocoon/internal/sharedtest"
	"cocoon/mkimage/format/cpio"
	"cocoon/rootfs/recipe"
)

// The archive was made by other code from the rules alone.
func TestTheArchiveOfOtherCodeIsMadeAndRead(t *testing.T) {
	t.Parallel()
	want := sharedtest.Read(t, "measure/cpio/tree.cpio")
	var vector struct {
		Entries []struct {
			Mode string
			Name string
			Data string `json:"data_hex"`
			Rdev [2]uint32
		}
		SHA256 string
	}
	if err := json.Unmarshal(sharedtest.Read(t, "measure/cpio/cpio.json"), &vector); err != nil {
		t.Fatal(err)
	}
	var entries []recipe.Entry
	for _, v := range vector.Entries {
		mode, err := strconv.ParseUint(v.Mode, 0, 32)
		if err != nil {
			t.Fatal(err)
		}
		data, err := hex.DecodeString(v.Data)
		if err != nil {
			t.Fatal(err)
		}
		entries = append(entries, recipe.Entry{Path: v.Name, Mode: uint32(mode), Data: data, Major: v.Rdev[0], Minor: v.Rdev[1]})
	}
	got := write(t, entries)
	if sum := sha256.Sum256(got); hex.EncodeToString(sum[:]) != vector.SHA256 || !bytes.Equal(got, want) {
		t.Errorf("archive of %d bytes differs from that of %d", len(got), len(want))
	}
	read, err := cpio.Read(want)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(entries, read); diff != "" || len(read) != 7 {
		t.Error(diff)
	}
}
