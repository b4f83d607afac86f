// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestLayersAreCutAtTheirSize(t *testing.T) {
	t.Parallel()
	// Each takes a header and two blocks: 1536 bytes.
	files := make([]packageFile, 12)
	for i := range files {
		files[i] = packageFile{path: string(rune('a' + i)), size: 513}
	}
	names := func(layers [][]packageFile) string {
		var parts []string
		for _, l := range layers {
			var b strings.Builder
			for _, f := range l {
				b.WriteString(f.path)
			}
			parts = append(parts, b.String())
		}
		return strings.Join(parts, " ")
	}
	big := packageFile{path: "BIG", size: 1 << 20}
	for name, c := range map[string]struct {
		files []packageFile
		count int
		size  int64
		want  string
		err   error
	}{
		"what is left over is not used": {files, 2, 6000, "abcd efgh", nil},
		"an exact size":                 {files, 2, 6144, "abcd efgh", nil},
		"one byte more":                 {files, 2, 6145, "abcde fghij", nil},
		"large files are left out":      {slices.Insert(slices.Clone(files), 1, big), 1, 6000, "abcd", nil},
		"too few files":                 {files, 4, 6000, "", errTooFewFiles},
		"large files only":              {[]packageFile{big, big}, 1, 6000, "", errTooFewFiles},
		"no file":                       {nil, 1, 1, "", errTooFewFiles},
	} {
		layers, err := cutLayers(c.files, c.count, c.size)
		if !errors.Is(err, c.err) || names(layers) != c.want {
			t.Errorf("%s: %q, %v; want %q, %v", name, names(layers), err, c.want, c.err)
		}
	}
}

func TestALayerHoldsItsFilesAndKnowsItsSize(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file, link := filepath.Join(dir, "file"), filepath.Join(dir, "link")
	if err := errors.Join(os.WriteFile(file, []byte("content"), 0o640), os.Symlink("file", link)); err != nil {
		t.Fatal(err)
	}
	l, err := packLayer([]packageFile{{path: dir}, {file, 7}, {path: link}})
	if err != nil {
		t.Fatal(err)
	}
	zr, err := gzip.NewReader(bytes.NewReader(l.blob))
	if err != nil {
		t.Fatal(err)
	}
	stream, err := io.ReadAll(zr)
	if err != nil {
		t.Fatal(err)
	}
	if l.unpacked != int64(len(stream)) || l.files != 3 {
		t.Errorf("layer says %d bytes and %d files, has %d bytes", l.unpacked, l.files, len(stream))
	}
	var got []string
	r := tar.NewReader(bytes.NewReader(stream))
	for h, err := r.Next(); err != io.EOF; h, err = r.Next() {
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, strings.TrimPrefix(h.Name, dir[1:])+"|"+string(h.Typeflag)+"|"+h.Linkname+"|"+string(body))
	}
	if want := []string{"/|5||", "/file|0||content", "/link|2|file|"}; !slices.Equal(got, want) {
		t.Errorf("layer holds %q, want %q", got, want)
	}
}

func TestAFileThatVanishedIsAnError(t *testing.T) {
	t.Parallel()
	_, err := packLayer([]packageFile{{path: filepath.Join(t.TempDir(), "gone")}})
	if !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("error is %v", err)
	}
}

func TestDependenciesAreFollowedToInstalledPackagesOnly(t *testing.T) {
	t.Parallel()
	depends := parseDepends("a\tlibc6 (>= 2.34), b:any | c, \nb\t, a\nc\t\nlibc6\tpre, \nunrelated\ta\n")
	if got, want := depends["a"], []string{"libc6", "b", "c"}; !slices.Equal(got, want) {
		t.Errorf("a depends on %q, want %q", got, want)
	}
	for _, c := range []struct{ seeds, want []string }{
		{[]string{"a"}, []string{"a", "b", "c", "libc6"}}, {[]string{"c", "missing"}, []string{"c"}}, {[]string{"missing"}, nil}, {nil, nil},
	} {
		if got := closure(depends, c.seeds); !slices.Equal(got, c.want) {
			t.Errorf("closure of %q is %q, want %q", c.seeds, got, c.want)
		}
	}
}
