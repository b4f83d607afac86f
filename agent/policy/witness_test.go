// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"cocoon/internal/wire/agentpb"
	"cocoon/internal/wire/typespb"
)

const picky = `package agent_policy
default ExecProcessRequest := false
allowed := {["id"]}
ExecProcessRequest if {
	input.container_id == "x"
	input.process.Args in allowed
}
ExecProcessRequest if {
	input.container_id == "c1"
	some c in containers
	fits(c, input.process)
}
fits(c, p) if {
	c.Cwd == p.Cwd
	count(c.Args) == count(p.Args)
	every j, b in p.Args { b == c.Args[j] }
	startswith(p.Env[0], c.prefix)
}
containers := [
	{"Cwd": "/x", "Args": ["a"], "prefix": ""},
	{"Cwd": "/", "Args": ["sh", "-c"], "prefix": "HOME="},
]
default SignalProcessRequest := false
SignalProcessRequest if { not input.signal == 9 }
default WaitProcessRequest := false
WaitProcessRequest if { input.container_id in {"a", "b"} }
default SetPolicyRequest := false
default UpdateRoutesRequest := false
UpdateRoutesRequest if {
	some i
	first(input.routes.Routes[i].device)
}
first(device) if { device == "eth0" }
`

func TestAReportNamesWhatCameClosest(t *testing.T) {
	t.Parallel()
	exec := func(id, cwd string, args ...string) *agentpb.ExecProcessRequest {
		return &agentpb.ExecProcessRequest{ContainerId: id, Process: &agentpb.Process{Cwd: cwd, Args: args, Env: []string{"TOKEN=hunter22"}}}
	}
	for name, tc := range map[string]struct {
		req  proto.Message
		want Failure
	}{
		"an argument":    {exec("c1", "/", "sh", "-x"), Failure{16, "b == c.Args[j]", "process.Args[1]", `"-c"`, `"-x"`}},
		"a directory":    {exec("c1", "/tmp", "sh", "-c"), Failure{14, "c.Cwd == p.Cwd", "process.Cwd", `"/x"`, `"/tmp"`}},
		"a list":         {exec("x", "/", "sh"), Failure{6, "input.process.Args in allowed", "process.Args", `{["id"]}`, `["sh"]`}},
		"an environment": {exec("c1", "/", "sh", "-c"), Failure{17, "startswith(p.Env[0], c.prefix)", "process.Env[0]", `"HOME="`, `"TOKEN=<redacted>"`}},
		"an element":     {&agentpb.UpdateRoutesRequest{Routes: &agentpb.Routes{Routes: []*typespb.Route{{Device: "lo"}}}}, Failure{33, `device == "eth0"`, "routes.Routes[…].device", `"eth0"`, `"lo"`}},
		"an id":          {&agentpb.WaitProcessRequest{ContainerId: "c"}, Failure{26, `input.container_id in {"a", "b"}`, "container_id", `{"a", "b"}`, `"c"`}},
	} {
		s, err := NewSession(t.Context(), picky)
		if err != nil {
			t.Fatal(err)
		}
		r, err := s.Ask(t.Context(), tc.req)
		if err != nil || r.Allowed || len(r.Failed) == 0 {
			t.Errorf("%s: %+v (%v)", name, r, err)
			continue
		}
		if r.Failed[0] != tc.want {
			t.Errorf("%s:\n got %+v\nwant %+v", name, r.Failed[0], tc.want)
		}
		if text := fmt.Sprint(r); strings.Contains(text, "hunter22") {
			t.Errorf("%s: the report has a secret: %s", name, text)
		}
	}
}

func TestALongListOfFailuresIsCut(t *testing.T) {
	t.Parallel()
	s, err := NewSession(t.Context(), `package agent_policy
default WaitProcessRequest := false
WaitProcessRequest if {
	some x in numbers.range(1, 2000)
	input.container_id == concat("", [pad, format_int(x, 10)])
}
pad := sprintf("%0400d", [0])
default SetPolicyRequest := false
`)
	if err != nil {
		t.Fatal(err)
	}
	r, err := s.Ask(t.Context(), &agentpb.WaitProcessRequest{ContainerId: strings.Repeat("é", 4000)})
	if err != nil || r.Allowed || len(r.Failed) != 1 {
		t.Fatalf("%d failures (%v)", len(r.Failed), err)
	}
	for _, text := range []string{r.Failed[0].Got, r.Failed[0].Wanted, r.Failed[0].Expression} {
		if text == "" || len(text) > maxReportText || !utf8.ValidString(text) {
			t.Errorf("%d bytes: %q", len(text), text)
		}
	}
}

func TestADenialTellsTheOwnerWhichExpressionFailed(t *testing.T) {
	t.Parallel()
	owner, log := ownerLog()
	e := loaded(t, Config{Owner: owner}, picky)
	_, err := ask(t.Context(), e, "ExecProcess", &agentpb.ExecProcessRequest{ContainerId: "c1", Process: &agentpb.Process{
		Cwd: "/", Args: []string{"sh", "-x"}, Env: []string{"TOKEN=hunter22"},
	}}, nil)
	wantCode(t, err, codes.PermissionDenied)
	if text := status.Convert(err).Message(); text != "ExecProcessRequest is blocked by policy: " {
		t.Errorf("the host is told more than the policy prints: %q", text)
	}
	var line struct{ Failed []Failure }
	if err := json.Unmarshal(log.Bytes(), &line); err != nil {
		t.Fatalf("%v: %s", err, log)
	}
	want := Failure{16, "b == c.Args[j]", "process.Args[1]", `"-c"`, `"-x"`}
	if len(line.Failed) == 0 || line.Failed[0] != want || strings.Contains(log.String(), "hunter22") {
		t.Errorf("owner's log: %s", log)
	}
}

func TestASessionKeepsTheStateOfAllowedRequestsOnly(t *testing.T) {
	t.Parallel()
	s, err := NewSession(t.Context(), genpolicy(t))
	if err != nil {
		t.Fatal(err)
	}
	req := appContainer(t, "c1")
	for i, want := range []bool{true, false} {
		r, err := s.Ask(t.Context(), req)
		if err != nil || r.Allowed != want {
			t.Errorf("request %d: %+v (%v), want %v", i, r, err, want)
		}
	}
}

func TestASessionRefusesWhatIsNoRequest(t *testing.T) {
	t.Parallel()
	if _, err := NewSession(t.Context(), "package other"); !errors.Is(err, ErrBadPolicy) {
		t.Error(err)
	}
	s, err := NewSession(t.Context(), picky)
	if err != nil {
		t.Fatal(err)
	}
	for _, rule := range []string{"", "containers", "Exec", failingRule, hideRule, dataRule, "data.x"} {
		if r, err := s.AskInput(t.Context(), rule, []byte("{}")); !errors.Is(err, ErrNoRule) {
			t.Errorf("%q: %+v (%v)", rule, r, err)
		}
	}
	if r, err := s.AskInput(t.Context(), "WaitProcessRequest", []byte("{")); err == nil {
		t.Errorf("half an object: %+v", r)
	}
	if r, err := s.AskInput(t.Context(), "WaitProcessRequest", []byte(`{"container_id": "a"}`)); err != nil || !r.Allowed {
		t.Errorf("%+v (%v)", r, err)
	}
	if r, err := s.AskInput(t.Context(), "CreateSandboxRequest", []byte(`{}`)); err != nil || r.Allowed || r.Reason == "" {
		t.Errorf("a rule that the policy does not have: %+v (%v)", r, err)
	}
}

// A request decides how long an evaluation is, so it must not decide how much
// a report remembers.
func TestAReportOfALongEvaluationIsBounded(t *testing.T) {
	t.Parallel()
	p, err := compile(`package agent_policy
default WaitProcessRequest := false
WaitProcessRequest if {
	some x in numbers.range(1, 100)
	some y in numbers.range(1, 10)
	same(x, y, input.container_id)
}
same(x, y, id) if { format_int(x + y, 10) == id }
default SetPolicyRequest := false
`, []string{"WaitProcessRequest"})
	if err != nil {
		t.Fatal(err)
	}
	input, err := encode(&agentpb.WaitProcessRequest{ContainerId: "x"})
	if err != nil {
		t.Fatal(err)
	}
	l, err := newLedger(t.Context(), p, time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	w := newWitness(input, nil)
	w.limit = 1000
	if _, err := p.eval(t.Context(), l.question("WaitProcessRequest", input), &printer{}, w); err != nil {
		t.Fatal(err)
	}
	if w.steps <= w.limit || len(w.parent) > w.limit || len(w.best) == 0 || len(w.best) > maxFailures {
		t.Errorf("%d steps, %d queries, %d failures", w.steps, len(w.parent), len(w.best))
	}
}
