// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

// Package metrics tells in Prometheus' text format how the agent and the guest
// are doing, under the names and labels that kata's dashboards use.
//
// Trust boundary. The text goes to the untrusted host, so it holds numbers and
// the names of devices and mount points, and nothing of a workload's content.
// What is read comes from the guest's kernel; the names in it are chosen by
// workloads (network interfaces, mount points) and by the host (disks), so they
// are escaped, and the number of series and the size of the text are bounded.
//
// The text format is written here: it takes a few lines, while Prometheus'
// client library with what it pulls in would add megabytes to a guest that has
// to be downloaded, measured and kept in memory.
package metrics

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"cocoon/internal/bounded"
)

const (
	// maxSource bounds one file of /proc, in bytes.
	maxSource = 1 << 20

	// maxSamples bounds the samples of one family.
	maxSamples = 8192

	// maxText bounds the whole text in bytes. A ttrpc frame has room for 4 MiB.
	maxText = 3 << 20
)

// Config is what a Collector is made of.
type Config struct {
	// Proc is where procfs is mounted, "/proc" if empty.
	Proc string
	// Statfs asks for a file system's size; unix.Statfs if nil.
	Statfs func(path string, to *unix.Statfs_t) error
	// Log gets a line for each source that cannot be read; discarded if nil.
	Log *slog.Logger
}

// Collector reads metrics. It is safe for concurrent use; one call reads at a
// time, so that a file system which hangs does not gather callers in the
// kernel.
type Collector struct {
	config  Config
	turn    chan struct{}
	scrapes uint64 // guarded by turn
}

// New makes a Collector. It reads nothing yet.
func New(c Config) *Collector {
	c.Proc = cmp.Or(c.Proc, "/proc")
	if c.Statfs == nil {
		c.Statfs = unix.Statfs
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	return &Collector{config: c, turn: make(chan struct{}, 1)}
}

// Text returns all metrics. A source that is missing or makes no sense is left
// out and logged, since the others are of use without it. An error means that
// ctx has ended or that the text would be too long (bounded.ErrTooLarge).
func (c *Collector) Text(ctx context.Context) (string, error) {
	select {
	case c.turn <- struct{}{}:
		defer func() { <-c.turn }()
	case <-ctx.Done():
		return "", fmt.Errorf("wait for another reader of metrics: %w", context.Cause(ctx))
	}
	c.scrapes++
	var b strings.Builder
	write(&b, family{name: "kata_agent_scrape_count", help: "How often the metrics were read.", kind: "counter"},
		[]sample{{value: float64(c.scrapes)}})
	files := make(map[string][]byte)
	for _, f := range families {
		samples, err := c.read(f, files)
		if err != nil {
			c.config.Log.Info("a metric is left out", "subsystem", "metrics", "metric", f.name, "error", err)
			continue
		}
		write(&b, f, samples)
	}
	c.fileSystems(ctx, &b)
	if b.Len() > maxText {
		return "", fmt.Errorf("metrics of %d bytes: %w", b.Len(), bounded.ErrTooLarge)
	}
	return b.String(), nil
}

// read returns the samples of a family; files holds what was read before, so
// that families of one file show one moment.
func (c *Collector) read(f family, files map[string][]byte) ([]sample, error) {
	data, known := files[f.file]
	if !known {
		var err error
		if data, err = c.source(f.file); err != nil {
			return nil, err
		}
		files[f.file] = data
	}
	return f.parse(data)
}

// source reads a file of procfs.
func (c *Collector) source(name string) (_ []byte, err error) {
	f, err := os.Open(filepath.Join(c.config.Proc, name))
	if err != nil {
		return nil, fmt.Errorf("read metrics: %w", err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	data, err := bounded.ReadAll(f, maxSource)
	if err != nil {
		return nil, fmt.Errorf("read metrics from %q: %w", name, err)
	}
	return data, nil
}

// fileSystems writes how full the guest's file systems are.
func (c *Collector) fileSystems(ctx context.Context, b *strings.Builder) {
	// The first thread of the process may be left in a container's mount namespace.
	data, err := c.source("thread-self/mountinfo")
	if err != nil {
		c.config.Log.Info("a metric is left out", "subsystem", "metrics", "metric", bytesFamily.name, "error", err)
		return
	}
	mounts, err := parseMounts(data)
	if err != nil {
		c.config.Log.Info("a metric is left out", "subsystem", "metrics", "metric", bytesFamily.name, "error", err)
		return
	}
	var sizes, inodes []sample
	for _, m := range mounts {
		if ctx.Err() != nil {
			return
		}
		var st unix.Statfs_t
		if err := c.config.Statfs(m.point, &st); err != nil {
			c.config.Log.Info("a file system cannot be measured", "subsystem", "metrics", "error", err)
			continue
		}
		unit := float64(max(st.Frsize, 0))
		sizes = append(sizes, m.usage(float64(st.Blocks)*unit, float64(st.Bfree)*unit, float64(st.Bavail)*unit)...)
		inodes = append(inodes, m.usage(float64(st.Files), float64(st.Ffree), float64(st.Ffree))...)
	}
	write(b, bytesFamily, sizes)
	write(b, inodesFamily, inodes)
}
