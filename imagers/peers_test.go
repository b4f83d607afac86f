// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package imagers_test

import (
	"archive/tar"
	"crypto/sha256"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/zstd"
	"golang.org/x/sys/unix"

	"cocoon/imagers/imagetest"
)

// tree describes every file below root by what a container could tell.
func tree(t testing.TB, root string) map[string]string {
	t.Helper()
	out := map[string]string{}
	first := map[uint64]string{} // by inode, to name hard links alike
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || path == root {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return err
		}
		name := strings.TrimPrefix(path, root)
		text := fmt.Sprintf("mode %o owner %d:%d device %x", st.Mode, st.Uid, st.Gid, st.Rdev)
		if !d.IsDir() {
			if first[st.Ino] == "" {
				first[st.Ino] = name
			}
			text += fmt.Sprintf(" time %d same as %s", st.Mtim.Sec, first[st.Ino])
		}
		switch d.Type() {
		case 0:
			b, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			text += fmt.Sprintf(" content %x", sha256.Sum256(b))
			buf := make([]byte, 100)
			if n, err := unix.Lgetxattr(path, "security.capability", buf); err == nil {
				text += fmt.Sprintf(" capability %x", buf[:n])
			}
		case fs.ModeSymlink:
			target, err := os.Readlink(path)
			if err != nil {
				return err
			}
			text += " target " + target
		}
		out[name] = text
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func unzstd(t testing.TB, data []byte) []byte {
	t.Helper()
	z, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1))
	if err != nil {
		t.Fatal(err)
	}
	defer z.Close()
	out, err := z.DecodeAll(data, nil)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// TestTheTreeIsTheOneThatSkopeoAndUmociMake pulls one image both ways.
func TestTheTreeIsTheOneThatSkopeoAndUmociMake(t *testing.T) {
	t.Parallel()
	for _, tool := range []string{"skopeo", "umoci"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("%s is not installed", tool)
		}
	}
	r := newRig(t, nil)
	su := imagetest.File("bin/su", "su")
	su.Mode, su.Uid, su.Gid = 0o6755, 12, 34
	ping := imagetest.File("bin/ping", "ping")
	ping.PAXRecords = map[string]string{"SCHILY.xattr.security.capability": "\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"}
	null := imagetest.Entry{Header: tar.Header{Name: "dev/null", Typeflag: tar.TypeChar, Devmajor: 1, Devminor: 3, Mode: 0o666, ModTime: imagetest.Time}}
	fifo := imagetest.Entry{Header: tar.Header{Name: "pipe", Typeflag: tar.TypeFifo, Mode: 0o640, ModTime: imagetest.Time}}
	sticky := imagetest.Dir("tmp/")
	sticky.Mode = 0o1777
	more := imagetest.GzipLayer(t, imagetest.Tar(t, sticky, imagetest.Dir("bin/"), su, ping, imagetest.Link("bin/sudo", "bin/su"), imagetest.Dir("dev/"), null, fifo,
		imagetest.Symlink("abs", "/etc"), imagetest.Symlink("up", "../../x"), imagetest.File("implicit/parents/f", "f"),
		imagetest.Dir("gone/"), imagetest.File("gone/a", "a"), imagetest.Dir("turn/"), imagetest.File("turn/x", "x"), imagetest.File("file", "file")))
	last := imagetest.GzipLayer(t, imagetest.Tar(t, imagetest.File(".wh.gone", ""), imagetest.File(".wh.turn", ""), imagetest.File("turn", "now a file"),
		imagetest.Dir("file/"), imagetest.File("file/in", "in"), imagetest.Symlink("pipe", "abs")))
	ls := append(layers(t), more, last)
	// umoci of Debian 12 knows no zstd.
	ls[1].MediaType, ls[1].Blob = ls[0].MediaType, imagetest.Gzip(t, unzstd(t, ls[1].Blob))
	r.reg.Image(t, "app", "latest", ls, nil)
	if _, err := r.pull(t, "app"); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for _, args := range [][]string{
		{"skopeo", "copy", "--insecure-policy", "--src-tls-verify=false", "docker://" + r.reg.Host + "/app:latest", "oci:" + dir + "/oci:latest"},
		{"umoci", "unpack", "--image", dir + "/oci:latest", dir + "/bundle"},
	} {
		if out, err := exec.CommandContext(t.Context(), args[0], args[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%v: %v\n%s", args, err, out)
		}
	}
	if diff := cmp.Diff(tree(t, dir+"/bundle/rootfs"), tree(t, filepath.Join(r.bundle(), "rootfs"))); diff != "" {
		t.Errorf("peers (-) and this puller (+) differ:\n%s", diff)
	}
}
