// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

// Package config builds the one configuration of the guest.
//
// Its inputs are the kernel command line, the agent's TOML file, and the
// owner's cdh.toml. The host supplies all of them; which may be believed is
// for the caller to say: the command line if it is part of the launch
// measurement, the files if their digest was checked. Parsing is pure and
// happens once; afterwards the configuration does not change. Package attest
// reads aa.toml itself.
package config

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"cocoon/internal/cmdline"
)

// Source is where a value came from.
type Source string

// The sources that this package knows itself. Callers name those of files.
const (
	FromDefault Source = "default"
	FromCmdline Source = "kernel command line"
	FromEnv     Source = "environment"
	FromLaunch  Source = "launcher"
	FromFlag    Source = "flag"
)

// ErrUnmeasured is returned when the command line carries a parameter that
// decides whom the guest trusts, but the command line is not measured.
var ErrUnmeasured = errors.New("parameter on an unmeasured kernel command line")

// File is a configuration file and where it came from.
type File struct {
	Data []byte
	From Source
}

// Inputs is all that a configuration is built from.
type Inputs struct {
	// Cmdline is the text of /proc/cmdline.
	Cmdline string
	// CmdlineMeasured says that the launch measurement covers the command
	// line, so that it may name a key broker and image policies.
	CmdlineMeasured bool
	// Agent is the agent's TOML file; with it the agent's words on the command
	// line are not read. Nil if there is none.
	Agent *File
	// ReadFile reads the file that agent.config_file= names. Nil refuses the
	// parameter.
	ReadFile func(path string) ([]byte, error)
	// Env holds the variables that may override the agent's settings. It is
	// nil for PID 1, whose environment the boot loader writes.
	Env map[string]string
	// CDH is cdh.toml, nil if there is none.
	CDH *File
	// AA is aa.toml, nil if there is none. Only the key broker is looked up in
	// it, and only if nothing else names the data hub's.
	AA *File
	// RegistryAuth is the URI of registry credentials to use when cdh.toml
	// names none; empty for anonymous pulls.
	RegistryAuth string
	// ServerAddr is the address that a flag names, which counts most; empty if
	// none does.
	ServerAddr string
}

// Config is the configuration of the guest. It is made by Load and must not be
// changed.
type Config struct {
	Cmdline cmdline.Line
	Agent   Agent
	CDH     CDH
	// AA is the text of aa.toml, nil if there is none.
	AA []byte
	// Warnings tells the owner of keys that nobody reads.
	Warnings []string

	origin map[string]Source
}

// Source returns where the value of key came from: a key of the agent's file
// as the agent spells it, "cdh." and a key of cdh.toml, or "aa".
func (c *Config) Source(key string) Source {
	if s, ok := c.origin[key]; ok {
		return s
	}
	return FromDefault
}

// Sources returns all keys that do not have their default, sorted.
func (c *Config) Sources() []string {
	return slices.Sorted(maps.Keys(c.origin))
}

// Load builds the configuration. A malformed value of a known parameter is an
// error that names it; unknown parameters are ignored.
func Load(in Inputs) (*Config, error) {
	line, err := cmdline.Parse(in.Cmdline)
	if err != nil {
		return nil, err
	}
	b := &builder{in: in, cfg: &Config{Cmdline: line, Agent: defaultAgent(), origin: map[string]Source{}}}
	if err := b.agent(); err != nil {
		return nil, err
	}
	if err := b.flags(); err != nil {
		return nil, err
	}
	if err := b.cdh(); err != nil {
		return nil, err
	}
	if in.AA != nil {
		b.cfg.AA = slices.Clone(in.AA.Data)
		b.cfg.origin["aa"] = in.AA.From
	}
	return b.cfg, nil
}

type builder struct {
	in  Inputs
	cfg *Config
}

// agent applies the agent's settings. agent.config_file is looked for before
// any other word has an effect: where it stands does not matter, and it
// replaces all the rest.
func (b *builder) agent() error {
	if path, ok := b.cfg.Cmdline.Value("agent.config_file"); ok && b.in.Agent == nil {
		return b.agentFile(path)
	}
	if b.in.Agent != nil {
		if err := b.applyAgentTOML(b.in.Agent.Data, b.in.Agent.From); err != nil {
			return err
		}
	} else if err := b.agentWords(); err != nil {
		return err
	}
	return b.agentEnv()
}

func (b *builder) agentFile(path string) error {
	if b.in.ReadFile == nil || !strings.HasPrefix(path, "/") {
		return fmt.Errorf("agent.config_file=%.100q: %w", path, ErrValue)
	}
	data, err := b.in.ReadFile(path)
	if err != nil {
		return fmt.Errorf("read agent.config_file %q: %w", path, err)
	}
	return b.applyAgentTOML(data, Source(path))
}

func (b *builder) agentWords() error {
	a, c := &b.cfg.Agent, b.cfg.Cmdline
	for _, k := range agentKeys() {
		text, ok := c.Value(k.word)
		if k.word == "" || !ok {
			continue
		}
		if err := k.set(a, text); err != nil {
			return fmt.Errorf("%s %s=%.100q: %w", FromCmdline, k.word, text, err)
		}
		b.cfg.origin[k.toml] = FromCmdline
	}
	if c.Flag("agent.debug_console") {
		a.DebugConsole = true
		b.cfg.origin["debug_console"] = FromCmdline
	}
	if v, _ := c.Value("cgroup_no_v1"); v == "all" {
		a.UnifiedCgroup = true
		b.cfg.origin["unified_cgroup_hierarchy"] = FromCmdline
	}
	return nil
}

func (b *builder) agentEnv() error {
	for _, k := range agentKeys() {
		text, ok := b.in.Env[k.env]
		if k.env == "" || !ok {
			continue
		}
		if err := k.set(&b.cfg.Agent, text); err != nil {
			return fmt.Errorf("%s %s=%.100q: %w", FromEnv, k.env, text, err)
		}
		b.cfg.origin[k.toml] = FromEnv
	}
	return nil
}

func (b *builder) flags() error {
	if b.in.ServerAddr == "" {
		return nil
	}
	if err := setServerAddr(&b.cfg.Agent, b.in.ServerAddr); err != nil {
		return fmt.Errorf("%s for server_addr: %w", FromFlag, err)
	}
	b.cfg.origin["server_addr"] = FromFlag
	return nil
}

// unknown warns of the keys that are left in table.
func (b *builder) unknown(from Source, table map[string]any) {
	for _, k := range slices.Sorted(maps.Keys(table)) {
		b.warn(from, k)
	}
}

// maxWarnings keeps a hostile file from filling the log.
const maxWarnings = 32

func (b *builder) warn(from Source, key string) {
	if len(b.cfg.Warnings) < maxWarnings {
		b.cfg.Warnings = append(b.cfg.Warnings, fmt.Sprintf("%s: unknown key %.60q is ignored", from, key))
	}
}
