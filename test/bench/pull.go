// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime/pprof"
	"time"

	"cocoon/imagers"
)

// pullRounds is how often each puller pulls; the median counts.
const pullRounds = 3

// pulled is what our puller's process says on its only line.
type pulled struct {
	// Idle is the resident memory before the pull, Peak the greatest since.
	Idle int64 `json:"idle"`
	Peak int64 `json:"peak"`
}

// pullImages measures pull and unpack of the large image by us and by the
// peers, in turns.
func (b *bench) pullImages(ctx context.Context) error {
	reg, err := b.images(ctx)
	if err != nil {
		return err
	}
	b.say("image: %d files, %d MB packed, %d MB unpacked", reg.Files, reg.Packed/1e6, reg.Unpacked/1e6)
	var ours, containerd, umoci pullSeries
	for i := range pullRounds {
		dir := filepath.Join(b.dir, fmt.Sprintf("pull%d", i))
		for _, p := range []struct {
			name string
			do   func(context.Context, *imageRegistry, string) (usage, error)
			into *pullSeries
		}{{"cocoon", b.pullOurs, &ours}, {"containerd", pullContainerd, &containerd}, {"skopeo+umoci", pullSkopeo, &umoci}} {
			u, err := p.do(ctx, reg, dir)
			if err := errors.Join(err, os.RemoveAll(dir)); err != nil {
				return fmt.Errorf("pull with %s: %w", p.name, err)
			}
			p.into.add(u)
			b.say("round %d of %d: %s: %.2f s, peak %d MiB", i+1, pullRounds, p.name, u.wall.Seconds(), u.peak>>20)
		}
	}
	g := "pull and unpack"
	t, m := median(ours.wall, seconds), median(ours.peak, mebi)
	b.add(row{Group: g, Name: "time beside containerd", Unit: "s", Ours: t}.beside("ctr images pull", median(containerd.wall, seconds)).timesFaster(2.5))
	b.add(row{Group: g, Name: "time beside skopeo+umoci", Unit: "s", Ours: t}.beside("skopeo+umoci", median(umoci.wall, seconds)).timesFaster(3.4))
	b.add(row{Group: g, Name: "memory added by the pull", Unit: "MiB", Ours: median(b.pullAdded, mebi)}.atMost(32))
	b.add(row{Group: g, Name: "peak memory beside containerd", Unit: "MiB", Ours: m}.beside("ctr + containerd", median(containerd.peak, mebi)))
	b.add(row{Group: g, Name: "peak memory beside skopeo+umoci", Unit: "MiB", Ours: m}.beside("the larger of both", median(umoci.peak, mebi)))
	return nil
}

func mebi(n int64) float64 { return float64(n) / (1 << 20) }

type pullSeries struct {
	wall []time.Duration
	peak []int64
}

func (s *pullSeries) add(u usage) {
	s.wall = append(s.wall, u.wall)
	s.peak = append(s.peak, u.peak)
}

// pullOurs times a process that does nothing but pull: from its start until
// the image is unpacked and mounted.
func (b *bench) pullOurs(ctx context.Context, reg *imageRegistry, dir string) (u usage, err error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return u, err
	}
	cmd := command(ctx, "/proc/self/exe", rolePull, dir, reg.ref(repoLarge), reg.ca(), b.opt.profile)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		return u, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return u, err
	}
	start := time.Now()
	if err := cmd.Start(); err != nil {
		return u, fmt.Errorf("start the puller: %w", err)
	}
	line, err := bufio.NewReader(out).ReadBytes('\n')
	u.wall = time.Since(start)
	var p pulled
	// The end of its input lets it unmount and go. Its own error comes first.
	if err := errors.Join(in.Close(), cmd.Wait()); err != nil {
		return u, err
	}
	if err == nil {
		err = json.Unmarshal(line, &p)
	}
	if err != nil {
		return u, fmt.Errorf("read what the puller says: %w", err)
	}
	u.peak = p.Peak
	b.pullAdded = append(b.pullAdded, p.Peak-p.Idle)
	return u, nil
}

// pullOrder is what that process is asked to do.
type pullOrder struct {
	dir, ref string
	ca       string // file with the registry's authority
	profile  string // file for a CPU profile, or ""
}

// pullRole is that process. It reports when the image is mounted, and takes
// it down when its input ends.
func pullRole(ctx context.Context, o pullOrder) (err error) {
	pem, err := os.ReadFile(o.ca)
	if err != nil {
		return err
	}
	stop, err := profileTo(o.profile)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stop()) }()
	var p pulled
	if p.Idle, err = memoryOf(0, "VmRSS"); err != nil {
		return err
	}
	puller, err := imagers.New(imagers.Config{
		WorkDir: filepath.Join(o.dir, "work"), ExtraRootsPEM: []string{string(pem)},
		Log: slog.New(slog.DiscardHandler),
	}, imagers.Deps{})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, puller.Close()) }()
	bundle := filepath.Join(o.dir, "bundle")
	if _, err := puller.Pull(ctx, imagers.Request{Image: o.ref, Bundle: bundle}); err != nil {
		return err
	}
	if p.Peak, err = memoryOf(0, "VmHWM"); err != nil {
		return errors.Join(err, puller.Release(ctx, bundle))
	}
	err = json.NewEncoder(os.Stdout).Encode(p)
	_, _ = os.Stdin.Read(make([]byte, 1)) // it only waits; the end of the input is an error by design
	return errors.Join(err, puller.Release(ctx, bundle))
}

// profileTo writes a CPU profile to path until stop; without a path it does
// nothing.
func profileTo(path string) (stop func() error, err error) {
	if path == "" {
		return func() error { return nil }, nil
	}
	f, err := os.Create(path)
	if err != nil {
		return nil, fmt.Errorf("profile: %w", err)
	}
	if err := pprof.StartCPUProfile(f); err != nil {
		return nil, errors.Join(fmt.Errorf("profile: %w", err), f.Close())
	}
	return func() error { pprof.StopCPUProfile(); return f.Close() }, nil
}
