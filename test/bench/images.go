// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"cocoon/mkimage/image"
)

// buildRounds is how often each image is built.
const buildRounds = 3

// buildAim is in seconds.
const buildAim = 10

// built is an image that is made from packages that are already there.
type built struct {
	profile string
	sizes   []sizeOf
}

// sizeOf is a file of it, and the most that it may have, in bytes.
type sizeOf struct {
	file, name, unit string
	per, most        float64
}

func profiles() []built {
	const mb, mib = 1e6, 1 << 20
	return []built{
		{"snp", []sizeOf{{image.InitrdFile, "snp: initramfs", "MB", mb, 16}}},
		{"podvm", []sizeOf{{image.UKIFile, "podvm: unified kernel image", "MB", mb, 32}, {"disk.raw", "podvm: raw disk", "MiB", mib, 96}}},
	}
}

// measureImages builds images as a user does, by the command.
func (b *bench) measureImages(ctx context.Context) error {
	for _, im := range profiles() {
		var times []time.Duration
		dir := filepath.Join(b.dir, "image-"+im.profile)
		for round := range buildRounds {
			u, err := b.build(ctx, im.profile, dir)
			if err != nil {
				return err
			}
			b.say("%s, build %d: %.1f s", im.profile, round+1, u.wall.Seconds())
			times = append(times, u.wall)
		}
		b.add(row{Group: "image", Name: im.profile + ": full build", Unit: "s", Ours: median(times, seconds)}.atMost(buildAim))
		for _, s := range im.sizes {
			fi, err := os.Stat(filepath.Join(dir, s.file))
			if err != nil {
				return err
			}
			b.add(row{Group: "image", Name: s.name, Unit: s.unit, Ours: float64(fi.Size()) / s.per}.atMost(s.most))
		}
		if err := os.RemoveAll(dir); err != nil {
			return err
		}
	}
	return nil
}

// build makes an image from the locked packages.
func (b *bench) build(ctx context.Context, profile, dir string) (usage, error) {
	if b.opt.lock == "" {
		return usage{}, errors.New("--lock names the packages that images are made of")
	}
	u, err := measure(ctx, filepath.Join(b.opt.bin, "mkimage"), "build", "--profile", profile, "--lock", b.opt.lock,
		"--binary", b.guestBinary(), "--first", filepath.Join(b.opt.bin, "first"), "--out", dir)
	if err != nil {
		return u, fmt.Errorf("build %s: %w", profile, err)
	}
	return u, nil
}
