// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"cocoon/rootfs/boot"
)

// newLog returns the log that the host may read, in the line format that kata
// shims parse: one JSON object a line.
func newLog(level slog.Level, w io.Writer) *slog.Logger {
	h := slog.NewJSONHandler(w, &slog.HandlerOptions{Level: level, ReplaceAttr: kataAttr})
	return slog.New(h).With("pid", strconv.Itoa(os.Getpid()), "name", "kata-agent", "source", "agent", "version", version)
}

// kataAttr gives the built-in attributes the names and values of the peers'.
func kataAttr(groups []string, a slog.Attr) slog.Attr {
	if len(groups) > 0 {
		return a
	}
	switch a.Key {
	case slog.TimeKey:
		a.Key, a.Value = "ts", slog.TimeValue(a.Value.Time().UTC())
	case slog.LevelKey:
		l, ok := a.Value.Any().(slog.Level)
		if ok {
			a.Value = slog.StringValue(kataLevel(l))
		}
	}
	return a
}

func kataLevel(l slog.Level) string {
	switch {
	case l >= slog.LevelError:
		return "ERRO"
	case l >= slog.LevelWarn:
		return "WARN"
	case l >= slog.LevelInfo:
		return "INFO"
	case l >= slog.LevelDebug:
		return "DEBG"
	}
	return "TRCE"
}

// maxOwnerLog bounds the owner's log, which lies in memory.
const maxOwnerLog = 8 << 20

// ownerLog is a file that only root in the guest can read. It takes lines up to
// a total size and then drops them, so that the host, who decides how many
// requests are denied, does not decide how much memory that takes.
type ownerLog struct {
	mu   sync.Mutex // guards what follows
	f    *os.File
	left int
}

func openOwnerLog(path string) (*ownerLog, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, fmt.Errorf("make the folder of the owner's log: %w", err)
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_TRUNC|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open the owner's log: %w", err)
	}
	return &ownerLog{f: f, left: maxOwnerLog}, nil
}

var errOwnerLogFull = errors.New("the owner's log is full")

// Write appends one line, or nothing if it does not fit.
func (o *ownerLog) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(p) > o.left {
		o.left = 0
		return 0, errOwnerLogFull
	}
	o.left -= len(p)
	return o.f.Write(p)
}

// Close closes the file.
func (o *ownerLog) Close() error { return o.f.Close() }

var _ io.WriteCloser = (*ownerLog)(nil)

// logTimeline logs the milliseconds of every step since power-on: those of
// PID 1, if it booted this machine, and those of this role.
func (g *guest) logTimeline() {
	var ms []any
	if f, err := os.Open(boot.TimelinePath); err == nil {
		t, err := boot.ReadTimeline(f)
		if err := errors.Join(err, f.Close()); err != nil {
			g.log.Warn("read the boot timeline", "error", err)
		}
		ms = append(ms, "kernel", t.Kernel)
		g.steps = append(t.Steps, g.steps...)
	}
	for _, s := range g.steps {
		ms = append(ms, s.Name, float64(s.Micros/100)/10)
	}
	g.log.Info("boot timeline", slog.Group("ms", ms...))
}

// logReady says that the doors are open, and what the two roles cost until
// then.
func (g *guest) logReady() {
	attrs := []any{"profile", g.profile.name, "tee", g.attest.TEE()}
	for _, p := range []struct{ name, dir string }{{"guest", "self"}, {"init", "1"}} {
		rss, anon, err := memory(filepath.Join("/proc", p.dir, "status"))
		if err != nil {
			g.log.Warn("read memory use", "role", p.name, "error", err)
			continue
		}
		attrs = append(attrs, p.name+"_rss_kib", rss, p.name+"_anon_kib", anon)
	}
	g.log.Log(context.Background(), slog.LevelInfo, "ready", attrs...)
}

// memory reads the resident and the anonymous memory of a process in KiB.
func memory(status string) (rss, anon int, err error) {
	b, err := os.ReadFile(status)
	if err != nil {
		return 0, 0, err
	}
	for line := range strings.Lines(string(b)) {
		key, value, _ := strings.Cut(line, ":")
		number := strings.TrimSuffix(strings.TrimSpace(value), " kB")
		switch key {
		case "VmRSS":
			rss, err = strconv.Atoi(number)
		case "RssAnon":
			anon, err = strconv.Atoi(number)
		}
		if err != nil {
			return 0, 0, fmt.Errorf("parse %q of %q: %w", key, status, err)
		}
	}
	return rss, anon, nil
}
