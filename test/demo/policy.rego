package agent_policy

# What the host may do with this pod. Everything that is not named is refused.

default CreateSandboxRequest := true
default DestroySandboxRequest := true
default StartContainerRequest := true
default RemoveContainerRequest := true
default WaitProcessRequest := true
default SignalProcessRequest := true
default ReadStreamRequest := true
default GuestDetailsRequest := true

default SetPolicyRequest := false

allowed_image := %q

default CreateContainerRequest := false

# The sandbox container runs the guest's own pause program, if its root is an
# image as well: the guest then takes neither from the host.
CreateContainerRequest if {
	input.OCI.Annotations["io.kubernetes.cri.container-type"] == "sandbox"
	count(input.storages) == 1
	input.storages[0].driver == "image_guest_pull"
}

CreateContainerRequest if {
	images := {s.source | some s in input.storages; s.driver == "image_guest_pull"}
	print("image", images, "wanted", allowed_image)
	images == {allowed_image}
}

default ExecProcessRequest := false

allowed_commands := {["/bin/sh", "-c", "echo second process of $(hostname); exit 3"]}

ExecProcessRequest if {
	print("command", input.process.Args, "is not on the list unless it is one of", allowed_commands)
	input.process.Args in allowed_commands
}
