// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

// Package kernel takes a kernel and the modules that a profile names out of a
// distribution's package or an unpacked one.
//
// The package is an input that is pinned by digest before it is read here.
// Nothing is installed, and depmod is not needed: each module carries the names
// of those it depends on.
package kernel

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"

	"cocoon/rootfs/boot"
	"cocoon/rootfs/recipe"
)

// Errors that callers may want to tell apart.
var (
	// ErrNoModule means that the kernel has a wanted module neither as a file
	// nor built in.
	ErrNoModule = errors.New("the kernel has no such module")
	// ErrCycle means that modules depend on each other in a circle.
	ErrCycle = errors.New("modules depend on each other")
	// ErrPackage means that files are missing in a package or there are several.
	ErrPackage = errors.New("not a kernel package")
)

// Kernel is an unpacked kernel.
type Kernel struct {
	// Release is the version that the kernel reports, as in uname -r.
	Release string
	// Image is the compressed kernel, as a boot loader takes it.
	Image []byte

	// modules maps a module's name to its file, builtin holds the names of
	// those that are part of the image.
	modules map[string]file
	builtin map[string]bool
}

type file struct {
	path string // below lib/modules/<release>/
	data []byte // as packaged, perhaps compressed
}

// newKernel sorts the files of a package by their role. Their keys are paths
// relative to the root.
func newKernel(files map[string][]byte) (*Kernel, error) {
	k := &Kernel{modules: map[string]file{}, builtin: map[string]bool{}}
	for _, name := range slices.Sorted(maps.Keys(files)) {
		if err := k.add(strings.TrimPrefix(name, "usr/"), files[name]); err != nil {
			return nil, err
		}
	}
	if k.Image == nil || k.Release == "" {
		return nil, fmt.Errorf("%w: image of %d bytes, release %q", ErrPackage, len(k.Image), k.Release)
	}
	return k, nil
}

func (k *Kernel) add(name string, data []byte) error {
	if rest, ok := strings.CutPrefix(name, "lib/modules/"); ok {
		return k.addModuleFile(rest, data)
	}
	if k.Image != nil {
		return fmt.Errorf("%w: a second image %q", ErrPackage, name)
	}
	k.Image = data
	return nil
}

func (k *Kernel) addModuleFile(name string, data []byte) error {
	release, rest, _ := strings.Cut(name, "/")
	if k.Release != "" && k.Release != release {
		return fmt.Errorf("%w: modules of both %q and %q", ErrPackage, k.Release, release)
	}
	k.Release = release
	if rest == "modules.builtin" {
		for line := range strings.Lines(string(data)) {
			k.builtin[moduleName(strings.TrimSpace(line))] = true
		}
		return nil
	}
	n := moduleName(rest)
	if old, ok := k.modules[n]; ok {
		return fmt.Errorf("%w: module %q is both %q and %q", ErrPackage, n, old.path, rest)
	}
	k.modules[n] = file{path: rest, data: data}
	return nil
}

// wanted says whether a file of a package is of use here.
func wanted(name string) bool {
	name = strings.TrimPrefix(name, "usr/")
	if strings.HasPrefix(name, "boot/vmlinuz-") {
		return true
	}
	if !strings.HasPrefix(name, "lib/modules/") {
		return false
	}
	return path.Base(name) == "modules.builtin" || isModule(name)
}

func isModule(name string) bool {
	return strings.HasSuffix(name, ".ko") || strings.HasSuffix(name, ".ko.xz")
}

// moduleName returns the name by which the kernel knows the module in a file.
func moduleName(p string) string {
	base, _, _ := strings.Cut(path.Base(p), ".ko")
	return strings.ReplaceAll(base, "-", "_")
}

// Resolve returns the wanted modules and all that they depend on, each after
// its dependencies and otherwise in the order wanted. Built-in ones need no
// file and are left out. What only optional modules need is optional.
func (k *Kernel) Resolve(want []recipe.Module) ([]recipe.ModuleFile, error) {
	r := resolver{k: k, state: map[string]int{}}
	// Required modules first, so that a dependency they share with an optional
	// one is required.
	sorted := slices.Clone(want)
	slices.SortStableFunc(sorted, func(a, b recipe.Module) int { return cmp.Compare(order(a), order(b)) })
	for _, m := range sorted {
		if err := r.visit(moduleName(m.Name), m.Optional); err != nil {
			return nil, fmt.Errorf("module %q: %w", m.Name, err)
		}
	}
	return r.out, nil
}

func order(m recipe.Module) int {
	if m.Optional {
		return 1
	}
	return 0
}

type resolver struct {
	k     *Kernel
	state map[string]int
	out   []recipe.ModuleFile
}

const (
	visiting = 1
	done     = 2
)

func (r *resolver) visit(name string, optional bool) error {
	switch r.state[name] {
	case done:
		return nil
	case visiting:
		return fmt.Errorf("%w: %q", ErrCycle, name)
	}
	f, ok := r.k.modules[name]
	if !ok {
		if r.k.builtin[name] {
			return nil
		}
		return fmt.Errorf("%w: %q in %s", ErrNoModule, name, r.k.Release)
	}
	r.state[name] = visiting
	data, err := unpackModule(f)
	if err != nil {
		return err
	}
	deps, err := depends(data)
	if err != nil {
		return fmt.Errorf("read %q: %w", f.path, err)
	}
	for _, d := range deps {
		if err := r.visit(d, optional); err != nil {
			return err
		}
	}
	r.state[name] = done
	p := path.Join("/lib/modules", r.k.Release, strings.TrimSuffix(f.path, ".xz"))
	r.out = append(r.out, recipe.ModuleFile{Module: boot.Module{Path: p, Optional: optional}, Data: data})
	return nil
}
