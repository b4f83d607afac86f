// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package imagers_test

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"cocoon/imagers"
	"cocoon/imagers/imagetest"

	"golang.org/x/sys/unix"
)

// tmpfs mounts a tmpfs of the given size, or skips without root.
func tmpfs(t testing.TB, size string) string {
	t.Helper()
	needRoot(t)
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size="+size); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir
}

func needRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: owners, devices, trusted.* attributes and overlay mounts")
	}
}

// usrLayers makes five tars of about 65 MB each of the files below /usr.
func usrLayers(b *testing.B) (layers []imagetest.Layer, total int64) {
	b.Helper()
	const perLayer = 65 << 20
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	flush := func() {
		if err := w.Close(); err != nil {
			b.Fatal(err)
		}
		total += int64(buf.Len())
		layers = append(layers, imagetest.GzipLayer(b, buf.Bytes()))
		buf = bytes.Buffer{}
		w = tar.NewWriter(&buf)
	}
	err := filepath.WalkDir("/usr", func(path string, d fs.DirEntry, err error) error {
		if err != nil || len(layers) == 5 {
			return errors.Join(err, filepath.SkipAll)
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		if !info.Mode().IsRegular() && !info.IsDir() || info.Size() > 24<<20 {
			return nil
		}
		hdr, err := tar.FileInfoHeader(info, "")
		if err != nil {
			return err
		}
		hdr.Name = path[1:]
		if err := w.WriteHeader(hdr); err != nil {
			return err
		}
		if info.Mode().IsRegular() {
			f, err := os.Open(path)
			if err != nil {
				return err
			}
			_, err = io.Copy(w, f)
			if err := errors.Join(err, f.Close()); err != nil {
				return err
			}
		}
		if buf.Len() > perLayer {
			flush()
		}
		return nil
	})
	if err != nil && !errors.Is(err, filepath.SkipAll) {
		b.Fatal(err)
	}
	if len(layers) < 5 {
		b.Skip("the machine has too few files below /usr")
	}
	return layers, total
}

// BenchmarkPull pulls an image of five gzip layers, about 330 MB unpacked,
// from a registry on the loopback interface into a tmpfs. The registry runs
// in the same process and takes its share of the cores.
func BenchmarkPull(b *testing.B) {
	dir := tmpfs(b, "2g")
	reg := imagetest.Serve(b)
	layers, total := usrLayers(b)
	reg.Image(b, "bench", "latest", layers, nil)
	b.SetBytes(total)
	for b.Loop() {
		p, err := imagers.New(imagers.Config{
			WorkDir: filepath.Join(dir, "work"), ExtraRootsPEM: []string{reg.CAPEM}, Log: slog.New(slog.DiscardHandler),
		}, imagers.Deps{})
		if err != nil {
			b.Fatal(err)
		}
		bundle := filepath.Join(dir, "bundle")
		if _, err := p.Pull(b.Context(), imagers.Request{Image: reg.Host + "/bench:latest", Bundle: bundle}); err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		if err := errors.Join(p.Release(b.Context(), bundle), p.Close(), os.RemoveAll(bundle)); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
}
