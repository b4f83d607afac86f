// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package store

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"cocoon/internal/safepath"
)

// maxOption is the longest value that fsconfig(2) takes, without its NUL.
const maxOption = 255

// mounted is one container root.
type mounted struct {
	name   string // below overlayDir, holds upperdir and workdir
	layers []*Layer
}

// Mount mounts the layers, bottom first, with a writable directory of their
// own at target, an existing directory. On success the store owns the
// references; Unmount gives them back. On failure they stay with the caller.
func (s *Store) Mount(target string, layers []*Layer) (err error) {
	m := &mounted{name: s.number(), layers: layers}
	s.mu.Lock()
	_, taken := s.mounts[target]
	if !taken {
		s.mounts[target] = m
	}
	s.mu.Unlock()
	if taken {
		return fmt.Errorf("mount at %q: %w", target, ErrInUse)
	}
	defer func() {
		if err != nil {
			s.mu.Lock()
			delete(s.mounts, target)
			s.mu.Unlock()
			err = errors.Join(err, safepath.RemoveAll(s.dirs[overlayDir], m.name))
		}
	}()
	o := overlay{target: target}
	for _, name := range lowers(layers) {
		o.lower = append(o.lower, filepath.Join(s.dir, layersDir, name))
	}
	if o.upper, o.work, err = s.makeUpper(m.name, o.lower[0]); err != nil {
		return err
	}
	if err := o.mount(); err != nil {
		return fmt.Errorf("mount overlay of %d layers at %q: %w", len(o.lower), target, err)
	}
	return nil
}

// lowers returns the names of the directories to stack, topmost first. Of a
// layer that occurs twice the topmost stays, which hides its lower copy; an
// opaque layer ends the list.
func lowers(layers []*Layer) []string {
	seen := map[string]bool{}
	var names []string
	for i := len(layers) - 1; i >= 0; i-- {
		if name := layers[i].entry.name; !seen[name] {
			seen[name] = true
			names = append(names, name)
		}
		if layers[i].Opaque {
			break
		}
	}
	return names
}

// makeUpper makes the writable directories. The root of the container shows
// owner and mode of the upper one, so these are taken from the topmost layer.
func (s *Store) makeUpper(name, top string) (upper, work string, err error) {
	var st unix.Stat_t
	if err := unix.Lstat(top, &st); err != nil {
		return "", "", fmt.Errorf("look up layer: %w", err)
	}
	base := filepath.Join(s.dir, overlayDir, name)
	upper, work = filepath.Join(base, "upperdir"), filepath.Join(base, "workdir")
	for _, d := range []string{base, upper, work} {
		if err := unix.Mkdir(d, 0o700); err != nil {
			return "", "", fmt.Errorf("make %q: %w", d, err)
		}
	}
	if err := unix.Chown(upper, int(st.Uid), int(st.Gid)); err != nil {
		return "", "", fmt.Errorf("change owner of %q: %w", upper, err)
	}
	if err := unix.Chmod(upper, st.Mode&0o7777); err != nil {
		return "", "", fmt.Errorf("change mode of %q: %w", upper, err)
	}
	return upper, work, nil
}

// Unmount unmounts target, removes what was written there, and gives the
// references to its layers back. Files that are still open keep working
// until they are closed.
func (s *Store) Unmount(target string) error {
	s.mu.Lock()
	m := s.mounts[target]
	s.mu.Unlock()
	if m == nil {
		return fmt.Errorf("unmount %q: %w", target, ErrNotMounted)
	}
	err := unix.Unmount(target, unix.UMOUNT_NOFOLLOW)
	if errors.Is(err, unix.EBUSY) {
		err = unix.Unmount(target, unix.UMOUNT_NOFOLLOW|unix.MNT_DETACH)
	}
	// EINVAL: somebody unmounted it already; the references must go still.
	if err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("unmount %q: %w", target, err)
	}
	s.mu.Lock()
	first := s.mounts[target] == m
	delete(s.mounts, target)
	s.mu.Unlock()
	if !first {
		return nil // another call was faster
	}
	for _, l := range m.layers {
		l.Put()
	}
	return safepath.RemoveAll(s.dirs[overlayDir], m.name)
}

// overlay is one overlay mount.
type overlay struct {
	target, upper, work string
	lower               []string // topmost first
}

// mount tries the mount API that takes layers one by one and has no limit of
// one page, and falls back to the older one where the kernel lacks it.
func (o *overlay) mount() error {
	err := o.mountByConfig()
	if errors.Is(err, errNoConfig) {
		return o.mountByDescriptor()
	}
	return err
}

// errNoConfig is returned when overlayfs cannot be set up option by option.
var errNoConfig = errors.New("kernel does not take overlay layers one by one")

func (o *overlay) mountByConfig() (err error) {
	for _, p := range append([]string{o.upper, o.work}, o.lower...) {
		if len(p) > maxOption {
			return errNoConfig
		}
	}
	fs, err := unix.Fsopen("overlay", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return fmt.Errorf("%w: %w", errNoConfig, err)
	}
	defer func() { err = errors.Join(err, unix.Close(fs)) }()
	for _, l := range o.lower {
		if err := unix.FsconfigSetString(fs, "lowerdir+", l); err != nil {
			return notTaken("add layer", err)
		}
	}
	for _, opt := range [][2]string{{"upperdir", o.upper}, {"workdir", o.work}} {
		if err := unix.FsconfigSetString(fs, opt[0], opt[1]); err != nil {
			return notTaken("set "+opt[0], err)
		}
	}
	if err := unix.FsconfigCreate(fs); err != nil {
		return notTaken("create file system", err)
	}
	mnt, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("make mount: %w", err)
	}
	defer func() { err = errors.Join(err, unix.Close(mnt)) }()
	return unix.MoveMount(mnt, "", unix.AT_FDCWD, o.target, unix.MOVE_MOUNT_F_EMPTY_PATH)
}

// notTaken tells a kernel without this way of setting up overlayfs from other
// errors. Some do not know the option, and say so at once; others collect every
// option as text, and say so when the text outgrows a page or is looked at in
// the end. All of them answer EINVAL.
func notTaken(doing string, err error) error {
	if errors.Is(err, unix.EINVAL) {
		return fmt.Errorf("%s: %w: %w", doing, errNoConfig, err)
	}
	return fmt.Errorf("%s: %w", doing, err)
}

// mountByDescriptor passes descriptors instead of paths: all options together
// must fit in one page, and paths may hold the characters that separate them.
func (o *overlay) mountByDescriptor() (err error) {
	var open []*os.File
	defer func() {
		for _, f := range open {
			err = errors.Join(err, f.Close())
		}
	}()
	path := func(dir string) (string, error) {
		f, err := os.OpenFile(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
		if err != nil {
			return "", err
		}
		open = append(open, f)
		return "/proc/self/fd/" + strconv.Itoa(int(f.Fd())), nil
	}
	var lower []string
	for _, l := range o.lower {
		p, err := path(l)
		if err != nil {
			return err
		}
		lower = append(lower, p)
	}
	upper, err := path(o.upper)
	if err != nil {
		return err
	}
	work, err := path(o.work)
	if err != nil {
		return err
	}
	options := "lowerdir=" + strings.Join(lower, ":") + ",upperdir=" + upper + ",workdir=" + work
	if len(options) >= os.Getpagesize() {
		return fmt.Errorf("%d layers are more than this kernel can stack", len(o.lower))
	}
	return unix.Mount("overlay", o.target, "overlay", 0, options)
}
