// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package config_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io/fs"
	"log/slog"
	"math"
	"math/big"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"cocoon/internal/bounded"
	"cocoon/internal/cmdline"
	"cocoon/internal/config"
	"cocoon/internal/config/shallow"
)

func load(t *testing.T, in config.Inputs) *config.Config {
	t.Helper()
	c, err := config.Load(in)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func certificate(t testing.TB) string {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}

func TestWithoutAnyInputTheDefaultsHold(t *testing.T) {
	t.Parallel()
	c := load(t, config.Inputs{})
	want := config.Agent{
		LogLevel:               slog.LevelInfo,
		ServerAddr:             config.Address{Network: "vsock", CID: math.MaxUint32, Port: 1024},
		HotplugTimeout:         3 * time.Second,
		CDHTimeout:             50 * time.Second,
		ImagePullTimeout:       20 * time.Minute,
		CDITimeout:             100 * time.Second,
		LaunchTimeout:          6 * time.Second,
		Components:             config.APIServerREST,
		RESTFeatures:           config.FeatureResource,
		SecureStorageIntegrity: true,
	}
	if d := cmp.Diff(want, c.Agent); d != "" {
		t.Errorf("agent (-want +got):\n%s", d)
	}
	if c.CDH.KBC.Name != config.KBCOffline || c.CDH.Image.MaxConcurrentDownloads != 3 || c.AA != nil {
		t.Errorf("got %+v", c.CDH)
	}
	if len(c.Sources()) != 0 || c.Source("log_level") != config.FromDefault {
		t.Errorf("sources %v", c.Sources())
	}
}

func TestWordsOfTheCommandLineAreRead(t *testing.T) {
	t.Parallel()
	c := load(t, config.Inputs{Cmdline: "root=/dev/vda1 agent.log=warn agent.log=trace agent.log_vport=1025 agent.debug_console " +
		"agent.debug_console_vport=1026 agent.server_addr=vsock://3:99 agent.hotplug_timeout=7 agent.cdh_api_timeout=51 " +
		"agent.image_pull_timeout=52 agent.cdi_timeout=53 agent.launch_process_timeout=54 agent.container_pipe_size=2097152 " +
		"cgroup_no_v1=all agent.guest_components_rest_api=all agent.guest_components_procs=none agent.secure_storage_integrity=false " +
		"agent.unknown=1 agent.mem_agent_period_secs=x agent.mem_agent_enable=1 x=a=b\n"})
	want := config.Agent{
		LogLevel: config.LevelTrace, LogPort: 1025, DebugConsole: true, DebugConsolePort: 1026,
		ServerAddr:     config.Address{Network: "vsock", CID: 3, Port: 99},
		HotplugTimeout: 7 * time.Second, CDHTimeout: 51 * time.Second, ImagePullTimeout: 52 * time.Second,
		CDITimeout: 53 * time.Second, LaunchTimeout: 54 * time.Second, ContainerPipeSize: 2097152,
		UnifiedCgroup: true, Components: config.NoComponents, RESTFeatures: config.FeatureAll,
	}
	if d := cmp.Diff(want, c.Agent); d != "" {
		t.Errorf("agent (-want +got):\n%s", d)
	}
	if v, ok := c.Cmdline.Value("x"); !ok || v != "a=b" {
		t.Errorf("x = %q, %v", v, ok)
	}
	if s := c.Source("unified_cgroup_hierarchy"); s != config.FromCmdline {
		t.Errorf("source %q", s)
	}
}

func TestADebugConsoleNeedsTheExactWord(t *testing.T) {
	t.Parallel()
	for _, line := range []string{"agent.debug_console=true", "agent.debug_console=", "agent.debug_console_x", "debug_console"} {
		if load(t, config.Inputs{Cmdline: line}).Agent.DebugConsole {
			t.Errorf("%q opened the console", line)
		}
	}
}

func TestABadWordIsNamed(t *testing.T) {
	t.Parallel()
	for _, word := range []string{
		"agent.log=", "agent.log=loud", "agent.log_vport=0", "agent.log_vport=-1", "agent.log_vport=4294967296",
		"agent.debug_console_vport=x", "agent.server_addr=", "agent.server_addr=http://x", "agent.server_addr=vsock://-2:1",
		"agent.server_addr=vsock://1", "agent.server_addr=vsock://1:0", "agent.server_addr=unix://relative",
		"agent.server_addr=unix://@", "agent.server_addr=tcp://name:1", "agent.hotplug_timeout=0", "agent.hotplug_timeout=-3",
		"agent.cdh_api_timeout=1h", "agent.cdh_api_timeout=1h3", "agent.image_pull_timeout=99999999999999999999",
		"agent.cdi_timeout=1e9", "agent.launch_process_timeout=", "agent.container_pipe_size=-1",
		"systemd.unified_cgroup_hierarchy=yes", "agent.guest_components_rest_api=none", "agent.guest_components_procs=all",
		"agent.secure_storage_integrity=treu", "agent.secure_storage_integrity=", "agent.config_file=/etc/x",
	} {
		_, err := config.Load(config.Inputs{Cmdline: word})
		key, _, _ := strings.Cut(word, "=")
		if !errors.Is(err, config.ErrValue) || !strings.Contains(err.Error(), key) {
			t.Errorf("%s: got %v, want %v with the word in it", word, err, config.ErrValue)
		}
	}
	if _, err := config.Load(config.Inputs{Cmdline: strings.Repeat("x ", cmdline.Max)}); !errors.Is(err, bounded.ErrTooLarge) {
		t.Errorf("a huge command line: got %v", err)
	}
}

const agentTOML = `
server_addr = "unix:///run/kata-containers/agent.sock"
guest_components_procs = "none"
debug_console = true
cdh_api_timeout = { secs = 6, nanos = 500000000 }
image_pull_timeout = 7
policy_file = "/etc/kata-opa/other.rego"
some_other_key = "x"
`

func TestAnAgentFileReplacesTheCommandLineButNotTheEnvironment(t *testing.T) {
	t.Parallel()
	c := load(t, config.Inputs{
		Cmdline: "agent.log=debug agent.guest_components_procs=attestation-agent agent.debug_console_vport=bad",
		Agent:   &config.File{Data: []byte(agentTOML), From: "agent.toml"},
		Env:     map[string]string{"KATA_AGENT_LOG_LEVEL": "error", "HOME": "/"},
	})
	a := c.Agent
	if a.LogLevel != slog.LevelError || a.Components != config.NoComponents || !a.DebugConsole ||
		a.CDHTimeout != 6500*time.Millisecond || a.ImagePullTimeout != 7*time.Second || a.PolicyFile != "/etc/kata-opa/other.rego" ||
		a.ServerAddr != (config.Address{Network: "unix", Address: "/run/kata-containers/agent.sock"}) {
		t.Errorf("got %+v", a)
	}
	if c.Source("log_level") != config.FromEnv || c.Source("server_addr") != "agent.toml" {
		t.Errorf("sources %q, %q", c.Source("log_level"), c.Source("server_addr"))
	}
	if len(c.Warnings) != 1 || !strings.Contains(c.Warnings[0], "some_other_key") {
		t.Errorf("warnings %q", c.Warnings)
	}
}

func TestTheFileNamedOnTheCommandLineCountsWhereverItsWordStands(t *testing.T) {
	t.Parallel()
	read := func(path string) ([]byte, error) {
		if path != "/etc/agent.toml" {
			return nil, fs.ErrNotExist
		}
		return []byte(agentTOML), nil
	}
	for _, line := range []string{"agent.config_file=/etc/agent.toml agent.log=bad", "agent.log=bad agent.config_file=/etc/agent.toml"} {
		c := load(t, config.Inputs{Cmdline: line, ReadFile: read, Env: map[string]string{"KATA_AGENT_LOG_LEVEL": "bad"}})
		if c.Agent.ImagePullTimeout != 7*time.Second || c.Source("image_pull_timeout") != "/etc/agent.toml" {
			t.Errorf("%s: got %+v", line, c.Agent)
		}
	}
	if _, err := config.Load(config.Inputs{Cmdline: "agent.config_file=/absent", ReadFile: read}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("an absent file: got %v", err)
	}
	if _, err := config.Load(config.Inputs{Cmdline: "agent.config_file=relative", ReadFile: read}); !errors.Is(err, config.ErrValue) {
		t.Errorf("a relative path: got %v", err)
	}
}

func TestABadAgentFileIsRefused(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]error{
		`log_level = "loud"`:                               config.ErrValue,
		`log_level = [1]`:                                  config.ErrValue,
		`hotplug_timeout = {secs = -1}`:                    config.ErrValue,
		`hotplug_timeout = {secs = 1, nanos = 1000000000}`: config.ErrValue,
		`hotplug_timeout = {nanos = 1}`:                    config.ErrValue,
		`debug_console = "maybe"`:                          config.ErrValue,
		`policy_file = "x"`:                                config.ErrValue,
		`log_level = `:                                     shallow.ErrSyntax,
		`x = ` + strings.Repeat("[", 99):                   shallow.ErrShape,
	} {
		_, err := config.Load(config.Inputs{Agent: &config.File{Data: []byte(text), From: "agent.toml"}})
		if !errors.Is(err, want) {
			t.Errorf("%s: got %v, want %v", text, err, want)
		}
	}
	_, err := config.Load(config.Inputs{Env: map[string]string{"KATA_AGENT_SERVER_ADDR": "x"}})
	if !errors.Is(err, config.ErrValue) {
		t.Errorf("environment: got %v", err)
	}
}

func FuzzCmdline(f *testing.F) {
	f.Add("agent.log=debug agent.debug_console agent.server_addr=vsock://-1:1024 cgroup_no_v1=all")
	f.Add("agent.aa_kbc_params=cc_kbc::https://[fd00::1]:8080 cdh.kbs_resources=kbs:///a/b/c::/x,d::e")
	f.Add("agent.enable_signature_verification=true agent.image_policy_file=kbs:///a/b/c agent.config_file=/x")
	f.Add("agent.hotplug_timeout=1.5 \t\n= == a= =b")
	f.Fuzz(func(t *testing.T, line string) {
		c, err := config.Load(config.Inputs{Cmdline: line, CmdlineMeasured: true})
		if err != nil {
			return
		}
		if c.Agent.ServerAddr.Network == "" || c.Agent.HotplugTimeout <= 0 || c.CDH.KBC.Name == "" {
			t.Fatalf("accepted %q as %+v", line, c)
		}
	})
}
