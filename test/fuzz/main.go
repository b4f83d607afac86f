// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

// Command fuzz runs every fuzz target of the repository for a short time, one
// after the other, and says which inputs failed.
//
// It exists because go test fuzzes one target at a time, and because its own
// time limit can hit while an input is being minimised, which it then reports
// as a failure without an input. It trusts the checkout that it runs in.
package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"time"
)

func main() {
	var o options
	flag.DurationVar(&o.time, "fuzztime", 10*time.Second, "how long each target runs")
	flag.StringVar(&o.tags, "tags", "", "build tags")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Stdout, o); err != nil {
		fmt.Fprintln(os.Stderr, "fuzz:", err)
		stop()
		os.Exit(1)
	}
}

type options struct {
	time time.Duration
	tags string
}

// target is one fuzz function of a package.
type target struct{ dir, name string }

func run(ctx context.Context, out io.Writer, o options) error {
	targets, err := find(os.DirFS("."))
	if err != nil {
		return err
	}
	if len(targets) == 0 {
		return errors.New("no fuzz target found")
	}
	var failed []string
	for i, t := range targets {
		fmt.Fprintf(out, "[%d/%d] %s %s ", i+1, len(targets), t.dir, t.name)
		start := time.Now()
		log, err := t.run(ctx, o)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case err != nil && !onlyLate(log):
			fmt.Fprintf(out, "FAIL\n%s\n", clip(log))
			failed = append(failed, t.dir+" "+t.name)
		default:
			fmt.Fprintf(out, "ok, %s in %.0f s\n", executions(log), time.Since(start).Seconds())
		}
	}
	fmt.Fprintf(out, "%d passed, %d failed\n", len(targets)-len(failed), len(failed))
	if failed != nil {
		return fmt.Errorf("failed: %s", strings.Join(failed, ", "))
	}
	return nil
}

var fuzzFunc = regexp.MustCompile(`(?m)^func (Fuzz[A-Za-z0-9_]+)\(`)

// find lists all fuzz targets below root, sorted.
func find(root fs.FS) ([]target, error) {
	var ts []target
	err := fs.WalkDir(root, ".", func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && (d.Name() == "testdata" || d.Name() == "out" || path != "." && strings.HasPrefix(d.Name(), ".")):
			return fs.SkipDir
		case d.IsDir() || !strings.HasSuffix(path, "_test.go"):
			return nil
		}
		src, err := fs.ReadFile(root, path)
		for _, m := range fuzzFunc.FindAllSubmatch(src, -1) {
			ts = append(ts, target{"./" + filepath.Dir(path), string(m[1])})
		}
		return err
	})
	slices.SortFunc(ts, func(a, b target) int { return strings.Compare(a.dir+" "+a.name, b.dir+" "+b.name) })
	return ts, err
}

// run fuzzes for the given time. Inputs are minimised by count, since the time
// that go test takes for it by default is longer than the whole run.
func (t target) run(ctx context.Context, o options) (string, error) {
	cmd := exec.CommandContext(ctx, "go", "test", "-tags", o.tags, "-run", "^$", "-fuzz", "^"+t.name+"$",
		"-fuzztime", o.time.String(), "-fuzzminimizetime", "5x", t.dir)
	var log bytes.Buffer
	cmd.Stdout, cmd.Stderr = &log, &log
	err := cmd.Run()
	return log.String(), err
}

// onlyLate tells whether the only thing that went wrong is that the time was
// over while the fuzzer was busy: there is no failing input.
func onlyLate(log string) bool {
	return strings.Contains(log, "context deadline exceeded") &&
		!strings.Contains(log, "Failing input") && !strings.Contains(log, "panic:")
}

var execsField = regexp.MustCompile(`execs: (\d+)`)

func executions(log string) string {
	all := execsField.FindAllStringSubmatch(log, -1)
	if len(all) == 0 {
		return "no executions"
	}
	return all[len(all)-1][1] + " executions"
}

// clip shortens the lines and the whole of a log: failing inputs are long.
func clip(log string) string {
	const maxLine, maxLines = 300, 60
	lines := strings.Split(strings.TrimSpace(log), "\n")
	lines = lines[max(0, len(lines)-maxLines):]
	for i, l := range lines {
		if len(l) > maxLine {
			lines[i] = l[:maxLine] + "…"
		}
	}
	return strings.Join(lines, "\n")
}
