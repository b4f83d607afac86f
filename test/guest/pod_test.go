// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package guest_test

import (
	"bytes"
	"syscall"
	"testing"

	"cocoon/agent/agentctl/client"
	"cocoon/internal/wire/agentpb"
)

func TestAnEncryptedImageRunsAndReadsItsSecret(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	image, _ := s.encrypted(t, "app")
	g := start(t, s.settings())
	g.sandbox(t)
	before := g.traces(t)
	id := newID("app")
	script := "wget -q -O - http://" + g.rest + "/cdh/resource/" + secretPath + "; echo; trap 'exit 7' TERM; echo ready; while :; do sleep 0.1; done"
	if err := g.create(t, id, image, "/bin/sh", "-c", script); err != nil {
		t.Fatal(err)
	}
	var out, errOut transcript
	type end struct {
		code int
		err  error
	}
	ended := make(chan end, 1)
	go func() {
		code, err := g.Attach(t.Context(), client.Process{ContainerID: id, ExecID: id}, client.Streams{Stdout: &out, Stderr: &errOut})
		ended <- end{code, err}
	}()
	if err := out.waitFor(t.Context(), "ready\n", callLimit, g.ended); err != nil {
		t.Fatalf("output %q and %q: %v", out.String(), errOut.String(), err)
	}
	if want := s.secret + "\nready\n"; out.String() != want {
		t.Errorf("output %q, want %q", out.String(), want)
	}
	g.wantExec(t, id)
	stats, err := g.StatsContainer(t.Context(), &agentpb.StatsContainerRequest{ContainerId: id})
	if err != nil || stats.GetCgroupStats().GetPidsStats().GetCurrent() == 0 {
		t.Errorf("statistics %v, %v", stats, err)
	}
	if err := g.Signal(t.Context(), client.Process{ContainerID: id}, syscall.SIGTERM); err != nil {
		t.Error(err)
	}
	if e := <-ended; e.code != 7 || e.err != nil {
		t.Errorf("it ended with %d, %v, want 7", e.code, e.err)
	}
	if err := g.Remove(t.Context(), id); err != nil {
		t.Error(err)
	}
	g.wantNoTrace(t, id, before)
	if err := g.DestroySandbox(t.Context()); err != nil {
		t.Error(err)
	}
	g.wantEnd(t)
	wantNoSecret(t, s, g.out.String())
}

// wantExec runs a second process in a container.
func (g *guest) wantExec(t *testing.T, id string) {
	t.Helper()
	var out bytes.Buffer
	code, err := g.Exec(t.Context(), client.Command{
		ContainerID: id, ExecID: newID("exec"), Args: []string{"/bin/sh", "-c", "echo second; exit 3"}, Env: []string{"PATH=/bin"},
	}, client.Streams{Stdout: &out})
	if err != nil || code != 3 || out.String() != "second\n" {
		t.Errorf("exec ended with %d, %q, %v", code, out.String(), err)
	}
}
