// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package netconf

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"cocoon/internal/bounded"
)

const (
	// maxRules bounds rules in both directions, in bytes. A frame of the
	// protocol holds four times that.
	maxRules = 1 << 20

	// maxRuleLine bounds one rule. iptables reads longer lines in pieces, and a
	// piece that begins in the middle of a line means something else.
	maxRuleLine = 4096

	// toolLimit bounds a run of one of the programs. It is longer than the 5 s
	// for which restore waits for another one to finish.
	toolLimit = 20 * time.Second
)

// ErrNoTool is returned when a program of iptables is not in the guest.
var ErrNoTool = errors.New("iptables is not installed in the guest")

// SaveIPTables returns the packet filter rules in the format of iptables-save
// (ip6tables-save). Where the guest has no such program it is ErrNoTool.
func (n *Network) SaveIPTables(ctx context.Context, ipv6 bool) ([]byte, error) {
	return n.runTool(ctx, toolName(ipv6, "save"), nil)
}

// RestoreIPTables replaces the packet filter rules by those in rules, in the
// format of iptables-save, and returns what the program printed. Rules that
// name a program to load kernel modules with are ErrInvalid: iptables takes that
// option inside of a rule, and where the kernel has no tables yet it would run
// any program in the guest that the host named.
func (n *Network) RestoreIPTables(ctx context.Context, ipv6 bool, rules []byte) ([]byte, error) {
	if err := checkRules(rules); err != nil {
		return nil, err
	}
	return n.runTool(ctx, toolName(ipv6, "restore"), rules, "--wait", "5")
}

func toolName(ipv6 bool, verb string) string {
	if ipv6 {
		return "ip6tables-" + verb
	}
	return "iptables-" + verb
}

// checkRules refuses what is not text or holds the option --modprobe in any of
// the spellings that getopt_long takes, quoted or not. It errs on the side of
// refusing: a comment that reads like the option is refused too.
func checkRules(rules []byte) error {
	if len(rules) > maxRules {
		return fmt.Errorf("%d bytes of rules: %w", len(rules), ErrInvalid)
	}
	if bytes.IndexByte(rules, 0) >= 0 {
		return fmt.Errorf("rules with a NUL byte: %w", ErrInvalid)
	}
	unquote := strings.NewReplacer(`"`, "", `'`, "", `\`, "")
	number := 0
	for line := range strings.Lines(string(rules)) {
		number++
		if len(line) > maxRuleLine {
			return fmt.Errorf("rule in line %d is longer than %d bytes: %w", number, maxRuleLine, ErrInvalid)
		}
		for _, word := range strings.Fields(unquote.Replace(line)) {
			if namesModprobe(word) {
				return fmt.Errorf("rule in line %d names a program to run: %w", number, ErrInvalid)
			}
		}
	}
	return nil
}

// namesModprobe reports whether word is -M, alone or after other one-letter
// options without argument, or --modprobe, an abbreviation of it or anything
// that begins like it.
func namesModprobe(word string) bool {
	if strings.HasPrefix(word, "--") {
		name, _, _ := strings.Cut(word, "=")
		return len(name) >= len("--mo") && strings.HasPrefix("--modprobe", name) || strings.HasPrefix(name, "--modprobe")
	}
	if !strings.HasPrefix(word, "-") {
		return false
	}
	return strings.HasPrefix(strings.TrimLeft(word[1:], "bfhnvwxFLSVZX0123456789"), "M")
}

// runTool runs one of the programs in the namespace and returns what it printed
// on standard output.
func (n *Network) runTool(ctx context.Context, name string, input []byte, args ...string) ([]byte, error) {
	path, err := findTool(n.cfg.ToolDirs, name)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, toolLimit)
	defer cancel()
	stdout, stderr := &limitedBuffer{limit: maxRules, stop: cancel}, &limitedBuffer{limit: maxErrors, stop: cancel}
	err = n.exclusive(ctx, func() error {
		// The child is started from this thread and so has its namespace.
		cmd := exec.CommandContext(ctx, path, args...)
		cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin"}
		cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(input), stdout, stderr
		cmd.WaitDelay = time.Second
		return cmd.Run()
	})
	switch {
	case stdout.full || stderr.full:
		return nil, fmt.Errorf("%s: output: %w", name, bounded.ErrTooLarge)
	case ctx.Err() != nil:
		return nil, fmt.Errorf("%s: %w", name, ctx.Err())
	case err != nil:
		return nil, fmt.Errorf("%s: %w: %s", name, err, strings.TrimSpace(stderr.text.String()))
	}
	return stdout.text.Bytes(), nil
}

func findTool(dirs []string, name string) (string, error) {
	for _, dir := range dirs {
		if path, err := exec.LookPath(filepath.Join(dir, name)); err == nil {
			return path, nil
		}
	}
	return "", fmt.Errorf("%s: not in %s: %w", name, strings.Join(dirs, ", "), ErrNoTool)
}

// maxErrors bounds what a program may say about its failure, in bytes.
const maxErrors = 4096

// limitedBuffer keeps a program's output and stops the program that prints
// more than limit bytes.
type limitedBuffer struct {
	text  bytes.Buffer // not embedded: its ReadFrom knows no limit
	limit int
	full  bool
	stop  func()
}

// Write implements io.Writer.
func (b *limitedBuffer) Write(p []byte) (int, error) {
	if b.text.Len()+len(p) > b.limit {
		b.full = true
		b.stop()
		return 0, bounded.ErrTooLarge
	}
	return b.text.Write(p)
}
