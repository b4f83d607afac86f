// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

// Package shim composes the kernel command line of a confidential guest with an
// initrd as the kata shims do under QEMU on x86: the one in Go (runtime 4.1,
// virtcontainers/qemu_amd64.go) and the one in Rust (runtime-rs,
// crates/hypervisor/src/kernel_param.rs). The two differ, and so do the
// measurements.
package shim

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// ErrConfig is returned for a configuration that no shim has.
var ErrConfig = errors.New("no configuration of a shim")

// Config is what of a shim's configuration gets into the command line. The zero
// value is that of the shipped configurations for SNP and TDX, but for Agent.
type Config struct {
	// KernelParams is the option of that name.
	KernelParams string
	// Debug is enable_debug, and IOMMU enable_iommu.
	Debug, IOMMU bool
	// LegacySerial is use_legacy_serial; only the shim in Go has it.
	LegacySerial bool
	// SELinux is the reverse of disable_guest_selinux.
	SELinux bool
	// SCSI tells that block_device_driver is virtio-scsi; it matters to the shim
	// in Go.
	SCSI bool
	// Agent are settings that become words agent.NAME=VALUE, without agent.log.
	Agent map[string]string
	// Extensions are guest extension images: names and verity_params, in order.
	Extensions [][2]string
}

// Shipped is the configuration that kata ships for SNP and TDX.
func Shipped() Config { return Config{Agent: map[string]string{"launch_process_timeout": "6"}} }

// goOrder is the order in which the shim in Go has the agent's settings.
func goOrder() []string {
	return []string{"trace", "container_pipe_size", "debug_console", "cdh_api_timeout", "launch_process_timeout", "visible_cdi_devices"}
}

// Go is the command line of the shim in Go.
func Go(c Config) (string, error) {
	words := strings.Fields("tsc=reliable no_timer_check rcupdate.rcu_expedited=1 i8042.direct=1 i8042.dumbkbd=1 i8042.nopnp=1 i8042.noaux=1 " +
		"noreplace-smp reboot=k cryptomgr.notests net.ifnames=0 pci=lastbus=0")
	add := func(when bool, w ...string) {
		if when {
			words = append(words, w...)
		}
	}
	add(c.IOMMU, "intel_iommu=on", "iommu=pt")
	add(!c.LegacySerial, "console=hvc0", "console=hvc1")
	add(c.LegacySerial, "console=ttyS0")
	add(!c.Debug, "quiet")
	add(c.Debug, "debug")
	add(true, "panic=1", c.selinux())
	add(c.SCSI, "scsi_mod.scan=none")
	add(c.Debug, "agent.log=debug")
	left := maps.Clone(c.Agent)
	for _, name := range goOrder() {
		v, ok := left[name]
		add(ok, agentWord(name, v))
		delete(left, name)
	}
	if len(left) > 0 {
		return "", fmt.Errorf("agent settings %q: %w", slices.Sorted(maps.Keys(left)), ErrConfig)
	}
	return c.join(words)
}

// Rust is the command line of runtime-rs.
func Rust(c Config) (string, error) {
	if c.LegacySerial {
		return "", fmt.Errorf("use_legacy_serial with runtime-rs: %w", ErrConfig)
	}
	words := strings.Fields("reboot=k panic=1 systemd.unit=kata-containers.target systemd.mask=systemd-networkd.service systemd.mask=systemd-networkd.socket")
	if c.Debug {
		words = append(words, "agent.log_vport=1025")
	}
	agent := maps.Clone(c.Agent)
	if c.Debug {
		if agent == nil {
			agent = map[string]string{}
		}
		agent["log"] = "debug"
	}
	for _, name := range slices.Sorted(maps.Keys(agent)) {
		words = append(words, agentWord(name, agent[name]))
	}
	words = append(append(words, strings.Fields(c.KernelParams)...), c.selinux())
	for _, e := range c.Extensions {
		words = append(words, extension(e))
	}
	if c.IOMMU {
		words = append(words, "intel_iommu=on", "iommu=pt")
	}
	return strings.Join(append(words, "console=hvc0"), " "), c.check()
}

// join ends the command line of the shim in Go.
func (c Config) join(words []string) (string, error) {
	words = append(words, strings.Fields(c.KernelParams)...)
	for _, e := range c.Extensions {
		words = append(words, extension(e))
	}
	return strings.Join(words, " "), c.check()
}

func (c Config) check() error {
	for _, e := range c.Extensions {
		if e[0] == "" || len(e[0]) > 10 || strings.ContainsAny(e[0]+e[1], " \t\n") {
			return fmt.Errorf("extension %q with %q: %w", e[0], e[1], ErrConfig)
		}
	}
	for name, v := range c.Agent {
		if name == "" || name == "log" || strings.ContainsAny(name+v, " \t\n=") {
			return fmt.Errorf("agent setting %q=%q: %w", name, v, ErrConfig)
		}
	}
	return nil
}

func (c Config) selinux() string {
	if c.SELinux {
		return "selinux=1"
	}
	return "selinux=0"
}

// agentWord is a setting as a word; debug_console is two.
func agentWord(name, value string) string {
	if name == "debug_console" {
		return "agent.debug_console agent.debug_console_vport=" + value
	}
	return "agent." + name + "=" + value
}

// extension announces an extension image.
func extension(e [2]string) string {
	word := "kata.extension." + e[0] + ".verity_params"
	if e[1] == "" {
		return word
	}
	return word + "=" + e[1]
}
