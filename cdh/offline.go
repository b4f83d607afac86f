// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package cdh

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"slices"

	"cocoon/internal/bounded"
	"cocoon/internal/stage"
)

// ErrNoResource is returned when the files hold no resource of that path.
var ErrNoResource = errors.New("no such resource")

// maxOffline bounds one file of resources.
const maxOffline = 4 << 20

// Offline is a Broker on JSON files of the image, for tests and for resources
// that were put there beforehand. Anyone who can read the image can read them.
type Offline struct {
	files []string
	log   *slog.Logger
}

// OfflineFiles are the files that upstream reads, in this order.
func OfflineFiles() []string {
	return []string{"/etc/aa-offline_fs_kbc-keys.json", "/etc/aa-offline_fs_kbc-resources.json"}
}

// NewOffline returns a broker on files; of a resource that several files hold,
// the last one counts. A nil log discards.
func NewOffline(files []string, log *slog.Logger) *Offline {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &Offline{files: slices.Clone(files), log: log}
}

// Resource looks path up; plugin and query are ignored. Files are read anew
// each time. An absent file is skipped, a malformed one fails the request.
func (o *Offline) Resource(_ context.Context, _, path, _ string) ([]byte, error) {
	text, found := "", false
	for _, name := range o.files {
		table, err := o.read(name)
		if err != nil {
			return nil, stage.Wrap(stage.KBS, err)
		}
		if s, ok := table[path]; ok {
			text, found = s, true
		}
	}
	if !found {
		return nil, stage.Errorf(stage.NotFound, "offline resource %q: %w", path, ErrNoResource)
	}
	b, err := base64.StdEncoding.DecodeString(text)
	if err != nil {
		return nil, stage.Errorf(stage.KBS, "offline resource %q is not base64", path)
	}
	return b, nil
}

func (o *Offline) read(name string) (map[string]string, error) {
	f, err := os.Open(name)
	if errors.Is(err, fs.ErrNotExist) {
		o.log.Warn("offline resource file is absent", "file", name)
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("open offline resources: %w", err)
	}
	defer f.Close() // read only; its error says nothing
	data, err := bounded.ReadAll(f, maxOffline)
	if err != nil {
		return nil, fmt.Errorf("read offline resources %q: %w", name, err)
	}
	var table map[string]string
	if err := json.Unmarshal(data, &table); err != nil {
		return nil, fmt.Errorf("parse offline resources %q: %w", name, jsonPosition(err))
	}
	return table, nil
}
