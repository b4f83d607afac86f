// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package config

import (
	"errors"
	"fmt"
	"log/slog"
	"math"
	"strconv"
	"strings"
	"time"

	"cocoon/internal/config/shallow"
)

// MaxTOML is the most bytes of a configuration file.
const MaxTOML = 1 << 20

// ErrValue is returned for a known parameter whose value is malformed.
var ErrValue = errors.New("bad value")

// LevelTrace is below slog's debug level.
const LevelTrace = slog.LevelDebug - 4

// Components is how far the chain of guest components goes; each level
// includes the ones before.
type Components int

// The levels of Components, as agent.guest_components_procs names them.
const (
	NoComponents Components = iota
	AttestationAgent
	ConfidentialDataHub
	APIServerREST
)

// Features is what the REST API offers.
type Features string

// The values of Features.
const (
	FeatureResource    Features = "resource"
	FeatureAttestation Features = "attestation"
	FeatureAll         Features = "all"
)

// Agent holds the settings of the Kata agent that this guest uses. The memory
// agent's parameters and tracing are not among them and are ignored.
type Agent struct {
	LogLevel               slog.Level
	LogPort                uint32 // vsock port of the log stream, 0 for none
	DebugConsole           bool
	DebugConsolePort       uint32 // vsock port, 0 for /dev/console
	ServerAddr             Address
	HotplugTimeout         time.Duration
	CDHTimeout             time.Duration // every call of the data hub but pulling
	ImagePullTimeout       time.Duration
	CDITimeout             time.Duration
	LaunchTimeout          time.Duration
	ContainerPipeSize      int // bytes, 0 for the kernel's default
	UnifiedCgroup          bool
	Components             Components
	RESTFeatures           Features
	SecureStorageIntegrity bool
	PolicyFile             string // empty for the image's own
}

func defaultAgent() Agent {
	return Agent{
		LogLevel:               slog.LevelInfo,
		ServerAddr:             Address{Network: "vsock", CID: math.MaxUint32, Port: 1024},
		HotplugTimeout:         3 * time.Second,
		CDHTimeout:             50 * time.Second,
		ImagePullTimeout:       1200 * time.Second,
		CDITimeout:             100 * time.Second,
		LaunchTimeout:          6 * time.Second,
		Components:             APIServerREST,
		RESTFeatures:           FeatureResource,
		SecureStorageIntegrity: true,
	}
}

// agentKey is one parameter: its word on the kernel command line, its key in
// the agent's TOML file, its environment variable, and how to read it. Empty
// names do not exist.
type agentKey struct {
	word, toml, env string
	set             func(a *Agent, text string) error
}

func agentKeys() []agentKey {
	return []agentKey{
		{"agent.log", "log_level", "KATA_AGENT_LOG_LEVEL", setLevel},
		{"agent.log_vport", "log_vport", "", port(func(a *Agent) *uint32 { return &a.LogPort })},
		{"agent.debug_console_vport", "debug_console_vport", "", port(func(a *Agent) *uint32 { return &a.DebugConsolePort })},
		{"", "debug_console", "", boolean(func(a *Agent) *bool { return &a.DebugConsole })},
		{"agent.server_addr", "server_addr", "KATA_AGENT_SERVER_ADDR", setServerAddr},
		{"agent.hotplug_timeout", "hotplug_timeout", "", seconds(func(a *Agent) *time.Duration { return &a.HotplugTimeout })},
		{"agent.cdh_api_timeout", "cdh_api_timeout", "", seconds(func(a *Agent) *time.Duration { return &a.CDHTimeout })},
		{"agent.image_pull_timeout", "image_pull_timeout", "", seconds(func(a *Agent) *time.Duration { return &a.ImagePullTimeout })},
		{"agent.cdi_timeout", "cdi_timeout", "", seconds(func(a *Agent) *time.Duration { return &a.CDITimeout })},
		{"agent.launch_process_timeout", "launch_process_timeout", "", seconds(func(a *Agent) *time.Duration { return &a.LaunchTimeout })},
		{"agent.container_pipe_size", "container_pipe_size", "", setPipeSize},
		{"systemd.unified_cgroup_hierarchy", "unified_cgroup_hierarchy", "", boolean(func(a *Agent) *bool { return &a.UnifiedCgroup })},
		{"agent.guest_components_rest_api", "guest_components_rest_api", "", setFeatures},
		{"agent.guest_components_procs", "guest_components_procs", "", setComponents},
		{"agent.secure_storage_integrity", "secure_storage_integrity", "", boolean(func(a *Agent) *bool { return &a.SecureStorageIntegrity })},
		{"", "policy_file", "KATA_AGENT_POLICY_FILE", setPolicyFile},
	}
}

func boolean(field func(*Agent) *bool) func(*Agent, string) error {
	return func(a *Agent, text string) error {
		v, err := parseBool(text)
		*field(a) = v
		return err
	}
}

// parseBool reads true, false or a whole number. Upstream takes any other word
// for false, which would switch a protection off by a typing error.
func parseBool(text string) (bool, error) {
	switch text {
	case "true":
		return true, nil
	case "false":
		return false, nil
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		return false, fmt.Errorf("neither true, false nor a number: %w", ErrValue)
	}
	return n != 0, nil
}

func port(field func(*Agent) *uint32) func(*Agent, string) error {
	return func(a *Agent, text string) error {
		n, err := strconv.ParseUint(text, 10, 31)
		if err != nil || n == 0 {
			return fmt.Errorf("not a port: %w", ErrValue)
		}
		*field(a) = uint32(n)
		return nil
	}
}

// maxSeconds keeps a timeout within what deadlines can express.
const maxSeconds = 365 * 24 * 3600

func seconds(field func(*Agent) *time.Duration) func(*Agent, string) error {
	return func(a *Agent, text string) error {
		d, err := time.ParseDuration(text + "s")
		if err != nil || d <= 0 || d > maxSeconds*time.Second || strings.Trim(text, "0123456789.") != "" {
			return fmt.Errorf("not a number of seconds: %w", ErrValue)
		}
		*field(a) = d
		return nil
	}
}

func setLevel(a *Agent, text string) error {
	switch text {
	case "fatal", "panic", "critical", "error":
		a.LogLevel = slog.LevelError
	case "warn", "warning":
		a.LogLevel = slog.LevelWarn
	case "info":
		a.LogLevel = slog.LevelInfo
	case "debug":
		a.LogLevel = slog.LevelDebug
	case "trace":
		a.LogLevel = LevelTrace
	default:
		return fmt.Errorf("not a log level: %w", ErrValue)
	}
	return nil
}

func setServerAddr(a *Agent, text string) (err error) {
	a.ServerAddr, err = ParseAddress(text)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrValue, err)
	}
	return nil
}

func setPipeSize(a *Agent, text string) error {
	n, err := strconv.ParseUint(text, 10, 31)
	if err != nil {
		return fmt.Errorf("not a number of bytes: %w", ErrValue)
	}
	a.ContainerPipeSize = int(n)
	return nil
}

func setFeatures(a *Agent, text string) error {
	switch f := Features(text); f {
	case FeatureAll, FeatureAttestation, FeatureResource:
		a.RESTFeatures = f
		return nil
	}
	return fmt.Errorf("neither all, attestation nor resource: %w", ErrValue)
}

func setComponents(a *Agent, text string) error {
	if c, ok := componentsOf(text); ok {
		a.Components = c
		return nil
	}
	return fmt.Errorf("not a guest component: %w", ErrValue)
}

func setPolicyFile(a *Agent, text string) error {
	if !strings.HasPrefix(text, "/") {
		return fmt.Errorf("not an absolute path: %w", ErrValue)
	}
	a.PolicyFile = text
	return nil
}

// applyAgentTOML reads the agent's flat configuration file.
func (b *builder) applyAgentTOML(data []byte, from Source) error {
	var table map[string]any
	if _, err := shallow.Decode(data, MaxTOML, &table); err != nil {
		return fmt.Errorf("parse %s: %w", from, err)
	}
	for _, k := range agentKeys() {
		v, ok := table[k.toml]
		if !ok {
			continue
		}
		delete(table, k.toml)
		text, err := scalar(v)
		if err == nil {
			err = k.set(&b.cfg.Agent, text)
		}
		if err != nil {
			return fmt.Errorf("parse %s: %s: %w", from, k.toml, err)
		}
		b.cfg.origin[k.toml] = from
	}
	b.unknown(from, table)
	return nil
}

// scalar turns a TOML value into the text that the command line would carry.
// A duration is a table of secs and nanos.
func scalar(v any) (string, error) {
	switch v := v.(type) {
	case string:
		return v, nil
	case bool:
		return strconv.FormatBool(v), nil
	case int64:
		return strconv.FormatInt(v, 10), nil
	case map[string]any:
		secs, ok := v["secs"].(int64)
		nanos, whole := v["nanos"].(int64)
		if v["nanos"] == nil {
			whole = true
		}
		if ok && whole && nanos >= 0 && nanos < int64(time.Second) {
			return fmt.Sprintf("%d.%09d", secs, nanos), nil
		}
	}
	return "", fmt.Errorf("unexpected type: %w", ErrValue)
}
