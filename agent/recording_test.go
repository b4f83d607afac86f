// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	"cocoon/internal/wire/agentpb"
)

// The recordings are replayed in order against the real agent, runtime and
// policy engine (allow-all). What is rewritten, since the test runs on a host
// and not in a guest:
//
//   - /run/kata-containers becomes the test's run directory;
//   - the pod's network namespace becomes one that the test makes;
//   - cgroup paths get a parent of the test's own;
//   - in cri-pod-full the container sleeps after its output, because the host
//     behind the recording went on to exec in it (the recorded agent was a
//     stub, whose container never ended).
//
// Calls that wait for the end of something run beside the others, as they did
// in the shim.

type recorded struct {
	Method string          `json:"method"`
	Body   json.RawMessage `json:"body"`
}

// answer is what came back for one recorded call.
type answer struct {
	method string
	req    proto.Message
	resp   proto.Message
	err    error
}

func readRecording(t *testing.T, name string, rewrite *strings.Replacer) []recorded {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join("testdata/recordings", name))
	if err != nil {
		t.Fatal(err)
	}
	var all []recorded
	for line := range bytes.Lines(raw) {
		var r recorded
		if err := json.Unmarshal([]byte(rewrite.Replace(string(line))), &r); err != nil {
			t.Fatal(err)
		}
		all = append(all, r)
	}
	return all
}

// newMessage makes the request or response of a method.
func newMessage(t *testing.T, d protoreflect.MessageDescriptor) proto.Message {
	t.Helper()
	mt, err := protoregistry.GlobalTypes.FindMessageByName(d.FullName())
	if err != nil {
		t.Fatal(err)
	}
	return mt.New().Interface()
}

func (r recorded) messages(t *testing.T) (req, resp proto.Message) {
	t.Helper()
	service, method, ok := strings.Cut(r.Method, "/")
	d, err := protoregistry.GlobalFiles.FindDescriptorByName(protoreflect.FullName(service))
	if !ok || err != nil {
		t.Fatalf("%s: %v", r.Method, err)
	}
	m := d.(protoreflect.ServiceDescriptor).Methods().ByName(protoreflect.Name(method))
	req, resp = newMessage(t, m.Input()), newMessage(t, m.Output())
	if err := protojson.Unmarshal(r.Body, req); err != nil {
		t.Fatalf("%s: %v", r.Method, err)
	}
	return req, resp
}

// podNetwork makes a network namespace and returns its path.
func podNetwork(t *testing.T) string {
	t.Helper()
	p := filepath.Join(t.TempDir(), "podns")
	if err := os.WriteFile(p, nil, 0o444); err != nil {
		t.Fatal(err)
	}
	made := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // the thread is thrown away with its namespace
		err := unix.Unshare(unix.CLONE_NEWNET)
		if err == nil {
			err = unix.Mount("/proc/thread-self/ns/net", p, "", unix.MS_BIND, "")
		}
		made <- err
	}()
	if err := <-made; err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(p, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return p
}

// replay sends the calls in order. beside says which of them are not waited
// for; all answers are in order of sending.
func replay(t *testing.T, g *guest, calls []recorded, beside func(proto.Message) bool) []answer {
	t.Helper()
	answers := make([]answer, len(calls))
	var wg sync.WaitGroup
	for i, c := range calls {
		service, method, _ := strings.Cut(c.Method, "/")
		req, resp := c.messages(t)
		answers[i] = answer{method: method, req: req, resp: resp}
		ctx := limited(t)
		call := func() { answers[i].err = g.client.Call(ctx, service, method, req, resp) }
		if beside(req) {
			wg.Go(call)
			continue
		}
		call()
	}
	wg.Wait()
	return answers
}

func TestTheRecordedPodOfCtrRunIsServed(t *testing.T) {
	t.Parallel()
	g := newGuest(t, guestOptions{})
	calls := readRecording(t, "ctr-run.jsonl", strings.NewReplacer(
		"/run/kata-containers", g.paths.Run, "/run/netns/podns", podNetwork(t), "/default/c2", "/"+cgroupParent()+"/c2"))
	answers := replay(t, g, calls, func(req proto.Message) bool {
		_, oom := req.(*agentpb.GetOOMEventRequest)
		return oom
	})
	var out strings.Builder
	waits, signals := 0, 0
	for i, a := range answers {
		switch resp := a.resp.(type) {
		case *agentpb.OOMEvent:
			if s := status.Convert(a.err); s.Code() != codes.Internal || s.Message() != "" {
				t.Errorf("GetOOMEvent ended with %v, want INTERNAL without text", a.err)
			}
			continue
		case *agentpb.WaitProcessResponse:
			if waits++; waits == 2 {
				wantStatus(t, a.err, codes.NotFound, "init process missing")
				continue
			}
			if resp.GetStatus() != 0 {
				t.Errorf("exit code %d", resp.GetStatus())
			}
		case *agentpb.ReadStreamResponse:
			out.Write(resp.GetData())
		}
		if _, ok := a.req.(*agentpb.SignalProcessRequest); ok {
			if signals++; signals == 1 { // SIGTERM, when the record of the process is gone
				wantStatus(t, a.err, codes.NotFound, "init process missing")
				continue
			}
		}
		if a.err != nil {
			t.Errorf("call %d, %s: %v", i+1, a.method, a.err)
		}
	}
	if out.String() != "hi\n" || waits != 2 || signals != 2 {
		t.Errorf("output %q, %d waits, %d signals", out.String(), waits, signals)
	}
	<-g.agent.Done()
}

func TestTheRecordedPodOfCRIIsServed(t *testing.T) {
	t.Parallel()
	g := newGuest(t, guestOptions{})
	const app = "c76d8eb56d293d40dc7107a202497d9171d81e1f7ba0e500f1007666d2cf6eca"
	calls := readRecording(t, "cri-pod-full.jsonl", strings.NewReplacer(
		"/run/kata-containers", g.paths.Run, "/run/netns/podns", podNetwork(t), `"/k8s.io/`, `"/`+cgroupParent()+`/`,
		`"echo hi"`, `"echo hi $(cat /etc/hostname /etc/hosts); exec sleep 1000"`))
	reads := 0
	answers := replay(t, g, calls, func(req proto.Message) bool {
		switch r := req.(type) {
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
	codesSeen := map[string][]int32{}
	for i, a := range answers {
		if _, ok := a.resp.(*agentpb.OOMEvent); ok {
			wantStatus(t, a.err, codes.Internal, "")
			continue
		}
		if r, ok := a.req.(*agentpb.WaitProcessRequest); ok {
			// Of several waiters one can come when the first has finished.
			if a.err == nil {
				codesSeen[r.GetExecId()] = append(codesSeen[r.GetExecId()], a.resp.(*agentpb.WaitProcessResponse).GetStatus())
			} else if c := status.Code(a.err); c != codes.NotFound && c != codes.InvalidArgument {
				t.Errorf("call %d, %s: %v", i+1, a.method, a.err)
			}
			continue
		}
		if r, ok := a.req.(*agentpb.ReadStreamRequest); ok && r.GetExecId() == app {
			out.Write(a.resp.(*agentpb.ReadStreamResponse).GetData())
		}
		if s, ok := a.resp.(*agentpb.StatsContainerResponse); ok && s.GetCgroupStats().GetPidsStats().GetCurrent() == 0 {
			t.Errorf("statistics without a process: %v", s)
		}
		if a.err != nil {
			t.Errorf("call %d, %s: %v", i+1, a.method, a.err)
		}
	}
	if want := "hi pod-cri 127.0.0.1 localhost 10.244.0.9 pod-cri\n"; out.String() != want {
		t.Errorf("output %q, want %q", out.String(), want)
	}
	for execID, want := range map[string]int32{app: 137, "b076ec7c-1398-4c6f-b78b-7695ce576ed9": 0} {
		if len(codesSeen[execID]) == 0 || codesSeen[execID][0] != want {
			t.Errorf("exit codes of %s: %v, want %d", execID, codesSeen[execID], want)
		}
	}
	<-g.agent.Done()
}
