// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package recipe

// Module names a kernel module that a profile wants.
type Module struct {
	Name string
	// Optional modules drive hardware that may be absent.
	Optional bool
}
