// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package storage

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"cocoon/agent/device"
	"cocoon/internal/mapper"
	"cocoon/internal/stage"
	"cocoon/internal/wire/agentpb"
)

const rootHash = "abababababababababababababababababababababababababababababababab"

// Partition of a test's disks: "node pN".
func (d disks) Partition(_ context.Context, disk device.Node, number int) (device.Node, error) {
	if n, ok := d[fmt.Sprintf("%s p%d", disk.Path, number)]; ok {
		return n, nil
	}
	return device.Node{}, fmt.Errorf("partition %d: %w", number, device.ErrNotFound)
}

// checker is a Mapper whose devices are the disks themselves.
type checker struct {
	node    string
	made    []mapper.Target
	names   []string
	removed []string
	fail    error
	busy    int // how often the kernel still has a device of that name
	stuck   int // how often it does not remove one
}

func (c *checker) ReadOnly(_ context.Context, name string, t mapper.Target) (string, error) {
	if c.fail != nil {
		return "", c.fail
	}
	if c.busy > 0 {
		c.busy--
		return "", fmt.Errorf("create: %w", unix.EBUSY)
	}
	c.made, c.names = append(c.made, t), append(c.names, name)
	return c.node, nil
}

func (c *checker) Remove(name string) error {
	if c.stuck > 0 && len(c.made) > 0 {
		c.stuck--
		return unix.ENOMEM
	}
	c.removed = append(c.removed, name)
	return nil
}

// anyLayers is the answer of a policy that allows layers that nothing checks.
func anyLayers(context.Context) (bool, error) { return true, nil }

func lower(run string, options ...string) *agentpb.Storage {
	return &agentpb.Storage{
		Driver: "blk", Source: "02/01", Fstype: "ext4", MountPoint: run + "/c1/rootfs",
		Options: append([]string{"X-kata.multi-layer=true", "X-kata.overlay-lower"}, options...),
	}
}

func upper(run string) *agentpb.Storage {
	return &agentpb.Storage{
		Driver: "blk", Source: "02/02", Fstype: "ext4", MountPoint: run + "/c1/rootfs",
		Options: []string{"X-kata.multi-layer=true", "X-kata.overlay-upper", "X-kata.mkdir.path={{ mount 0 }}/upper/etc:{{ mount 0 }}/upper/var/lib"},
	}
}

func verified() []string {
	return []string{
		"X-kata.gpt-partitioned=true", "X-kata.partition-number=2", "X-kata.dmverity-enabled=true",
		"X-kata.dmverity.roothash=" + rootHash, "X-kata.dmverity.hashoffset=4194304",
	}
}

func TestLayersBecomeARootAndAreReleased(t *testing.T) {
	t.Parallel()
	m, run := newManager(t, nil)
	m.cfg.UncheckedLayers = anyLayers
	bottom, top, changes := loopDisk(t, ext4(t)), loopDisk(t, ext4(t)), loopDisk(t, ext4(t))
	c := &checker{node: top.Path}
	m.cfg.Mapper = c
	m.cfg.Devices = disks{"blk 02/01": bottom, "scsi 0:1": bottom, bottom.Path + " p2": top, bottom.Path + " p7": bottom, "blk 02/02": changes}
	low := lower(run, "X-kata.gpt-partitioned=true", "X-kata.partition-number=7")
	low.Driver, low.Source = "scsi", "0:1"
	attach(t, m, "c1", low, upper(run), lower(run, verified()...), tmpfs(run+"/c1/other"))
	root := run + "/c1/rootfs"
	for _, name := range []string{"hello", "etc", "var/lib"} {
		if _, err := os.Stat(filepath.Join(root, name)); err != nil {
			t.Error(err)
		}
	}
	write(t, root+"/new", "a change")
	if b, err := os.ReadFile(run + "/c1/multi-layer/upper/upper/new"); err != nil || string(b) != "a change" {
		t.Errorf("the upper layer has %q (%v)", b, err)
	}
	want := mapper.Target{Type: "verity", Sectors: 8192, Params: []byte("1 " + top.Number() + " " + top.Number() + " 4096 4096 1024 1025 sha256 " + rootHash + " -")}
	name := "kata-verity-" + filepath.Base(top.Path) + "-off4194304-" + rootHash
	if len(c.made) != 1 || !reflect.DeepEqual(c.made[0], want) || c.names[0] != name {
		t.Errorf("%q %+v\nwant %q %+v", c.names, c.made, name, want)
	}
	detach(t, m, "c1")
	gone(t, root)
	gone(t, run+"/c1/multi-layer")
	if !slices.Equal(c.removed, []string{name, name}) {
		t.Errorf("removed %q", c.removed)
	}
}

// mount(2) cuts what does not fit a page, and the host chooses how long it is.
func TestAsManyLayersAsAreAllowedFitAMount(t *testing.T) {
	t.Parallel()
	m, run := newManager(t, nil)
	m.cfg.UncheckedLayers = anyLayers
	d := disks{}
	m.cfg.Devices = d
	owner := strings.Repeat("c", 200)
	var list []*agentpb.Storage
	for i := range maxGroup {
		l := lower(run)
		l.Source, l.MountPoint = fmt.Sprintf("02/%02x", i), run+"/"+owner+"/rootfs"
		d["blk "+l.Source] = loopDisk(t, ext4(t))
		list = append(list, l)
	}
	attach(t, m, owner, list...)
	options, err := os.ReadFile("/proc/thread-self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	_, line, _ := strings.Cut(string(options), run+"/"+owner+"/rootfs ")
	line, _, _ = strings.Cut(line, "\n")
	if n := strings.Count(line, "/proc/self/fd/"); n != maxGroup+2 {
		t.Errorf("mounted with %d directories: %s", n, line)
	}
	detach(t, m, owner)
	gone(t, run+"/"+owner+"/multi-layer")
	l := lower(run)
	if err := m.Attach(t.Context(), "c1", append(slices.Repeat([]*agentpb.Storage{l}, maxGroup), l)); !errors.Is(err, ErrTooMany) && !errors.Is(err, ErrInvalid) {
		t.Errorf("one layer more: %v", err)
	}
	gone(t, run+"/c1/multi-layer")
}

// The disk of the upper layer is the host's, with what it wants to be there.
func TestALinkInTheUpperLayerIsNotFollowed(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"upper", "work"} {
		m, run := newManager(t, nil)
		m.cfg.UncheckedLayers = anyLayers
		outside := t.TempDir()
		content := t.TempDir()
		if err := os.Symlink(outside, filepath.Join(content, name)); err != nil {
			t.Fatal(err)
		}
		m.cfg.Devices = disks{"blk 02/01": loopDisk(t, ext4(t)), "blk 02/02": loopDisk(t, ext4Of(t, content))}
		u := upper(run)
		u.Options = u.Options[:2]
		if err := m.Attach(t.Context(), "c1", []*agentpb.Storage{lower(run), u}); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
		if list, err := os.ReadDir(outside); err != nil || len(list) > 0 {
			t.Errorf("%s: %v was made outside (%v)", name, list, err)
		}
		gone(t, run+"/c1/rootfs")
		gone(t, run+"/c1/multi-layer")
	}
}

func TestWithoutAnUpperLayerChangesStayInMemory(t *testing.T) {
	t.Parallel()
	m, run := newManager(t, nil)
	m.cfg.UncheckedLayers = anyLayers
	m.cfg.Devices = disks{"blk 02/01": loopDisk(t, ext4(t))}
	l := lower(run)
	l.Driver, l.Options = DriverLayers, []string{"X-kata.overlay-lower"}
	attach(t, m, "c1", l)
	write(t, run+"/c1/rootfs/new", "x")
	detach(t, m, "c1")
	gone(t, run+"/c1/multi-layer")
}

func TestLayersThatAreNotSoundAreRefusedAndLeaveNothing(t *testing.T) {
	t.Parallel()
	m, run := newManager(t, nil)
	m.cfg.UncheckedLayers = anyLayers
	disk := loopDisk(t, ext4(t))
	c := &checker{node: disk.Path}
	m.cfg.Mapper = c
	m.cfg.Devices = disks{"blk 02/01": disk, "blk 02/02": disk, disk.Path + " p2": disk}
	with := func(without string, more ...string) []*agentpb.Storage {
		options := slices.DeleteFunc(verified(), func(o string) bool { return without != "" && strings.HasPrefix(o, without) })
		return []*agentpb.Storage{lower(run, append(options, more...)...)}
	}
	changed := func(s *agentpb.Storage, change func(*agentpb.Storage)) *agentpb.Storage { change(s); return s }
	many := slices.Repeat([]*agentpb.Storage{lower(run)}, maxGroup+1)
	for what, tc := range map[string]struct {
		list []*agentpb.Storage
		want error
	}{
		"only an upper layer":       {[]*agentpb.Storage{upper(run)}, ErrInvalid},
		"two upper layers":          {[]*agentpb.Storage{upper(run), upper(run), lower(run)}, ErrInvalid},
		"upper and lower":           {[]*agentpb.Storage{lower(run, "X-kata.overlay-upper")}, ErrInvalid},
		"upper of another kind":     {[]*agentpb.Storage{lower(run), changed(upper(run), func(s *agentpb.Storage) { s.Fstype = "xfs" })}, ErrInvalid},
		"too many":                  {many, ErrInvalid},
		"unknown word":              {[]*agentpb.Storage{lower(run, "X-kata.encrypted=true")}, ErrInvalid},
		"partition without table":   {[]*agentpb.Storage{lower(run, "X-kata.partition-number=2")}, ErrInvalid},
		"table without partition":   {[]*agentpb.Storage{lower(run, "X-kata.gpt-partitioned=true")}, ErrInvalid},
		"partition zero":            {[]*agentpb.Storage{lower(run, "X-kata.gpt-partitioned=true", "X-kata.partition-number=0")}, ErrInvalid},
		"partition of nobody":       {[]*agentpb.Storage{lower(run, "X-kata.gpt-partitioned=true", "X-kata.partition-number=9")}, device.ErrNotFound},
		"no root hash":              {with("X-kata.dmverity.roothash"), ErrInvalid},
		"no hash offset":            {with("X-kata.dmverity.hashoffset"), ErrInvalid},
		"verity not asked for":      {with("X-kata.dmverity-enabled"), ErrInvalid},
		"verity of the whole disk":  {[]*agentpb.Storage{lower(run, "X-kata.dmverity-enabled=true", "X-kata.dmverity.roothash="+rootHash)}, ErrInvalid},
		"short root hash":           {with("X-kata.dmverity.roothash", "X-kata.dmverity.roothash=abab"), ErrInvalid},
		"odd offset":                {with("X-kata.dmverity.hashoffset", "X-kata.dmverity.hashoffset=4097"), ErrInvalid},
		"unknown algorithm":         {with("", "X-kata.dmverity.algorithm=crc32"), ErrInvalid},
		"unknown hash type":         {with("", "X-kata.dmverity.hashtype=0"), ErrInvalid},
		"unknown parameter":         {with("", "X-kata.dmverity.forgive=true"), ErrInvalid},
		"salt of letters":           {with("", "X-kata.dmverity.salt=xyz"), ErrInvalid},
		"block of nothing":          {with("", "X-kata.dmverity.blocksize=0"), ErrInvalid},
		"directory elsewhere":       {[]*agentpb.Storage{lower(run, "X-kata.mkdir.path=/etc/x")}, ErrInvalid},
		"directory that leads up":   {[]*agentpb.Storage{lower(run, "X-kata.mkdir.path={{ mount 0 }}/../../x")}, ErrInvalid},
		"the mount as directory":    {[]*agentpb.Storage{lower(run, "X-kata.mkdir.path={{ mount 0 }}/")}, ErrInvalid},
		"bind mount":                {[]*agentpb.Storage{lower(run, "bind")}, ErrInvalid},
		"file system of no disk":    {[]*agentpb.Storage{changed(lower(run), func(s *agentpb.Storage) { s.Fstype = "proc" })}, ErrInvalid},
		"option of a lower layer":   {[]*agentpb.Storage{changed(lower(run), func(s *agentpb.Storage) { s.DriverOptions = []string{"encryption_key=ephemeral"} })}, ErrInvalid},
		"option of nobody":          {[]*agentpb.Storage{lower(run), changed(upper(run), func(s *agentpb.Storage) { s.DriverOptions = []string{"confidential=true"} })}, ErrInvalid},
		"encryption by nobody":      {[]*agentpb.Storage{lower(run), changed(upper(run), func(s *agentpb.Storage) { s.DriverOptions = []string{"create_filesystem", "encryption_key=ephemeral"} })}, ErrNoEncryption},
		"target outside":            {[]*agentpb.Storage{changed(lower(run), func(s *agentpb.Storage) { s.MountPoint = "/etc" })}, ErrInvalid},
		"another file system in it": {[]*agentpb.Storage{changed(lower(run), func(s *agentpb.Storage) { s.Fstype = "squashfs" })}, nil},
	} {
		err := m.Attach(t.Context(), "c1", tc.list)
		if err == nil || tc.want != nil && !errors.Is(err, tc.want) {
			t.Errorf("%s: %v, want %v", what, err, tc.want)
		}
		gone(t, run+"/c1/rootfs")
		gone(t, run+"/c1/multi-layer")
	}
	c.fail = errors.New("the kernel does not want to")
	if err := m.Attach(t.Context(), "c1", with("")); !errors.Is(err, c.fail) {
		t.Error(err)
	}
	m.cfg.Mapper = nil
	if err := m.Attach(t.Context(), "c1", with("")); err == nil {
		t.Error("layers are used unchecked where nothing checks them")
	}
	if err := m.Attach(t.Context(), "", []*agentpb.Storage{lower(run)}); !errors.Is(err, ErrInvalid) {
		t.Errorf("layers of the sandbox: %v", err)
	}
	gone(t, run+"/c1/multi-layer")
}

func TestLayersThatNothingChecksNeedThePolicysWord(t *testing.T) {
	t.Parallel()
	m, run := newManager(t, nil)
	disk, changes := loopDisk(t, ext4(t)), loopDisk(t, ext4(t))
	m.cfg.Mapper = &checker{node: loopDisk(t, ext4(t)).Path}
	m.cfg.Devices = disks{"blk 02/01": disk, "blk 02/02": changes, disk.Path + " p2": disk, disk.Path + " p3": disk}
	plain := lower(run, "X-kata.gpt-partitioned=true", "X-kata.partition-number=3")
	checked := lower(run, verified()...)
	noPolicy := errors.New("no time for a decision")
	for what, tc := range map[string]struct {
		list  []*agentpb.Storage
		names string
	}{
		"a layer above a checked one":   {[]*agentpb.Storage{checked, lower(run)}, `layer "02/01" without dm-verity`},
		"a layer below a checked one":   {[]*agentpb.Storage{checked, plain}, `layer "02/01" without dm-verity`},
		"only such layers":              {[]*agentpb.Storage{plain}, `layer "02/01" without dm-verity`},
		"an upper layer above checked":  {[]*agentpb.Storage{checked, upper(run)}, `upper layer "02/02" without encryption`},
		"an upper layer above anything": {[]*agentpb.Storage{plain, upper(run)}, `upper layer "02/02" without encryption`},
	} {
		for answer, ask := range map[string]func(context.Context) (bool, error){
			"nobody to ask": nil,
			"no":            func(context.Context) (bool, error) { return false, nil },
		} {
			m.cfg.UncheckedLayers = ask
			err := m.Attach(t.Context(), "c1", tc.list)
			if !errors.Is(err, ErrUnchecked) || !strings.Contains(err.Error(), tc.names) || stage.Of(err) != stage.Policy {
				t.Errorf("%s, %s: %v", what, answer, err)
			}
		}
		m.cfg.UncheckedLayers = func(context.Context) (bool, error) { return true, noPolicy }
		if err := m.Attach(t.Context(), "c1", tc.list); !errors.Is(err, noPolicy) {
			t.Errorf("%s, no answer: %v", what, err)
		}
		gone(t, run+"/c1/multi-layer")
		gone(t, run+"/c1/rootfs")
		m.cfg.UncheckedLayers = anyLayers
		attach(t, m, "c1", tc.list...)
		detach(t, m, "c1")
	}
	m.cfg.UncheckedLayers = nil
	attach(t, m, "c1", checked)
	detach(t, m, "c1")
	// An upper layer with a key of its own is nothing that the host can change.
	v := &vault{}
	m.cfg.SecureMount = v
	encrypted := upper(run)
	encrypted.DriverOptions = []string{"create_filesystem", "encryption_key=ephemeral"}
	attach(t, m, "c1", checked, encrypted)
	if !slices.Equal(v.asked, []string{changes.Path + " upper"}) {
		t.Errorf("encrypted %q", v.asked)
	}
	detach(t, m, "c1")
	if v.undone != 1 {
		t.Errorf("%d keys were forgotten", v.undone)
	}
	v.fail = errors.New("no such cipher")
	if err := m.Attach(t.Context(), "c1", []*agentpb.Storage{checked, encrypted}); !errors.Is(err, v.fail) {
		t.Error(err)
	}
	gone(t, run+"/c1/multi-layer")
}

// What is mounted into a root covers what was checked, and what is mounted
// where layers are joined holds what covers it.
func TestNothingIsMountedInARootOrAmongItsLayers(t *testing.T) {
	t.Parallel()
	m, run := newManager(t, nil)
	disk := loopDisk(t, ext4(t))
	m.cfg.Mapper = &checker{node: disk.Path}
	m.cfg.Devices = disks{"blk 02/01": disk, disk.Path + " p2": disk}
	checked := lower(run, verified()...)
	attach(t, m, "c1", checked)
	write(t, run+"/shared/containers/evil/hello", "covers")
	for name, target := range map[string]string{"in-root": "/c1/rootfs", "in-layers": "/c1/multi-layer"} {
		must(t, os.Symlink(target, run+"/shared/containers/"+name))
	}
	for _, point := range []string{"c1/rootfs/hello", "c1/rootfs/bin", "c1/multi-layer/lower-0", "c1/multi-layer/upper/upper", "shared/containers/in-root/x", "shared/containers/in-layers/lower-0"} {
		for _, s := range []*agentpb.Storage{
			tmpfs(run + "/" + point),
			{Driver: "bind", Source: run + "/shared/containers/evil", MountPoint: run + "/" + point},
			{Driver: "bind", Source: run + "/shared/containers/evil/hello", MountPoint: run + "/" + point},
		} {
			if err := m.Attach(t.Context(), "c1", []*agentpb.Storage{s}); err == nil {
				t.Errorf("%s was mounted on %s", s.GetDriver(), point)
			}
		}
	}
	has(t, run+"/c1/rootfs/hello", "from the host")
	detach(t, m, "c1")
	for _, point := range []string{"/c1", "/c1/multi-layer"} {
		err := m.Attach(t.Context(), "c1", []*agentpb.Storage{tmpfs(run + point), checked})
		if !errors.Is(err, ErrInvalid) {
			t.Errorf("layers on what is mounted at %s: %v", point, err)
		}
		gone(t, run+"/c1/rootfs")
	}
}

func FuzzParseLayers(f *testing.F) {
	f.Add("blk", "erofs", strings.Join(append(verified(), "X-kata.multi-layer=true", "X-kata.dmverity.salt=-"), "\n"))
	f.Add("erofs.multi-layer", "ext4", "X-kata.overlay-lower\nX-kata.mkdir.path={{ mount 1 }}/a:{{ mount 0 }}/b")
	f.Fuzz(func(t *testing.T, driver, fstype, options string) {
		g, err := parseLayers([]*agentpb.Storage{{Driver: driver, Fstype: fstype, Options: strings.Split(options, "\n")}})
		if err != nil {
			return
		}
		for _, l := range g.lowers {
			for _, o := range l.options {
				if strings.HasPrefix(o, kataWord) {
					t.Fatalf("option %q would reach the mount", o)
				}
			}
			if l.verity != nil && l.verity.Check() != nil {
				t.Fatalf("%+v", l.verity)
			}
		}
		for _, template := range g.mkdirs {
			if _, below, err := expand(template); err == nil && !filepath.IsLocal(below) {
				t.Fatalf("%q leads to %q", template, below)
			}
		}
	})
}
