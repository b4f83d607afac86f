// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package kernel

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"

	"cocoon/mkimage/deb"
)

// FromDeb reads a Debian kernel package.
func FromDeb(ctx context.Context, file string) (*Kernel, error) {
	files, err := deb.Files(ctx, file, wanted)
	if err != nil {
		return nil, err
	}
	k, err := newKernel(files)
	if err != nil {
		return nil, fmt.Errorf("read %q: %w", file, err)
	}
	return k, nil
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
