// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package shim

import (
	"errors"
	"strings"
	"testing"
)

const always = "tsc=reliable no_timer_check rcupdate.rcu_expedited=1 i8042.direct=1 i8042.dumbkbd=1 i8042.nopnp=1 i8042.noaux=1 " +
	"noreplace-smp reboot=k cryptomgr.notests net.ifnames=0 pci=lastbus=0 "

const rust = "reboot=k panic=1 systemd.unit=kata-containers.target systemd.mask=systemd-networkd.service systemd.mask=systemd-networkd.socket "

func TestTheCommandLinesOfTheShims(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		change          func(*Config)
		wantGo, wantRst string
	}{
		"as shipped": {func(*Config) {}, always + "console=hvc0 console=hvc1 quiet panic=1 selinux=0 agent.launch_process_timeout=6",
			rust + "agent.launch_process_timeout=6 selinux=0 console=hvc0"},
		"parameters": {func(c *Config) { c.KernelParams = " a=1  b " }, always + "console=hvc0 console=hvc1 quiet panic=1 selinux=0 agent.launch_process_timeout=6 a=1 b",
			rust + "agent.launch_process_timeout=6 a=1 b selinux=0 console=hvc0"},
		"everything": {
			func(c *Config) {
				c.IOMMU, c.Debug, c.SELinux, c.SCSI = true, true, true, true
				c.Agent = map[string]string{"cdh_api_timeout": "50", "launch_process_timeout": "6", "debug_console": "1026"}
				c.Extensions = [][2]string{{"cocoon", "root_hash=00"}, {"bare", ""}}
			},
			always + "intel_iommu=on iommu=pt console=hvc0 console=hvc1 debug panic=1 selinux=1 scsi_mod.scan=none agent.log=debug " +
				"agent.debug_console agent.debug_console_vport=1026 agent.cdh_api_timeout=50 agent.launch_process_timeout=6 " +
				"kata.extension.cocoon.verity_params=root_hash=00 kata.extension.bare.verity_params",
			rust + "agent.log_vport=1025 agent.cdh_api_timeout=50 agent.debug_console agent.debug_console_vport=1026 agent.launch_process_timeout=6 agent.log=debug " +
				"selinux=1 kata.extension.cocoon.verity_params=root_hash=00 kata.extension.bare.verity_params intel_iommu=on iommu=pt console=hvc0",
		},
	} {
		c := Shipped()
		tc.change(&c)
		if got, err := Go(c); err != nil || got != tc.wantGo {
			t.Errorf("%s, Go:\n%s\n%s (%v)", name, got, tc.wantGo, err)
		}
		if got, err := Rust(c); err != nil || got != tc.wantRst {
			t.Errorf("%s, Rust:\n%s\n%s (%v)", name, got, tc.wantRst, err)
		}
	}
	serial := Config{LegacySerial: true}
	if got, err := Go(serial); err != nil || !strings.Contains(got, " console=ttyS0 quiet ") {
		t.Errorf("%q, %v", got, err)
	}
}

func TestWhatNoShimWritesIsRefused(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]Config{
		"long name": {Extensions: [][2]string{{"elevenchars", ""}}}, "no name": {Extensions: [][2]string{{"", "x"}}}, "blank": {Extensions: [][2]string{{"a", "b c"}}},
		"agent blank": {Agent: map[string]string{"trace": "a b"}}, "agent log": {Agent: map[string]string{"log": "debug"}},
	} {
		_, one := Go(c)
		_, two := Rust(c)
		if !errors.Is(one, ErrConfig) || !errors.Is(two, ErrConfig) {
			t.Errorf("%s: %v, %v", name, one, two)
		}
	}
	if _, err := Go(Config{Agent: map[string]string{"unknown": "1"}}); !errors.Is(err, ErrConfig) {
		t.Errorf("an unknown setting: %v", err)
	}
	if _, err := Rust(Config{LegacySerial: true}); !errors.Is(err, ErrConfig) {
		t.Errorf("serial: %v", err)
	}
}
