// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package cca

import "cocoon/internal/octets"

// Evidence is what the guest hands in.
type Evidence struct {
	Token octets.Octets `json:"token"`
}
