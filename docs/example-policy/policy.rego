# A policy written by hand: one image, one command, no second process.
# `cocoon policy test` in this directory shows that it does what it says.
package agent_policy

default CreateSandboxRequest := false

CreateSandboxRequest if {
	input.guest_hook_path == ""
	count(input.kernel_modules) == 0
	every s in input.storages { s.driver == "ephemeral" }
}

default CreateContainerRequest := false

CreateContainerRequest if {
	is_null(input.OCI.Hooks)
	count(input.devices) == 0
	count(input.storages) == 1
	input.storages[0].driver == "image_guest_pull"
	allowed(input)
}

# The sandbox container runs the guest's own pause program, whatever the host
# names.
allowed(request) if request.OCI.Annotations["io.kubernetes.cri.container-type"] == "sandbox"

allowed(request) if {
	request.storages[0].source == "registry.example/app@sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
	request.OCI.Process.Args == ["/app", "serve"]
	every m in request.OCI.Mounts { m.type_ != "bind" }
}

default ExecProcessRequest := false

default SetPolicyRequest := false

default StartContainerRequest := true

default WaitProcessRequest := true

default SignalProcessRequest := true

default ReadStreamRequest := true

default RemoveContainerRequest := true

default DestroySandboxRequest := true
