// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

// Package lock pins the guest kernel: it finds the distribution's current
// kernel package, fetches it, and records its digest. From then on no other
// bytes are accepted until the lock is renewed on purpose.
package lock

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// Schema is the version of the lock file.
const Schema = "cocoon.lock/1"

// KernelMeta is the Debian package that depends on the current cloud kernel;
// the name of that one changes with security updates.
const KernelMeta = "linux-image-cloud-amd64"

var (
	// ErrDigest means that a package is not the one that was locked.
	ErrDigest = errors.New("package differs from the lock")
	// ErrGone means that the locked package is neither in the cache nor in the
	// archive any more.
	ErrGone = errors.New("the locked package has left the archive")
	// ErrInvalid is wrapped by errors about the lock file and about names that
	// the package manager answers.
	ErrInvalid = errors.New("invalid lock")
)

// Lock is the content of the lock file.
type Lock struct {
	Schema string  `json:"schema"`
	Kernel Package `json:"kernel"`
}

// Package is one pinned package.
type Package struct {
	Name   string `json:"name"`
	File   string `json:"file"`
	SHA256 string `json:"sha256"`
}

// Command runs a program and returns its standard output; dir is its working
// directory.
type Command func(ctx context.Context, dir, program string, args ...string) ([]byte, error)

// Locker resolves, fetches and checks packages.
type Locker struct {
	// Run runs the package manager. RunCommand is the real one.
	Run Command
	// Cache is the directory in which packages are kept.
	Cache string
	// Progress is told what is being done.
	Progress func(format string, args ...any)
}

// Kernel returns the path of the kernel package. If lockFile exists, and renew
// is false, it is the package that is locked there; otherwise it is the current
// one, and lockFile is written.
func (l *Locker) Kernel(ctx context.Context, lockFile string, renew bool) (string, *Lock, error) {
	k, err := Read(lockFile)
	if err == nil && !renew {
		file, err := l.locked(ctx, k.Kernel)
		return file, k, err
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return "", nil, err
	}
	name, err := l.current(ctx)
	if err != nil {
		return "", nil, err
	}
	file, sum, err := l.download(ctx, name)
	if err != nil {
		return "", nil, err
	}
	k = &Lock{Schema: Schema, Kernel: Package{Name: name, File: filepath.Base(file), SHA256: sum}}
	return file, k, write(lockFile, k)
}

// current returns the name of the kernel package that the archive has now.
func (l *Locker) current(ctx context.Context) (string, error) {
	l.Progress("resolve %s", KernelMeta)
	out, err := l.Run(ctx, "", "/usr/bin/apt-cache", "depends", KernelMeta)
	if err != nil {
		return "", err
	}
	return parseDepends(string(out))
}

// locked returns the path of p, from the cache if it is there.
func (l *Locker) locked(ctx context.Context, p Package) (string, error) {
	file := filepath.Join(l.Cache, p.File)
	sum, err := digest(file)
	if errors.Is(err, os.ErrNotExist) {
		if file, sum, err = l.download(ctx, p.Name); err == nil && filepath.Base(file) != p.File {
			return "", fmt.Errorf("%w: it has %q, locked is %q: renew the lock", ErrGone, filepath.Base(file), p.File)
		}
		if err != nil {
			// No network is no reason to take another kernel.
			if name, nameErr := l.current(ctx); nameErr == nil && name != p.Name {
				err = fmt.Errorf("%w: it has %q, locked is %q: renew the lock: %w", ErrGone, name, p.Name, err)
			}
		}
	}
	if err != nil {
		return "", err
	}
	if sum != p.SHA256 {
		return "", fmt.Errorf("%w: %q has sha256 %s, locked is %s", ErrDigest, file, sum, p.SHA256)
	}
	return file, nil
}

// download fetches a package into the cache by way of an empty directory, since
// only that tells what the file is called.
func (l *Locker) download(ctx context.Context, name string) (file, sum string, err error) {
	l.Progress("download %s", name)
	if err := os.MkdirAll(l.Cache, 0o755); err != nil {
		return "", "", fmt.Errorf("make the cache: %w", err)
	}
	tmp, err := os.MkdirTemp(l.Cache, ".download-")
	if err != nil {
		return "", "", fmt.Errorf("make a directory in the cache: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(tmp)) }()
	if _, err := l.Run(ctx, tmp, "/usr/bin/apt-get", "-q", "download", name); err != nil {
		return "", "", err
	}
	got, err := filepath.Glob(filepath.Join(tmp, name+"_*.deb"))
	if err != nil || len(got) != 1 {
		return "", "", fmt.Errorf("download %q: %d packages arrived, not one: %w", name, len(got), errors.Join(ErrInvalid, err))
	}
	file = filepath.Join(l.Cache, filepath.Base(got[0]))
	if err := os.Rename(got[0], file); err != nil {
		return "", "", fmt.Errorf("keep package %q: %w", name, err)
	}
	sum, err = digest(file)
	return file, sum, err
}

// parseDepends returns the one package of a line "Depends: name".
func parseDepends(out string) (string, error) {
	var names []string
	for line := range strings.Lines(out) {
		if name, ok := strings.CutPrefix(strings.TrimSpace(line), "Depends: "); ok && strings.HasPrefix(name, "linux-image-") {
			names = append(names, name)
		}
	}
	if len(names) != 1 || strings.ContainsAny(names[0], "/ <>*?[") {
		return "", fmt.Errorf("%w: package %q depends on the kernels %q", ErrInvalid, KernelMeta, names)
	}
	return names[0], nil
}

// Read reads a lock file. The error wraps os.ErrNotExist if there is none.
func Read(file string) (*Lock, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("read the lock: %w", err)
	}
	k, err := parse(b)
	if err != nil {
		return nil, fmt.Errorf("read the lock %q: %w", file, err)
	}
	return k, nil
}

func parse(b []byte) (*Lock, error) {
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.DisallowUnknownFields()
	var k Lock
	if err := dec.Decode(&k); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	p := k.Kernel
	sum, err := hex.DecodeString(p.SHA256)
	if k.Schema != Schema || err != nil || len(sum) != sha256.Size || filepath.Base(p.File) != p.File ||
		!strings.HasPrefix(p.File, p.Name+"_") || !strings.HasPrefix(p.Name, "linux-image-") {
		return nil, fmt.Errorf("%w: schema %q, package %q, file %q, digest %q", ErrInvalid, k.Schema, p.Name, p.File, p.SHA256)
	}
	return &k, nil
}

func write(file string, k *Lock) error {
	b, err := json.MarshalIndent(k, "", "  ")
	if err != nil {
		return fmt.Errorf("encode the lock: %w", err)
	}
	if err := os.WriteFile(file, append(b, '\n'), 0o644); err != nil {
		return fmt.Errorf("write the lock: %w", err)
	}
	return nil
}

func digest(file string) (sum string, err error) {
	f, err := os.Open(file)
	if err != nil {
		return "", fmt.Errorf("open package: %w", err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", fmt.Errorf("read package %q: %w", file, err)
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// RunCommand runs a program without a terminal. What it writes to standard
// error becomes part of the error.
func RunCommand(ctx context.Context, dir, program string, args ...string) ([]byte, error) {
	var stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Dir, cmd.Stderr = dir, &stderr
	cmd.Env = append(os.Environ(), "LC_ALL=C", "DEBIAN_FRONTEND=noninteractive")
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("run %s %s: %w: %s", program, strings.Join(args, " "), err, bytes.TrimSpace(stderr.Bytes()))
	}
	return out, nil
}
