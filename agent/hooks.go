// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

const (
	// hookLimit is how long a hook may take that names no limit, in seconds.
	hookLimit = 10

	// maxHooks bounds the hooks of one kind.
	maxHooks = 64
)

// guestHooks are programs of the image that run for every container of the
// sandbox.
type guestHooks struct{ prestart, poststart, poststop []specs.Hook }

// scanHooks lists the programs in the sub-directories prestart, poststart and
// poststop of dir, by name. A sub-directory that is not there is empty; dir
// itself has to be there. Symbolic links and what is not executable are left
// out, as upstream does.
func scanHooks(dir string, isOurs func(string) error) (guestHooks, error) {
	var h guestHooks
	if !filepath.IsAbs(dir) || filepath.Clean(dir) != dir {
		return h, fmt.Errorf("guest hooks in %q: the path is not absolute and clean: %w", dir, ErrInvalid)
	}
	if st, err := os.Stat(dir); err != nil {
		return h, fmt.Errorf("guest hooks: %w", err)
	} else if !st.IsDir() {
		return h, fmt.Errorf("guest hooks in %q, which is no directory: %w", dir, ErrInvalid)
	}
	for kind, to := range map[string]*[]specs.Hook{"prestart": &h.prestart, "poststart": &h.poststart, "poststop": &h.poststop} {
		list, err := os.ReadDir(filepath.Join(dir, kind))
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return guestHooks{}, fmt.Errorf("guest hooks: %w", err)
		}
		for _, e := range list {
			if !e.Type().IsRegular() {
				continue
			}
			info, err := e.Info()
			if err != nil {
				return guestHooks{}, fmt.Errorf("guest hooks: %w", err)
			}
			if info.Mode().Perm()&0o111 == 0 {
				continue
			}
			path := filepath.Join(dir, kind, e.Name())
			if err := isOurs(path); err != nil {
				return guestHooks{}, err
			}
			*to = append(*to, specs.Hook{Path: path, Args: []string{e.Name(), kind}})
		}
		if len(*to) > maxHooks {
			return guestHooks{}, fmt.Errorf("%d guest hooks of kind %s: %w", len(*to), kind, ErrInvalid)
		}
	}
	return h, nil
}

// addHooks checks a specification's hooks and adds those of the guest behind
// them. Hooks that run outside of the container act as the agent does, so they
// have to be programs of the measured image, whatever the policy says: every
// other file of the guest may be the host's. One that runs in the container
// may be any of its files.
func addHooks(spec *specs.Spec, guest guestHooks, isOurs func(string) error) error {
	h := spec.Hooks
	if h == nil {
		h = &specs.Hooks{}
	}
	//nolint:staticcheck // shims and the specification's users still have the kind that is deprecated
	outside := map[string][]specs.Hook{
		"prestart": h.Prestart, "createRuntime": h.CreateRuntime, "createContainer": h.CreateContainer,
		"poststart": h.Poststart, "poststop": h.Poststop,
	}
	for kind, list := range outside {
		for _, hook := range list {
			if err := isOurs(hook.Path); err != nil {
				return fmt.Errorf("%s hook: %w", kind, err)
			}
		}
	}
	h.Prestart = append(h.Prestart, guest.prestart...) //nolint:staticcheck // as above
	h.Poststart = append(h.Poststart, guest.poststart...)
	h.Poststop = append(h.Poststop, guest.poststop...)
	//nolint:staticcheck // as above
	for _, list := range []*[]specs.Hook{&h.Prestart, &h.CreateRuntime, &h.CreateContainer, &h.StartContainer, &h.Poststart, &h.Poststop} {
		if len(*list) > maxHooks {
			return fmt.Errorf("%d hooks of one kind: %w", len(*list), ErrInvalid)
		}
		*list = limitHooks(*list)
	}
	spec.Hooks = h
	return nil
}

// limitHooks gives hooks without a limit in time the usual one.
func limitHooks(list []specs.Hook) []specs.Hook {
	list = slices.Clone(list)
	for i := range list {
		if list[i].Timeout == nil {
			list[i].Timeout = new(hookLimit)
		}
	}
	return list
}

// isImageFile returns an error unless path leads to an executable file of the
// guest's own image: on the file system of the image, no step of the way on
// another, and nothing that the host fills.
func (p Paths) isImageFile(path string) error {
	if !filepath.IsAbs(path) || filepath.Clean(path) != path || below(p.Run, path) {
		return fmt.Errorf("program %q is not part of the guest's image: %w", path, ErrInvalid)
	}
	rel, err := filepath.Rel(p.Image, path)
	if err != nil || !filepath.IsLocal(rel) {
		return fmt.Errorf("program %q is not part of the guest's image: %w", path, ErrInvalid)
	}
	root, err := os.Open(p.Image)
	if err != nil {
		return fmt.Errorf("open the guest's image: %w", err)
	}
	fd, err := unix.Openat2(int(root.Fd()), rel, &unix.OpenHow{
		Flags:   unix.O_PATH | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_XDEV | unix.RESOLVE_NO_MAGICLINKS,
	})
	if err = errors.Join(err, root.Close()); err != nil {
		return fmt.Errorf("program %q is not part of the guest's image: %w: %w", path, ErrInvalid, err)
	}
	var st unix.Stat_t
	if err := errors.Join(unix.Fstat(fd, &st), unix.Close(fd)); err != nil {
		return fmt.Errorf("look at program %q: %w", path, err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG || st.Mode&0o111 == 0 {
		return fmt.Errorf("%q is not an executable file: %w", path, ErrInvalid)
	}
	return nil
}
