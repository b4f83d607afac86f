// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package client

import (
	"encoding/json"
	"fmt"
	"maps"
	"path"

	"cocoon/internal/wire/agentpb"
)

// Kinds of container, as shims annotate them.
const (
	Single       = "single_container" // a container that is its own sandbox
	PodSandbox   = "pod_sandbox"      // the pause container of a pod
	PodContainer = "pod_container"    // a workload of a pod
)

const (
	guestContainers = "/run/kata-containers"
	sandboxShm      = "/run/kata-containers/sandbox/shm"
	ociVersion      = "1.0.2-dev"

	annotationKind          = "io.katacontainers.pkg.oci.container_type"
	annotationImage         = "io.kubernetes.cri.image-name"
	annotationContainerType = "io.kubernetes.cri.container-type"
	annotationSandboxID     = "io.kubernetes.cri.sandbox-id"
	annotationContainerName = "io.kubernetes.cri.container-name"
)

// defaultPath is the environment of a container that names none.
const defaultPath = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// Container says what to run. ID and Image are required; Args too unless Kind
// is PodSandbox.
type Container struct {
	ID    string // [a-zA-Z0-9][a-zA-Z0-9_.-]+
	Image string // reference that the guest pulls
	Kind  string // Single (also ""), PodSandbox or PodContainer

	Name      string // name in the pod, for PodContainer
	SandboxID string // of the pod, for PodSandbox and PodContainer

	Args []string
	Env  []string // KEY=value; nil is a usual PATH
	Cwd  string   // "" is "/"
	TTY  bool

	Annotations map[string]string // added to those of the kind
	NetNS       string            // path of the network namespace in the guest; "" lets the agent choose
}

// SandboxRequest is the CreateSandbox request that a shim sends.
func SandboxRequest(id string, dns ...string) *agentpb.CreateSandboxRequest {
	return &agentpb.CreateSandboxRequest{
		SandboxId: id,
		Dns:       dns,
		Storages: []*agentpb.Storage{{
			Driver: "ephemeral", Source: "shm", Fstype: "tmpfs", MountPoint: sandboxShm,
			Options: []string{"noexec", "nosuid", "nodev", "mode=1777", "size=67108864"},
		}},
	}
}

// Request returns the CreateContainer request that a shim with guest image
// pull sends for c.
func (c Container) Request() (*agentpb.CreateContainerRequest, error) {
	if c.ID == "" || c.Image == "" {
		return nil, fmt.Errorf("container %q of image %q: both are needed", c.ID, c.Image)
	}
	if len(c.Args) == 0 && c.Kind != PodSandbox {
		return nil, fmt.Errorf("container %q: no command: the guest does not read it from the image", c.ID)
	}
	annotations, err := c.annotations()
	if err != nil {
		return nil, err
	}
	meta, err := json.Marshal(map[string]any{"metadata": annotations})
	if err != nil {
		return nil, fmt.Errorf("image metadata of %q: %w", c.ID, err)
	}
	rootfs := path.Join(guestContainers, c.ID, "rootfs")
	return &agentpb.CreateContainerRequest{
		ContainerId: c.ID,
		ExecId:      c.ID,
		Storages: []*agentpb.Storage{{
			Driver: "image_guest_pull", DriverOptions: []string{"image_guest_pull=" + string(meta)},
			Source: c.Image, Fstype: "overlay", MountPoint: rootfs,
		}},
		OCI: &agentpb.Spec{
			Version:     ociVersion,
			Process:     c.process(),
			Root:        &agentpb.Root{Path: rootfs},
			Mounts:      usualMounts(),
			Annotations: annotations,
			Linux:       c.linux(),
		},
	}, nil
}

func (c Container) annotations() (map[string]string, error) {
	a := make(map[string]string)
	switch c.Kind {
	case Single, "":
		a[annotationKind] = Single
	case PodSandbox:
		a[annotationKind], a[annotationContainerType] = PodSandbox, "sandbox"
	case PodContainer:
		a[annotationKind], a[annotationContainerType] = PodContainer, "container"
		a[annotationContainerName] = c.Name
	default:
		return nil, fmt.Errorf("container %q: unknown kind %q", c.ID, c.Kind)
	}
	if c.SandboxID != "" {
		a[annotationSandboxID] = c.SandboxID
	}
	if c.Kind != PodSandbox {
		a[annotationImage] = c.Image
	}
	maps.Copy(a, c.Annotations)
	return a, nil
}

func (c Container) process() *agentpb.Process {
	p := newProcess(c.Args, c.Env, c.Cwd, c.TTY)
	caps := usualCapabilities()
	p.Capabilities = &agentpb.LinuxCapabilities{Bounding: caps, Effective: caps, Permitted: caps}
	p.Rlimits = []*agentpb.POSIXRlimit{{Type: "RLIMIT_NOFILE", Hard: 1024, Soft: 1024}}
	p.NoNewPrivileges = true
	if c.Kind == PodSandbox && len(p.Args) == 0 {
		p.Args = []string{"/pause"}
	}
	return p
}

func newProcess(args, env []string, cwd string, tty bool) *agentpb.Process {
	if env == nil {
		env = []string{defaultPath}
		if tty {
			env = append(env, "TERM=xterm")
		}
	}
	if cwd == "" {
		cwd = "/"
	}
	return &agentpb.Process{Terminal: tty, User: &agentpb.User{}, Args: args, Env: env, Cwd: cwd}
}

func (c Container) linux() *agentpb.Linux {
	ns := []*agentpb.LinuxNamespace{{Type: "ipc"}, {Type: "uts"}, {Type: "mount"}}
	if c.NetNS != "" {
		ns = append(ns, &agentpb.LinuxNamespace{Type: "network", Path: c.NetNS})
	}
	return &agentpb.Linux{
		Resources:   &agentpb.LinuxResources{CPU: &agentpb.LinuxCPU{Shares: 1024}},
		CgroupsPath: "/default/" + c.ID,
		Namespaces:  ns,
		MaskedPaths: []string{
			"/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list",
			"/proc/timer_stats", "/proc/sched_debug", "/sys/firmware", "/proc/scsi",
		},
		ReadonlyPaths: []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"},
	}
}

func usualCapabilities() []string {
	return []string{
		"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FSETID", "CAP_FOWNER", "CAP_MKNOD", "CAP_NET_RAW", "CAP_SETGID",
		"CAP_SETUID", "CAP_SETFCAP", "CAP_SETPCAP", "CAP_NET_BIND_SERVICE", "CAP_SYS_CHROOT", "CAP_KILL", "CAP_AUDIT_WRITE",
	}
}

func usualMounts() []*agentpb.Mount {
	mount := func(dst, src, typ string, options ...string) *agentpb.Mount {
		return &agentpb.Mount{Destination: dst, Source: src, Type: typ, Options: options}
	}
	return []*agentpb.Mount{
		mount("/proc", "proc", "proc", "nosuid", "noexec", "nodev"),
		mount("/dev", "tmpfs", "tmpfs", "nosuid", "strictatime", "mode=755", "size=65536k"),
		mount("/dev/pts", "devpts", "devpts", "nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"),
		mount("/dev/shm", sandboxShm, "bind", "rbind"),
		mount("/dev/mqueue", "mqueue", "mqueue", "nosuid", "noexec", "nodev"),
		mount("/sys", "sysfs", "sysfs", "nosuid", "noexec", "nodev", "ro"),
		mount("/run", "tmpfs", "tmpfs", "nosuid", "strictatime", "mode=755", "size=65536k"),
	}
}
