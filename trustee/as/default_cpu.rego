# Copyright The Cocoon Authors.
# SPDX-License-Identifier: Apache-2.0

# Built-in attestation policy of class cpu: which trust claims the evidence
# earns against the reference values. Numbers are those of AR4SI: 2 and 3 are
# affirming, 33 and 36 a warning, 97 contraindicated.
package policy

default executables := 33

default hardware := 97

default configuration := 36

trust_claims := {
	"executables": executables,
	"hardware": hardware,
	"configuration": configuration,
	"instance-identity": 0,
	"file-system": 0,
	"runtime-opaque": 0,
	"storage-opaque": 0,
	"sourced-data": 0,
}

executables := 3 if listed("launch_digest", input.sample.launch_digest)

hardware := 2 if {
	listed("svn", input.sample.svn)
	input.sample.platform_version.major == query_reference_value("major_version")
	least := query_reference_value("minimum_minor_version")
	is_number(least) # null orders below every number
	input.sample.platform_version.minor >= least
}

configuration := 2 if input.sample.debug == false

listed(name, value) if {
	values := query_reference_value(name)
	is_array(values)
	value in values
}

reasons contains "no rule of this attestation policy knows the TEE" if not input.sample

reasons contains unlisted(name, value) if {
	some name in ["launch_digest", "svn"]
	value := input.sample[name]
	not listed(name, value)
}

reasons contains sprintf("platform major version %v differs from reference value major_version %v", [value, query_reference_value("major_version")]) if {
	value := input.sample.platform_version.major
	value != query_reference_value("major_version")
}

reasons contains sprintf("platform minor version %v is below reference value minimum_minor_version %v", [value, least]) if {
	value := input.sample.platform_version.minor
	least := query_reference_value("minimum_minor_version")
	is_number(least)
	value < least
}

reasons contains "reference value minimum_minor_version is missing, expired, or no number" if {
	input.sample
	not is_number(query_reference_value("minimum_minor_version"))
}

reasons contains "the sample TEE is in debug mode" if {
	input.sample
	not configuration == 2
}

unlisted(name, _) := sprintf("reference value %s is missing, expired, or no list", [name]) if {
	not is_array(query_reference_value(name))
}

unlisted(name, value) := sprintf("%s %v is not in reference value %s %v", [name, value, name, values]) if {
	values := query_reference_value(name)
	is_array(values)
}
