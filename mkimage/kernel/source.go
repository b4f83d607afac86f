// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package kernel

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"strings"

	"cocoon/internal/bounded"
)

// maxPackage bounds what is kept of a package; the largest distribution kernel
// has about 400 MiB of modules.
const maxPackage = 1 << 30

// dpkgDeb unpacks Debian packages. It is there on the systems whose packages
// these are, and ten times as fast as an xz decompressor in Go.
const dpkgDeb = "/usr/bin/dpkg-deb"

// FromDeb reads a Debian kernel package.
func FromDeb(ctx context.Context, deb string) (*Kernel, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, dpkgDeb, "--fsys-tarfile", deb)
	cmd.Stderr = &stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, fmt.Errorf("unpack %q: %w", deb, err)
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("unpack %q: %w", deb, err)
	}
	files, err := readTar(out)
	if err != nil {
		cancel() // It would wait for a reader of the rest.
		return nil, errors.Join(fmt.Errorf("unpack %q: %w: %s", deb, err, bytes.TrimSpace(stderr.Bytes())), ignoreKilled(cmd.Wait()))
	}
	if err := cmd.Wait(); err != nil {
		return nil, fmt.Errorf("unpack %q: %w: %s", deb, err, bytes.TrimSpace(stderr.Bytes()))
	}
	k, err := newKernel(files)
	if err != nil {
		return nil, fmt.Errorf("read %q: %w", deb, err)
	}
	return k, nil
}

// ignoreKilled drops the exit status of a command that was given up.
func ignoreKilled(err error) error {
	if _, ok := errors.AsType[*exec.ExitError](err); ok {
		return nil
	}
	return err
}

// readTar keeps the wanted regular files of an archive and reads it to its end.
func readTar(r io.Reader) (map[string][]byte, error) {
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

// FromFiles reads a kernel image and the directory of its modules, whose name
// is the kernel's release.
func FromFiles(image, modules string) (*Kernel, error) {
	data, err := os.ReadFile(image)
	if err != nil {
		return nil, fmt.Errorf("read the kernel: %w", err)
	}
	root, err := os.OpenRoot(modules)
	if err != nil {
		return nil, fmt.Errorf("open the modules: %w", err)
	}
	files := map[string][]byte{"boot/vmlinuz-": data}
	prefix := path.Join("lib/modules", path.Base(root.Name()))
	err = fs.WalkDir(root.FS(), ".", func(p string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() || !wanted(path.Join(prefix, p)) {
			return err
		}
		files[path.Join(prefix, p)], err = fs.ReadFile(root.FS(), p)
		return err
	})
	if err := errors.Join(err, root.Close()); err != nil {
		return nil, fmt.Errorf("read the modules in %q: %w", modules, err)
	}
	k, err := newKernel(files)
	if err != nil {
		return nil, fmt.Errorf("read %q and %q: %w", image, modules, err)
	}
	return k, nil
}
