# Copyright The Cocoon Authors.
# SPDX-License-Identifier: Apache-2.0

# Built-in resource policy: a secret is released to a guest of which every
# submodule was found affirming, and to nobody else.
package policy

default allow := false

allow if {
	data.plugin == "resource"
	count(input.submods) > 0
	every submod in input.submods {
		submod["ear.status"] == "affirming"
	}
}
