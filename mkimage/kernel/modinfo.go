// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package kernel

import (
	"bytes"
	"debug/elf"
	"errors"
	"fmt"
	"strings"

	"github.com/ulikunitz/xz"

	"cocoon/internal/bounded"
)

// maxModule bounds one module; the largest of a distribution have about 10 MiB.
const maxModule = 64 << 20

// ErrModule is wrapped by errors about a file that is no kernel module.
var ErrModule = errors.New("not a kernel module")

// depends returns the names of the modules that a module file needs, from the
// field "depends" of its section .modinfo.
func depends(module []byte) ([]string, error) {
	f, err := elf.NewFile(bytes.NewReader(module))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrModule, err)
	}
	s := f.Section(".modinfo")
	if s == nil || s.Type == elf.SHT_NOBITS || s.Size > uint64(len(module)) {
		return nil, fmt.Errorf("%w: no section .modinfo", ErrModule)
	}
	info, err := s.Data()
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrModule, err)
	}
	return parseDepends(info)
}

// parseDepends reads "key=value" strings that are separated by NUL bytes.
func parseDepends(info []byte) ([]string, error) {
	for field := range bytes.SplitSeq(info, []byte{0}) {
		list, ok := bytes.CutPrefix(field, []byte("depends="))
		if !ok || len(list) == 0 {
			continue
		}
		names := strings.Split(string(list), ",")
		for i, n := range names {
			if n == "" || strings.ContainsAny(n, "/. \n") {
				return nil, fmt.Errorf("%w: dependency %q", ErrModule, n)
			}
			names[i] = moduleName(n)
		}
		return names, nil
	}
	return nil, nil
}

// unpackModule returns the plain module: the guest shall not carry a
// decompressor for what never changes.
func unpackModule(f file) ([]byte, error) {
	if !strings.HasSuffix(f.path, ".xz") {
		return f.data, nil
	}
	r, err := xz.NewReader(bytes.NewReader(f.data))
	if err != nil {
		return nil, fmt.Errorf("decompress %q: %w", f.path, err)
	}
	data, err := bounded.ReadAll(r, maxModule)
	if err != nil {
		return nil, fmt.Errorf("decompress %q: %w", f.path, err)
	}
	return data, nil
}
