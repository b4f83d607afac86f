// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package podvm

import (
	"bytes"
	"encoding/binary"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kdomanski/iso9660"

	"cocoon/internal/bounded"
)

// writeISO makes a volume in the way the adaptor's libvirt provider does.
func writeISO(t testing.TB, label string, files map[string]string) []byte {
	t.Helper()
	w, err := iso9660.NewWriter()
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := w.Cleanup(); err != nil {
			t.Errorf("clean up: %v", err)
		}
	}()
	for name, content := range files {
		if err := w.AddFile(strings.NewReader(content), name); err != nil {
			t.Fatal(err)
		}
	}
	var b bytes.Buffer
	if err := w.WriteTo(&b, label); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// genISO makes a volume with genisoimage.
func genISO(t *testing.T, label string, files map[string]string, flags ...string) []byte {
	t.Helper()
	tool, err := exec.LookPath("genisoimage")
	if err != nil {
		t.Skip("genisoimage is not installed")
	}
	dir, out := t.TempDir(), filepath.Join(t.TempDir(), "x.iso")
	for name, content := range files {
		p := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	args := append([]string{"-quiet", "-V", label, "-o", out}, flags...)
	if msg, err := exec.CommandContext(t.Context(), tool, append(args, dir)...).CombinedOutput(); err != nil {
		t.Fatalf("genisoimage: %v: %s", err, msg)
	}
	b, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

var cidata = map[string]string{
	"user-data":   "#cloud-config\nwrite_files: []\n" + strings.Repeat("# long\n", 1000),
	"meta-data":   "local-hostname: x\n",
	"vendor-data": "",
}

func TestUserDataIsReadFromEveryKindOfVolume(t *testing.T) {
	t.Parallel()
	many := map[string]string{"user-data": cidata["user-data"]}
	for i := range 200 {
		many["a-rather-long-file-name-"+strings.Repeat("x", i%20)+string(rune('a'+i%26))+string(rune('a'+i/26))] = "x"
	}
	for name, make := range map[string]func(t *testing.T) []byte{
		"adaptor":           func(t *testing.T) []byte { return writeISO(t, "cidata", cidata) },
		"primary names":     func(t *testing.T) []byte { return genISO(t, "cidata", cidata) },
		"rock ridge":        func(t *testing.T) []byte { return genISO(t, "CIDATA", cidata, "-R") },
		"rational ridge":    func(t *testing.T) []byte { return genISO(t, "cidata", cidata, "-r") },
		"joliet":            func(t *testing.T) []byte { return genISO(t, "cidata", cidata, "-J") },
		"both":              func(t *testing.T) []byte { return genISO(t, "cidata", cidata, "-J", "-r") },
		"many files":        func(t *testing.T) []byte { return genISO(t, "cidata", many, "-J", "-r") },
		"many files joliet": func(t *testing.T) []byte { return genISO(t, "cidata", many, "-J") },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			v, err := openVolume(bytes.NewReader(make(t)))
			if err != nil {
				t.Fatal(err)
			}
			if !strings.EqualFold(v.label, "cidata") {
				t.Errorf("label %q", v.label)
			}
			got, err := v.readFile("user-data", MaxUserData)
			if err != nil || string(got) != cidata["user-data"] {
				t.Fatalf("got %d bytes, %v", len(got), err)
			}
			if _, err := v.readFile("absent", MaxUserData); !errors.Is(err, ErrNoFile) {
				t.Errorf("an absent file: got %v", err)
			}
			if _, err := v.readFile("user-data/x", MaxUserData); !errors.Is(err, ErrNoFile) {
				t.Errorf("a file as folder: got %v", err)
			}
			if _, err := v.readFile("user-data", 10); !errors.Is(err, bounded.ErrTooLarge) {
				t.Errorf("above the limit: got %v", err)
			}
		})
	}
}

func TestADiskWithUserDataIsFoundAmongOthers(t *testing.T) {
	t.Parallel()
	config := map[string]string{"openstack/latest/user_data": "from the drive"}
	good := writeISO(t, "cidata", map[string]string{"user-data": "from the volume"})
	zeros := make([]byte, 1<<16)
	for name, tc := range map[string]struct {
		disks map[string][]byte
		want  string
		disk  string
		err   error
	}{
		"cidata":       {map[string][]byte{"vda": zeros, "vdb": good, "sr0": nil, "sda": []byte("short")}, "from the volume", "vdb", nil},
		"CD":           {map[string][]byte{"sr0": good, "tty": good}, "from the volume", "sr0", nil},
		"config drive": {map[string][]byte{"sda": genISO(t, "config-2", config, "-J", "-r")}, "from the drive", "sda", nil},
		"short names":  {map[string][]byte{"sda": genISO(t, "config-2", config)}, "from the drive", "sda", nil},
		"other label":  {map[string][]byte{"vda": writeISO(t, "other", cidata)}, "", "", ErrNoUserData},
		"no disk":      {nil, "", "", ErrNoUserData},
		"other names":  {map[string][]byte{"nvme0n1": good, "loop0": good}, "", "", ErrNoUserData},
		"two":          {map[string][]byte{"vda": good, "sr0": good}, "", "", errAmbiguous},
		"no file":      {map[string][]byte{"vda": writeISO(t, "cidata", map[string]string{"meta-data": "x"})}, "", "", ErrNoFile},
		"broken":       {map[string][]byte{"vda": good[:17*sector]}, "", "", ErrISO},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			for n, b := range tc.disks {
				if err := os.WriteFile(filepath.Join(dir, n), b, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			got, disk, err := Disks{Dir: dir, AnyFile: true}.UserData()
			switch {
			case tc.err == nil && (err != nil || string(got) != tc.want || filepath.Base(disk) != tc.disk):
				t.Fatalf("got %q from %q, %v", got, disk, err)
			case errors.Is(tc.err, errAmbiguous) && (err == nil || !strings.Contains(err.Error(), "both")):
				t.Fatalf("got %v", err)
			case tc.err != nil && !errors.Is(tc.err, errAmbiguous) && !errors.Is(err, tc.err):
				t.Fatalf("got %v, want %v", err, tc.err)
			}
		})
	}
}

var errAmbiguous = errors.New("ambiguous")

func TestAFileThatIsNoDeviceIsNotReadAsDisk(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "vda"), writeISO(t, "cidata", cidata), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, err := (Disks{Dir: dir}).UserData(); !errors.Is(err, ErrNoUserData) {
		t.Fatalf("got %v", err)
	}
}

// TestALyingVolumeIsRefused changes one field at a time in a good volume.
func TestALyingVolumeIsRefused(t *testing.T) {
	t.Parallel()
	good := writeISO(t, "cidata", cidata)
	const descriptor = firstVolume * sector
	root := int(binary.LittleEndian.Uint32(good[descriptor+158:])) * sector
	second := root + int(good[root])
	file := second + int(good[second]) // first record behind . and ..
	for name, change := range map[string]func(b []byte){
		"no magic":             func(b []byte) { b[descriptor+1] = 'X' },
		"second without magic": func(b []byte) { b[descriptor+sector+1] = 'X' },
		"no primary":           func(b []byte) { b[descriptor] = 3 },
		"no terminator": func(b []byte) {
			b[descriptor+sector] = 1
			copy(b[descriptor+sector:descriptor+2*sector], b[descriptor:])
		},
		"other block size":    func(b []byte) { b[descriptor+129] = 4 },
		"root is a file":      func(b []byte) { b[descriptor+156+25] = 0 },
		"root without name":   func(b []byte) { b[descriptor+156+32] = 0 },
		"root record length":  func(b []byte) { b[descriptor+156] = 200 },
		"root far away":       func(b []byte) { b[descriptor+161] = 0xff },
		"root huge":           func(b []byte) { b[descriptor+156+13] = 0xff },
		"record too short":    func(b []byte) { b[file] = 20 },
		"record over the end": func(b []byte) { b[file] = 255; b[file+32] = 254 },
		"name too long":       func(b []byte) { b[file+32] = 250 },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := bytes.Clone(good)
			change(b)
			v, err := openVolume(bytes.NewReader(b))
			if err == nil {
				_, err = v.readFile("user-data", MaxUserData)
			}
			if !errors.Is(err, ErrISO) && !errors.Is(err, ErrNotISO) && !errors.Is(err, bounded.ErrTooLarge) && !errors.Is(err, ErrNoFile) {
				t.Fatalf("got %v", err)
			}
		})
	}
}

func TestAFileInSeveralExtentsIsRefused(t *testing.T) {
	t.Parallel()
	for _, change := range []func(b []byte){
		func(b []byte) { b[25] |= 0x80 }, func(b []byte) { b[26] = 1 }, func(b []byte) { b[27] = 1 },
	} {
		b := make([]byte, 34)
		b[0], b[32], b[33] = 34, 1, 'x'
		if _, _, err := parseRecord(b); err != nil {
			t.Fatal(err)
		}
		change(b)
		if _, _, err := parseRecord(b); !errors.Is(err, ErrISO) {
			t.Errorf("got %v", err)
		}
	}
}

func FuzzISO(f *testing.F) {
	f.Add(writeISO(f, "cidata", map[string]string{"user-data": "x"})[firstVolume*sector:])
	f.Add([]byte("\x01CD001"))
	f.Fuzz(func(t *testing.T, b []byte) {
		// The first sectors are unused; leaving them out helps the fuzzer.
		v, err := openVolume(bytes.NewReader(append(make([]byte, firstVolume*sector), b...)))
		if err != nil {
			return
		}
		for _, path := range userDataFiles() {
			if got, err := v.readFile(path, 4096); err == nil && len(got) > 4096 {
				t.Fatal("limit ignored")
			}
		}
	})
}
