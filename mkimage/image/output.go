// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package image

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"cocoon/mkimage/manifest"
)

// output is a file of the image.
type output struct {
	name, file string
	data       []byte
}

// writeOutput writes a file and notes its digests.
func (b *builder) writeOutput(dir string, out output) error {
	return b.writeTo(dir, out.name, out.file, func(w io.Writer) error { _, err := w.Write(out.data); return err })
}

// writeTo writes a file by what write does, and notes its digests.
func (b *builder) writeTo(dir, name, file string, write func(io.Writer) error) (err error) {
	path := filepath.Join(dir, file)
	f, err := os.OpenFile(path, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o644)
	if err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	if err := errors.Join(b.describe(f, name, file, write), f.Chmod(0o644), f.Close()); err != nil {
		return fmt.Errorf("write %q: %w", path, err)
	}
	return nil
}

// describe has an output written to w and notes its digests.
func (b *builder) describe(w io.Writer, name, file string, write func(io.Writer) error) error {
	d := manifest.NewDigester(w)
	if err := write(d); err != nil {
		return err
	}
	out := d.File(name, file)
	b.man.Outputs = append(b.man.Outputs, out)
	b.progress("wrote %s, %.1f MB", out.File, float64(out.Size)/1e6)
	return nil
}

// writeFile replaces a file. Its mode does not depend on the umask.
func writeFile(name string, data []byte) error {
	if err := os.WriteFile(name, data, 0o644); err != nil {
		return fmt.Errorf("write %q: %w", name, err)
	}
	if err := os.Chmod(name, 0o644); err != nil {
		return fmt.Errorf("set the mode of %q: %w", name, err)
	}
	return nil
}
