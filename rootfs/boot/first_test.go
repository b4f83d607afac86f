// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package boot

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"cocoon/internal/verity"
)

// rootTree is the tree of a root of 200 blocks, and its parameters.
func rootTree(t *testing.T) (verity.Params, []byte) {
	t.Helper()
	p := verity.Params{Algorithm: "sha256", DataBlock: 4096, HashBlock: 4096, DataBlocks: 200, Salt: []byte{7}}
	tree, err := p.Build(bytes.NewReader(make([]byte, 200*4096)))
	if err != nil {
		t.Fatal(err)
	}
	return p, tree
}

// newFirstWorld is a machine with a root on the second and third partition of
// its second disk.
func newFirstWorld(t *testing.T) *world {
	t.Helper()
	w := newWorld()
	p, tree := rootTree(t)
	w.files["/proc/cmdline"] = "quiet panic=1 " + ParamExtension + "=" + p.Text() + "\n"
	w.files["/dev/vda1"], w.files["/dev/vda2"] = strings.Repeat("a", 8192), strings.Repeat("b", 8192)
	w.files["/dev/vdb2"], w.files["/dev/vdb3"] = strings.Repeat("c", 8192), string(tree)
	w.partitions = []Partition{
		{"vda1", "vda", 1, "254:1"}, {"vda2", "vda", 2, "254:2"},
		{"vdb3", "vdb", 3, "254:19"}, {"vdb2", "vdb", 2, "254:18"},
	}
	return w
}

func firstRun(t *testing.T, w *world) error {
	t.Helper()
	return run(w.deps(), func(s *State) error { return runSteps(t.Context(), s, FirstSteps()) })
}

const healthyFirst = `open log
mkdir /proc 755
mount proc /proc proc 0xe 
mkdir /sys 755
mount sysfs /sys sysfs 0xe 
mkdir /dev 755
mount dev /dev devtmpfs 0x2 mode=0755
read /proc/cmdline
read /etc/cocoon/cmdline
read /etc/cocoon/modules
module /lib/modules/6.1/a.ko
module /lib/modules/6.1/b.ko
partitions
read /dev/vda2 0
read /dev/vda2 4096
read /dev/vdb3 0
map cocoon-root verity 1600 1 254:18 254:19 4096 4096 200 %d sha256 %x 07 1 panic_on_corruption
mkdir /.root 755
mount /dev/dm-0 /.root erofs 0x3 
unmount /dev
unmount /sys
unmount /proc
remove /lib/modules/6.1/a.ko
remove /lib/modules/6.1/b.ko
chdir /.root
mount . /  0x2000 
chroot .
chdir /
exec /init /init 3`

func TestTheInitramfsLeadsToTheRootThatTheCommandLineNames(t *testing.T) {
	t.Parallel()
	w := newFirstWorld(t)
	p, _ := rootTree(t)
	if err := firstRun(t, w); err != nil {
		t.Fatal(err)
	}
	want := strings.Split(fmt.Sprintf(healthyFirst, 0, p.RootHash), "\n")
	if diff := cmp.Diff(want, w.calls[:min(len(want), len(w.calls))]); diff != "" {
		t.Errorf("calls differ (-want +got):\n%s", diff)
	}
}

func TestAnImageThatBootsItselfTakesItsOwnCommandLineOnly(t *testing.T) {
	t.Parallel()
	p, _ := rootTree(t)
	own := "quiet " + ParamRoot + "=" + p.Text()
	for name, tc := range map[string]struct {
		given string
		want  error
	}{
		"its own":          {own + "\n", nil},
		"no end":           {own, nil},
		"another word":     {own + " agent.log=debug\n", ErrCmdline},
		"a word before":    {"debug " + own + "\n", ErrCmdline},
		"another root":     {"quiet " + ParamRoot + "=" + other(p).Text() + "\n", ErrCmdline},
		"without the root": {"quiet\n", ErrCmdline},
		"nothing":          {"", ErrCmdline},
	} {
		w := newFirstWorld(t)
		w.files[CmdlinePath], w.files["/proc/cmdline"] = own, tc.given
		err := firstRun(t, w)
		all := strings.Join(w.calls, "\n")
		if started := strings.Contains(all, "exec /init"); tc.want == nil && !started || tc.want != nil && (!errors.Is(err, tc.want) || started || strings.Contains(all, "module ")) {
			t.Errorf("%s: %v\n%s", name, err, all)
		}
	}
}

func TestATreeBehindASuperblockIsFound(t *testing.T) {
	t.Parallel()
	w := newFirstWorld(t)
	p, tree := rootTree(t)
	w.files["/dev/vdb3"] = string(p.Superblock([16]byte{1})) + string(tree)
	w.files["/proc/cmdline"] = ParamRoot + "=" + p.Text()
	if err := firstRun(t, w); err != nil {
		t.Fatal(err)
	}
	if all := strings.Join(w.calls, "\n"); !strings.Contains(all, "254:18 254:19 4096 4096 200 1 sha256") {
		t.Errorf("calls:\n%s", all)
	}
}

func TestAnyFailingFirstCallPowersOff(t *testing.T) {
	t.Parallel()
	p, _ := rootTree(t)
	for call := range strings.SplitSeq(fmt.Sprintf(healthyFirst, 0, p.RootHash), "\n") {
		if strings.HasSuffix(call, "b.ko") || strings.HasPrefix(call, "read /dev/") {
			continue // optional; another disk's
		}
		w := newFirstWorld(t)
		w.fail[call] = errors.New("no luck")
		if err := firstRun(t, w); err == nil || !strings.Contains(err.Error(), "no luck") || w.calls[len(w.calls)-1] != "power off" {
			t.Errorf("%s: %v, last call %q", call, err, w.calls[len(w.calls)-1])
		}
	}
}

func TestWithoutTheRootOfTheCommandLineNothingStarts(t *testing.T) {
	t.Parallel()
	p, tree := rootTree(t)
	for name, tc := range map[string]struct {
		spoil func(*world)
		want  error
	}{
		"none named":        {func(w *world) { w.files["/proc/cmdline"] = "quiet" }, ErrNoRoot},
		"named twice":       {func(w *world) { w.files["/proc/cmdline"] += " " + ParamExtension + "=" + p.Text() }, ErrNoRoot},
		"named by two":      {func(w *world) { w.files["/proc/cmdline"] += " " + ParamRoot + "=" + p.Text() }, ErrNoRoot},
		"named by nothing":  {func(w *world) { w.files["/proc/cmdline"] = ParamExtension + "=" }, verity.ErrParams},
		"announced only":    {func(w *world) { w.files["/proc/cmdline"] = ParamExtension }, ErrNoRoot},
		"no disk":           {func(w *world) { w.partitions = nil }, ErrNoRoot},
		"other tree":        {func(w *world) { w.files["/dev/vdb3"] = "x" + string(tree[1:]) }, ErrNoRoot},
		"tree too short":    {func(w *world) { w.files["/dev/vdb3"] = string(tree[:4095]) }, ErrNoRoot},
		"tree at its end":   {func(w *world) { w.files["/dev/vdb3"] = strings.Repeat("x", 8192) + string(tree) }, ErrNoRoot},
		"data elsewhere":    {func(w *world) { w.partitions[3].Disk = "vdc" }, ErrNoRoot},
		"data behind":       {func(w *world) { w.partitions[3].Index = 4 }, ErrNoRoot},
		"tree unreadable":   {func(w *world) { delete(w.files, "/dev/vdb3") }, ErrNoRoot},
		"another root hash": {func(w *world) { w.files["/proc/cmdline"] = ParamRoot + "=" + other(p).Text() }, ErrNoRoot},
	} {
		w := newFirstWorld(t)
		tc.spoil(w)
		close(w.timer(diskLook)) // so that waiting takes no time; each look takes a millisecond of the machine's
		err := firstRun(t, w)
		if !errors.Is(err, tc.want) || w.calls[len(w.calls)-1] != "power off" {
			t.Errorf("%s: %v, last call %q", name, err, w.calls[len(w.calls)-1])
		}
		if all := strings.Join(w.calls, "\n"); strings.Contains(all, "map ") || strings.Contains(all, "exec ") {
			t.Errorf("%s: went on:\n%s", name, all)
		}
	}
}

// other are the parameters of another root.
func other(p verity.Params) verity.Params {
	p.RootHash = bytes.Clone(p.RootHash)
	p.RootHash[31] ^= 1
	return p
}

func TestADiskThatComesLateIsFound(t *testing.T) {
	t.Parallel()
	w := newFirstWorld(t)
	late := w.partitions
	w.partitions = nil
	looks := 0
	w.onCall["partitions"] = func() {
		if looks++; looks == 5 {
			w.partitions = late
		}
	}
	close(w.timer(diskLook))
	if err := firstRun(t, w); err != nil || looks < 5 {
		t.Errorf("after %d looks: %v", looks, err)
	}
}

func TestARootOnADiskIsNotMovedAgain(t *testing.T) {
	t.Parallel()
	w := newWorld()
	w.erofs = true
	w.files["/proc/self/mounts"] = "/dev/dm-0 / erofs ro 0 0\n/dev/vda /data ext4 rw 0 0\n"
	w.end(t, "", exited(0))
	if err := Run(t.Context(), w.deps()); err != nil {
		t.Fatal(err)
	}
	if w.calls[1] != "mkdir /proc 755" {
		t.Errorf("it begins with %q", w.calls[:3])
	}
	if all := strings.Join(w.calls, "\n"); strings.Contains(all, "unmount /\n") || !strings.Contains(all, "unmount /data\n") {
		t.Errorf("calls:\n%s", all)
	}
	w = newWorld()
	w.fail["type of /"] = unix.EIO
	if err := Run(t.Context(), w.deps()); !errors.Is(err, unix.EIO) {
		t.Errorf("a root that can't be looked at: %v", err)
	}
}

func TestPartitionsAreThoseOfTheKernelsList(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	list, devices := filepath.Join(dir, "block"), filepath.Join(dir, "devices")
	write := func(path, text string) {
		t.Helper()
		file := filepath.Join(devices, path)
		if err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o755), os.WriteFile(file, []byte(text), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	write("vda/dev", "254:0\n")
	write("vda/vda2/dev", "254:2\n")
	write("vda/vda2/partition", "2\n")
	link := func() {
		t.Helper()
		if err := errors.Join(os.MkdirAll(list, 0o755), os.Symlink("../devices/vda", list+"/vda"), os.Symlink("../devices/vda/vda2", list+"/vda2")); err != nil {
			t.Fatal(err)
		}
	}
	link()
	parts, err := partitionsOf(list)
	if want := []Partition{{"vda2", "vda", 2, "254:2"}}; err != nil || !reflect.DeepEqual(parts, want) {
		t.Errorf("%+v, %v", parts, err)
	}
	write("vda/vda2/partition", "two\n")
	if parts, err := partitionsOf(list); err == nil {
		t.Errorf("%+v", parts)
	}
	if _, err := partitionsOf(dir + "/absent"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a list that is not there: %v", err)
	}
	b := make([]byte, 3)
	if err := readAt(filepath.Join(devices, "vda/dev"), b, 2); err != nil || string(b) != "4:0" {
		t.Errorf("%q, %v", b, err)
	}
	if err := readAt(filepath.Join(devices, "vda/dev"), b, 5); err == nil {
		t.Error("a read beyond the end succeeds")
	}
}
