// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package unpack_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"cocoon/imagers/imagetest"
	"cocoon/imagers/unpack"
	"cocoon/internal/safepath"
)

// BenchmarkLayer unpacks a layer of many small files, and one of a few large
// ones, into a tmpfs.
func BenchmarkLayer(b *testing.B) {
	needRoot(b)
	top := b.TempDir()
	if err := unix.Mount("tmpfs", top, "tmpfs", 0, "size=1g"); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { must(b, unix.Unmount(top, unix.MNT_DETACH)) })
	random := rand.NewChaCha8([32]byte{})
	text := func(n int) string {
		buf := make([]byte, n)
		_, _ = random.Read(buf)
		for i := range buf {
			buf[i] = 'a' + buf[i]%16
		}
		return string(buf)
	}
	for name, shape := range map[string]struct{ files, size int }{"small": {8000, 2 << 10}, "large": {4, 16 << 20}} {
		entries := []imagetest.Entry{}
		for i := range shape.files {
			if i%50 == 0 {
				entries = append(entries, imagetest.Dir(fmt.Sprintf("usr/share/d%d", i/50)))
			}
			entries = append(entries, imagetest.File(fmt.Sprintf("usr/share/d%d/f%d", i/50, i), text(shape.size)))
		}
		data := imagetest.Tar(b, entries...)
		id := digest.FromBytes(data)
		for kind, blob := range map[string][]byte{"plain": data, "gzip": imagetest.Gzip(b, data), "zstd": imagetest.Zstd(b, data)} {
			b.Run(name+"/"+kind, func(b *testing.B) {
				b.SetBytes(int64(len(data)))
				b.ReportAllocs()
				for b.Loop() {
					dir := filepath.Join(top, "layer")
					must(b, os.Mkdir(dir, 0o755))
					root, err := safepath.OpenRoot(dir)
					must(b, err)
					_, err = unpack.Layer(b.Context(), root, bytes.NewReader(blob), unpack.Options{DiffID: id})
					must(b, err)
					b.StopTimer()
					must(b, root.Close())
					must(b, os.RemoveAll(dir))
					b.StartTimer()
				}
			})
		}
	}
}
