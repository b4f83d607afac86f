# Copyright The Cocoon Authors.
# SPDX-License-Identifier: Apache-2.0

# A policy in the dialect of generated policies: data beside rules, prints,
# state changes by container id, and the built-ins that such policies call.

package agent_policy

import future.keywords.every
import future.keywords.if
import future.keywords.in

default AddARPNeighborsRequest := false
default CopyFileRequest := false
default CreateContainerRequest := false
default CreateSandboxRequest := false
default DestroySandboxRequest := true
default ExecProcessRequest := false
default GetOOMEventRequest := true
default ReadStreamRequest := false
default SetPolicyRequest := false
default StartContainerRequest := true
default UpdateRoutesRequest := false
default WaitProcessRequest := true
default WriteStreamRequest := false
default AllowRequestsFailingPolicy := false

CreateSandboxRequest if {
	print("CreateSandboxRequest: sandbox", input.sandbox_id)
	input.guest_hook_path == ""
	count(input.kernel_modules) == 0
	not input.sandbox_pidns
	every s in input.storages {
		s.driver in policy_data.sandbox.drivers
		startswith(s.mount_point, concat("/", ["", "run", "kata-containers", ""]))
	}
}

CreateContainerRequest := {"allowed": true, "ops": ops} if {
	print("CreateContainerRequest: id", input.container_id)
	is_null(input.string_user)
	is_null(input.OCI.Hooks)
	count(input.shared_mounts) == 0
	name_ops := sandbox_name_ops(input.OCI.Annotations["io.kubernetes.cri.sandbox-name"])
	not data["pstate"][input.container_id]
	some index, c in policy_data.containers
	print("CreateContainerRequest: trying container", index)
	every taken in [i | i := data["pstate"][_]; is_number(i)] {
		taken != index
	}
	container_matches(c)
	ops := array.concat(name_ops, [{"op": "add", "path": concat("/", ["", "pstate", input.container_id]), "value": index}])
	print("CreateContainerRequest: true")
}

sandbox_name_ops(name) := [] if {
	data["pstate"].sandbox_name == name
}

sandbox_name_ops(name) := [{"op": "add", "path": "/pstate/sandbox_name", "value": name}] if {
	not data["pstate"].sandbox_name
	regex.match(policy_data.sandbox.name_regex, name)
}

container_matches(c) if {
	p := input.OCI.Process
	print("container_matches: args", p.Args, "want", c.args)
	p.Args == c.args
	p.NoNewPrivileges == true
	every e in p.Env {
		print("container_matches: env", e)
		allow_env(c, e)
	}
	some storage in input.storages
	storage.driver == "image_guest_pull"
	print("container_matches: image", storage.source)
	storage.source == c.image
	lower(storage.fstype) == "overlay"
	layer_key(storage.source) == c.image_key
	every m in input.OCI.Mounts {
		mount_allowed(m)
	}
}

allow_env(c, e) if {
	e in c.env
} else if {
	some pattern in c.env_regex
	regex.match(replace(pattern, "$(name)", "[a-z]+"), e)
}

layer_key(ref) := base64url.encode(trim_prefix(ref, "registry.example/"))

mount_allowed(m) if {
	m.type_ in ["proc", "tmpfs", "devpts", "mqueue", "sysfs", "bind"]
	m.type_ != "bind"
}

mount_allowed(m) if {
	m.type_ == "bind"
	contains(m.source, "kata-containers")
	not contains(m.source, "..")
}

RemoveContainerRequest := {"allowed": true, "ops": [{"op": "remove", "path": concat("/", ["", "pstate", input.container_id])}]}

StopTracingRequest := true

ExecProcessRequest if {
	i := data["pstate"][input.container_id]
	command := concat(" ", input.process.Args)
	print("ExecProcessRequest: command", command)
	some pattern in policy_data.containers[i].exec_regex
	regex.match(pattern, command)
}

# The file may be readable by everybody, not writable by group and others.
CopyFileRequest if {
	regex.match(policy_data.copy_regex, input.path)
	input.file_type in ["Regular", "Directory"]
	bits.and(input.file_mode, 18) == 0
	bits.or(input.dir_mode, 511) == 511
	bits.and(bits.negate(input.file_mode), 18) == 18
}

CopyFileRequest if {
	input.file_type == "Symlink"
	not startswith(input.symlink_target, "/")
	every part in split(input.symlink_target, "/") {
		part != ".."
	}
}

UpdateRoutesRequest if {
	every r in input.routes.Routes {
		parts := regex.find_all_string_submatch_n(`^(\d+)\.(\d+)\.\d+\.\d+/(\d+)$`, r.dest, 1)
		to_number(parts[0][3]) >= 8
		substring(r.device, 0, 3) == "eth"
	}
}

policy_data := {
	"sandbox": {"drivers": ["ephemeral", "local"], "name_regex": "^[a-z0-9-]+$"},
	"copy_regex": "^/run/kata-containers/shared/containers/[A-Za-z0-9-]+$",
	"containers": [
		{
			"args": ["/bin/sh", "-c", "echo hi"],
			"image": "registry.example/app:1",
			"image_key": "YXBwOjE=",
			"env": ["PATH=/bin"],
			"env_regex": ["^HOST_$(name)=.*$"],
			"exec_regex": ["^ls( -[a-z]+)?$"],
		},
		{
			"args": ["/server"],
			"image": "registry.example/server:2",
			"image_key": "c2VydmVyOjI=",
			"env": [],
			"env_regex": [],
			"exec_regex": [],
		},
	],
}
