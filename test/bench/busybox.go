// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// busyboxFile is the program of Debian package busybox-static.
const busyboxFile = "/bin/busybox"

// busyboxDirs and busyboxApplets are what containers find beside the program.
func busyboxDirs() []string    { return []string{"bin", "dev", "etc", "proc", "run", "sys", "tmp"} }
func busyboxApplets() []string { return []string{"sh", "sleep", "true", "dd"} }

// busyboxRoot makes a root file system in dir.
func busyboxRoot(dir string) error {
	for _, d := range busyboxDirs() {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			return err
		}
	}
	bin, err := os.ReadFile(busyboxFile)
	if err != nil {
		return fmt.Errorf("read the busybox of package busybox-static: %w", err)
	}
	if err := os.WriteFile(filepath.Join(dir, busyboxFile), bin, 0o755); err != nil {
		return err
	}
	for _, a := range busyboxApplets() {
		if err := os.Symlink("busybox", filepath.Join(dir, "bin", a)); err != nil {
			return err
		}
	}
	return nil
}

// busyboxImage makes an image of the same files.
func busyboxImage() (v1.Image, error) {
	bin, err := os.ReadFile(busyboxFile)
	if err != nil {
		return nil, fmt.Errorf("read the busybox of package busybox-static: %w", err)
	}
	var blob bytes.Buffer
	zw := gzip.NewWriter(&blob)
	tw := tar.NewWriter(zw)
	for _, d := range busyboxDirs() {
		err = errors.Join(err, tw.WriteHeader(&tar.Header{Name: d + "/", Typeflag: tar.TypeDir, Mode: 0o755}))
	}
	err = errors.Join(err, tw.WriteHeader(&tar.Header{Name: busyboxFile[1:], Typeflag: tar.TypeReg, Mode: 0o755, Size: int64(len(bin))}))
	_, werr := tw.Write(bin)
	err = errors.Join(err, werr)
	for _, a := range busyboxApplets() {
		err = errors.Join(err, tw.WriteHeader(&tar.Header{Name: "bin/" + a, Typeflag: tar.TypeSymlink, Linkname: "busybox", Mode: 0o777}))
	}
	if err := errors.Join(err, tw.Close(), zw.Close()); err != nil {
		return nil, fmt.Errorf("make the busybox layer: %w", err)
	}
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(blob.Bytes())), nil
	}, tarball.WithMediaType(types.OCILayer))
	if err != nil {
		return nil, fmt.Errorf("read the busybox layer back: %w", err)
	}
	img, err := emptyImage()
	if err != nil {
		return nil, err
	}
	return mutate.AppendLayers(img, layer)
}
