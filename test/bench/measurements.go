// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"cocoon/internal/verity"
	"cocoon/measurements/ovmf/ovmftest"
	"cocoon/measurements/predict"
)

const (
	// verityBlocks are hashed by both builders of trees: 256 MiB.
	verityBlocks = 65536
	verityRounds = 5
	// launches are the numbers of processors whose digests are predicted: 1 to this.
	launches = 64
	// firmwareSize is what edk2's firmware for SEV has.
	firmwareSize = 4 << 20
	snpMeasure   = "sev-snp-measure"
)

// measureMeasurements compares predictions with the tools that others use.
func (b *bench) measureMeasurements(ctx context.Context) error {
	if err := b.measureVerity(ctx); err != nil {
		return err
	}
	return b.measureLaunches(ctx)
}

// measureVerity has both sides build the tree of the same data, in turns.
func (b *bench) measureVerity(ctx context.Context) error {
	data, tree := filepath.Join(b.dir, "verity.data"), filepath.Join(b.dir, "verity.tree")
	if err := writeNoise(data, verityBlocks*4096); err != nil {
		return err
	}
	salt := bytes.Repeat([]byte{0x5a}, 32)
	var ours, theirs []time.Duration
	for range verityRounds {
		start := time.Now()
		root, err := buildTree(data, tree, salt)
		if err != nil {
			return err
		}
		ours = append(ours, time.Since(start))
		cmd := command(ctx, "veritysetup", "format", data, tree, "--no-superblock", "--salt", hex.EncodeToString(salt))
		start = time.Now()
		out, err := cmd.CombinedOutput()
		if err != nil {
			return fmt.Errorf("veritysetup: %w: %s", err, bytes.TrimSpace(out))
		}
		theirs = append(theirs, time.Since(start))
		if !bytes.Contains(out, []byte(hex.EncodeToString(root))) {
			return fmt.Errorf("roots differ: ours is %x, veritysetup says %s", root, out)
		}
	}
	rate := func(d []time.Duration) float64 { return verityBlocks * 4096 / 1e6 / median(d, seconds) }
	b.say("dm-verity: %.0f MB/s, %.0f by veritysetup", rate(ours), rate(theirs))
	b.add(row{Group: "measurements", Name: "dm-verity tree of 256 MiB", Unit: "MB/s", Ours: rate(ours)}.beside("veritysetup format", rate(theirs)))
	return os.Remove(data)
}

// buildTree does what the builder of images does with its root.
func buildTree(data, tree string, salt []byte) ([]byte, error) {
	f, err := os.Open(data)
	if err != nil {
		return nil, err
	}
	defer f.Close() //nolint:errcheck // only read
	p := verity.Params{Algorithm: "sha256", DataBlock: 4096, HashBlock: 4096, DataBlocks: verityBlocks, Salt: salt}
	b, err := p.Build(f)
	if err != nil {
		return nil, err
	}
	return p.RootHash, os.WriteFile(tree, b, 0o600)
}

// writeNoise writes a file that is the same each time.
func writeNoise(name string, size int64) error {
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	_, err = io.CopyN(f, rand.NewChaCha8([32]byte{}), size)
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	return err
}

// launch is what digests are predicted of.
type launch struct{ dir, firmware, cmdline string }

// measureLaunches predicts the launch digests of one image for 1 to 64
// processors. The peer takes one number of them at a time.
func (b *bench) measureLaunches(ctx context.Context) error {
	l := launch{dir: filepath.Join(b.dir, "launches"), firmware: filepath.Join(b.dir, "firmware.fd"), cmdline: "console=hvc0 panic=-1"}
	if _, err := b.build(ctx, "snp", l.dir); err != nil {
		return err
	}
	small := ovmftest.Firmware()
	if err := os.WriteFile(l.firmware, append(bytes.Repeat([]byte{0xff}, firmwareSize-len(small)), small...), 0o600); err != nil {
		return err
	}
	var ours []time.Duration
	var all []predict.Result
	for range buildRounds {
		start := time.Now()
		out, err := command(ctx, filepath.Join(b.opt.bin, "measurements"), "snp", l.dir, "--firmware", l.firmware,
			"--vcpus", strconv.Itoa(launches), "--cmdline", l.cmdline, "--format", "json").Output()
		if err != nil {
			return fmt.Errorf("measurements snp: %w", err)
		}
		ours = append(ours, time.Since(start))
		if err := json.Unmarshal(out, &all); err != nil || len(all) != launches {
			return fmt.Errorf("measurements snp: %d results: %w", len(all), err)
		}
	}
	r := row{Group: "measurements", Name: fmt.Sprintf("SNP launch digests, 1 to %d processors", launches), Unit: "ms", Ours: medianMillis(ours)}
	if !installed(snpMeasure) {
		b.say("%s is not installed (pip has it): no row beside it", snpMeasure)
		b.add(r)
		return nil
	}
	b.say("%s for each number of processors", snpMeasure)
	total, last, err := l.byPeer(ctx, all)
	if err != nil {
		return err
	}
	b.add(r.beside(snpMeasure+", 64 times", millis(total)).timesFaster(20))
	b.add(row{Group: "measurements", Name: "the same, beside one call for 64", Unit: "ms", Ours: r.Ours}.beside(snpMeasure+", once", millis(last)))
	return nil
}

func installed(program string) bool {
	_, err := exec.LookPath(program)
	return err == nil
}

// byPeer has the peer predict each digest, which has to be ours. It returns the
// time of all calls, and of the last.
func (l launch) byPeer(ctx context.Context, ours []predict.Result) (total, last time.Duration, err error) {
	for n, want := range ours {
		start := time.Now()
		out, err := command(ctx, snpMeasure, "--mode", "snp", "--vcpus", strconv.Itoa(n+1), "--vcpu-type", predict.DefaultModel, "--guest-features", "0x1",
			"--ovmf", l.firmware, "--kernel", filepath.Join(l.dir, "vmlinuz"), "--initrd", filepath.Join(l.dir, "initrd.img"), "--append", l.cmdline).Output()
		if err != nil {
			return 0, 0, fmt.Errorf("%s: %w", snpMeasure, err)
		}
		last = time.Since(start)
		total += last
		if got := strings.TrimSpace(string(out)); got != want.Values[0].Value {
			return 0, 0, fmt.Errorf("%d processors: predicted is %s, %s says %s", n+1, want.Values[0].Value, snpMeasure, got)
		}
	}
	return total, last, nil
}
