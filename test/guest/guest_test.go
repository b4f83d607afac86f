// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package guest_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"cocoon/agent/agentctl/client"
	"cocoon/agent/policy"
)

const (
	readyMark = `"msg":"ready"`
	upLimit   = 30 * time.Second
	endLimit  = 10 * time.Second
)

// settings is what a guest is started with.
type settings struct {
	world
	policy string // Rego; allow-all if empty
	broker *broker
	roots  []string // PEM
	image  string   // further lines of [image] in cdh.toml
	root   string   // run below it in the host's mount namespace, without a world
	flags  []string // further ones
	// prepare, if not nil, is called with the path of the agent's socket.
	prepare func(socket string)
}

// settings are those of a guest that trusts the site.
func (s *site) settings() settings {
	return settings{broker: s.broker, roots: []string{s.registry.CAPEM}}
}

// guest is a running guest role.
type guest struct {
	*client.Client
	dir   string
	rest  string // host:port
	cmd   *exec.Cmd
	out   *transcript
	ended chan struct{}
	err   error // of the process; valid once ended is closed
}

// start starts a guest and waits until it serves. It is stopped at the end of
// the test, and must then have left nothing.
func start(t *testing.T, s settings) *guest {
	t.Helper()
	g := launch(t, s)
	if err := g.out.waitFor(t.Context(), readyMark, upLimit, g.ended); err != nil {
		t.Fatalf("wait for the guest: %v; it wrote:\n%s", err, g.out)
	}
	g.Client = must[*client.Client](t)(client.Dial(t.Context(), client.Address{Network: "unix", Path: g.socket()}, nil))
	t.Cleanup(func() { g.finish(t) })
	return g
}

// launch starts the process and does not wait for it.
func launch(t *testing.T, s settings) *guest {
	t.Helper()
	needRoot(t)
	// Not t.TempDir: the path of a socket is short.
	dir := must[string](t)(os.MkdirTemp("", "cg")) //nolint:usetesting // see above
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	g := &guest{dir: dir, rest: freeAddress(t), out: &transcript{}, ended: make(chan struct{})}
	if s.prepare != nil {
		s.prepare(g.socket())
	}
	args := slices.Concat([]string{"guest"}, g.flags(t, s), s.flags)
	cmd := s.command(must[string](t)(os.Executable()), args...)
	if s.root != "" {
		cmd = exec.Command(binary, append(args, "--root", s.root)...)
		cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	}
	g.run(t, cmd)
	return g
}

func (g *guest) run(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	g.cmd, cmd.Stdout, cmd.Stderr = cmd, g.out, g.out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(g.ended)
		g.err = cmd.Wait()
	}()
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the guest wrote:\n%s", g.out)
		}
		_ = cmd.Process.Kill() // of a process that has ended it is an error
		<-g.ended
	})
}

// flags writes the configuration files and returns the command line.
func (g *guest) flags(t *testing.T, s settings) []string {
	t.Helper()
	if s.policy == "" {
		s.policy = policy.AllowAll()
	}
	quoted := make([]string, len(s.roots))
	for i, r := range s.roots {
		quoted[i] = fmt.Sprintf("%q", r)
	}
	files := map[string]string{
		"policy.rego": s.policy,
		"aa.toml":     fmt.Sprintf("[token_configs.kbs]\nurl = %q\ncert = %q\n", s.broker.url, s.broker.ca),
		"cdh.toml": fmt.Sprintf("[kbc]\nname = \"cc_kbc\"\nurl = %q\nkbs_cert = %q\n[image]\nextra_root_certificates = [%s]\n%s\n",
			s.broker.url, s.broker.ca, strings.Join(quoted, ","), s.image),
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(g.dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return []string{
		"--agent-listen", "unix://" + g.socket(), "--rest-listen", g.rest, "--tee", "sample",
		"--policy", filepath.Join(g.dir, "policy.rego"),
		"--aa-config", filepath.Join(g.dir, "aa.toml"), "--cdh-config", filepath.Join(g.dir, "cdh.toml"),
	}
}

func (g *guest) socket() string { return filepath.Join(g.dir, "agent.sock") }

func freeAddress(t *testing.T) string {
	t.Helper()
	l := must[net.Listener](t)((&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0"))
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	return l.Addr().String()
}

// finish ends the guest by SIGTERM, unless it has ended, and checks that it
// ended well.
func (g *guest) finish(t *testing.T) {
	t.Helper()
	if err := g.Close(); err != nil {
		t.Errorf("close the connection: %v", err)
	}
	if err := g.cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		t.Errorf("signal the guest: %v", err)
	}
	g.wantEnd(t)
}

// wantEnd waits for the end of the guest, which must be in order.
func (g *guest) wantEnd(t *testing.T) {
	t.Helper()
	if err := g.waitEnd(); err != nil {
		t.Errorf("end of the guest: %v", err)
	}
}

func (g *guest) waitEnd() error {
	ctx, cancel := context.WithTimeout(context.Background(), endLimit)
	defer cancel()
	select {
	case <-g.ended:
		return g.err
	case <-ctx.Done():
		return errors.New("it has not ended in time")
	}
}
