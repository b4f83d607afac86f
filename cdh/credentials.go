// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package cdh

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"strings"

	"cocoon/internal/stage"
)

// DefaultCredentialDir is the folder below which credentials are put.
const DefaultCredentialDir = "/run/confidential-containers/cdh/kbs"

// ErrCredentialPath is returned for a credential that would lie elsewhere.
var ErrCredentialPath = errors.New("credential path is outside of its folder")

// Credential is a resource that the owner wants as a file.
type Credential struct {
	// Path is absolute, below DefaultCredentialDir.
	Path string
	// URI names the resource.
	URI string
}

// FetchCredentials fetches list in order and writes each to its file, for root
// only. It stops at the first error. dir is where DefaultCredentialDir really
// is; empty means there. The folder must be in memory, not on a disk.
func (h *Hub) FetchCredentials(ctx context.Context, dir string, list []Credential) error {
	if dir == "" {
		dir = DefaultCredentialDir
	}
	names := make([]string, len(list))
	for i, c := range list {
		// Compared by components: a sibling folder may have the same prefix.
		name, ok := strings.CutPrefix(c.Path, DefaultCredentialDir+"/")
		if !ok || !fs.ValidPath(name) || name == "." {
			return stage.Errorf(stage.Config, "credential %.200q: %w", c.Path, ErrCredentialPath)
		}
		names[i] = name
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("make folder of credentials: %w", err)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return fmt.Errorf("open folder of credentials: %w", err)
	}
	defer root.Close() // nothing is written through the folder's descriptor itself
	for i, c := range list {
		if err := h.fetchCredential(ctx, root, names[i], c.URI); err != nil {
			return fmt.Errorf("credential %q: %w", c.Path, err)
		}
	}
	return nil
}

func (h *Hub) fetchCredential(ctx context.Context, root *os.Root, name, uri string) error {
	b, err := h.GetResource(ctx, uri)
	if err != nil {
		return err
	}
	defer wipe(b)
	if err := root.MkdirAll(path.Dir(name), 0o700); err != nil {
		return err
	}
	return root.WriteFile(name, b, 0o600)
}
