// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package policy

import _ "embed" // for the policy texts

var (
	//go:embed allow_all.rego
	allowAll string
	//go:embed deny_all.rego
	denyAll string
)

// AllowAll returns the text of a policy that allows every request. Only the
// development profile may load it.
func AllowAll() string { return allowAll }

// DenyAll returns the text of a policy that allows the host to end the sandbox
// and nothing else.
func DenyAll() string { return denyAll }
