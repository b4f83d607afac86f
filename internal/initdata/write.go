// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package initdata

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
)

// Write puts the document and the files of it that others may look for below
// dir, where upstream's guest has them. Nothing of this guest reads them. A file
// that is already there is an error: initdata is handed over once. If one cannot
// be written none is left.
func (d *Document) Write(dir string) (err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("make the folder of initdata: %w", err)
	}
	var made []string
	defer func() {
		if err != nil {
			for _, path := range made {
				err = errors.Join(err, os.Remove(path))
			}
		}
	}()
	for _, file := range []struct{ name, text string }{
		{"initdata.toml", string(d.Raw)}, {KeyAA, d.Data[KeyAA]}, {KeyCDH, d.Data[KeyCDH]},
	} {
		if file.text == "" {
			continue
		}
		path := filepath.Join(dir, file.name)
		f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL|syscall.O_NOFOLLOW, 0o600)
		if err != nil {
			return fmt.Errorf("write initdata: %w", err)
		}
		made = append(made, path)
		_, err = f.WriteString(file.text)
		if err := errors.Join(err, f.Close()); err != nil {
			return fmt.Errorf("write initdata: %w", err)
		}
	}
	return nil
}
