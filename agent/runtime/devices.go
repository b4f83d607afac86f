// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package runtime

import "github.com/opencontainers/runtime-spec/specs-go"

// deviceRules builds the list of device access rules: deny everything, then
// the specification's rules, then the device nodes that the specification puts
// into the container. libcontainer appends the default devices of the OCI
// specification. Rules for all devices are dropped in either direction: the
// denial stands first anyway, and an allowance would undo the list.
//
// A shim strips the rules but not the nodes; a node that no rule mentions gets
// full access, since policy let the node pass and it is useless without.
func deviceRules(in *specs.LinuxResources, nodes []specs.LinuxDevice) *specs.LinuxResources {
	out := &specs.LinuxResources{}
	if in != nil {
		*out = *in
	}
	rules := []specs.LinuxDeviceCgroup{{Allow: false, Access: "rwm"}}
	if in != nil {
		for _, r := range in.Devices {
			if r.Type != "" && r.Type != "a" {
				rules = append(rules, r)
			}
		}
	}
	for _, d := range nodes {
		t := d.Type
		if t == "u" {
			t = "c"
		}
		if (t == "c" || t == "b") && !mentioned(rules, t, d) {
			rules = append(rules, specs.LinuxDeviceCgroup{
				Allow: true, Type: t, Major: new(d.Major), Minor: new(d.Minor), Access: "rwm",
			})
		}
	}
	out.Devices = rules
	return out
}

func mentioned(rules []specs.LinuxDeviceCgroup, t string, d specs.LinuxDevice) bool {
	for _, r := range rules {
		if r.Type == t && r.Major != nil && *r.Major == d.Major && r.Minor != nil && *r.Minor == d.Minor {
			return true
		}
	}
	return false
}
