// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package imagers

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// writeConfig writes the runtime configuration that the image asks for. An
// existing file is an error: it belongs to another container. The agent
// overwrites it later with what its policy allowed; the file serves callers
// that pull through the socket.
func writeConfig(path string, img *v1.Image) (err error) {
	data, err := json.MarshalIndent(runtimeSpec(img), "", "  ")
	if err != nil {
		return fmt.Errorf("encode runtime configuration: %w", err)
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	defer func() {
		if err = errors.Join(err, f.Close()); err != nil {
			err = errors.Join(err, os.Remove(path))
		}
	}()
	_, err = f.Write(data)
	return err
}

// runtimeSpec converts an image configuration by the OCI image
// specification's conversion rules. The user is left to the caller, as in the
// peers: its name can only be looked up in the mounted root.
func runtimeSpec(img *v1.Image) *specs.Spec {
	cwd := img.Config.WorkingDir
	if cwd == "" {
		cwd = "/"
	}
	return &specs.Spec{
		Version:  specs.Version,
		Hostname: "image-rs",
		Root:     &specs.Root{Path: "rootfs"},
		Process: &specs.Process{
			Cwd:             cwd,
			Env:             img.Config.Env,
			Args:            slices.Concat(img.Config.Entrypoint, img.Config.Cmd),
			NoNewPrivileges: true,
		},
		Annotations: annotations(img),
		Mounts:      append(volumes(img), defaultMounts()...),
		Linux: &specs.Linux{
			Namespaces: []specs.LinuxNamespace{
				{Type: specs.PIDNamespace}, {Type: specs.NetworkNamespace}, {Type: specs.IPCNamespace},
				{Type: specs.UTSNamespace}, {Type: specs.MountNamespace},
			},
			MaskedPaths: []string{
				"/proc/acpi", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list",
				"/proc/timer_stats", "/proc/sched_debug", "/proc/scsi", "/sys/firmware",
			},
			ReadonlyPaths: []string{"/proc/asound", "/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"},
		},
	}
}

// annotations returns the image's own data and labels; labels win.
func annotations(img *v1.Image) map[string]string {
	const prefix = "org.opencontainers.image."
	out := map[string]string{}
	for key, value := range map[string]string{
		"os": img.OS, "os.version": img.OSVersion, "os.features": strings.Join(img.OSFeatures, ","),
		"architecture": img.Architecture, "variant": img.Variant, "author": img.Author,
		"stopSignal":   img.Config.StopSignal,
		"exposedPorts": strings.Join(slices.Sorted(maps.Keys(img.Config.ExposedPorts)), ","),
	} {
		if value != "" {
			out[prefix+key] = value
		}
	}
	if img.Created != nil {
		out[prefix+"created"] = img.Created.Format(time.RFC3339Nano)
	}
	maps.Copy(out, img.Config.Labels)
	return out
}

// volumes gives each volume of the image a file system of its own.
func volumes(img *v1.Image) []specs.Mount {
	var out []specs.Mount
	for _, dest := range slices.Sorted(maps.Keys(img.Config.Volumes)) {
		out = append(out, specs.Mount{
			Destination: dest, Type: "tmpfs", Source: "tmpfs",
			Options: []string{"nosuid", "noexec", "nodev", "relatime", "rw"},
		})
	}
	return out
}

// defaultMounts are the file systems that the runtime specification promises
// to every Linux container.
func defaultMounts() []specs.Mount {
	return []specs.Mount{
		{Destination: "/proc", Type: "proc", Source: "proc"},
		{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "strictatime", "mode=755", "size=65536k"}},
		{Destination: "/dev/pts", Type: "devpts", Source: "devpts", Options: []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"}},
		{Destination: "/dev/shm", Type: "tmpfs", Source: "shm", Options: []string{"nosuid", "noexec", "nodev", "mode=1777", "size=65536k"}},
		{Destination: "/dev/mqueue", Type: "mqueue", Source: "mqueue", Options: []string{"nosuid", "noexec", "nodev"}},
		{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: []string{"nosuid", "noexec", "nodev", "ro"}},
	}
}
