// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package volume

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"cocoon/internal/ext4"
	"cocoon/internal/mapper"
)

const (
	diskSize = 8 << 20
	provided = 12000 // sectors behind the integrity layer
)

// kernel is a Mapper whose devices are files: that of the encryption is one of
// its own, that of the integrity layer the disk, to which it writes a header.
type kernel struct {
	disk, plain string
	calls       []string
	tables      []string
	sent        [][]byte // as they were given, to see them wiped
	failAt      int      // number of the call that fails, from 1
	header      []byte   // of the integrity layer
	mountFails  bool
	mounted     string
}

func newKernel(t *testing.T) *kernel {
	t.Helper()
	dir := t.TempDir()
	k := &kernel{disk: filepath.Join(dir, "vdz"), plain: filepath.Join(dir, "plain")}
	for _, f := range []string{k.disk, k.plain} {
		if err := os.WriteFile(f, bytes.Repeat([]byte{0xa5}, diskSize), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	k.header = make([]byte, 512)
	copy(k.header, "integrt")
	binary.LittleEndian.PutUint64(k.header[16:], provided)
	return k
}

var errKernel = errors.New("the kernel does not want to")

func (k *kernel) step(what string) error {
	k.calls = append(k.calls, what)
	if len(k.calls) == k.failAt {
		return errKernel
	}
	return nil
}

func (k *kernel) ReadWrite(_ context.Context, name string, t mapper.Target) (string, error) {
	k.tables, k.sent = append(k.tables, string(t.Params)), append(k.sent, t.Params)
	if err := k.step(fmt.Sprintf("%s %s %d", t.Type, name, t.Sectors)); err != nil {
		return "", err
	}
	if t.Type == "crypt" {
		return k.plain, nil
	}
	f, err := os.OpenFile(k.disk, os.O_WRONLY, 0)
	if err != nil {
		return "", err
	}
	_, err = f.WriteAt(k.header, 0)
	return k.disk, errors.Join(err, f.Close())
}

func (k *kernel) Remove(name string) error { return k.step("remove " + name) }

func (k *kernel) mount(device, _ string) error {
	if k.mountFails {
		return errKernel
	}
	k.mounted = device
	return nil
}

func (k *kernel) volumes(integrity bool) *Volumes {
	return New(Config{Mapper: k, Integrity: integrity, Mount: k.mount})
}

func TestADiskBecomesAnEncryptedFileSystem(t *testing.T) {
	t.Parallel()
	k := newKernel(t)
	target := t.TempDir()
	if _, err := k.volumes(false).SecureMount(t.Context(), k.disk, target); err != nil {
		t.Fatal(err)
	}
	if want := []string{fmt.Sprintf("crypt cocoon-vdz %d", diskSize/512)}; !slices.Equal(k.calls, want) || k.mounted != k.plain {
		t.Errorf("%q, mounted %q", k.calls, k.mounted)
	}
	form := regexp.MustCompile("^aes-xts-plain64 ([0-9a-f]{128}) 0 " + regexp.QuoteMeta(k.disk) + " 0 1 sector_size:4096$")
	if !form.MatchString(k.tables[0]) {
		t.Errorf("table %q", k.tables[0])
	}
	if out, err := exec.CommandContext(t.Context(), "e2fsck", "-f", "-n", k.plain).CombinedOutput(); err != nil {
		t.Errorf("the file system: %v\n%s", err, out)
	}
	if b, err := os.ReadFile(k.disk); err != nil || !bytes.Equal(b[:headerSize], make([]byte, headerSize)) {
		t.Errorf("the old header is there (%v)", err)
	}
}

func TestIntegrityIsALayerBelow(t *testing.T) {
	t.Parallel()
	k := newKernel(t)
	if _, err := k.volumes(true).SecureMount(t.Context(), k.disk, t.TempDir()); err != nil {
		t.Fatal(err)
	}
	want := []string{"integrity cocoon-vdz-tags 8", "remove cocoon-vdz-tags", fmt.Sprintf("integrity cocoon-vdz-tags %d", provided), fmt.Sprintf("crypt cocoon-vdz %d", provided)}
	if !slices.Equal(k.calls, want) {
		t.Errorf("%q, want %q", k.calls, want)
	}
	if k.tables[0] != k.disk+" 0 28 D 1 block_size:4096" {
		t.Errorf("table %q", k.tables[0])
	}
	form := regexp.MustCompile(`^capi:gcm\(aes\)-random [0-9a-f]{64} 0 \S+ 0 2 integrity:28:aead sector_size:4096$`)
	if !form.MatchString(k.tables[2]) {
		t.Errorf("table %q", k.tables[2])
	}
}

func TestEveryMountHasAKeyOfItsOwnThatIsWiped(t *testing.T) {
	t.Parallel()
	k := newKernel(t)
	keys := map[string]bool{}
	for range 3 {
		if _, err := k.volumes(false).SecureMount(t.Context(), k.disk, t.TempDir()); err != nil {
			t.Fatal(err)
		}
		keys[strings.Fields(k.tables[len(k.tables)-1])[1]] = true
	}
	if len(keys) != 3 {
		t.Errorf("%d keys", len(keys))
	}
	for i, b := range k.sent {
		if len(bytes.Trim(b, "\x00")) > 0 {
			t.Errorf("table %d is still in memory", i)
		}
	}
}

func TestAVolumeThatCannotBeMadeLeavesNothing(t *testing.T) {
	t.Parallel()
	for fail, want := range map[int][]string{
		1: {"integrity cocoon-vdz-tags 8"},
		2: {"integrity cocoon-vdz-tags 8", "remove cocoon-vdz-tags"},
		3: {"integrity cocoon-vdz-tags 8", "remove cocoon-vdz-tags", "integrity cocoon-vdz-tags 12000"},
		4: {"integrity cocoon-vdz-tags 8", "remove cocoon-vdz-tags", "integrity cocoon-vdz-tags 12000", "crypt cocoon-vdz 12000", "remove cocoon-vdz-tags"},
	} {
		k := newKernel(t)
		k.failAt = fail
		if undo, err := k.volumes(true).SecureMount(t.Context(), k.disk, t.TempDir()); !errors.Is(err, errKernel) || undo != nil {
			t.Errorf("%d: %v", fail, err)
		}
		if !slices.Equal(k.calls, want) {
			t.Errorf("%d: %q, want %q", fail, k.calls, want)
		}
	}
	k := newKernel(t)
	k.mountFails = true
	_, err := k.volumes(true).SecureMount(t.Context(), k.disk, t.TempDir())
	if !errors.Is(err, errKernel) || !slices.Equal(k.calls[len(k.calls)-2:], []string{"remove cocoon-vdz", "remove cocoon-vdz-tags"}) {
		t.Errorf("%v after %q", err, k.calls)
	}
	for _, text := range k.tables {
		for _, word := range strings.Fields(text) {
			if len(word) >= 64 && strings.Contains(err.Error(), word) {
				t.Error("the error has the key")
			}
		}
	}
}

func TestDisksThatCannotHoldAVolumeAreRefused(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	small, link := filepath.Join(dir, "small"), filepath.Join(dir, "link")
	if err := errors.Join(os.WriteFile(small, make([]byte, 2*headerSize-1), 0o600), os.Symlink(small, link)); err != nil {
		t.Fatal(err)
	}
	for disk, want := range map[string]error{small: ErrDisk, filepath.Join(dir, "absent"): os.ErrNotExist, link: nil, dir: nil} {
		k := newKernel(t)
		_, err := k.volumes(false).SecureMount(t.Context(), disk, t.TempDir())
		if err == nil || want != nil && !errors.Is(err, want) || len(k.calls) > 0 {
			t.Errorf("%s: %v after %q", disk, err, k.calls)
		}
	}
	for name, spoil := range map[string]func(h []byte){
		"no header":  func(h []byte) { clear(h) },
		"no sectors": func(h []byte) { binary.LittleEndian.PutUint64(h[16:], 0) },
		"too many":   func(h []byte) { binary.LittleEndian.PutUint64(h[16:], 1<<60) },
		"too few":    func(h []byte) { binary.LittleEndian.PutUint64(h[16:], 64) },
	} {
		k := newKernel(t)
		spoil(k.header)
		_, err := k.volumes(true).SecureMount(t.Context(), k.disk, t.TempDir())
		if !errors.Is(err, ErrDisk) && !errors.Is(err, ext4.ErrSize) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
