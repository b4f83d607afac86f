// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package attest

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"cocoon/internal/config/shallow"
)

const fullConfig = `
[token_configs.kbs]
url = "https://kbs.example.com:8080"
cert = """
-----BEGIN CERTIFICATE-----
"""
tee_key_algorithm = "RSA-OAEP-256"
future = 1
[token_configs.coco_as]
url = "http://127.0.0.1:50004"
[eventlog_config]
enable_eventlog = true
init_pcr = 23
[log]
level = "debug"
[other]
x = 1
`

func TestConfigurationIsReadAndUnknownKeysAreListed(t *testing.T) {
	t.Parallel()
	c, err := ParseConfig([]byte(fullConfig))
	if err != nil {
		t.Fatal(err)
	}
	if k := c.Tokens.KBS; k.URL != "https://kbs.example.com:8080" || !strings.HasPrefix(k.Cert, "-----BEGIN") || k.TEEKeyAlgorithm != "RSA-OAEP-256" {
		t.Errorf("kbs is %+v", k)
	}
	if c.Tokens.CoCoAS.URL != "http://127.0.0.1:50004" || !c.EventLog.Enabled || c.EventLog.InitPCR != 23 || c.Log.Level != "debug" {
		t.Errorf("config is %+v", c)
	}
	if want := []string{"token_configs.kbs.future", "other", "other.x"}; !slices.Equal(c.Unknown, want) {
		t.Errorf("unknown keys are %q, want %q", c.Unknown, want)
	}
}

func TestAnEmptyConfigurationHasTheDefaults(t *testing.T) {
	t.Parallel()
	c, err := ParseConfig(nil)
	if err != nil || c.Tokens.KBS != nil || c.Tokens.CoCoAS != nil || c.EventLog.Enabled || c.EventLog.InitPCR != 17 || c.Log.Level != "info" || len(c.Unknown) != 0 {
		t.Errorf("got %+v, %v", c, err)
	}
}

func TestABadConfigurationIsRefused(t *testing.T) {
	t.Parallel()
	for name, text := range map[string]string{
		"not TOML":      "{}",
		"type":          "[eventlog_config]\nenable_eventlog = \"yes\"",
		"negative pcr":  "[eventlog_config]\ninit_pcr = -1",
		"pcr too high":  "[eventlog_config]\ninit_pcr = 24",
		"kbs no url":    "[token_configs.kbs]\ncert = \"\"",
		"as no url":     "[token_configs.coco_as]",
		"level":         "[log]\nlevel = \"loud\"",
		"twice":         "[log]\n[log]",
		"too large":     "#" + strings.Repeat("x", maxConfig),
		"kbs a string":  "[token_configs]\nkbs = \"https://h\"",
		"invalid UTF-8": "x = \"\xff\"",
	} {
		if c, err := ParseConfig([]byte(text)); err == nil {
			t.Errorf("%s: taken as %+v", name, c)
		}
	}
}

func TestAConfigurationThatWouldStallTheDecoderIsRefused(t *testing.T) {
	t.Parallel()
	for name, text := range map[string]string{
		"dotted key":    strings.Repeat("a.", 200_000) + "b = 1",
		"dotted table":  "[" + strings.Repeat("a.", 200_000) + "b]",
		"nested arrays": "x = " + strings.Repeat("[", 200_000),
		"nested tables": "x = " + strings.Repeat("{a=", 200_000),
		"many tables":   strings.Repeat("[[a]]\n", 100_000),
	} {
		if _, err := ParseConfig([]byte(text)); !errors.Is(err, shallow.ErrShape) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestAConfigurationsErrorsDoNotQuoteIt(t *testing.T) {
	t.Parallel()
	for _, text := range []string{"x = hunter2", "[log]\nlevel = [\"hunter2\"]", "[token_configs.kbs]\nurl = {a = \"hunter2\"}"} {
		if _, err := ParseConfig([]byte(text)); err == nil || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%q: %v", text, err)
		}
	}
}

func TestKernelParametersNameABroker(t *testing.T) {
	t.Parallel()
	for params, want := range map[string]string{ // to the URL
		"cc_kbc::https://kbs.example.com": "https://kbs.example.com",
		"cc_kbc::https://[fd00::1]:8080":  "https://[fd00::1]:8080",
		"offline_fs_kbc::null":            "",
		"":                                "",
	} {
		c, err := ParseKBCParams(params)
		if err != nil || (c.Tokens.KBS == nil) != (want == "") || want != "" && c.Tokens.KBS.URL != want || c.EventLog.InitPCR != DefaultInitPCR {
			t.Errorf("%q: got %+v, %v; want %q", params, c, err, want)
		}
	}
	for _, bad := range []string{"cc_kbc", "cc_kbc::", "cc_kbc:https://h", "eaa_kbc::h", "::https://h", "https://[::1]"} {
		if c, err := ParseKBCParams(bad); err == nil {
			t.Errorf("%q: taken as %+v", bad, c)
		}
	}
}

func FuzzParseConfig(f *testing.F) {
	f.Add([]byte(fullConfig))
	f.Add([]byte("[token_configs.kbs]\nurl = \"x\""))
	f.Add([]byte("a.b.c = [[1]]"))
	f.Fuzz(func(t *testing.T, text []byte) {
		c, err := ParseConfig(text)
		if err != nil {
			return
		}
		if len(c.Unknown) > maxUnknown || c.Tokens.KBS != nil && c.Tokens.KBS.URL == "" || c.Log.Level == "" {
			t.Errorf("accepted %+v", c)
		}
	})
}

func FuzzParseKBCParams(f *testing.F) {
	f.Add("cc_kbc::https://[fd00::1]:8080")
	f.Add("offline_fs_kbc::null")
	f.Fuzz(func(t *testing.T, params string) {
		c, err := ParseKBCParams(params)
		if err == nil && c.Tokens.KBS != nil && params != "cc_kbc::"+c.Tokens.KBS.URL {
			t.Errorf("%q gives %q", params, c.Tokens.KBS.URL)
		}
	})
}
