// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package agent

import "fmt"

// maxID is what a directory name can hold.
const maxID = 255

// checkID accepts the ids that Kata accepts: at least two characters of
// [a-zA-Z0-9_.-], the first a letter or digit. Such an id is safe as a file
// name.
func checkID(id string) error {
	ok := len(id) >= 2 && len(id) <= maxID && id[0] != '_' && id[0] != '.' && id[0] != '-'
	for _, c := range []byte(id) {
		ok = ok && (c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '_' || c == '.' || c == '-')
	}
	if !ok {
		return fmt.Errorf("invalid container ID: %q: %w", id[:min(len(id), maxID)], ErrInvalid)
	}
	return nil
}

// checkContainerID is checkID without the names that the agent itself uses in
// the run directory.
func checkContainerID(id string) error {
	if err := checkID(id); err != nil {
		return err
	}
	switch id {
	case "image", "sandbox", "shared", "agent.sock":
		return fmt.Errorf("container ID %q is reserved: %w", id, ErrInvalid)
	}
	return nil
}
