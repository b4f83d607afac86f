// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package unpack_test

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"cocoon/imagers/imagetest"
	"cocoon/imagers/unpack"
	"cocoon/internal/safepath"
)

func needRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: owners, devices and trusted.* attributes")
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// apply unpacks a blob whose tar is data into <temp>/layer. A file "secret"
// beside it must survive everything.
func apply(t testing.TB, blob, data []byte, lim unpack.Limits) (string, unpack.Result, error) {
	t.Helper()
	needRoot(t)
	top := t.TempDir()
	dir := filepath.Join(top, "layer")
	must(t, os.Mkdir(dir, 0o755))
	must(t, os.WriteFile(filepath.Join(top, "secret"), []byte("secret"), 0o600))
	root, err := safepath.OpenRoot(dir)
	must(t, err)
	defer func() { must(t, root.Close()) }()
	res, err := unpack.Layer(t.Context(), root, bytes.NewReader(blob), unpack.Options{DiffID: digest.FromBytes(data), Limits: lim})
	entries, rerr := os.ReadDir(top)
	must(t, rerr)
	if b, rerr := os.ReadFile(filepath.Join(top, "secret")); rerr != nil || string(b) != "secret" || len(entries) != 2 {
		t.Errorf("something outside the layer changed: %v, %v", entries, rerr)
	}
	return dir, res, err
}

// unpackEntries unpacks entries that must be accepted.
func unpackEntries(t testing.TB, entries ...imagetest.Entry) (string, unpack.Result) {
	t.Helper()
	data := imagetest.Tar(t, entries...)
	dir, res, err := apply(t, data, data, unpack.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	return dir, res
}

func stat(t testing.TB, name string) unix.Stat_t {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Lstat(name, &st); err != nil {
		t.Errorf("%s: %v", name, err)
	}
	return st
}

func xattr(t testing.TB, name, attr string) string {
	t.Helper()
	buf := make([]byte, 256)
	n, err := unix.Lgetxattr(name, attr, buf)
	if err != nil {
		return ""
	}
	return string(buf[:n])
}

func content(t testing.TB, name string) string {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Error(err)
	}
	return string(b)
}

func pax(e imagetest.Entry, records ...string) imagetest.Entry {
	e.PAXRecords = map[string]string{}
	for i := 0; i < len(records); i += 2 {
		e.PAXRecords[records[i]] = records[i+1]
	}
	return e
}

func TestMetadataOfEveryKindOfEntryIsKept(t *testing.T) {
	t.Parallel()
	setuid := imagetest.File("bin/su", "su")
	setuid.Mode, setuid.Uid, setuid.Gid = 0o4755, 1000, 100000
	capable := pax(imagetest.File("bin/ping", "ping"), "SCHILY.xattr.security.capability", "\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00",
		"SCHILY.xattr.user.note", "hello", "SCHILY.xattr.trusted.overlay.redirect", "/etc", "SCHILY.xattr.security.selinux", "label", "SCHILY.xattr.user.overlay.opaque", "y")
	capable.Uid = 5
	root := imagetest.Dir("./")
	root.Mode = 0o751
	link := imagetest.Symlink("link", "../../../etc/passwd")
	link.Uid = 7
	null := imagetest.Entry{Header: tar.Header{Name: "dev/null", Typeflag: tar.TypeChar, Devmajor: 1, Devminor: 3, Mode: 0o666, ModTime: imagetest.Time}}
	fifo := imagetest.Entry{Header: tar.Header{Name: "pipe", Typeflag: tar.TypeFifo, Mode: 0o640, ModTime: imagetest.Time}}
	closed := imagetest.Dir("closed/")
	closed.Mode, closed.Uid = 0o1000, 9
	dir, _ := unpackEntries(t, root, closed, imagetest.File("closed/f", "f"), setuid, capable, link, null, fifo, imagetest.Link("hard", "bin/su"), imagetest.Link("/abs", "/link"))

	for name, want := range map[string]uint32{
		"": unix.S_IFDIR | 0o751, "bin": unix.S_IFDIR | 0o755, "bin/su": unix.S_IFREG | 0o4755, "dev/null": unix.S_IFCHR | 0o666,
		"pipe": unix.S_IFIFO | 0o640, "closed": unix.S_IFDIR | 0o1000, "link": unix.S_IFLNK | 0o777,
	} {
		if got := stat(t, filepath.Join(dir, name)).Mode; got != want {
			t.Errorf("mode of %q is %o, want %o", name, got, want)
		}
	}
	su, hard := stat(t, filepath.Join(dir, "bin/su")), stat(t, filepath.Join(dir, "hard"))
	if su.Uid != 1000 || su.Gid != 100000 || su.Ino != hard.Ino || su.Mtim.Sec != imagetest.Time.Unix() {
		t.Errorf("bin/su is %+v, hard link to inode %d", su, hard.Ino)
	}
	if l := stat(t, filepath.Join(dir, "link")); l.Uid != 7 || l.Mtim.Sec != imagetest.Time.Unix() || l.Ino != stat(t, filepath.Join(dir, "abs")).Ino {
		t.Errorf("link is %+v", l)
	}
	if st := stat(t, filepath.Join(dir, "dev/null")); st.Rdev != unix.Mkdev(1, 3) {
		t.Errorf("device number %x", st.Rdev)
	}
	for _, name := range []string{"", "closed"} {
		if st := stat(t, filepath.Join(dir, name)); st.Mtim.Sec != imagetest.Time.Unix() {
			t.Errorf("time of directory %q is %d", name, st.Mtim.Sec)
		}
	}
	ping := filepath.Join(dir, "bin/ping")
	if xattr(t, ping, "security.capability") == "" || xattr(t, ping, "user.note") != "hello" {
		t.Error("attributes of bin/ping were lost")
	}
	for _, name := range []string{"trusted.overlay.redirect", "security.selinux", "user.overlay.opaque"} {
		if v := xattr(t, ping, name); v != "" {
			t.Errorf("attribute %s was set to %q", name, v)
		}
	}
}

func isWhiteout(st unix.Stat_t) bool { return st.Mode&unix.S_IFMT == unix.S_IFCHR && st.Rdev == 0 }

func TestWhiteoutsBecomeThoseOfOverlayfs(t *testing.T) {
	t.Parallel()
	const opq = ".wh..wh..opq"
	dir, res := unpackEntries(t,
		imagetest.File("a/.wh.gone", ""), imagetest.File("new/.wh.x", ""),
		imagetest.File("same/kept", "kept"), imagetest.File("same/.wh.kept", ""), // the entry of the layer wins
		imagetest.File("late/.wh.kept", ""), imagetest.File("late/kept", "kept"),
		imagetest.Dir("late/.wh.dir"), imagetest.Dir("late/dir"), imagetest.File("late/dir/f", "f"), // and hides what is below
		imagetest.File("early/dir/f", "f"), imagetest.File("early/.wh.dir", ""),
		imagetest.File("deep/.wh.a", ""), imagetest.File("deep/a/b/c", "c"),
		imagetest.File("opaque/f", "f"), imagetest.File("opaque/"+opq, ""), imagetest.Dir("opaque"),
		imagetest.Dir(".wh..wh.plnk/"), imagetest.File(".wh..wh.plnk/1.2", "aufs"), imagetest.File(".wh..wh.aufs", "aufs"),
	)
	for _, name := range []string{"a/gone", "new/x"} {
		if !isWhiteout(stat(t, filepath.Join(dir, name))) {
			t.Errorf("%s is no whiteout", name)
		}
	}
	for name, want := range map[string]string{"same/kept": "kept", "late/kept": "kept", "late/dir/f": "f", "early/dir/f": "f", "deep/a/b/c": "c", "opaque/f": "f"} {
		if got := content(t, filepath.Join(dir, name)); got != want {
			t.Errorf("%s holds %q", name, got)
		}
	}
	for name, want := range map[string]string{"late/dir": "y", "early/dir": "y", "deep/a": "y", "opaque": "y", "same": "", "late": "", "deep/a/b": ""} {
		if got := xattr(t, filepath.Join(dir, name), "trusted.overlay.opaque"); got != want {
			t.Errorf("opaque mark of %s is %q, want %q", name, got, want)
		}
	}
	entries, err := filepath.Glob(filepath.Join(dir, "*/.wh.*"))
	must(t, err)
	top, err := filepath.Glob(filepath.Join(dir, ".wh.*"))
	must(t, err)
	if len(entries)+len(top) != 0 || res.Opaque {
		t.Errorf("left %v %v, opaque root %v", entries, top, res.Opaque)
	}
}

func TestAnOpaqueRootIsReportedAlsoThroughALink(t *testing.T) {
	t.Parallel()
	if _, res := unpackEntries(t, imagetest.File(".wh..wh..opq", ""), imagetest.File("f", "f")); !res.Opaque {
		t.Error("the mark was lost")
	}
	if _, res := unpackEntries(t, imagetest.Symlink("self", "/"), imagetest.File("self/.wh..wh..opq", "")); !res.Opaque {
		t.Error("the mark through a link was lost")
	}
}

func TestLaterEntriesReplaceEarlierOnes(t *testing.T) {
	t.Parallel()
	dir, _ := unpackEntries(t,
		imagetest.File("f", "one"), imagetest.File("f", "two"),
		imagetest.Dir("d"), imagetest.File("d/x", "x"), imagetest.File("d", "file"),
		imagetest.File("e", "file"), imagetest.Dir("e"), imagetest.File("e/x", "x"),
		imagetest.Dir("k"), imagetest.File("k/x", "x"), imagetest.Dir("k"),
		imagetest.Symlink("s", "k"), imagetest.File("s", "plain"),
		// A cached directory must not outlive the link that led to it.
		imagetest.Dir("one"), imagetest.Dir("two"), imagetest.Symlink("way", "one"), imagetest.File("way/a", "a"),
		imagetest.Symlink("way", "two"), imagetest.File("way/b", "b"),
		imagetest.Symlink("loop", "."), imagetest.File("loop/loop", "end"), imagetest.Link("f", "f"),
	)
	for name, want := range map[string]string{"f": "two", "d": "file", "e/x": "x", "k/x": "x", "s": "plain", "one/a": "a", "two/b": "b", "loop": "end"} {
		if got := content(t, filepath.Join(dir, name)); got != want {
			t.Errorf("%s holds %q, want %q", name, got, want)
		}
	}
}

func TestLinksResolveInsideTheLayer(t *testing.T) {
	t.Parallel()
	dir, _ := unpackEntries(t,
		imagetest.Symlink("abs", "/etc"), imagetest.File("abs/x", "x"), // leads to what does not exist yet
		imagetest.Symlink("up", "../.."), imagetest.File("up/y", "y"),
		imagetest.Symlink("out", "../secret"), imagetest.File("out", "mine"),
		imagetest.Symlink("var/run", "/run"), imagetest.File("var/run/pid", "1"),
		imagetest.Symlink("tmp", "/../../../../t"), imagetest.File("tmp/z", "z"), imagetest.Link("hard", "up/y"),
	)
	for name, want := range map[string]string{"etc/x": "x", "y": "y", "out": "mine", "run/pid": "1", "t/z": "z", "hard": "y"} {
		if got := content(t, filepath.Join(dir, name)); got != want {
			t.Errorf("%s holds %q, want %q", name, got, want)
		}
	}
}

func TestEntriesThatAttackAreRefused(t *testing.T) {
	t.Parallel()
	file := imagetest.File
	dev := func(kind byte, major, minor int64) imagetest.Entry {
		return imagetest.Entry{Header: tar.Header{Name: "dev", Typeflag: kind, Devmajor: major, Devminor: minor}}
	}
	owner := func(uid, gid int) imagetest.Entry {
		e := file("f", "")
		e.Uid, e.Gid = uid, gid
		e.Format = tar.FormatGNU
		return e
	}
	for name, tc := range map[string]struct {
		entries []imagetest.Entry
		want    error
	}{
		"dots first":                {[]imagetest.Entry{file("../secret", "x")}, unpack.ErrRefused},
		"dots inside":               {[]imagetest.Entry{imagetest.Dir("a"), file("a/../../secret", "x")}, unpack.ErrRefused},
		"dots last":                 {[]imagetest.Entry{imagetest.Dir("a/..")}, unpack.ErrRefused},
		"absolute dots":             {[]imagetest.Entry{file("/../secret", "x")}, unpack.ErrRefused},
		"hard link out by dots":     {[]imagetest.Entry{imagetest.Link("l", "../secret")}, unpack.ErrRefused},
		"hard link out by a link":   {[]imagetest.Entry{imagetest.Symlink("s", ".."), imagetest.Link("l", "s/secret")}, unpack.ErrRefused},
		"hard link to nothing":      {[]imagetest.Entry{imagetest.Link("l", "etc/passwd")}, unpack.ErrRefused},
		"hard link to root":         {[]imagetest.Entry{imagetest.Link("l", "/")}, unpack.ErrRefused},
		"hard link to a directory":  {[]imagetest.Entry{imagetest.Dir("d"), imagetest.Link("l", "d")}, unpack.ErrRefused},
		"hard link to a whiteout":   {[]imagetest.Entry{file(".wh.x", ""), imagetest.Link("l", "x")}, unpack.ErrRefused},
		"whiteout of nothing":       {[]imagetest.Entry{file("a/.wh.", "")}, unpack.ErrRefused},
		"whiteout of itself":        {[]imagetest.Entry{file("a/.wh..", "")}, unpack.ErrRefused},
		"whiteout of the parent":    {[]imagetest.Entry{file("a/.wh...", "")}, unpack.ErrRefused},
		"whiteout as a directory":   {[]imagetest.Entry{file(".wh.a/b", "")}, unpack.ErrRefused},
		"raw whiteout device":       {[]imagetest.Entry{dev(tar.TypeChar, 0, 0)}, unpack.ErrRefused},
		"device number too large":   {[]imagetest.Entry{dev(tar.TypeBlock, 1<<12, 0)}, unpack.ErrRefused},
		"negative uid":              {[]imagetest.Entry{owner(-1, 0)}, unpack.ErrRefused},
		"negative gid":              {[]imagetest.Entry{owner(0, -5)}, unpack.ErrRefused},
		"uid that means no change":  {[]imagetest.Entry{owner(math.MaxUint32, 0)}, unpack.ErrRefused},
		"uid of more than 32 bits":  {[]imagetest.Entry{owner(1<<33, 0)}, unpack.ErrRefused},
		"root that is a link":       {[]imagetest.Entry{imagetest.Symlink("./.", "/etc")}, unpack.ErrRefused},
		"unknown kind":              {[]imagetest.Entry{{Header: tar.Header{Name: "x", Typeflag: 'Z'}}}, unpack.ErrRefused},
		"file used as a directory":  {[]imagetest.Entry{file("a", ""), file("a/b", "")}, unix.ENOTDIR},
		"links in a circle":         {[]imagetest.Entry{imagetest.Symlink("a", "b"), imagetest.Symlink("b", "a"), file("a/x", "")}, unix.ELOOP},
		"name longer than a kernel": {[]imagetest.Entry{file(strings.Repeat("n", 300), "")}, unix.ENAMETOOLONG},
		"path longer than a kernel": {[]imagetest.Entry{file(strings.Repeat("n/", 2048)+"x", "")}, unpack.ErrLimit},
		"path too deep":             {[]imagetest.Entry{file(strings.Repeat("n/", 300)+"x", "")}, unpack.ErrLimit},
		"attributes too large":      {[]imagetest.Entry{pax(file("a", ""), "SCHILY.xattr.user.a", strings.Repeat("x", 200<<10))}, unpack.ErrLimit},
		"attribute without a name":  {[]imagetest.Entry{pax(file("a", ""), "SCHILY.xattr.", "x")}, unpack.ErrRefused},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			data := imagetest.Tar(t, tc.entries...)
			_, _, err := apply(t, data, data, unpack.Limits{})
			if !errors.Is(err, tc.want) {
				t.Errorf("got %v, want %v", err, tc.want)
			}
		})
	}
}

func TestStreamsThatLieAreRefused(t *testing.T) {
	t.Parallel()
	data := imagetest.Tar(t, imagetest.File("f", strings.Repeat("content", 1000)))
	zeros := make([]byte, 64<<20)
	bomb := imagetest.Gzip(t, zeros)
	spoiled := bytes.Clone(data)
	spoiled[150] ^= 0xff
	window := imagetest.Zstd(t, append(bytes.Clone(data), make([]byte, 1<<20)...), zstd.WithSingleSegment(false), zstd.WithWindowSize(64<<20))
	// The window descriptor follows magic number and frame header descriptor.
	window[5] = 0xf8
	small := unpack.Limits{RatioFloor: 1 << 20, Ratio: 100}
	for name, tc := range map[string]struct {
		blob, data []byte
		lim        unpack.Limits
		want       error
	}{
		"other content":            {data, []byte("other"), unpack.Limits{}, unpack.ErrDiffID},
		"gzip cut":                 {imagetest.Gzip(t, data)[:60], data, unpack.Limits{}, unpack.ErrCorrupt},
		"gzip checksum cut":        {imagetest.Gzip(t, data)[:len(imagetest.Gzip(t, data))-4], data, unpack.Limits{}, unpack.ErrCorrupt},
		"gzip and garbage":         {append(imagetest.Gzip(t, data), 1, 2, 3), data, unpack.Limits{}, unpack.ErrCorrupt},
		"zstd cut":                 {imagetest.Zstd(t, data)[:20], data, unpack.Limits{}, unpack.ErrCorrupt},
		"zstd window":              {window, data, unpack.Limits{}, unpack.ErrCorrupt},
		"tar cut in a header":      {data[:300], data[:300], unpack.Limits{}, unpack.ErrCorrupt},
		"tar cut in a file":        {data[:1000], data[:1000], unpack.Limits{}, unpack.ErrCorrupt},
		"tar checksum":             {spoiled, spoiled, unpack.Limits{}, unpack.ErrCorrupt},
		"no tar at all":            {[]byte(strings.Repeat("x", 2000)), nil, unpack.Limits{}, unpack.ErrCorrupt},
		"bomb of zeros at the end": {bomb, zeros, small, unpack.ErrLimit},
		"bomb in a file":           {imagetest.Gzip(t, imagetest.Tar(t, imagetest.File("z", string(zeros[:8<<20])))), nil, small, unpack.ErrLimit},
		"too many bytes":           {data, data, unpack.Limits{Bytes: 4000}, unpack.ErrLimit},
		"too many entries":         {imagetest.Tar(t, imagetest.Dir("a"), imagetest.Dir("b")), nil, unpack.Limits{Entries: 1}, unpack.ErrLimit},
		"too many directories":     {imagetest.Tar(t, imagetest.Dir("aaaa"), imagetest.Dir("bbbb")), nil, unpack.Limits{DirBytes: 7}, unpack.ErrLimit},
		"sparse bomb":              {sparse(1 << 40), nil, unpack.Limits{}, unpack.ErrLimit},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, _, err := apply(t, tc.blob, tc.data, tc.lim)
			if !errors.Is(err, tc.want) {
				t.Errorf("got %v, want %v", err, tc.want)
			}
		})
	}
}

// sparse returns an archive with a file of the given size that is one hole
// with a single byte at its end, in PAX format 1.0.
func sparse(size int64) []byte {
	var buf bytes.Buffer
	block := func(name string, kind byte, body []byte) {
		h := make([]byte, 512)
		copy(h, name)
		copy(h[100:], "0000644\x00")
		copy(h[108:], "0000000\x000000000\x00")
		copy(h[124:], []byte(oct(int64(len(body)))))
		copy(h[136:], "00000000000\x00")
		copy(h[148:], "        ")
		h[156] = kind
		copy(h[257:], "ustar\x0000")
		sum := int64(0)
		for _, c := range h {
			sum += int64(c)
		}
		copy(h[148:], oct(sum)[5:11]+"\x00 ")
		buf.Write(h)
		buf.Write(body)
		buf.Write(make([]byte, (512-len(body)%512)%512))
	}
	record := func(k, v string) string {
		n := len(k) + len(v) + 3
		for l := n + 1; ; l++ {
			if s := strconv.Itoa(l) + " " + k + "=" + v + "\n"; len(s) == l {
				return s
			}
		}
	}
	block("pax", 'x', []byte(record("GNU.sparse.major", "1")+record("GNU.sparse.minor", "0")+
		record("GNU.sparse.name", "hole")+record("GNU.sparse.realsize", strconv.FormatInt(size, 10))))
	m := []byte("1\n" + strconv.FormatInt(size-1, 10) + "\n1\n")
	body := append(m, make([]byte, 512-len(m))...)
	block("GNUSparseFile.0/hole", '0', append(body, 'x'))
	buf.Write(make([]byte, 1024))
	return buf.Bytes()
}

func oct(n int64) string {
	b := []byte("00000000000\x00")
	for i := 10; i >= 0; i-- {
		b[i] = byte('0' + n%8)
		n /= 8
	}
	return string(b)
}

func TestASparseFileTakesNoMoreRoomThanItsData(t *testing.T) {
	t.Parallel()
	data := sparse(32 << 20)
	dir, _, err := apply(t, data, data, unpack.Limits{})
	must(t, err)
	st := stat(t, filepath.Join(dir, "hole"))
	if st.Size != 32<<20 || st.Blocks*512 > 1<<20 {
		t.Errorf("size %d, %d blocks", st.Size, st.Blocks)
	}
}

func TestManyMembersAndFramesAreOneLayer(t *testing.T) {
	t.Parallel()
	data := imagetest.Tar(t, imagetest.File("a", strings.Repeat("a", 5000)), imagetest.File("b", "b"))
	skippable := binary.LittleEndian.AppendUint32([]byte{0x50, 0x2a, 0x4d, 0x18}, 3)
	skippable = append(skippable, 1, 2, 3)
	for name, blob := range map[string][]byte{
		"gzip members":    append(imagetest.Gzip(t, data[:700]), imagetest.Gzip(t, data[700:])...),
		"zstd frames":     append(imagetest.Zstd(t, data[:700]), imagetest.Zstd(t, data[700:])...),
		"zstd skippables": append(append(bytes.Clone(skippable), imagetest.Zstd(t, data)...), skippable...),
		"plain":           data,
	} {
		dir, res, err := apply(t, blob, data, unpack.Limits{})
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if content(t, filepath.Join(dir, "b")) != "b" || res.Entries != 2 || res.Bytes != int64(len(data)) {
			t.Errorf("%s: got %+v", name, res)
		}
	}
}

func TestEntriesAfterTheEndOfTheArchiveAreHashedAndNotUnpacked(t *testing.T) {
	t.Parallel()
	data := append(imagetest.Tar(t, imagetest.File("a", "a")), imagetest.Tar(t, imagetest.File("hidden", "x"))...)
	dir, _, err := apply(t, data, data, unpack.Limits{})
	must(t, err)
	if _, err := os.Lstat(filepath.Join(dir, "hidden")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("an entry behind the end was unpacked: %v", err)
	}
}

func TestRepeatedRecordsTakeTheLastValue(t *testing.T) {
	t.Parallel()
	one := imagetest.Tar(t, pax(imagetest.File("f", "x"), "SCHILY.xattr.user.a", "1"))
	data := bytes.Replace(one, []byte("25 SCHILY.xattr.user.a=1\n"), []byte("25 SCHILY.xattr.user.a=2\n"), 1)
	if bytes.Equal(one, data) {
		t.Fatal("the record was not found")
	}
	// The record twice: the size of the extended header grows by one record.
	head := bytes.Clone(one[:512])
	copy(head[124:], oct(50))
	copy(head[148:], "        ")
	sum := int64(0)
	for _, c := range head {
		sum += int64(c)
	}
	copy(head[148:], oct(sum)[5:11]+"\x00 ")
	body := append([]byte("25 SCHILY.xattr.user.a=1\n25 SCHILY.xattr.user.a=9\n"), make([]byte, 462)...)
	twice := append(append(head, body...), one[1024:]...)
	dir, _, err := apply(t, twice, twice, unpack.Limits{})
	must(t, err)
	if got := xattr(t, filepath.Join(dir, "f"), "user.a"); got != "9" {
		t.Errorf("attribute is %q", got)
	}
}

func TestStrangeTimesDoNotStopALayer(t *testing.T) {
	t.Parallel()
	for _, at := range []time.Time{time.Unix(-1, 0), time.Unix(1<<33, 0), time.Unix(0, 0)} {
		e := imagetest.File("f", "x")
		e.ModTime, e.Format = at, tar.FormatGNU
		dir, _ := unpackEntries(t, e)
		if got := stat(t, filepath.Join(dir, "f")).Mtim.Sec; got != at.Unix() {
			t.Errorf("time %v became %d", at, got)
		}
	}
}

func TestTheBlobsOwnErrorIsReported(t *testing.T) {
	t.Parallel()
	needRoot(t)
	data := imagetest.Tar(t, imagetest.File("a", strings.Repeat("a", 200<<10)))
	boom := errors.New("boom")
	for name, blob := range map[string][]byte{"plain": data, "gzip": imagetest.Gzip(t, data), "zstd": imagetest.Zstd(t, data)} {
		for _, n := range []int{0, 10, len(blob) - 1, len(blob)} {
			root, err := safepath.OpenRoot(t.TempDir())
			must(t, err)
			r := io.MultiReader(bytes.NewReader(blob[:n]), iotest.ErrReader(boom))
			_, err = unpack.Layer(t.Context(), root, r, unpack.Options{DiffID: digest.FromBytes(data)})
			if !errors.Is(err, boom) {
				t.Errorf("%s after %d bytes: %v", name, n, err)
			}
			must(t, root.Close())
		}
	}
}

func TestACancelledUnpackEnds(t *testing.T) {
	t.Parallel()
	root, err := safepath.OpenRoot(t.TempDir())
	must(t, err)
	defer func() { must(t, root.Close()) }()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	data := imagetest.Tar(t, imagetest.Dir("a"))
	_, err = unpack.Layer(ctx, root, bytes.NewReader(data), unpack.Options{DiffID: digest.FromBytes(data)})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

func TestADiffIDIsNeeded(t *testing.T) {
	t.Parallel()
	for _, d := range []digest.Digest{"", "sha256:x", "md5:d41d8cd98f00b204e9800998ecf8427e", digest.SHA384.FromString("")} {
		if _, err := unpack.Layer(t.Context(), nil, nil, unpack.Options{DiffID: d}); err == nil {
			t.Errorf("diff id %q was accepted", d)
		}
	}
}
