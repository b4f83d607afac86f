// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package policy

import "errors"

var (
	// ErrBadPolicy is wrapped by errors of Load and SetPolicy when the text
	// breaks a limit, does not parse or compile, or has the wrong package.
	ErrBadPolicy = errors.New("bad policy")

	// errTooComplex is returned for a request with more values than a policy
	// is shown.
	errTooComplex = errors.New("request has too many values for policy evaluation")

	// errUndefined is returned when a policy gives a rule no value.
	errUndefined = errors.New("the policy gives this rule no value")

	// errBadPatch is returned for a state change that RFC 6902 refuses or that
	// would leave the state document unusable.
	errBadPatch = errors.New("bad state change")
)
