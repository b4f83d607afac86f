// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/emptypb"

	"cocoon/internal/bounded"
	"cocoon/internal/wire/agentpb"
)

const (
	// maxCPUs bounds the processors that the host may ask for: no kernel is
	// built for more.
	maxCPUs = 8192

	// cpuTries and cpuPause bound the wait for processors that the host has
	// plugged in and the kernel has not found yet.
	cpuTries = 100
	cpuPause = 50 * time.Millisecond

	// maxProbes bounds the memory blocks of one request.
	maxProbes = 4096
)

// OnlineCPUMem takes processors and memory into use that the host has plugged
// in. NbCpus is the wanted total of processors; 0 leaves them as they are.
//
// Cpusets need no care afterwards: a guest has cgroup v2, where groups without
// a set of their own use all processors, and the kernel adds a processor to
// every set that names it.
func (s *service) OnlineCPUMem(ctx context.Context, r *agentpb.OnlineCPUMemRequest) (*emptypb.Empty, error) {
	ctx, stop := s.sandbox.during(ctx)
	defer stop()
	if n := r.GetNbCpus(); n > maxCPUs {
		return nil, fmt.Errorf("%d processors: %w", n, ErrInvalid)
	} else if n > 0 {
		if err := onlineCPUs(ctx, filepath.Join(s.deps.Paths.Sys, "devices/system/cpu"), int(n)); err != nil {
			return nil, err
		}
	}
	if !r.GetCpuOnly() {
		if err := onlineMemory(ctx, filepath.Join(s.deps.Paths.Sys, "devices/system/memory")); err != nil {
			return nil, err
		}
	}
	return &emptypb.Empty{}, nil
}

// onlineCPUs waits until want processors are in use and takes into use those
// that are missing.
func onlineCPUs(ctx context.Context, dir string, want int) error {
	var last error
	var online int
	for range cpuTries {
		units, err := hotplugUnits(dir, "cpu")
		if err != nil {
			return err
		}
		online = len(units) - len(offline(units))
		for _, u := range offline(units) {
			if online >= want {
				break
			}
			if err := u.bringUp(); err != nil {
				last = err // it may be on its way still
				continue
			}
			online++
		}
		if online >= want {
			return nil
		}
		select {
		case <-time.After(cpuPause):
		case <-ctx.Done():
			return fmt.Errorf("%d of %d processors are online: %w", online, want, context.Cause(ctx))
		}
	}
	err := fmt.Errorf("%d of %d processors are online", online, want)
	return errors.Join(err, last)
}

// onlineMemory takes all memory blocks into use. One that cannot be does not
// keep the others from it.
func onlineMemory(ctx context.Context, dir string) error {
	units, err := hotplugUnits(dir, "memory")
	if errors.Is(err, os.ErrNotExist) {
		return nil // a kernel without memory hot-plug uses all it has
	}
	if err != nil {
		return err
	}
	var first error
	failed := 0
	for _, u := range offline(units) {
		if ctx.Err() != nil {
			return fmt.Errorf("online memory: %w", context.Cause(ctx))
		}
		if err := u.bringUp(); err != nil {
			failed++
			if first == nil {
				first = err
			}
		}
	}
	if first != nil {
		return fmt.Errorf("%d memory blocks stay offline, the first because: %w", failed, first)
	}
	return nil
}

// hotplugUnit is one processor or block of memory.
type hotplugUnit struct {
	file   string // that says whether it is online; writing 1 brings it up
	online bool
}

func (u hotplugUnit) bringUp() error { return writeSysfs(u.file, "1") }

func offline(units []hotplugUnit) []hotplugUnit {
	var off []hotplugUnit
	for _, u := range units {
		if !u.online {
			off = append(off, u)
		}
	}
	return off
}

// hotplugUnits lists what lies in dir under the prefix and a number. A unit
// without the file "online" cannot be taken out of use, as the first processor
// on most machines; it is online.
func hotplugUnits(dir, prefix string) ([]hotplugUnit, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("list hot-pluggable devices: %w", err)
	}
	var all []hotplugUnit
	for _, e := range entries {
		number, is := strings.CutPrefix(e.Name(), prefix)
		if !is || number == "" || strings.Trim(number, "0123456789") != "" {
			continue
		}
		u := hotplugUnit{file: filepath.Join(dir, e.Name(), "online")}
		state, err := readSysfs(u.file)
		switch {
		case errors.Is(err, os.ErrNotExist):
			u.online = true
		case err != nil:
			return nil, err
		default:
			u.online = state != "0"
		}
		all = append(all, u)
	}
	return all, nil
}

// MemHotplugByProbe tells the kernel where the host has plugged memory in, on
// machines whose firmware does not.
func (s *service) MemHotplugByProbe(_ context.Context, r *agentpb.MemHotplugByProbeRequest) (*emptypb.Empty, error) {
	if n := len(r.GetMemHotplugProbeAddr()); n > maxProbes {
		return nil, fmt.Errorf("%d memory addresses: %w", n, ErrInvalid)
	}
	file := filepath.Join(s.deps.Paths.Sys, "devices/system/memory/probe")
	for _, addr := range r.GetMemHotplugProbeAddr() {
		if err := writeSysfs(file, fmt.Sprintf("0x%X", addr)); err != nil {
			return nil, err
		}
	}
	return &emptypb.Empty{}, nil
}

// readSysfs reads one attribute without its end of line.
func readSysfs(file string) (_ string, err error) {
	f, err := os.Open(file)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	b, err := bounded.ReadAll(f, int64(os.Getpagesize()))
	if err != nil {
		return "", fmt.Errorf("read %q: %w", file, err)
	}
	return string(bytes.TrimSpace(b)), nil
}

// writeSysfs sets one attribute in a single write, and makes no file where
// there is none.
func writeSysfs(file, value string) error {
	f, err := os.OpenFile(file, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(value)
	return errors.Join(err, f.Close())
}
