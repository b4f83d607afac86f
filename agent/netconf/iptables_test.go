// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package netconf

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"cocoon/internal/bounded"
)

// tool is a lab in which a program of iptables is a shell script.
func tool(t *testing.T, name, script string) *lab {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, name), []byte("#!/bin/sh\n"+script), 0o755); err != nil {
		t.Fatal(err)
	}
	return newLab(t, Config{ToolDirs: []string{t.TempDir(), dir}})
}

func TestRulesThatAreRestoredAreSaved(t *testing.T) {
	t.Parallel()
	l := newLab(t, Config{})
	for _, ipv6 := range []bool{false, true} {
		name := toolName(ipv6, "restore")
		if _, err := findTool(l.cfg.ToolDirs, name); err != nil {
			t.Skip(err)
		}
		rules := "*filter\n:INPUT ACCEPT [0:0]\n:COCOON - [0:0]\n-A INPUT -j COCOON\n-A COCOON -p tcp --dport 4711 -j DROP\nCOMMIT\n"
		if _, err := l.RestoreIPTables(t.Context(), ipv6, []byte(rules)); err != nil {
			t.Skipf("this kernel takes no rules: %v", err)
		}
		saved, err := l.SaveIPTables(t.Context(), ipv6)
		if err != nil || !bytes.Contains(saved, []byte("--dport 4711 -j DROP")) {
			t.Errorf("%s: %q (%v)", name, saved, err)
		}
	}
}

// The rules go into the namespace and nowhere else.
func TestTheProgramRunsInTheNamespace(t *testing.T) {
	t.Parallel()
	l := tool(t, "iptables-save", "readlink /proc/self/ns/net; env")
	out, err := l.SaveIPTables(t.Context(), false)
	if err != nil {
		t.Fatal(err)
	}
	mine, err := os.Readlink("/proc/self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	want, err := os.Readlink(l.cfg.Namespace)
	if err != nil {
		t.Fatal(err)
	}
	if got, env, _ := strings.Cut(string(out), "\n"); got != want || got == mine || strings.Contains(env, "HOME=") {
		t.Errorf("in %q, want %q; environment %q", got, want, env)
	}
}

func TestTheProgramsGetWhatTheyExpect(t *testing.T) {
	t.Parallel()
	l := tool(t, "ip6tables-restore", `echo "$@"; cat`)
	out, err := l.RestoreIPTables(t.Context(), true, []byte("*nat\nCOMMIT\n"))
	if err != nil || string(out) != "--wait 5\n*nat\nCOMMIT\n" {
		t.Errorf("%q (%v)", out, err)
	}
}

func TestRulesThatRunAProgramAreRefused(t *testing.T) {
	t.Parallel()
	ran := filepath.Join(t.TempDir(), "ran")
	l := tool(t, "iptables-restore", "touch "+ran)
	for _, rule := range []string{
		"-A INPUT -M /x -m nothing", "-M/x", "-vM /x", "-4nM/x", "--modprobe /x", "--modprobe=/x", "--modp=/x", "--mo /x", `"-M" /x`, `-"M" /x`,
		`'--modprobe' /x`, `--mod"probe" /x`, `\-M /x`, "-A INPUT\t-M\t/x", "# -M", "-j ACCEPT -m comment --comment \"a -M b\"",
		"-A INPUT\r-M /x", "\x00", strings.Repeat("x", maxRuleLine+1), "# " + strings.Repeat("-", maxRuleLine), "-V-M /x; -xM /x",
	} {
		_, err := l.RestoreIPTables(t.Context(), false, []byte("*filter\n"+rule+"\nCOMMIT\n"))
		if !errors.Is(err, ErrInvalid) {
			t.Errorf("%q: %v", rule[:min(len(rule), 80)], err)
		}
	}
	if _, err := l.RestoreIPTables(t.Context(), false, bytes.Repeat([]byte("\n"), maxRules+1)); !errors.Is(err, ErrInvalid) {
		t.Error(err)
	}
	if _, err := os.Stat(ran); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the program ran: %v", err)
	}
}

func TestOrdinaryRulesPassTheCheck(t *testing.T) {
	t.Parallel()
	for _, rule := range []string{
		"", "-A PREROUTING -p tcp -j REDIRECT --to-ports 15006", "-A X -m statistic --mode random --probability 0.5 -j Y",
		"-A POSTROUTING -j MASQUERADE", "-A X -j MARK --set-xmark 0x1/0x1", "-A POSTROUTING -jMASQUERADE",
		"-A X -m comment --comment \"ISTIO-M rule\" -j RETURN", "-A X -m mac --mac-source 02:00:00:00:00:01 -j DROP", "-A X --match tcp",
	} {
		if err := checkRules([]byte("*nat\n" + rule + "\nCOMMIT\n")); err != nil {
			t.Errorf("%q: %v", rule, err)
		}
	}
}

func TestAProgramThatMisbehavesIsAnError(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		script string
		want   error
		text   string
	}{
		"fails":             {"echo broken >&2; exit 2", nil, "iptables-save: exit status 2: broken"},
		"prints forever":    {"exec cat /dev/zero", bounded.ErrTooLarge, ""},
		"complains forever": {"exec cat /dev/zero >&2", bounded.ErrTooLarge, ""},
	} {
		out, err := tool(t, "iptables-save", tc.script).SaveIPTables(t.Context(), false)
		if err == nil || (tc.want != nil && !errors.Is(err, tc.want)) || !strings.Contains(err.Error(), tc.text) || out != nil {
			t.Errorf("%s: %d bytes (%v)", name, len(out), err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	fifo := filepath.Join(t.TempDir(), "began")
	l := tool(t, "iptables-save", "touch "+fifo+"; exec sleep 1000")
	go func() {
		for ctx.Err() == nil {
			if _, err := os.Stat(fifo); err == nil {
				cancel()
			}
		}
	}()
	if _, err := l.SaveIPTables(ctx, false); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	cancel()
}

func TestAMissingProgramIsAClearError(t *testing.T) {
	t.Parallel()
	l := newLab(t, Config{ToolDirs: []string{"/absent/a", "/absent/b"}})
	_, err := l.SaveIPTables(t.Context(), true)
	if !errors.Is(err, ErrNoTool) || err.Error() != "ip6tables-save: not in /absent/a, /absent/b: iptables is not installed in the guest" {
		t.Error(err)
	}
	if _, err := l.RestoreIPTables(t.Context(), false, nil); !errors.Is(err, ErrNoTool) {
		t.Error(err)
	}
}

func FuzzCheckRules(f *testing.F) {
	for _, s := range []string{"-A INPUT -M /x", `"-"M`, "--modprobe=x", "*nat\nCOMMIT\n", "-A X --mode random"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, rules []byte) {
		if checkRules(rules) != nil {
			return
		}
		words := bytes.Fields(rules)
		if slices.ContainsFunc(words, func(w []byte) bool {
			return bytes.HasPrefix(w, []byte("-M")) || bytes.HasPrefix(w, []byte("--modprobe"))
		}) {
			t.Fatalf("accepted %q", rules)
		}
	})
}
