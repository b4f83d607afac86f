// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"cocoon/mkimage/image"
)

// initrdFile is the initramfs in an image's directory.
const initrdFile = image.InitrdFile

// measureSizes looks at the files of the build. The compressor and its level
// are those of shipped images.
func (b *bench) measureSizes(ctx context.Context) error {
	binary, err := size(b.guestBinary())
	if err != nil {
		return err
	}
	initrd := filepath.Join(b.opt.image, initrdFile)
	plain, err := size(initrd)
	if err != nil {
		return err
	}
	b.say("compressing the initramfs")
	packed := filepath.Join(b.dir, "initrd.zst")
	if err := run(ctx, "zstd", "-19", "-T0", "-q", "-f", "-o", packed, initrd); err != nil {
		return err
	}
	small, err := size(packed)
	if err != nil {
		return err
	}
	b.add(row{Group: "size", Name: "guest binary", Unit: "MB", Ours: binary})
	b.add(row{Group: "size", Name: "initramfs, not compressed", Unit: "MB", Ours: plain})
	b.add(row{Group: "size", Name: "initramfs, zstd -19", Unit: "MB", Ours: small}.atMost(16))
	return os.Remove(packed)
}

// size is that of a file in MB, 10^6 bytes.
func size(path string) (float64, error) {
	fi, err := os.Stat(path)
	if err != nil {
		return 0, fmt.Errorf("measure the build (make image makes it): %w", err)
	}
	return float64(fi.Size()) / 1e6, nil
}
