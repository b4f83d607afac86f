// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package guest_test

import (
	"regexp"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"cocoon/agent/agentctl/client"
	"cocoon/internal/sharedtest"
	"cocoon/internal/wire/agentpb"
)

// The recorded requests of a real shim are sent in their order to the guest,
// which finds the shim's paths and the pod's network namespace in its own
// mount namespace. What is rewritten:
//
//   - the image is pulled from the test's registry;
//   - cgroup paths get a parent of the test's own;
//   - in the pod of CRI the container sleeps after its output, because the
//     host went on to exec in it (the recorded agent was a stub, whose
//     containers never end).
//
// Calls that wait for the end of something run beside the others, as they did
// in the shim.

// exchange is a recorded request and the answer that it got now.
type exchange struct {
	client.Call
	client.Answer
}

// play sends the calls. beside says which of them are not waited for.
func (g *guest) play(t *testing.T, calls []client.Call, beside func(client.Call) bool) []exchange {
	t.Helper()
	all := make([]exchange, len(calls))
	ended := make(chan struct{})
	running := 0
	for i, c := range calls {
		send := func() {
			g.Replay(t.Context(), []client.Call{c}, callLimit, func(a client.Answer) { all[i] = exchange{c, a} })
		}
		if !beside(c) {
			send()
			continue
		}
		running++
		go func() {
			send()
			ended <- struct{}{}
		}()
	}
	for range running {
		select {
		case <-ended:
		case <-time.After(2 * callLimit):
			t.Fatal("a call has no end")
		}
	}
	return all
}

// pulledImage finds the reference that the recorded host wanted to be pulled.
var pulledImage = regexp.MustCompile(`"source": "([^"]+/[^"]+)", "fstype": "overlay"`)

// recording reads a recording and puts image in the place of its image.
func recording(t *testing.T, name, image string, rewrite ...string) []client.Call {
	t.Helper()
	text := string(sharedtest.Read(t, "recordings/"+name))
	found := pulledImage.FindStringSubmatch(text)
	if found == nil {
		t.Fatal("the recording has no image")
	}
	text = strings.NewReplacer(append(rewrite, found[1], image)...).Replace(text)
	return must[[]client.Call](t)(client.ReadRecording(strings.NewReader(text)))
}

// wantEvents checks a GetOOMEvent, which ends with the sandbox and no text.
func (e exchange) wantEvents(t *testing.T) {
	t.Helper()
	if s := status.Convert(e.Err); s.Code() != codes.Internal || s.Message() != "" {
		t.Errorf("GetOOMEvent ended with %v", e.Err)
	}
}

// gone tells whether the answer is that the process was waited for already.
func (e exchange) gone() bool { return status.Code(e.Err) == codes.NotFound }

func TestTheRecordedContainerOfCtrRuns(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	o := s.settings()
	o.podNetwork = true
	calls := recording(t, "ctr-run.jsonl", s.plain(t, "app"), "/default/c2", "/"+cgroupParent()+"/"+newID("c2"))
	g := start(t, o)
	all := g.play(t, calls, func(c client.Call) bool { return c.Method == "GetOOMEvent" })
	var out strings.Builder
	seen := map[string]int{}
	for i, e := range all {
		seen[e.Call.Method]++
		switch {
		case e.Call.Method == "GetOOMEvent":
			e.wantEvents(t)
			continue
		case e.Call.Method == "WaitProcess" && seen["WaitProcess"] == 2, e.Call.Method == "SignalProcess" && seen["SignalProcess"] == 1:
			// The process has ended by itself and was waited for.
			if !e.gone() {
				t.Errorf("call %d, %s: %v", i+1, e.Call.Method, e.Err)
			}
			continue
		case e.Err != nil:
			t.Errorf("call %d, %s: %v", i+1, e.Call.Method, e.Err)
		}
		if r, ok := e.Response.(*agentpb.ReadStreamResponse); ok {
			out.Write(r.GetData())
		}
	}
	if out.String() != "hi\n" || seen["DestroySandbox"] != 1 {
		t.Errorf("output %q, calls %v", out.String(), seen)
	}
	g.wantEnd(t)
}

func TestTheRecordedPodOfCRIRuns(t *testing.T) {
	t.Parallel()
	const app = "c76d8eb56d293d40dc7107a202497d9171d81e1f7ba0e500f1007666d2cf6eca"
	s := newSite(t)
	o := s.settings()
	o.podNetwork = true
	calls := recording(t, "cri-pod-full.jsonl", s.plain(t, "app"), "\"/k8s.io/", "\"/"+cgroupParent()+"/",
		"\"echo hi\"", "\"echo hi $(cat /etc/hostname); exec sleep 1000\"")
	g := start(t, o)
	reads := 0
	all := g.play(t, calls, func(c client.Call) bool {
		switch r := c.Request.(type) {
		case *agentpb.GetOOMEventRequest:
			return true
		case *agentpb.WaitProcessRequest:
			return len(r.GetExecId()) == len(app)
		case *agentpb.ReadStreamRequest:
			if r.GetExecId() == app {
				reads++
				return reads > 1 // the first output is waited for
			}
		}
		return false
	})
	var out strings.Builder
	exits := map[int32]int{}
	for i, e := range all {
		switch r := e.Call.Request.(type) {
		case *agentpb.GetOOMEventRequest:
			e.wantEvents(t)
			continue
		case *agentpb.WaitProcessRequest:
			if w, ok := e.Response.(*agentpb.WaitProcessResponse); ok {
				exits[w.GetStatus()]++
			} else if c := status.Code(e.Err); c != codes.NotFound && c != codes.InvalidArgument {
				t.Errorf("call %d, %s: %v", i+1, e.Call.Method, e.Err)
			}
			continue // of several waiters one can come after the process or container is gone
		case *agentpb.ReadStreamRequest:
			if d, ok := e.Response.(*agentpb.ReadStreamResponse); ok && r.GetExecId() == app {
				out.Write(d.GetData())
			}
		}
		if e.Err != nil {
			t.Errorf("call %d, %s: %v", i+1, e.Call.Method, e.Err)
		}
	}
	if out.String() != "hi pod-cri\n" || exits[137] == 0 || exits[0] == 0 {
		t.Errorf("output %q, exit codes %v", out.String(), exits)
	}
	g.wantEnd(t)
}
