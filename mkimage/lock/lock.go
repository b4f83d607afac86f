// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

// Package lock pins the packages that images are built from: it finds the
// distribution's current one for each role, fetches it, and records its digest.
// From then on no other bytes are accepted until the lock is renewed on purpose.
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
const Schema = "cocoon.lock/2"

// KernelMeta is the Debian package that depends on the current cloud kernel;
// the name of that one changes with security updates.
const KernelMeta = "linux-image-cloud-amd64"

// KernelMetaS390x is that package for IBM Z, which has one kernel for all.
const KernelMetaS390x = "linux-image-s390x"

// Role names what a package is for.
type Role string

// The roles that profiles ask for.
const (
	// Kernel is the kernel of the machine's own release.
	Kernel Role = "kernel"
	// KernelTEE is the one of its backports: drivers of SEV-SNP and TDX guests
	// came with Linux 6.12.
	KernelTEE Role = "kernel-tee"
	// KernelS390x is the kernel of the backports for IBM Z.
	KernelS390x Role = "kernel-s390x"
	// Stub is systemd's, with which unified kernel images begin.
	Stub Role = "stub"
)

// StubPackage is the Debian package with the stub.
const StubPackage = "systemd-boot-efi"

// source is where the package of a role comes from.
type source struct {
	// meta depends on the one package whose name begins with prefix. It is empty
	// if the package is called prefix itself.
	meta, prefix string
	backports    bool
	// arch is the package's architecture, that of the machine if empty. Another
	// one is only looked for in the backports.
	arch string
}

func (r Role) source() (source, error) {
	switch r {
	case Kernel:
		return source{meta: KernelMeta, prefix: "linux-image-"}, nil
	case KernelTEE:
		return source{meta: KernelMeta, prefix: "linux-image-", backports: true}, nil
	case KernelS390x:
		return source{meta: KernelMetaS390x, prefix: "linux-image-", backports: true, arch: "s390x"}, nil
	case Stub:
		return source{prefix: StubPackage}, nil
	}
	return source{}, fmt.Errorf("%w: no package has the role %.40q", ErrInvalid, r)
}

// names tells whether a package may have the role.
func (s source) names(name string) bool {
	if s.meta == "" {
		return name == s.prefix
	}
	return strings.HasPrefix(name, s.prefix)
}

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

// Lock is the content of the lock file: a package for each role that was asked
// for so far.
type Lock struct {
	Schema   string           `json:"schema"`
	Packages map[Role]Package `json:"packages"`
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

// Package returns the path of the package of a role. If lockFile names one, and
// renew is false, it is that one; otherwise it is the archive's current one,
// and lockFile names it from then on.
func (l *Locker) Package(ctx context.Context, lockFile string, r Role, renew bool) (string, Package, error) {
	src, err := r.source()
	if err != nil {
		return "", Package{}, err
	}
	k, err := Read(lockFile)
	if errors.Is(err, os.ErrNotExist) {
		k, err = &Lock{Schema: Schema, Packages: map[Role]Package{}}, nil
	}
	if err != nil {
		return "", Package{}, err
	}
	if p, ok := k.Packages[r]; ok && !renew {
		file, err := l.locked(ctx, src, p)
		return file, p, err
	}
	a, err := l.archive(ctx, src)
	if err != nil {
		return "", Package{}, err
	}
	name, err := a.current(ctx, src)
	if err != nil {
		return "", Package{}, err
	}
	file, sum, err := a.download(ctx, name)
	if err != nil {
		return "", Package{}, err
	}
	p := Package{Name: name, File: filepath.Base(file), SHA256: sum}
	k.Packages[r] = p
	return file, p, write(lockFile, k)
}

// locked returns the path of p, from the cache if it is there.
func (l *Locker) locked(ctx context.Context, src source, p Package) (string, error) {
	file := filepath.Join(l.Cache, p.File)
	sum, err := digest(file)
	if errors.Is(err, os.ErrNotExist) {
		file, sum, err = l.fetchLocked(ctx, src, p)
	}
	if err != nil {
		return "", err
	}
	if sum != p.SHA256 {
		return "", fmt.Errorf("%w: %q has sha256 %s, locked is %s", ErrDigest, file, sum, p.SHA256)
	}
	return file, nil
}

// fetchLocked downloads p, if the archive still has it.
func (l *Locker) fetchLocked(ctx context.Context, src source, p Package) (file, sum string, err error) {
	a, err := l.archive(ctx, src)
	if err != nil {
		return "", "", err
	}
	file, sum, err = a.download(ctx, p.Name)
	if err == nil && filepath.Base(file) != p.File {
		return "", "", fmt.Errorf("%w: it has %q, locked is %q: renew the lock", ErrGone, filepath.Base(file), p.File)
	}
	if err != nil {
		// No network is no reason to take another package.
		if name, nameErr := a.current(ctx, src); nameErr == nil && name != p.Name {
			err = fmt.Errorf("%w: it has %q, locked is %q: renew the lock: %w", ErrGone, name, p.Name, err)
		}
	}
	return file, sum, err
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
	if k.Schema != Schema {
		return nil, fmt.Errorf("%w: schema %q, not %q: remove the file to have it made anew", ErrInvalid, k.Schema, Schema)
	}
	if k.Packages == nil {
		return nil, fmt.Errorf("%w: it has no packages", ErrInvalid)
	}
	for r, p := range k.Packages {
		if err := p.check(r); err != nil {
			return nil, err
		}
	}
	return &k, nil
}

func (p Package) check(r Role) error {
	src, err := r.source()
	if err != nil {
		return err
	}
	sum, err := hex.DecodeString(p.SHA256)
	if err != nil || len(sum) != sha256.Size || filepath.Base(p.File) != p.File ||
		!strings.HasPrefix(p.File, p.Name+"_") || !src.names(p.Name) {
		return fmt.Errorf("%w: %s is package %q, file %q, digest %q", ErrInvalid, r, p.Name, p.File, p.SHA256)
	}
	return nil
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
