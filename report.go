// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	goruntime "runtime"
	"strings"
	"text/tabwriter"

	"cocoon/internal/config"
	"cocoon/rootfs/boot"
)

// reportPath is the file in which a guest says what it runs with. Only root in
// the guest can read it.
const reportPath = "/run/cocoon/report.json"

// report is what a guest runs with, from the moment on at which its doors are
// open.
type report struct {
	Version    string         `json:"version"`
	Go         string         `json:"go"`
	Kernel     string         `json:"kernel"`
	Profile    string         `json:"profile"`
	TEE        string         `json:"tee"`
	InitData   string         `json:"initdata_digest,omitempty"` // hexadecimal
	Policy     string         `json:"policy_sha256,omitempty"`
	PolicyFrom config.Source  `json:"policy_from,omitempty"`
	Settings   []config.Value `json:"settings"`
	Steps      []boot.Timing  `json:"steps"`
}

func (g *guest) writeReport(policyDigest string) error {
	release, err := os.ReadFile("/proc/sys/kernel/osrelease")
	if err != nil {
		return fmt.Errorf("write report: %w", err)
	}
	r := report{
		Version: version, Go: goruntime.Version(), Kernel: strings.TrimSpace(string(release)),
		Profile: g.profile.name, TEE: g.attest.TEE(), Policy: policyDigest,
		Settings: g.values(), Steps: g.steps,
	}
	if g.inputs.policy != nil {
		r.PolicyFrom = g.inputs.policy.From
	}
	if d := g.inputs.initdata; d != nil {
		r.InitData = fmt.Sprintf("%x", d.Digest())
	}
	b, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return fmt.Errorf("write report: %w", err)
	}
	path := g.path(reportPath)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return fmt.Errorf("write report: %w", err)
	}
	if err := os.WriteFile(path, append(b, '\n'), 0o600); err != nil {
		return fmt.Errorf("write report: %w", err)
	}
	return nil
}

// values lists the settings and what else a guest is told from outside.
func (g *guest) values() []config.Value {
	list := append(g.cfg.Values(), config.Value{Key: "profile", Value: g.profile.name, From: "image"})
	if g.profile.name == hostProfile {
		list[len(list)-1].From = config.FromDefault
	}
	tee := config.Value{Key: "tee", Value: cmp.Or(g.opt.tee, g.profile.tee), From: "profile"}
	switch {
	case g.opt.tee != "":
		tee.From = config.FromFlag
	case g.tee != nil:
		tee.Value = g.tee.TEE()
	}
	if g.profile.tee == "" && g.opt.tee == "" {
		tee.From = "detection"
	}
	list = append(list, tee)
	policy := config.Value{Key: "policy", From: config.FromDefault}
	if p := g.inputs.policy; p != nil {
		policy.Value, policy.From = fmt.Sprintf("%d bytes", len(p.Data)), p.From
	}
	return append(list, policy)
}

const configUsage = `usage: cocoon config [--json] [flags of cocoon guest]

In a guest it shows the settings that are in force, as the running guest has
written them down. Elsewhere it shows what a guest with these flags would have.
Each line is a key, where its value came from, and the value.
`

// configMain shows the settings of a guest and returns an exit code.
func configMain(args []string, out, errs io.Writer) int {
	asJSON := false
	flags := make([]string, 0, len(args))
	for _, a := range args {
		switch a {
		case "--json", "-json":
			asJSON = true
		case "-h", "--help", "-help":
			if _, err := io.WriteString(out, configUsage); err != nil {
				return 1
			}
			return 0
		default:
			flags = append(flags, a)
		}
	}
	o, err := parseOptionsOf("cocoon config", flags, errs)
	if err != nil {
		return 2 // it has said why
	}
	values, err := settings(o)
	if err == nil {
		err = printSettings(out, values, asJSON)
	}
	if err != nil {
		fmt.Fprintf(errs, "cocoon config: %v\n", err)
		return 1
	}
	return 0
}

// settings returns those of the running guest, or of one that would be started
// with the flags.
func settings(o options) ([]config.Value, error) {
	g := &guest{opt: o, log: newLog(0, io.Discard)}
	var err error
	if g.profile, err = readProfile(profilePath); err != nil {
		return nil, err
	}
	if g.profile.name != hostProfile {
		if o.any() {
			return nil, errFlags
		}
		b, err := os.ReadFile(reportPath)
		if err != nil {
			return nil, fmt.Errorf("read the running guest's report: %w", err)
		}
		var r report
		if err := json.Unmarshal(b, &r); err != nil {
			return nil, fmt.Errorf("read the running guest's report: %w", err)
		}
		return r.Settings, nil
	}
	if err := errors.Join(g.readFlags(), g.load()); err != nil {
		return nil, err
	}
	if err := g.readPolicyFile(); err != nil {
		return nil, err
	}
	return g.values(), nil
}

func printSettings(w io.Writer, values []config.Value, asJSON bool) error {
	if asJSON {
		enc := json.NewEncoder(w)
		enc.SetIndent("", "  ")
		return enc.Encode(values)
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, v := range values {
		if _, err := fmt.Fprintf(t, "%s\t%s\t%s\n", v.Key, v.From, dash(v.Value)); err != nil {
			return err
		}
	}
	return t.Flush()
}

func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}
