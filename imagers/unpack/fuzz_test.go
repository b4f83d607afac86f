// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package unpack_test

import (
	"archive/tar"
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/opencontainers/go-digest"

	"cocoon/imagers/imagetest"
	"cocoon/imagers/unpack"
	"cocoon/internal/safepath"
)

// FuzzLayer unpacks any bytes: nothing outside the layer may change, limits
// hold, and what was written can be removed again.
func FuzzLayer(f *testing.F) {
	needRoot(f)
	f.Add(imagetest.Tar(f, imagetest.Dir("a"), imagetest.File("a/b", "c"), imagetest.Symlink("s", "../.."), imagetest.File("s/x", "")))
	f.Add(imagetest.Tar(f, imagetest.File(".wh.a", ""), imagetest.File("a/b", ""), imagetest.Link("h", "a/b"), imagetest.File("a/.wh..wh..opq", "")))
	f.Add(imagetest.Gzip(f, imagetest.Tar(f, imagetest.File("../x", "x"))))
	f.Add(imagetest.Zstd(f, imagetest.Tar(f, pax(imagetest.File("x", "x"), "SCHILY.xattr.user.a", "b"))))
	f.Add(imagetest.Tar(f, imagetest.Entry{Header: tar.Header{Name: "fifo", Typeflag: tar.TypeFifo}}))
	f.Add(sparse(1 << 20))
	lim := unpack.Limits{Entries: 100, Bytes: 4 << 20, Window: 1 << 20}
	f.Fuzz(func(t *testing.T, blob []byte) {
		top := t.TempDir()
		must(t, os.Mkdir(filepath.Join(top, "layer"), 0o755))
		root, err := safepath.OpenRoot(filepath.Join(top, "layer"))
		must(t, err)
		res, err := unpack.Layer(t.Context(), root, bytes.NewReader(blob), unpack.Options{DiffID: digest.FromBytes(blob), Limits: lim})
		if err == nil && (res.Bytes != int64(len(blob)) || res.Entries > lim.Entries) {
			t.Errorf("accepted %d bytes as %+v", len(blob), res)
		}
		must(t, root.Close())
		d, err := os.Open(top)
		must(t, err)
		must(t, safepath.RemoveAll(d, "layer"))
		if left, err := d.Readdirnames(-1); err != nil || len(left) != 0 {
			t.Errorf("outside the layer: %v, %v", left, err)
		}
		must(t, d.Close())
	})
}
