// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package vtpm_test

import (
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"fmt"
	"hash"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"cocoon/measurements/vtpm"
	"cocoon/mkimage/format/uki"
	"cocoon/mkimage/format/uki/ukitest"
)

func TestPCR11IsThatOfSystemdMeasure(t *testing.T) {
	t.Parallel()
	const tool = "/lib/systemd/systemd-measure"
	if _, err := os.Stat(tool); err != nil {
		t.Skipf("no systemd-measure on this machine: %v", err)
	}
	sections := []uki.Section{
		{Name: ".osrel", Data: []byte("ID=x\n")}, {Name: ".cmdline", Data: []byte("one two")}, {Name: ".splash", Data: []byte("BM")},
		{Name: ".initrd", Data: []byte("an initramfs")}, {Name: ".linux", Data: ukitest.Program("kernel")},
	}
	image, err := uki.Write(ukitest.Program("stub"), sections, 0)
	if err != nil {
		t.Fatal(err)
	}
	args, dir := []string{"calculate", "--phase="}, t.TempDir()
	for _, s := range sections {
		file := filepath.Join(dir, s.Name)
		if err := os.WriteFile(file, s.Data, 0o600); err != nil {
			t.Fatal(err)
		}
		args = append(args, fmt.Sprintf("--%s=%s", s.Name[1:], file))
	}
	for name, h := range map[string]func() hash.Hash{"sha1": sha1.New, "sha256": sha256.New, "sha384": sha512.New384, "sha512": sha512.New} {
		out, err := exec.CommandContext(t.Context(), tool, append(slices.Clone(args), "--bank="+name)...).Output()
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		got, _, err := vtpm.Predict(h, image, 252)
		if want := fmt.Sprintf("11:%s=%x", name, got[11]); err != nil || !strings.Contains(string(out), want) {
			t.Errorf("predicted is %s, systemd-measure says %s (%v)", want, out, err)
		}
	}
}
