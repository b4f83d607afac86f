// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package lock

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// archiveKeyring is Debian's own, on its systems.
const archiveKeyring = "/usr/share/keyrings/debian-archive-keyring.gpg"

// archive is a release of the distribution, as the package manager sees it.
type archive struct {
	*Locker
	options []string // for the package manager
}

// archive returns where the package of src comes from. The machine's own
// release is used as it is configured; backports get a configuration of their
// own in the cache, one for each architecture, so that nothing of the machine
// changes.
func (l *Locker) archive(ctx context.Context, src source) (*archive, error) {
	a := &archive{Locker: l}
	if !src.backports {
		return a, nil
	}
	out, err := l.Run(ctx, "", "/usr/bin/apt-get", "indextargets", "--format", "$(REPO_URI) $(RELEASE) $(COMPONENT)", "Identifier: Packages")
	if err != nil {
		return nil, err
	}
	line, err := backportsOf(string(out), src.arch)
	if err != nil {
		return nil, err
	}
	dir, err := filepath.Abs(filepath.Join(l.Cache, strings.TrimRight("apt-"+src.arch, "-")))
	if err != nil {
		return nil, err
	}
	list := filepath.Join(dir, "backports.list")
	if err := errors.Join(os.MkdirAll(filepath.Join(dir, "lists", "partial"), 0o755), os.MkdirAll(filepath.Join(dir, "cache"), 0o755), os.WriteFile(list, []byte(line), 0o644)); err != nil {
		return nil, fmt.Errorf("configure the package manager for backports: %w", err)
	}
	options := []string{
		"Dir::Etc::sourcelist=" + list, "Dir::Etc::sourceparts=-", "Dir::State::lists=" + dir + "/lists", "Dir::Cache=" + dir + "/cache",
		"APT::Sandbox::User=root",
	}
	if src.arch != "" {
		options = append(options, "APT::Architecture="+src.arch, "APT::Architectures="+src.arch)
	}
	for _, o := range options {
		a.options = append(a.options, "-o", o)
	}
	l.Progress("read the list of backports")
	_, err = l.Run(ctx, "", "/usr/bin/apt-get", append(a.options, "-q", "update")...)
	return a, err
}

// backportsOf makes the line of a source list for the backports of the release
// that a list of "address release component" names first, for an architecture
// unless that is the machine's.
func backportsOf(targets, arch string) (string, error) {
	for line := range strings.Lines(targets) {
		f := strings.Fields(line)
		if len(f) != 3 || f[2] != "main" || strings.ContainsAny(f[1], "-/") || strings.ContainsAny(line, "[]#") {
			continue
		}
		var options []string
		if arch != "" {
			options = append(options, "arch="+arch)
		}
		if _, err := os.Stat(archiveKeyring); err == nil {
			options = append(options, "signed-by="+archiveKeyring)
		}
		brackets := ""
		if len(options) > 0 {
			brackets = "[" + strings.Join(options, " ") + "] "
		}
		return fmt.Sprintf("deb %s%s %s-backports main\n", brackets, f[0], f[1]), nil
	}
	return "", fmt.Errorf("%w: the package manager names no release: %.200q", ErrInvalid, targets)
}

// current returns the name of the package that the archive has now.
func (a *archive) current(ctx context.Context, src source) (string, error) {
	if src.meta == "" {
		return src.prefix, nil
	}
	a.Progress("resolve %s", src.meta)
	out, err := a.Run(ctx, "", "/usr/bin/apt-cache", append(a.options, "depends", src.meta)...)
	if err != nil {
		return "", err
	}
	return parseDepends(string(out), src)
}

// parseDepends returns the one package of a line "Depends: name".
func parseDepends(out string, src source) (string, error) {
	var names []string
	for line := range strings.Lines(out) {
		if name, ok := strings.CutPrefix(strings.TrimSpace(line), "Depends: "); ok && strings.HasPrefix(name, src.prefix) {
			names = append(names, name)
		}
	}
	if len(names) != 1 || strings.ContainsAny(names[0], "/ <>*?[") {
		return "", fmt.Errorf("%w: package %q depends on %q", ErrInvalid, src.meta, names)
	}
	return names[0], nil
}

// download fetches a package into the cache by way of an empty directory, since
// only that tells what the file is called.
func (a *archive) download(ctx context.Context, name string) (file, sum string, err error) {
	a.Progress("download %s", name)
	if err := os.MkdirAll(a.Cache, 0o755); err != nil {
		return "", "", fmt.Errorf("make the cache: %w", err)
	}
	tmp, err := os.MkdirTemp(a.Cache, ".download-")
	if err != nil {
		return "", "", fmt.Errorf("make a directory in the cache: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(tmp)) }()
	if _, err := a.Run(ctx, tmp, "/usr/bin/apt-get", append(a.options, "-q", "download", name)...); err != nil {
		return "", "", err
	}
	got, err := filepath.Glob(filepath.Join(tmp, name+"_*.deb"))
	if err != nil || len(got) != 1 {
		return "", "", fmt.Errorf("download %q: %d packages arrived, not one: %w", name, len(got), errors.Join(ErrInvalid, err))
	}
	file = filepath.Join(a.Cache, filepath.Base(got[0]))
	if err := os.Rename(got[0], file); err != nil {
		return "", "", fmt.Errorf("keep package %q: %w", name, err)
	}
	sum, err = digest(file)
	return file, sum, err
}
