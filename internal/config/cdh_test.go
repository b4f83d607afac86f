// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package config_test

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"cocoon/internal/config"
	"cocoon/internal/config/shallow"
)

const cdhTOML = `
socket = "unix:///tmp/cdh.sock"
skip_sealed_secret_verification = true
unknown_top = 1
[aa]
aa_socket = "unix:///tmp/aa.sock"
[kbc]
name = "cc_kbc"
url = "https://kbs.example.com:8080/prefix/"
kbs_cert = """
CERT"""
late_key = true
[[credentials]]
path = "/run/confidential-containers/cdh/kbs/x"
resource_uri = "kbs:///a/b/c"
[log]
level = "debug"
[image]
max_concurrent_layer_downloads_per_image = 5
image_security_policy_uri = "kbs:///default/security-policy/prod"
image_security_policy = "{}"
sigstore_config = "x: y"
authenticated_registry_credentials_uri = "kbs:///default/credential/regcred"
registry_configuration_uri = "kbs:///loses"
extra_root_certificates = ["""CERT"""]
[image.registry_config]
unqualified-search-registries = ["example.com"]
[image.image_pull_proxy]
https_proxy = "http://127.0.0.1:3128"
`

func cdhFile(t testing.TB, text string) *config.File {
	t.Helper()
	return &config.File{Data: []byte(strings.ReplaceAll(text, "CERT", certificate(t))), From: "initdata cdh.toml"}
}

func TestEveryFieldOfCDHTOMLIsRead(t *testing.T) {
	t.Parallel()
	f := cdhFile(t, cdhTOML)
	c := load(t, config.Inputs{CDH: f, RegistryAuth: "file:///run/peerpod/auth.json", Cmdline: "agent.https_proxy=http://ignored"})
	got := c.CDH
	if !strings.Contains(got.KBC.Cert, "BEGIN CERTIFICATE") || len(got.Image.ExtraRoots) != 1 {
		t.Errorf("certificates are missing: %+v", got)
	}
	got.KBC.Cert, got.Image.ExtraRoots = "", nil
	want := config.CDH{
		Socket:                       "unix:///tmp/cdh.sock",
		SkipSealedSecretVerification: true,
		AASocket:                     "unix:///tmp/aa.sock",
		KBC:                          config.KBC{Name: "cc_kbc", URL: "https://kbs.example.com:8080/prefix"},
		Credentials:                  []config.Credential{{Path: "/run/confidential-containers/cdh/kbs/x", ResourceURI: "kbs:///a/b/c"}},
		Image: config.Image{
			WorkDir:                config.DefaultImageDir,
			MaxConcurrentDownloads: 5,
			SecurityPolicyURI:      "kbs:///default/security-policy/prod",
			SigstoreConfig:         "x: y",
			RegistryAuthURI:        "kbs:///default/credential/regcred",
			RegistryConfig:         []byte("unqualified-search-registries = [\"example.com\"]\n"),
			Proxy:                  config.ProxyHost{HTTPS: "http://127.0.0.1:3128"},
		},
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("cdh (-want +got):\n%s", d)
	}
	if len(c.Warnings) != 2 || !slices.ContainsFunc(c.Warnings, func(s string) bool { return strings.Contains(s, "kbc.late_key") }) {
		t.Errorf("warnings %q", c.Warnings)
	}
	if s := c.Source("cdh.kbc.url"); s != "initdata cdh.toml" {
		t.Errorf("source %q", s)
	}
}

func TestTheLauncherNamesCredentialsOnlyIfTheOwnerDidNot(t *testing.T) {
	t.Parallel()
	const launcher = "file:///run/peerpod/auth.json"
	const kbc = "[kbc]\nname = 'offline_fs_kbc'\n"
	c := load(t, config.Inputs{CDH: cdhFile(t, kbc+"[image]\n"), RegistryAuth: launcher})
	if c.CDH.Image.RegistryAuthURI != launcher || c.Source("cdh.image.authenticated_registry_credentials_uri") != config.FromLaunch {
		t.Errorf("got %+v", c.CDH.Image)
	}
	c = load(t, config.Inputs{CDH: cdhFile(t, kbc+"[image]\nauthenticated_registry_credentials_uri = 'kbs:///a/b/c'\n"), RegistryAuth: launcher})
	if c.CDH.Image.RegistryAuthURI != "kbs:///a/b/c" {
		t.Errorf("got %+v", c.CDH.Image)
	}
}

func TestAMeasuredCommandLineStandsInForAMissingFile(t *testing.T) {
	t.Parallel()
	c := load(t, config.Inputs{CmdlineMeasured: true, Cmdline: "agent.aa_kbc_params=cc_kbc::http://[fd00::1]:8080/ agent.https_proxy=a " +
		"agent.https_proxy=b agent.http_proxy=c agent.no_proxy=d agent.image_registry_auth=kbs:///a/b/c agent.image_policy_file=kbs:///p/p/p " +
		"agent.enable_signature_verification=true cdh.kbs_resources=kbs:///1/2/3::/x,kbs:///4/5/6::/y cdh.kbs_resources=second"})
	if c.CDH.KBC != (config.KBC{Name: "cc_kbc", URL: "http://[fd00::1]:8080"}) {
		t.Errorf("kbc %+v", c.CDH.KBC)
	}
	i := c.CDH.Image
	if i.Proxy != (config.ProxyHost{HTTPS: "b", HTTP: "c", No: "d"}) || i.RegistryAuthURI != "kbs:///a/b/c" || i.SecurityPolicyURI != "kbs:///p/p/p" {
		t.Errorf("image %+v", i)
	}
	want := []config.Credential{{Path: "/x", ResourceURI: "kbs:///1/2/3"}, {Path: "/y", ResourceURI: "kbs:///4/5/6"}}
	if d := cmp.Diff(want, c.CDH.Credentials); d != "" {
		t.Error(d)
	}
}

func TestASignaturePolicyIsUsedOnlyWithVerificationOn(t *testing.T) {
	t.Parallel()
	for _, v := range []string{"", "agent.enable_signature_verification=1", "agent.enable_signature_verification=TRUE"} {
		c := load(t, config.Inputs{CmdlineMeasured: true, Cmdline: "agent.image_policy_file=kbs:///p/p/p " + v})
		if c.CDH.Image.SecurityPolicyURI != "" {
			t.Errorf("%q switched the policy on", v)
		}
	}
}

func TestBadWordsOfTheDataHubAreRefused(t *testing.T) {
	t.Parallel()
	for line, want := range map[string]error{
		"agent.aa_kbc_params=cc_kbc":                  config.ErrValue,
		"agent.aa_kbc_params=":                        config.ErrValue,
		"agent.aa_kbc_params=eaa_kbc::http://x":       config.ErrValue,
		"agent.aa_kbc_params=cc_kbc::ftp://x":         config.ErrValue,
		"agent.aa_kbc_params=cc_kbc::":                config.ErrValue,
		"agent.aa_kbc_params=cc_kbc::http://u:p@host": config.ErrValue,
		"agent.enable_signature_verification=true":    config.ErrValue,
		"cdh.kbs_resources=x":                         config.ErrValue,
	} {
		if _, err := config.Load(config.Inputs{Cmdline: line, CmdlineMeasured: true}); !errors.Is(err, want) {
			t.Errorf("%s: got %v, want %v", line, err, want)
		}
	}
}

func TestAnUnmeasuredCommandLineMayNotNameWhomToTrust(t *testing.T) {
	t.Parallel()
	for _, line := range []string{
		"agent.aa_kbc_params=cc_kbc::https://attacker.example.com",
		"agent.image_registry_auth=file:///x",
		"agent.image_policy_file=file:///x",
		"agent.https_proxy=http://attacker.example.com",
		"agent.enable_signature_verification=false",
		"cdh.kbs_resources=kbs:///1/2/3::/x",
	} {
		if _, err := config.Load(config.Inputs{Cmdline: line}); !errors.Is(err, config.ErrUnmeasured) {
			t.Errorf("%s: got %v, want %v", line, err, config.ErrUnmeasured)
		}
	}
	// With the owner's own file these words have no effect, and no say.
	file := cdhFile(t, "[kbc]\nname = 'offline_fs_kbc'\n[image]\n")
	c := load(t, config.Inputs{Cmdline: "agent.aa_kbc_params=cc_kbc::https://attacker.example.com agent.https_proxy=x", CDH: file})
	if c.CDH.KBC.Name != config.KBCOffline || c.CDH.Image.Proxy.HTTPS != "" {
		t.Errorf("got %+v", c.CDH)
	}
}

func TestABadCDHTOMLIsRefused(t *testing.T) {
	t.Parallel()
	const kbc = "[kbc]\nname = 'cc_kbc'\nurl = 'https://kbs.example.com'\n"
	for text, want := range map[string]error{
		"":                                    config.ErrValue,
		"[kbc]\nurl = 'https://x'":            config.ErrValue,
		"[kbc]\nname = 'sample_kbc'":          config.ErrValue,
		"[kbc]\nname = 'cc_kbc'":              config.ErrValue,
		"[kbc]\nname = 'cc_kbc'\nurl = 'x'":   config.ErrValue,
		"[kbc]\nname = 'cc_kbc'\nurl = '://'": config.ErrValue,
		kbc + "kbs_cert = 'garbage'":          config.ErrValue,
		kbc + "kbs_cert = '''-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----'''": config.ErrValue,
		"socket = 'tcp://127.0.0.1:1'\n" + kbc:                                                config.ErrValue,
		"socket = 1\n" + kbc:                                                                  shallow.ErrType,
		"skip_sealed_secret_verification = 'no'\n" + kbc:                                      shallow.ErrType,
		kbc + "[image]\nmax_concurrent_layer_downloads_per_image = 0":                         config.ErrValue,
		kbc + "[image]\nwork_dir = 'x'":                                                       config.ErrValue,
		kbc + "[image]\nextra_root_certificates = ['x']":                                      config.ErrValue,
		kbc + "[kbc]": shallow.ErrSyntax,
	} {
		_, err := config.Load(config.Inputs{CDH: &config.File{Data: []byte(text), From: "cdh.toml"}})
		if !errors.Is(err, want) {
			t.Errorf("%s: got %v, want %v", text, err, want)
		}
	}
}

func TestAASettingsPassThroughUnread(t *testing.T) {
	t.Parallel()
	in := []byte("not even TOML [")
	cdh := &config.File{Data: []byte("[kbc]\nname = \"offline_fs_kbc\""), From: "initdata"}
	c := load(t, config.Inputs{AA: &config.File{Data: in, From: "initdata"}, CDH: cdh})
	in[0] = 'X'
	if string(c.AA) != "not even TOML [" || c.Source("aa") != "initdata" {
		t.Errorf("got %q from %q", c.AA, c.Source("aa"))
	}
}

func TestWithoutCDHTOMLTheBrokerOfAATOMLIsUsed(t *testing.T) {
	t.Parallel()
	file := func(text string) *config.File { return &config.File{Data: []byte(text), From: "initdata"} }
	named := file("[token_configs.kbs]\nurl = \"https://kbs.example.com/\"\ncert = '''\n" + certificate(t) + "'''\n[log]\nlevel = \"debug\"")
	c := load(t, config.Inputs{AA: named})
	if k := c.CDH.KBC; k.Name != config.KBCRemote || k.URL != "https://kbs.example.com" || !strings.HasPrefix(k.Cert, "-----BEGIN") || c.Source("cdh.kbc") != "initdata" {
		t.Errorf("broker is %+v from %q", k, c.Source("cdh.kbc"))
	}
	for name, in := range map[string]config.Inputs{
		"cdh.toml":     {AA: named, CDH: file("[kbc]\nname = \"offline_fs_kbc\"")},
		"command line": {AA: named, CmdlineMeasured: true, Cmdline: "agent.aa_kbc_params=offline_fs_kbc::null"},
		"no broker":    {AA: file("[log]\nlevel = \"info\"")},
		"empty file":   {AA: file("")},
		"empty url":    {AA: file("[token_configs.kbs]\nurl = \"\"")},
	} {
		if c := load(t, in); c.CDH.KBC.Name != config.KBCOffline {
			t.Errorf("%s: broker is %+v", name, c.CDH.KBC)
		}
	}
	for name, text := range map[string]string{
		"not TOML":    "not even TOML [",
		"type":        "[token_configs]\nkbs = 1",
		"scheme":      "[token_configs.kbs]\nurl = \"ftp://kbs.example.com\"",
		"credentials": "[token_configs.kbs]\nurl = \"https://u:p@kbs.example.com\"",
		"certificate": "[token_configs.kbs]\nurl = \"https://kbs.example.com\"\ncert = \"x\"",
		"shape":       strings.Repeat("a.", 100) + "b = 1",
	} {
		if c, err := config.Load(config.Inputs{AA: file(text)}); err == nil {
			t.Errorf("%s: taken as %+v", name, c.CDH.KBC)
		}
	}
}

func FuzzCDHTOML(f *testing.F) {
	f.Add([]byte(strings.ReplaceAll(cdhTOML, "CERT", certificate(f))))
	f.Add([]byte("[kbc]\nname='offline_fs_kbc'\n[image]"))
	f.Add([]byte("[kbc]\nname='cc_kbc'\nurl='http://x'\n[image.registry_config]\na={b=1}"))
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := config.Load(config.Inputs{CDH: &config.File{Data: data, From: "cdh.toml"}})
		if err == nil && (c.CDH.KBC.Name == "" || c.CDH.Image.MaxConcurrentDownloads < 1) {
			t.Fatalf("accepted %q as %+v", data, c.CDH)
		}
	})
}

func FuzzAgentTOML(f *testing.F) {
	f.Add([]byte(agentTOML))
	f.Add([]byte("hotplug_timeout = {secs=1,nanos=2}"))
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := config.Load(config.Inputs{Agent: &config.File{Data: data, From: "agent.toml"}})
		if err == nil && (c.Agent.HotplugTimeout <= 0 || c.Agent.ServerAddr.Network == "") {
			t.Fatalf("accepted %q as %+v", data, c.Agent)
		}
	})
}
