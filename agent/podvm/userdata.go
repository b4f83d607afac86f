// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package podvm

import (
	"bytes"
	"errors"
	"fmt"
	"io"

	"gopkg.in/yaml.v3"

	"cocoon/internal/bounded"
)

// ErrUserData is returned for a user-data document of any other form than a
// list of files. Other features of cloud-init are not ignored but refused:
// whoever wrote them expects them to be carried out.
var ErrUserData = errors.New("malformed user-data")

const maxFiles = 64

// file is one entry of write_files.
type file struct {
	path    string
	content string
}

// parseUserData reads the document: one key, write_files, with a list of maps
// of path and content. Unknown and repeated keys are errors.
func parseUserData(data []byte) ([]file, error) {
	if len(data) > MaxUserData {
		return nil, fmt.Errorf("%w: %w", ErrUserData, bounded.ErrTooLarge)
	}
	var doc yaml.Node
	dec := yaml.NewDecoder(bytes.NewReader(data))
	err := dec.Decode(&doc)
	if errors.Is(err, io.EOF) {
		return nil, nil
	}
	if err != nil {
		// The decoder's text may quote a key or a token.
		return nil, fmt.Errorf("%w: not YAML", ErrUserData)
	}
	if !errors.Is(dec.Decode(new(yaml.Node)), io.EOF) {
		return nil, fmt.Errorf("%w: more than one document", ErrUserData)
	}
	root := doc.Content[0]
	if isNull(root) {
		return nil, nil
	}
	top, err := mapping(root, "write_files")
	if err != nil {
		return nil, err
	}
	list := top["write_files"]
	if list == nil || isNull(list) {
		return nil, nil
	}
	if list.Kind != yaml.SequenceNode || len(list.Content) > maxFiles {
		return nil, malformed(list, "write_files is not a list of at most %d files", maxFiles)
	}
	files := make([]file, 0, len(list.Content))
	for _, n := range list.Content {
		f, err := parseFile(n)
		if err != nil {
			return nil, err
		}
		files = append(files, f)
	}
	return files, nil
}

func parseFile(n *yaml.Node) (file, error) {
	m, err := mapping(n, "path", "content")
	if err != nil {
		return file{}, err
	}
	var f file
	if f.path, err = text(m["path"]); err != nil {
		return file{}, err
	}
	if f.path == "" {
		return file{}, malformed(n, "file without a path")
	}
	f.content, err = text(m["content"])
	return f, err
}

// mapping returns the values of n by key; n has no other keys than keys.
func mapping(n *yaml.Node, keys ...string) (map[string]*yaml.Node, error) {
	if n.Kind != yaml.MappingNode {
		return nil, malformed(n, "not a map of %q", keys)
	}
	m := map[string]*yaml.Node{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		k := n.Content[i]
		known := false
		for _, want := range keys {
			known = known || k.Kind == yaml.ScalarNode && k.Value == want
		}
		if !known {
			return nil, malformed(k, "key %.40q is not one of %q", k.Value, keys)
		}
		if m[k.Value] != nil {
			return nil, malformed(k, "key %q is repeated", k.Value)
		}
		m[k.Value] = n.Content[i+1]
	}
	return m, nil
}

// text returns a string; an absent or null node is empty.
func text(n *yaml.Node) (string, error) {
	if n == nil || isNull(n) {
		return "", nil
	}
	if n.Kind != yaml.ScalarNode || n.ShortTag() != "!!str" {
		return "", malformed(n, "not a string")
	}
	return n.Value, nil
}

func isNull(n *yaml.Node) bool {
	return n.Kind == yaml.ScalarNode && n.ShortTag() == "!!null"
}

func malformed(n *yaml.Node, format string, args ...any) error {
	return fmt.Errorf("%w: line %d: %s", ErrUserData, n.Line, fmt.Sprintf(format, args...))
}
