// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package config_test

import (
	"errors"
	"strings"
	"testing"

	"cocoon/internal/config"
)

func value(t *testing.T, c *config.Config, key string) config.Value {
	t.Helper()
	for _, v := range c.Values() {
		if v.Key == key {
			return v
		}
	}
	t.Fatalf("no setting %q", key)
	return config.Value{}
}

func TestEverySettingTellsWhereItCameFrom(t *testing.T) {
	t.Parallel()
	c, err := config.Load(config.Inputs{
		Cmdline:         "agent.log=debug agent.hotplug_timeout=7 agent.guest_components_procs=attestation-agent agent.server_addr=vsock://-1:99",
		CmdlineMeasured: true,
		Env:             map[string]string{"KATA_AGENT_LOG_LEVEL": "trace"},
		CDH: &config.File{From: "initdata", Data: []byte(`socket = "unix:///run/x.sock"
[kbc]
name = "cc_kbc"
url = "https://kbs.example.com"
[image]
max_concurrent_layer_downloads_per_image = 2
[image.image_pull_proxy]
https_proxy = "http://user:password@proxy.example.com:3128"
`)},
	})
	if err != nil {
		t.Fatal(err)
	}
	for key, want := range map[string]config.Value{
		"log_level":              {Value: "trace", From: config.FromEnv},
		"hotplug_timeout":        {Value: "7s", From: config.FromCmdline},
		"guest_components_procs": {Value: "attestation-agent", From: config.FromCmdline},
		"server_addr":            {Value: "vsock://-1:99", From: config.FromCmdline},
		"cdi_timeout":            {Value: "1m40s", From: config.FromDefault},
		"cdh.socket":             {Value: "unix:///run/x.sock", From: "initdata"},
		"cdh.kbc.url":            {Value: "https://kbs.example.com", From: "initdata"},
		"cdh.image.max_concurrent_layer_downloads_per_image": {Value: "2", From: "initdata"},
		"cdh.image.image_pull_proxy.https_proxy":             {Value: "http://proxy.example.com:3128", From: "initdata"},
		"cdh.image.work_dir":                                 {Value: "/run/kata-containers/image/", From: config.FromDefault},
	} {
		want.Key = key
		if got := value(t, c, key); got != want {
			t.Errorf("got  %+v\nwant %+v", got, want)
		}
	}
	for _, v := range c.Values() {
		if strings.Contains(v.Value, "password") {
			t.Errorf("%s shows %q", v.Key, v.Value)
		}
	}
}

// What a value's source is called by is what its file calls it.
func TestEverySourceBelongsToASetting(t *testing.T) {
	t.Parallel()
	c, err := config.Load(config.Inputs{
		Cmdline: "agent.log=debug agent.log_vport=1025 agent.debug_console agent.debug_console_vport=1026 agent.cdh_api_timeout=1 agent.image_pull_timeout=1 " +
			"agent.cdi_timeout=1 agent.launch_process_timeout=1 agent.container_pipe_size=1 cgroup_no_v1=all agent.guest_components_rest_api=all " +
			"agent.secure_storage_integrity=false agent.aa_kbc_params=cc_kbc::https://kbs.example.com agent.https_proxy=http://p.example.com",
		CmdlineMeasured: true,
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, key := range c.Sources() {
		found := false
		for _, v := range c.Values() {
			found = found || v.Key == key || strings.HasPrefix(v.Key, key+".")
		}
		if !found {
			t.Errorf("%q has a source and no value", key)
		}
	}
}

func TestAnAddressIsWrittenAsItIsRead(t *testing.T) {
	t.Parallel()
	for _, text := range []string{"vsock://-1:1024", "vsock://3:99", "unix:///run/a.sock", "unix://@name", "tcp://127.0.0.1:1"} {
		a, err := config.ParseAddress(text)
		if err != nil || a.String() != text {
			t.Errorf("%q became %q (%v)", text, a, err)
		}
	}
}

func TestAFlagCountsMost(t *testing.T) {
	t.Parallel()
	in := config.Inputs{Env: map[string]string{"KATA_AGENT_SERVER_ADDR": "unix:///env"}, ServerAddr: "unix:///flag"}
	c, err := config.Load(in)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := value(t, c, "server_addr"), (config.Value{Key: "server_addr", Value: "unix:///flag", From: config.FromFlag}); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	in.ServerAddr = "udp://1"
	if _, err := config.Load(in); !errors.Is(err, config.ErrAddress) {
		t.Errorf("a bad one: %v", err)
	}
}
