// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

// Command repro builds the guest and the images of all profiles twice, under
// different circumstances, and compares every byte of what comes out.
//
// The two builds differ in directory and its depth, build cache, umask, user,
// locale, time zone, number of parallel compilers and the time on the files.
// Both use the packages of the same lock file. It is a developer's and CI's tool
// and trusts the checkout that it runs in.
//
// The guest binary for IBM Z takes a C compiler for that processor, which not
// every machine has. In its place rootfs/first stands in the image for Secure
// Execution: a program for that processor from this checkout, which needs none.
package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

func main() {
	cache := flag.String("cache", "", "directory with the kernel package (required)")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Stdout, *cache); err != nil {
		fmt.Fprintln(os.Stderr, "repro:", err)
		os.Exit(1)
	}
}

// variant is one set of circumstances of a build.
type variant struct {
	dir   string // below the scratch directory
	env   []string
	umask int
	uid   int // who makes the images, if root runs this
	mtime time.Time
	jobs  string
}

// lockFile is the name of the lock in a directory of packages.
const lockFile = "kernel.lock.json"

// nobody is a user who owns nothing.
const nobody = 65534

func run(ctx context.Context, out io.Writer, cache string) (err error) {
	if cache == "" {
		return errors.New("--cache is required")
	}
	scratch, err := os.MkdirTemp("", "cocoon-repro-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(scratch)) }()
	variants := []variant{
		{"a", []string{"LC_ALL=C", "TZ=UTC"}, 0o022, 0, time.Unix(1_000_000_000, 0), "2"},
		{"deeper/than/the/first", []string{"LC_ALL=C.UTF-8", "TZ=Asia/Tokyo"}, 0o077, nobody, time.Now(), "5"},
	}
	// Another user has to get through.
	if err := os.Chmod(scratch, 0o711); err != nil {
		return err
	}
	var sums []map[string]string
	for i, v := range variants {
		fmt.Fprintf(out, "build %d of %d in %s (umask %03o, user %d, %s)\n", i+1, len(variants), v.dir, v.umask, v.uid, strings.Join(v.env, " "))
		start := time.Now()
		s, err := v.build(ctx, scratch, cache)
		if err != nil {
			return fmt.Errorf("build %d: %w", i+1, err)
		}
		fmt.Fprintf(out, "  %d files in %.0f s\n", len(s), time.Since(start).Seconds())
		sums = append(sums, s)
	}
	err = compare(out, sums[0], sums[1])
	if err != nil {
		explain(ctx, out, filepath.Join(scratch, variants[0].dir), filepath.Join(scratch, variants[1].dir))
	}
	return err
}

// explain says of each image by file how the two differ.
func explain(ctx context.Context, out io.Writer, one, two string) {
	images, err := filepath.Glob(filepath.Join(one, "out/image/*"))
	if err != nil {
		return // the pattern is fixed
	}
	for _, image := range images {
		other := filepath.Join(two, "out/image", filepath.Base(image))
		text, err := exec.CommandContext(ctx, filepath.Join(one, "out/bin/mkimage"), "diff", image, other).CombinedOutput()
		if err != nil {
			fmt.Fprintf(out, "\n%s:\n%s", filepath.Base(image), text)
		}
	}
}

// build copies the checkout below scratch, builds it there and returns the
// SHA-256 of each file that came out.
func (v variant) build(ctx context.Context, scratch, cache string) (map[string]string, error) {
	dir := filepath.Join(scratch, v.dir)
	syscall.Umask(v.umask)
	if err := copyCheckout(ctx, dir, v.mtime); err != nil {
		return nil, fmt.Errorf("copy the checkout: %w", err)
	}
	// Beside the checkout: go ignores a go.mod in the temporary directory itself.
	tmp := filepath.Join(scratch, "tmp-"+v.jobs)
	if err := os.Mkdir(tmp, 0o700); err != nil {
		return nil, err
	}
	env := append(os.Environ(), v.env...)
	env = append(env, "GOCACHE="+filepath.Join(scratch, "cache-"+v.jobs), "GOMAXPROCS="+v.jobs, "TMPDIR="+tmp)
	cmd := exec.CommandContext(ctx, "make", "build")
	cmd.Dir, cmd.Env = dir, env
	if log, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("make build: %w\n%s", err, log)
	}
	if err := buildForZ(ctx, dir, env); err != nil {
		return nil, err
	}
	if err := v.images(ctx, dir, filepath.Join(scratch, "packages-"+v.jobs), cache, env); err != nil {
		return nil, err
	}
	return digests(filepath.Join(dir, "out"))
}

// programForZ stands for the guest binary for IBM Z.
const programForZ = "out/bin/first-s390x"

// buildForZ builds it.
func buildForZ(ctx context.Context, dir string, env []string) error {
	cmd := exec.CommandContext(ctx, "go", "build", "-buildvcs=false", "-trimpath", "-ldflags", "-s -w -buildid=", "-o", programForZ, "./rootfs/first")
	cmd.Dir, cmd.Env = dir, append(slices.Clone(env), "CGO_ENABLED=0", "GOOS=linux", "GOARCH=s390x")
	if log, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build %s: %w\n%s", programForZ, err, log)
	}
	return nil
}

// images makes the images of all profiles, as the variant's user.
func (v variant) images(ctx context.Context, dir, packages, cache string, env []string) error {
	mkimage := func(asUser bool, args ...string) ([]byte, error) {
		cmd := exec.CommandContext(ctx, filepath.Join(dir, "out/bin/mkimage"), args...)
		cmd.Dir, cmd.Env = dir, append(env, "TMPDIR="+packages)
		if asUser && os.Geteuid() == 0 {
			cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(v.uid), Gid: uint32(v.uid)}}
		}
		var log bytes.Buffer
		cmd.Stderr = &log
		list, err := cmd.Output()
		if err != nil {
			return nil, fmt.Errorf("mkimage %s: %w\n%s", strings.Join(args, " "), err, &log)
		}
		return list, nil
	}
	list, err := mkimage(false, "profiles")
	if err != nil {
		return err
	}
	var profiles []string
	for line := range strings.Lines(string(list)) {
		profiles = append(profiles, strings.Fields(line)[0])
	}
	for _, p := range profiles {
		if _, err := mkimage(false, "lock", "--profile", p, "--cache", cache, "--lock", filepath.Join(cache, lockFile), "--renew-gone"); err != nil {
			return err
		}
	}
	if err := errors.Join(copyPackages(cache, packages), own(packages, v.uid), own(dir, v.uid)); err != nil {
		return err
	}
	for up := filepath.Dir(dir); filepath.Base(up) != filepath.Base(filepath.Dir(packages)); up = filepath.Dir(up) {
		if err := os.Chmod(up, 0o711); err != nil {
			return err
		}
	}
	for _, p := range profiles {
		dump, err := mkimage(false, "profiles", p)
		if err != nil {
			return err
		}
		binary := "out/bin/cocoon"
		if bytes.Contains(dump, []byte("\narch: s390x\n")) {
			binary = programForZ
		}
		if _, err := mkimage(true, "build", "--profile", p, "--lock", filepath.Join(packages, lockFile), "--binary", binary, "--first", "out/bin/first", "--out", "out/image/"+p); err != nil {
			return err
		}
	}
	return nil
}

// copyPackages copies the lock and the packages beside it.
func copyPackages(from, to string) error {
	files, err := filepath.Glob(filepath.Join(from, "*.deb"))
	if err != nil {
		return err
	}
	for _, f := range append(files, filepath.Join(from, lockFile)) {
		if err := copyFile(f, filepath.Join(to, filepath.Base(f)), time.Now()); err != nil {
			return err
		}
	}
	return nil
}

// own gives a directory and what is in it to a user, if root runs this.
func own(dir string, uid int) error {
	if os.Geteuid() != 0 {
		return nil
	}
	return filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return os.Lchown(path, uid, uid)
	})
}

// copyCheckout copies the files that git tracks or would track.
func copyCheckout(ctx context.Context, dir string, mtime time.Time) error {
	list, err := exec.CommandContext(ctx, "git", "ls-files", "-z", "--cached", "--others", "--exclude-standard").Output()
	if err != nil {
		return fmt.Errorf("git ls-files: %w", err)
	}
	for name := range strings.SplitSeq(strings.TrimRight(string(list), "\x00"), "\x00") {
		if err := copyFile(name, filepath.Join(dir, name), mtime); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

func copyFile(from, to string, mtime time.Time) error {
	b, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(to), 0o777); err != nil {
		return err
	}
	if err := os.WriteFile(to, b, 0o777); err != nil {
		return err
	}
	return os.Chtimes(to, mtime, mtime)
}

func digests(root string) (map[string]string, error) {
	sums := map[string]string{}
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		h := sha256.New()
		_, err = io.Copy(h, f)
		if err := errors.Join(err, f.Close()); err != nil {
			return err
		}
		rel, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		sums[rel] = hex.EncodeToString(h.Sum(nil))
		return nil
	})
	return sums, err
}

func compare(out io.Writer, a, b map[string]string) error {
	names := map[string]bool{}
	for n := range a {
		names[n] = true
	}
	for n := range b {
		names[n] = true
	}
	sorted := make([]string, 0, len(names))
	for n := range names {
		sorted = append(sorted, n)
	}
	slices.Sort(sorted)
	var differ []string
	for _, n := range sorted {
		same := "same"
		if a[n] != b[n] {
			same = "DIFFERS"
			differ = append(differ, n)
		}
		fmt.Fprintf(out, "%-8s%.16s  %s\n", same, a[n], n)
	}
	if len(sorted) == 0 {
		return errors.New("the builds made no file")
	}
	if differ != nil {
		return fmt.Errorf("not reproducible: %s", strings.Join(differ, ", "))
	}
	return nil
}
