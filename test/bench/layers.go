// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"runtime"
	"strings"
	"syscall"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"golang.org/x/sync/errgroup"
)

const (
	layerCount = 5
	layerBytes = 65_000_000 // of tar, before compression
)

// tarBlock is the unit of a tar stream: each entry has a header of one block
// and its content in whole blocks.
const tarBlock = 512

var errTooFewFiles = errors.New("the installed packages hold too few bytes")

// cutLayers divides the files, from the front, into count layers of at least
// size bytes of tar each. Files of more than a quarter of that are left out, so
// that no layer is much larger; those at the end are not needed.
func cutLayers(files []packageFile, count int, size int64) ([][]packageFile, error) {
	var layers [][]packageFile
	var layer []packageFile
	n := int64(0)
	for _, f := range files {
		if f.size > size/4 {
			continue
		}
		layer = append(layer, f)
		if n += tarBlock + (f.size+tarBlock-1)/tarBlock*tarBlock; n < size {
			continue
		}
		if layers = append(layers, layer); len(layers) == count {
			return layers, nil
		}
		layer, n = nil, 0
	}
	return nil, fmt.Errorf("%w: %d of %d layers of %d bytes", errTooFewFiles, len(layers), count, size)
}

// testImage is an image made of the files of installed Debian packages.
type testImage struct {
	image    v1.Image
	unpacked int64 // bytes of all layers' tar streams
	packed   int64 // bytes of all layers' blobs
	files    int
}

// buildImage packs the files of installed Debian packages into gzip layers of about equal size.
func buildImage(ctx context.Context) (testImage, error) {
	files, err := packageFiles(ctx)
	if err != nil {
		return testImage{}, err
	}
	cut, err := cutLayers(files, layerCount, layerBytes)
	if err != nil {
		return testImage{}, err
	}
	packed := make([]packedLayer, len(cut))
	var group errgroup.Group
	for i, files := range cut {
		group.Go(func() (err error) {
			packed[i], err = packLayer(files)
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return testImage{}, err
	}
	base, err := emptyImage()
	if err != nil {
		return testImage{}, err
	}
	img := testImage{image: base}
	for _, l := range packed {
		if err := img.add(l); err != nil {
			return testImage{}, err
		}
	}
	return img, nil
}

// emptyImage is an OCI image for this machine, without layers.
func emptyImage() (v1.Image, error) {
	img := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	img, err := mutate.ConfigFile(img, &v1.ConfigFile{OS: "linux", Architecture: runtime.GOARCH, RootFS: v1.RootFS{Type: "layers"}})
	if err != nil {
		return nil, fmt.Errorf("make an empty image: %w", err)
	}
	return img, nil
}

func (img *testImage) add(l packedLayer) error {
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(l.blob)), nil
	}, tarball.WithMediaType(types.OCILayer))
	if err != nil {
		return fmt.Errorf("read a layer back: %w", err)
	}
	if img.image, err = mutate.AppendLayers(img.image, layer); err != nil {
		return fmt.Errorf("append a layer: %w", err)
	}
	img.unpacked += l.unpacked
	img.packed += int64(len(l.blob))
	img.files += l.files
	return nil
}

type packedLayer struct {
	blob     []byte
	unpacked int64
	files    int
}

// packLayer makes a gzip layer of files at gzip's usual level.
func packLayer(files []packageFile) (packedLayer, error) {
	var blob bytes.Buffer
	zw := gzip.NewWriter(&blob)
	count := &counter{w: zw}
	tw := tar.NewWriter(count)
	for _, f := range files {
		if err := addPath(tw, f.path); err != nil {
			return packedLayer{}, fmt.Errorf("pack %q: %w", f.path, err)
		}
	}
	if err := errors.Join(tw.Close(), zw.Close()); err != nil {
		return packedLayer{}, fmt.Errorf("finish a layer: %w", err)
	}
	return packedLayer{blob: blob.Bytes(), unpacked: count.n, files: len(files)}, nil
}

func addPath(tw *tar.Writer, path string) error {
	fi, err := os.Lstat(path)
	if err != nil {
		return err
	}
	link := ""
	if fi.Mode()&fs.ModeSymlink != 0 {
		if link, err = os.Readlink(path); err != nil {
			return err
		}
	}
	h, err := tar.FileInfoHeader(fi, link)
	if err != nil {
		return err
	}
	h.Name = strings.TrimPrefix(path, "/")
	if fi.IsDir() {
		h.Name += "/"
	}
	if st, ok := fi.Sys().(*syscall.Stat_t); ok {
		h.Uid, h.Gid = int(st.Uid), int(st.Gid)
	}
	if err := tw.WriteHeader(h); err != nil || !fi.Mode().IsRegular() {
		return err
	}
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	_, err = io.Copy(tw, f)
	return errors.Join(err, f.Close())
}

type counter struct {
	w io.Writer
	n int64
}

func (c *counter) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.n += int64(n)
	return n, err
}
