// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"slices"
	"strings"
)

// packageFile is a file that the package manager installed. size is 0 for what
// is no regular file.
type packageFile struct {
	path string
	size int64
}

// seedPackages are installed wherever this program can run. They and what they
// depend on make the image, so that it is about the same on every machine.
func seedPackages() []string {
	return []string{"containerd", "gcc", "genisoimage", "git", "qemu-system-x86", "runc", "skopeo", "umoci"}
}

// packageFiles lists the files below /usr of the packages of the image, by
// name of the package, each path once.
func packageFiles(ctx context.Context) ([]packageFile, error) {
	out, err := exec.CommandContext(ctx, "dpkg-query", "-W", "-f", "${Package}\t${Pre-Depends}, ${Depends}\n").Output()
	if err != nil {
		return nil, fmt.Errorf("list the installed packages: %w", err)
	}
	names := closure(parseDepends(string(out)), seedPackages())
	if len(names) == 0 {
		return nil, fmt.Errorf("none of the packages %q is installed", seedPackages())
	}
	out, err = exec.CommandContext(ctx, "dpkg-query", append([]string{"-L"}, names...)...).Output()
	if err != nil {
		return nil, fmt.Errorf("list the files of the installed packages: %w", err)
	}
	seen := map[string]bool{}
	var files []packageFile
	for path := range strings.Lines(string(out)) {
		path = strings.TrimSpace(path)
		if !strings.HasPrefix(path, "/usr/") || seen[path] {
			continue
		}
		seen[path] = true
		fi, err := os.Lstat(path)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			continue // excluded at installation, as documentation often is
		case err != nil:
			return nil, fmt.Errorf("look at an installed file: %w", err)
		case fi.Mode().IsRegular():
			files = append(files, packageFile{path, fi.Size()})
		default:
			files = append(files, packageFile{path: path})
		}
	}
	return files, nil
}

// parseDepends reads lines of a package's name, a tab and its dependencies, and
// returns the names that each package depends on, alternatives included.
func parseDepends(list string) map[string][]string {
	depends := map[string][]string{}
	for line := range strings.Lines(list) {
		name, fields, _ := strings.Cut(strings.TrimSpace(line), "\t")
		depends[name] = nil
		for f := range strings.FieldsFuncSeq(fields, func(r rune) bool { return r == ',' || r == '|' }) {
			// What follows the name is a version or an architecture.
			if words := strings.FieldsFunc(f, func(r rune) bool { return r == ' ' || r == ':' || r == '(' }); len(words) > 0 {
				depends[name] = append(depends[name], words[0])
			}
		}
	}
	return depends
}

// closure returns the seeds and all they depend on, as far as they are keys of
// depends, in alphabetical order.
func closure(depends map[string][]string, seeds []string) []string {
	found := map[string]bool{}
	for queue := slices.Clone(seeds); len(queue) > 0; queue = queue[1:] {
		name := queue[0]
		next, installed := depends[name]
		if installed && !found[name] {
			found[name] = true
			queue = append(queue, next...)
		}
	}
	return slices.Sorted(maps.Keys(found))
}
