// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package config

import (
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"strings"
)

// Value is one setting as it is in force.
type Value struct {
	// Key is a key of the agent's file, or "cdh." and a key of cdh.toml.
	Key string `json:"key"`
	// Value is the setting as text; of a document only its size.
	Value string `json:"value"`
	// From is where it came from.
	From Source `json:"from"`
}

// Values lists every setting with its source, the agent's first. No key or
// password is a setting; whole documents and certificates are left out.
func (c *Config) Values() []Value {
	a, d := c.Agent, c.CDH
	list := [][2]string{
		{"log_level", levelName(a.LogLevel)}, {"log_vport", fmt.Sprint(a.LogPort)},
		{"debug_console", fmt.Sprint(a.DebugConsole)}, {"debug_console_vport", fmt.Sprint(a.DebugConsolePort)},
		{"server_addr", a.ServerAddr.String()}, {"hotplug_timeout", a.HotplugTimeout.String()},
		{"cdh_api_timeout", a.CDHTimeout.String()}, {"image_pull_timeout", a.ImagePullTimeout.String()},
		{"cdi_timeout", a.CDITimeout.String()}, {"launch_process_timeout", a.LaunchTimeout.String()},
		{"container_pipe_size", fmt.Sprint(a.ContainerPipeSize)}, {"unified_cgroup_hierarchy", fmt.Sprint(a.UnifiedCgroup)},
		{"guest_components_procs", a.Components.String()}, {"guest_components_rest_api", string(a.RESTFeatures)},
		{"secure_storage_integrity", fmt.Sprint(a.SecureStorageIntegrity)}, {"policy_file", a.PolicyFile},
		{"cdh.socket", d.Socket}, {"cdh.aa.aa_socket", d.AASocket},
		{"cdh.skip_sealed_secret_verification", fmt.Sprint(d.SkipSealedSecretVerification)},
		{"cdh.kbc.name", d.KBC.Name}, {"cdh.kbc.url", d.KBC.URL}, {"cdh.kbc.kbs_cert", size(d.KBC.Cert)},
		{"cdh.credentials", fmt.Sprint(len(d.Credentials))},
		{"cdh.image.work_dir", d.Image.WorkDir},
		{"cdh.image.max_concurrent_layer_downloads_per_image", fmt.Sprint(d.Image.MaxConcurrentDownloads)},
		{"cdh.image.image_security_policy_uri", d.Image.SecurityPolicyURI}, {"cdh.image.image_security_policy", size(d.Image.SecurityPolicy)},
		{"cdh.image.sigstore_config_uri", d.Image.SigstoreConfigURI}, {"cdh.image.sigstore_config", size(d.Image.SigstoreConfig)},
		{"cdh.image.authenticated_registry_credentials_uri", d.Image.RegistryAuthURI},
		{"cdh.image.registry_configuration_uri", d.Image.RegistryConfigURI}, {"cdh.image.registry_config", size(string(d.Image.RegistryConfig))},
		{"cdh.image.image_pull_proxy.https_proxy", withoutUser(d.Image.Proxy.HTTPS)},
		{"cdh.image.image_pull_proxy.http_proxy", withoutUser(d.Image.Proxy.HTTP)}, {"cdh.image.image_pull_proxy.no_proxy", d.Image.Proxy.No},
		{"cdh.image.extra_root_certificates", fmt.Sprint(len(d.Image.ExtraRoots))},
		{"aa", size(string(c.AA))},
	}
	values := make([]Value, 0, len(list))
	for _, v := range list {
		values = append(values, Value{Key: v[0], Value: v[1], From: c.origins(v[0])})
	}
	return values
}

// origins is Source for a setting that may have been given as a part of a
// table.
func (c *Config) origins(key string) Source {
	for k := key; k != ""; {
		if s, ok := c.origin[k]; ok {
			return s
		}
		i := strings.LastIndexByte(k, '.')
		k = k[:max(i, 0)]
	}
	return FromDefault
}

func size(text string) string {
	if text == "" {
		return ""
	}
	return strconv.Itoa(len(text)) + " bytes"
}

// withoutUser removes user and password from a proxy's address.
func withoutUser(address string) string {
	scheme, rest, ok := strings.Cut(address, "://")
	if !ok {
		scheme, rest = "", address
	}
	if i := strings.LastIndexByte(rest, '@'); i >= 0 {
		rest = rest[i+1:]
	}
	if ok {
		return scheme + "://" + rest
	}
	return rest
}

func levelName(l slog.Level) string {
	switch l {
	case LevelTrace:
		return "trace"
	case slog.LevelDebug:
		return "debug"
	case slog.LevelInfo:
		return "info"
	case slog.LevelWarn:
		return "warn"
	}
	return "error"
}

// componentNames are those of Components, in order.
func componentNames() []string {
	return []string{"none", "attestation-agent", "confidential-data-hub", "api-server-rest"}
}

// String returns the name by which agent.guest_components_procs means c.
func (c Components) String() string {
	if names := componentNames(); int(c) >= 0 && int(c) < len(names) {
		return names[c]
	}
	return "unknown"
}

// componentsOf returns the Components of a name.
func componentsOf(name string) (Components, bool) {
	i := slices.Index(componentNames(), name)
	return Components(i), i >= 0
}
