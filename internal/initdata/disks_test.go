// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package initdata_test

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"cocoon/internal/bounded"
	"cocoon/internal/initdata"
)

// disks makes a folder with files that stand for disks.
func disks(t *testing.T, content map[string][]byte) initdata.Disks {
	t.Helper()
	dir := t.TempDir()
	for name, b := range content {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return initdata.Disks{Dir: dir, AnyFile: true}
}

func good(t *testing.T) []byte {
	t.Helper()
	gz := pack(t, document)
	return device(gz, uint64(len(gz)))
}

func TestTheDiskWithInitdataIsFoundAmongOthers(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"vda", "vdc", "sdb"} {
		d := disks(t, map[string][]byte{name: good(t), "vdb": make([]byte, 4096), "sda": nil, "nvme0n1": good(t), "vsock": good(t)})
		doc, disk, err := d.Find(initdata.Options{})
		if err != nil || filepath.Base(disk) != name || string(doc.Raw) != document {
			t.Errorf("%s: got %q, %v", name, disk, err)
		}
	}
}

func TestDisksThatLeaveItOpenWhatTheOwnerWantsAreRefused(t *testing.T) {
	t.Parallel()
	gz := pack(t, document)
	wrongVersion := pack(t, strings.Replace(document, "0.1.0", "0.2.0", 1))
	for name, tc := range map[string]struct {
		disks map[string][]byte
		want  error
	}{
		"no disk":               {nil, initdata.ErrNone},
		"only other disks":      {map[string][]byte{"vda": make([]byte, 512), "sda": []byte("init")}, initdata.ErrNone},
		"two disks":             {map[string][]byte{"vda": good(t), "sda": good(t)}, initdata.ErrTwo},
		"a broken one":          {map[string][]byte{"vda": []byte("initdata")}, initdata.ErrFormat},
		"a broken one after":    {map[string][]byte{"vda": good(t), "vdb": device(gz, 5)}, initdata.ErrFormat},
		"one that is too large": {map[string][]byte{"vda": device(gz, initdata.MaxCompressed+1)}, bounded.ErrTooLarge},
		"another version":       {map[string][]byte{"vda": device(wrongVersion, uint64(len(wrongVersion)))}, initdata.ErrVersion},
	} {
		doc, disk, err := disks(t, tc.disks).Find(initdata.Options{})
		if !errors.Is(err, tc.want) || doc != nil || disk != "" {
			t.Errorf("%s: got %q, %v; want %v", name, disk, err, tc.want)
		}
	}
}

func TestADiskThatCannotBeReadIsAnError(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := os.Symlink(filepath.Join(dir, "gone"), filepath.Join(dir, "vda")); err != nil {
		t.Fatal(err)
	}
	if _, _, err := (initdata.Disks{Dir: dir}).Find(initdata.Options{}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got %v", err)
	}
}

func TestOnlyBlockDevicesAreDisks(t *testing.T) {
	t.Parallel()
	d := disks(t, map[string][]byte{"vda": good(t)})
	d.AnyFile = false
	if _, _, err := d.Find(initdata.Options{}); !errors.Is(err, initdata.ErrNone) {
		t.Errorf("a file: got %v", err)
	}
	image := filepath.Join(t.TempDir(), "image")
	if err := os.WriteFile(image, append(good(t), make([]byte, 1<<20)...), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.CommandContext(t.Context(), "losetup", "--find", "--show", "--read-only", image).Output()
	if err != nil {
		t.Fatal(err)
	}
	loop := strings.TrimSpace(string(out))
	t.Cleanup(func() {
		if out, err := exec.Command("losetup", "--detach", loop).CombinedOutput(); err != nil {
			t.Errorf("%v %s", err, out)
		}
	})
	if err := os.Symlink(loop, filepath.Join(d.Dir, "vdb")); err != nil {
		t.Fatal(err)
	}
	doc, disk, err := d.Find(initdata.Options{})
	if err != nil || filepath.Base(disk) != "vdb" || string(doc.Raw) != document {
		t.Errorf("a block device: got %q, %v", disk, err)
	}
}

func TestTheFilesOfInitdataAreForRootAndWrittenAsAWhole(t *testing.T) {
	t.Parallel()
	doc := &initdata.Document{Algorithm: "sha256", Raw: []byte("raw"), Data: map[string]string{
		initdata.KeyAA: "aa", initdata.KeyPolicy: "policy", "../escape": "x",
	}}
	dir := filepath.Join(t.TempDir(), "initdata")
	if err := doc.Write(dir); err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 2 {
		t.Fatalf("%v (%v)", entries, err)
	}
	for name, want := range map[string]string{"initdata.toml": "raw", "aa.toml": "aa"} {
		path := filepath.Join(dir, name)
		b, err := os.ReadFile(path)
		st, serr := os.Stat(path)
		if err != nil || serr != nil || string(b) != want || st.Mode().Perm() != 0o600 {
			t.Errorf("%s: %q (%v, %v)", name, b, err, serr)
		}
	}
	if err := doc.Write(dir); !errors.Is(err, fs.ErrExist) {
		t.Errorf("a second time: %v", err)
	}
	occupied := t.TempDir()
	if err := os.Symlink("/nowhere", filepath.Join(occupied, "aa.toml")); err != nil {
		t.Fatal(err)
	}
	if err := doc.Write(occupied); err == nil {
		t.Error("wrote through a link")
	}
	if _, err := os.Lstat(filepath.Join(occupied, "initdata.toml")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("left behind: %v", err)
	}
}

func TestAnAbsentDocumentHasToBeAbsentForTheHardwareToo(t *testing.T) {
	t.Parallel()
	for _, n := range []int{32, 48, 64} {
		register := make([]byte, n)
		if err := initdata.CheckAbsent(register); err != nil {
			t.Errorf("%d zeros: %v", n, err)
		}
		register[n-1] = 1
		if err := initdata.CheckAbsent(register); !errors.Is(err, initdata.ErrWithheld) {
			t.Errorf("%d bytes: %v", n, err)
		}
	}
	if err := initdata.CheckAbsent(nil); !errors.Is(err, initdata.ErrWithheld) {
		t.Errorf("no register: %v", err)
	}
	if err := initdata.CheckRegister(nil, make([]byte, 32)); !errors.Is(err, initdata.ErrMismatch) {
		t.Errorf("no digest equals zeros: %v", err)
	}
}
