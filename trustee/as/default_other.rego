# Copyright The Cocoon Authors.
# SPDX-License-Identifier: Apache-2.0

# Built-in attestation policy of the classes for which no rules exist: nothing
# is recognised, so the submodule is contraindicated until the operator sets a
# policy of his own.
package policy

trust_claims := {
	"executables": 33,
	"hardware": 97,
	"configuration": 36,
	"instance-identity": 0,
	"file-system": 0,
	"runtime-opaque": 0,
	"storage-opaque": 0,
	"sourced-data": 0,
}

reasons contains "no attestation policy is set for this class of device"
