// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package replay

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"cocoon/agent/policy"
	"cocoon/internal/sharedtest"
)

const example = "../../../docs/example-policy"

type result struct {
	code     int
	out, err string
}

func command(t *testing.T, in string, args ...string) result {
	t.Helper()
	var out, errs bytes.Buffer
	code := Main(t.Context(), args, Streams{In: strings.NewReader(in), Out: &out, Err: &errs})
	return result{code, out.String(), errs.String()}
}

func file(t *testing.T, dir, name, text string) string {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestTheExamplePolicyDoesWhatItSays(t *testing.T) {
	t.Parallel()
	r := command(t, "", "test", example)
	if r.code != exitOK || r.out != "ok   host.jsonl (6 requests)\nok   pod.jsonl (4 requests)\n" || r.err != "" {
		t.Errorf("%+v", r)
	}
}

func TestTheManualShowsWhatTheCommandPrints(t *testing.T) {
	t.Parallel()
	manual, err := os.ReadFile("../../../docs/policy.md")
	if err != nil {
		t.Fatal(err)
	}
	request := `{"method": "CreateSandbox", "body": {"guestHookPath": "/usr/share/oci/hooks"}}`
	r := command(t, request, "explain", "--policy", example+"/policy.rego")
	for _, text := range []string{request, r.out} {
		if text == "" || !bytes.Contains(manual, []byte(text)) {
			t.Errorf("docs/policy.md does not show:\n%s", text)
		}
	}
}

func TestATestThatFailsSaysWhatThePolicySays(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	rego, err := os.ReadFile(example + "/policy.rego")
	if err != nil {
		t.Fatal(err)
	}
	file(t, dir, "policy.rego", string(rego))
	file(t, dir, "a.jsonl", `{"method": "ExecProcess", "want": "allow"}
{"method": "StartContainer", "want": "deny"}
{"method": "CreateSandbox", "body": {"guestHookPath": "/h"}, "want": "deny", "because": "kernel_modules"}`)
	r := command(t, "", "test", dir)
	if r.code != exitNo || r.err != "" {
		t.Errorf("%+v", r)
	}
	for _, text := range []string{
		"FAIL a.jsonl (3 requests)", "wanted allow:\nline 1: ExecProcessRequest is DENIED", "wanted deny:\nline 2: StartContainerRequest is allowed",
		"not because of \"kernel_modules\"", "policy line 8: input.guest_hook_path == \"\"", "wanted \"\"", "got    \"/h\"",
	} {
		if !strings.Contains(r.out, text) {
			t.Errorf("%q is missing in:\n%s", text, r.out)
		}
	}
}

func TestRequestsAreExplainedInOrder(t *testing.T) {
	t.Parallel()
	in := `{"method": "/grpc.Health/Check", "timeout": "30s", "body": {}}
{"kind": "StartContainerRequest", "request": {"container_id": "app"}}

// a remark
{"method": "grpc.AgentService/SetPolicy", "body": {"policy": "secret text"}}`
	r := command(t, in, "explain", "--policy", example+"/policy.rego")
	if r.code != exitNo || !strings.HasPrefix(r.out, "line 2: StartContainerRequest is allowed\nline 5: SetPolicyRequest is DENIED\n") {
		t.Errorf("%+v", r)
	}
	r = command(t, in, "explain", "--json", "--policy", example+"/policy.rego")
	dec := json.NewDecoder(strings.NewReader(r.out))
	for i, want := range []bool{true, false} {
		var report policy.Report
		if err := dec.Decode(&report); err != nil || report.Allowed != want {
			t.Errorf("report %d: %+v (%v)", i, report, err)
		}
	}
}

// The shim's whole session against a policy that allows everything: what a
// real peer sends is understood.
func TestARecordedSessionIsUnderstood(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"ctr-run.jsonl", "cri-pod-full.jsonl"} {
		recording := sharedtest.Path(t, "recordings/"+name)
		text := file(t, t.TempDir(), "policy.rego", policy.AllowAll())
		r := command(t, "", "explain", "--policy", text, recording)
		if r.code != exitOK || strings.Count(r.out, "is allowed") < 8 || strings.Contains(r.out, "DENIED") {
			t.Errorf("%s: %+v", name, r)
		}
	}
}

func TestACommandThatIsNotSoundSaysWhy(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	bad := file(t, dir, "bad.rego", "package agent_policy\nx := http.send({})\n")
	good := example + "/policy.rego"
	empty := t.TempDir()
	for name, tc := range map[string]struct {
		in   string
		args []string
		text string
	}{
		"nothing":             {"", nil, "usage:"},
		"unknown command":     {"", []string{"explian"}, `unknown command "explian"`},
		"no policy":           {"", []string{"explain"}, "--policy is missing"},
		"unknown flag":        {"", []string{"explain", "--polcy", "x"}, "polcy"},
		"absent policy":       {"", []string{"explain", "--policy", dir + "/absent"}, "no such file"},
		"bad policy":          {"", []string{"explain", "--policy", bad}, "line 2: undefined function http.send"},
		"absent requests":     {"", []string{"explain", "--policy", good, dir + "/absent"}, "no such file"},
		"no JSON":             {"{", []string{"explain", "--policy", good}, "line 1: no request"},
		"no request":          {"{}", []string{"explain", "--policy", good}, "neither method nor kind"},
		"two kinds":           {`{"method":"SetPolicy","kind":"x"}`, []string{"explain", "--policy", good}, "both method and kind"},
		"request of a method": {`{"method":"CreateSandbox","request":{"guestHookPath":"/x"}}`, []string{"explain", "--policy", good}, "request with kind"},
		"body of a kind":      {`{"kind":"CreateSandboxRequest","body":{}}`, []string{"explain", "--policy", good}, "request with kind"},
		"two values":          {`{"method":"SetPolicy"} {}`, []string{"explain", "--policy", good}, "more than one value"},
		"unknown member":      {`{"methd":"SetPolicy"}`, []string{"explain", "--policy", good}, "methd"},
		"unknown method":      {`{"method":"Nothing"}`, []string{"explain", "--policy", good}, `method "Nothing"`},
		"unknown service":     {`{"method":"grpc.Other/SetPolicy"}`, []string{"explain", "--policy", good}, `service "grpc.Other"`},
		"unknown field":       {`{"method":"SetPolicy","body":{"polcy":""}}`, []string{"explain", "--policy", good}, "body of SetPolicy"},
		"unknown rule":        {`{"kind":"Nothing","request":{}}`, []string{"explain", "--policy", good}, "no such request"},
		"want of nobody":      {`{"method":"SetPolicy","want":"maybe"}`, []string{"explain", "--policy", good}, "not allow or deny"},
		"reason to allow":     {`{"method":"SetPolicy","want":"allow","because":"x"}`, []string{"explain", "--policy", good}, "a denial only"},
		"test without dir":    {"", []string{"test"}, "want one directory"},
		"test of two":         {"", []string{"test", dir, dir}, "want one directory"},
		"test without files":  {"", []string{"test", empty}, "no *.jsonl"},
	} {
		r := command(t, tc.in, tc.args...)
		if r.code != exitUsage || !strings.Contains(r.err, tc.text) || r.out != "" {
			t.Errorf("%s: %+v, want %q", name, r, tc.text)
		}
	}
	file(t, empty, "policy.rego", policy.AllowAll())
	file(t, empty, "x.jsonl", `{"method":"SetPolicy"}`)
	if r := command(t, "", "test", empty); r.code != exitUsage || !strings.Contains(r.err, "does not say what is wanted") {
		t.Errorf("%+v", r)
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{
		`{"method": "grpc.AgentService/CreateContainer", "body": {"containerId": "x"}, "want": "deny", "because": "y"}`,
		`{"kind": "SetPolicyRequest", "request": {}}`, "// x\n\n{}", "{", `{"method":"SetPolicy","body":[]}`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		list, err := parse(bytes.NewReader(b))
		if err != nil {
			return
		}
		for _, q := range list {
			if (q.msg == nil) == (q.rule == "") {
				t.Fatalf("%q became %+v", b, q)
			}
		}
	})
}
