// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

// Package deb takes files out of Debian packages. Nothing is installed.
//
// Trust: a package is pinned by digest before it is read here; what is kept of
// it is bounded all the same.
package deb

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"path"
	"strings"

	"cocoon/internal/bounded"
)

// maxPackage bounds what is kept of a package; the largest distribution kernel
// has about 400 MiB of modules.
const maxPackage = 1 << 30

// dpkgDeb unpacks packages. It is there on the systems whose packages these are,
// and ten times as fast as an xz decompressor in Go.
const dpkgDeb = "/usr/bin/dpkg-deb"

// Files returns the regular files of the package in file that are wanted, by
// their paths relative to the root.
func Files(ctx context.Context, file string, wanted func(name string) bool) (map[string][]byte, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, dpkgDeb, "--fsys-tarfile", file)
	cmd.Stderr = &stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, fmt.Errorf("unpack %q: %w", file, err)
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("unpack %q: %w", file, err)
	}
	files, err := readTar(out, wanted)
	if err != nil {
		cancel() // It would wait for a reader of the rest.
		return nil, errors.Join(fmt.Errorf("unpack %q: %w: %s", file, err, bytes.TrimSpace(stderr.Bytes())), ignoreKilled(cmd.Wait()))
	}
	if err := cmd.Wait(); err != nil {
		return nil, fmt.Errorf("unpack %q: %w: %s", file, err, bytes.TrimSpace(stderr.Bytes()))
	}
	return files, nil
}

// ignoreKilled drops the exit status of a command that was given up.
func ignoreKilled(err error) error {
	if _, ok := errors.AsType[*exec.ExitError](err); ok {
		return nil
	}
	return err
}

// readTar keeps the wanted regular files of an archive and reads it to its end.
func readTar(r io.Reader, wanted func(string) bool) (map[string][]byte, error) {
	files := map[string][]byte{}
	tr := tar.NewReader(r)
	left := int64(maxPackage)
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			_, err := io.Copy(io.Discard, r)
			return files, err
		}
		if err != nil {
			return nil, err
		}
		name := path.Clean(strings.TrimPrefix(h.Name, "./"))
		if h.Typeflag != tar.TypeReg || !wanted(name) {
			continue
		}
		data, err := bounded.ReadAll(tr, left)
		if err != nil {
			return nil, fmt.Errorf("read %q: %w", name, err)
		}
		left -= int64(len(data))
		files[name] = data
	}
}
