// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strings"
	"unicode/utf8"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"cocoon/internal/bounded"
	"cocoon/internal/safepath"
)

const (
	sealedPrefix = "sealed."

	// maxSealed bounds a sealed secret in a file; Kubernetes allows 1 MiB for a
	// Secret as a whole.
	maxSealed = 1 << 20

	// maxSealedEntries bounds the entries of a volume that are looked at.
	maxSealedEntries = 4096
)

// unsealEnv replaces sealed values in env. The error names the variable, never
// its value.
func (s *sandbox) unsealEnv(ctx context.Context, env []string) error {
	for i, e := range env {
		name, value, _ := strings.Cut(e, "=")
		if !strings.HasPrefix(value, sealedPrefix) {
			continue
		}
		plain, err := s.unseal(ctx, []byte(value))
		if err != nil {
			return fmt.Errorf("environment variable %q: %w", name, err)
		}
		if !utf8.Valid(plain) || bytes.IndexByte(plain, 0) >= 0 {
			return fmt.Errorf("environment variable %q: %w: the secret is no text", name, ErrSealed)
		}
		env[i] = name + "=" + string(plain)
	}
	return nil
}

func (s *sandbox) unseal(ctx context.Context, sealed []byte) ([]byte, error) {
	if s.unsealer == nil {
		return nil, fmt.Errorf("%w: this guest has no unsealer", ErrSealed)
	}
	plain, err := s.unsealer.UnsealSecret(ctx, sealed)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrSealed, err)
	}
	return plain, nil
}

// unsealFiles replaces sealed secrets in the files that a container gets from
// the shared directory: the mounted file itself, or the entries of a mounted
// directory. An entry that is a link to a sealed file becomes a file with the
// plain text.
func (s *sandbox) unsealFiles(ctx context.Context, mounts []specs.Mount) error {
	for i := range mounts {
		m := &mounts[i]
		if !isBind(m) || !below(s.paths.Shared, m.Source) || neverSealed(m.Source) {
			continue
		}
		if err := s.unsealSource(ctx, m.Source); err != nil {
			return fmt.Errorf("mount %q: %w", m.Destination, err)
		}
	}
	return nil
}

// neverSealed names the files that the kubelet makes itself.
func neverSealed(source string) bool {
	for _, end := range []string{"resolv.conf", "termination-log", "hostname", "hosts", "serviceaccount"} {
		if strings.HasSuffix(source, end) {
			return true
		}
	}
	return false
}

func (s *sandbox) unsealSource(ctx context.Context, source string) (err error) {
	root, err := safepath.OpenRoot(s.paths.Shared)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, root.Close()) }()
	rel := strings.TrimPrefix(source, s.paths.Shared+"/")
	dir, err := root.Open(rel, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NONBLOCK, 0)
	if errors.Is(err, unix.ENOTDIR) {
		return s.unsealEntry(ctx, root, rel)
	}
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, dir.Close()) }()
	names, err := dir.Readdirnames(maxSealedEntries + 1)
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	if len(names) > maxSealedEntries {
		return fmt.Errorf("more than %d entries to look for sealed secrets in: %w", maxSealedEntries, ErrInvalid)
	}
	for _, name := range names {
		if err := s.unsealEntry(ctx, root, path.Join(rel, name)); err != nil {
			return err
		}
	}
	return nil
}

// unsealEntry opens one entry if it is a sealed file, or a link to one.
func (s *sandbox) unsealEntry(ctx context.Context, root *safepath.Root, rel string) error {
	sealed, st, err := readSealed(root, rel)
	if err != nil || sealed == nil {
		return err
	}
	plain, err := s.unseal(ctx, sealed)
	if err != nil {
		return fmt.Errorf("file %q: %w", rel, err)
	}
	file, err := replaceFile(root, rel, plain, st)
	if err != nil {
		return fmt.Errorf("replace sealed file %q: %w", rel, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.opened[file] = struct{}{}
	return nil
}

// fileID tells a file from all others, whatever its names.
type fileID struct{ dev, ino uint64 }

// wasSealed reports whether an open file holds a secret that was opened here.
// The host, which may have copied the sealed text itself, must not read it.
func (s *sandbox) wasSealed(fd int) (bool, error) {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return false, fmt.Errorf("look at file: %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	_, ok := s.opened[fileID{st.Dev, st.Ino}]
	return ok, nil
}

// readSealed returns the content of a sealed file, or nil if rel is anything
// else.
func readSealed(root *safepath.Root, rel string) (_ []byte, st unix.Stat_t, err error) {
	f, err := root.Open(rel, unix.O_RDONLY|unix.O_NONBLOCK, 0)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ELOOP) || errors.Is(err, unix.ENXIO) {
		return nil, st, nil // a link to nothing, or a socket
	}
	if err != nil {
		return nil, st, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return nil, st, err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return nil, st, nil
	}
	head := make([]byte, len(sealedPrefix))
	if _, err := io.ReadFull(f, head); err != nil {
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return nil, st, nil
		}
		return nil, st, err
	}
	if string(head) != sealedPrefix {
		return nil, st, nil
	}
	rest, err := bounded.ReadAll(f, maxSealed)
	if err != nil {
		return nil, st, fmt.Errorf("%w: %w", ErrSealed, err)
	}
	return append(head, bytes.TrimSpace(rest)...), st, nil
}

// replaceFile puts a file with the owner and mode of st in place of rel, and
// says which it is.
func replaceFile(root *safepath.Root, rel string, data []byte, st unix.Stat_t) (id fileID, err error) {
	dir, base, err := root.OpenParent(rel)
	if err != nil {
		return id, err
	}
	defer func() { err = errors.Join(err, dir.Close()) }()
	dfd := int(dir.Fd())
	temp := ".unsealed-" + base[:min(len(base), 200)]
	if err := unix.Unlinkat(dfd, temp, 0); err != nil && !errors.Is(err, unix.ENOENT) {
		return id, err
	}
	fd, err := unix.Openat(dfd, temp, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return id, err
	}
	f := os.NewFile(uintptr(fd), temp)
	_, err = f.Write(data)
	if err == nil {
		err = unix.Fchown(fd, int(st.Uid), int(st.Gid))
	}
	if err == nil {
		err = unix.Fchmod(fd, st.Mode&0o7777)
	}
	if err == nil {
		err = unix.Fstat(fd, &st)
	}
	err = errors.Join(err, f.Close())
	if err == nil {
		err = unix.Renameat(dfd, temp, dfd, base)
	}
	if err != nil {
		return id, errors.Join(err, unix.Unlinkat(dfd, temp, 0))
	}
	return fileID{st.Dev, st.Ino}, nil
}
