// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	"cocoon/internal/wire/agentpb"
)

func TestATextThatIsNoPolicyIsRefusedAndChangesNothing(t *testing.T) {
	t.Parallel()
	rules := "\nCreateSandboxRequest := false\n"
	for name, text := range map[string]string{
		"empty":             "",
		"only comment":      "# nothing",
		"no Rego":           "allow everything, please",
		"no package":        "CreateSandboxRequest := true",
		"other package":     "package policy" + rules,
		"sub-package":       "package agent_policy.sub" + rules,
		"parse error":       "package agent_policy\nCreateSandboxRequest := {",
		"unknown built-in":  "package agent_policy\nCreateSandboxRequest := frobnicate(1)",
		"HTTP":              "package agent_policy\nCreateSandboxRequest if http.send({\"method\": \"get\", \"url\": \"http://127.0.0.1\"})",
		"name lookup":       "package agent_policy\nCreateSandboxRequest if net.lookup_ip_addr(\"example.com\")",
		"environment":       "package agent_policy\nCreateSandboxRequest if opa.runtime().env.HOME",
		"clock":             "package agent_policy\nCreateSandboxRequest if time.now_ns() > 0",
		"chance":            "package agent_policy\nCreateSandboxRequest if rand.intn(\"x\", 2) == 0",
		"uuid":              "package agent_policy\nCreateSandboxRequest if uuid.rfc4122(\"x\")",
		"hash":              "package agent_policy\nCreateSandboxRequest if crypto.sha256(\"x\")",
		"token":             "package agent_policy\nCreateSandboxRequest if io.jwt.decode(\"x\")",
		"parse at run time": "package agent_policy\nCreateSandboxRequest if rego.parse_module(\"x\", \"y\")",
		"schema":            "package agent_policy\nCreateSandboxRequest if json.match_schema({}, {})",
		"built-in in v0":    "package agent_policy\nCreateSandboxRequest { http.send({}) }",
		"recursion":         "package agent_policy\nCreateSandboxRequest if CreateSandboxRequest",
		"function as rule":  "package agent_policy\nCreateSandboxRequest(x) := x",
		"failing no bool":   "package agent_policy\nAllowRequestsFailingPolicy := 1",
		"failing conflict":  "package agent_policy\nAllowRequestsFailingPolicy := true\nAllowRequestsFailingPolicy := false",
		"too long":          "package agent_policy\n#" + strings.Repeat("\n", maxPolicyBytes),
		"too many lines":    "package agent_policy" + strings.Repeat("\n", maxPolicyLines+1),
		"line too long":     "package agent_policy\n#" + strings.Repeat("x", maxPolicyLine),
		"too deep":          "package agent_policy\nx := " + strings.Repeat("[", 60_000),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			e := loaded(t, Config{}, "package agent_policy\nCreateSandboxRequest := true")
			before, err := e.Digest(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if err := e.Load(t.Context(), text); !errors.Is(err, ErrBadPolicy) {
				t.Errorf("Load: got %v, want ErrBadPolicy", err)
			}
			wantCode(t, e.SetPolicy(t.Context(), text), codes.InvalidArgument)
			if after, err := e.Digest(t.Context()); err != nil || after != before {
				t.Errorf("the policy in force changed from %s to %s (%v)", before, after, err)
			}
			_, err = ask(t.Context(), e, "CreateSandbox", &agentpb.CreateSandboxRequest{}, nil)
			wantCode(t, err, codes.OK)
		})
	}
}

func TestAFirstTextThatIsNoPolicyLeavesTheDoorClosed(t *testing.T) {
	t.Parallel()
	e := New(Config{})
	if err := e.Load(t.Context(), "package x"); !errors.Is(err, ErrBadPolicy) {
		t.Fatalf("got %v, want ErrBadPolicy", err)
	}
	_, err := ask(t.Context(), e, "CreateSandbox", &agentpb.CreateSandboxRequest{}, nil)
	wantCode(t, err, codes.PermissionDenied)
	if d, err := e.Digest(t.Context()); d != "" || err != nil {
		t.Errorf("got digest %q, %v", d, err)
	}
}

func TestPoliciesOfBothLanguageVersionsLoad(t *testing.T) {
	t.Parallel()
	for name, text := range map[string]string{
		"v0":              "package agent_policy\ndefault CreateSandboxRequest = false\nCreateSandboxRequest { input.sandbox_id == \"s\" }",
		"v0 with imports": "package agent_policy\nimport future.keywords.in\nCreateSandboxRequest { input.sandbox_id in [\"s\"] }",
		"v1":              "package agent_policy\ndefault CreateSandboxRequest := false\nCreateSandboxRequest if input.sandbox_id == \"s\"",
		"v1 with imports": "package agent_policy\nimport rego.v1\nimport future.keywords.if\nCreateSandboxRequest if input.sandbox_id == \"s\"",
		"object result":   "package agent_policy\nCreateSandboxRequest := {\"allowed\": input.sandbox_id == \"s\"}",
		"object with ops": "package agent_policy\nCreateSandboxRequest := {\"allowed\": input.sandbox_id == \"s\", \"ops\": []}",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			e := loaded(t, Config{}, text)
			_, err := ask(t.Context(), e, "CreateSandbox", &agentpb.CreateSandboxRequest{SandboxId: "s"}, nil)
			wantCode(t, err, codes.OK)
			_, err = ask(t.Context(), e, "CreateSandbox", &agentpb.CreateSandboxRequest{SandboxId: "t"}, nil)
			if err == nil {
				t.Error("another sandbox was allowed")
			}
		})
	}
}

func TestAnAnswerThatIsNoVerdictIsAnInternalError(t *testing.T) {
	t.Parallel()
	for name, rule := range map[string]string{
		"undefined":         `CreateSandboxRequest if false`,
		"absent":            `StartContainerRequest := true`,
		"number":            `CreateSandboxRequest := 1`,
		"string":            `CreateSandboxRequest := "true"`,
		"null":              `CreateSandboxRequest := null`,
		"set":               `CreateSandboxRequest := {true}`,
		"array":             `CreateSandboxRequest := [true]`,
		"no allowed":        `CreateSandboxRequest := {"allow": true}`,
		"allowed no bool":   `CreateSandboxRequest := {"allowed": "true"}`,
		"ops no array":      `CreateSandboxRequest := {"allowed": true, "ops": {}}`,
		"ops a set":         `CreateSandboxRequest := {"allowed": true, "ops": {{"op": "remove", "path": "/pstate"}}}`,
		"ops malformed":     `CreateSandboxRequest := {"allowed": true, "ops": [{"op": "burn", "path": "/pstate"}]}`,
		"ops fail":          `CreateSandboxRequest := {"allowed": true, "ops": [{"op": "remove", "path": "/pstate/x"}]}`,
		"ops hide policy":   `CreateSandboxRequest := {"allowed": true, "ops": [{"op": "add", "path": "/agent_policy", "value": {}}]}`,
		"conflicting rules": "CreateSandboxRequest := true\nCreateSandboxRequest := false",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			e := loaded(t, Config{}, "package agent_policy\n"+rule)
			_, err := ask(t.Context(), e, "CreateSandbox", &agentpb.CreateSandboxRequest{}, func() error {
				t.Error("the handler ran")
				return nil
			})
			wantCode(t, err, codes.Internal)
			if !strings.Contains(err.Error(), "CreateSandboxRequest: internal error") {
				t.Errorf("got %q", err)
			}
			wantState(t, e, emptyState)
		})
	}
}

func TestChangesOfARefusedRequestAreDropped(t *testing.T) {
	t.Parallel()
	e := loaded(t, Config{}, `package agent_policy
CreateSandboxRequest := {"allowed": false, "ops": [{"op": "add", "path": "/pstate/x", "value": 1}]}`)
	_, err := ask(t.Context(), e, "CreateSandbox", &agentpb.CreateSandboxRequest{}, nil)
	wantCode(t, err, codes.PermissionDenied)
	wantState(t, e, emptyState)
}

func TestAllowRequestsFailingPolicyIsNotInherited(t *testing.T) {
	t.Parallel()
	sandbox := &agentpb.CreateSandboxRequest{}
	e := loaded(t, Config{}, "package agent_policy\nAllowRequestsFailingPolicy := true\nCreateSandboxRequest := false\nStartContainerRequest := 1")
	_, err := ask(t.Context(), e, "CreateSandbox", sandbox, nil) // denied
	wantCode(t, err, codes.OK)
	_, err = ask(t.Context(), e, "DestroySandbox", &agentpb.DestroySandboxRequest{}, nil) // undefined
	wantCode(t, err, codes.OK)
	_, err = ask(t.Context(), e, "StartContainer", &agentpb.StartContainerRequest{}, nil) // no verdict
	wantCode(t, err, codes.Internal)
	for _, next := range []string{
		"CreateSandboxRequest := false",
		"CreateSandboxRequest := false\nAllowRequestsFailingPolicy := false",
		"CreateSandboxRequest := false\nAllowRequestsFailingPolicy if input.x",
	} {
		if err := e.Load(t.Context(), "package agent_policy\n"+next); err != nil {
			t.Fatal(err)
		}
		_, err = ask(t.Context(), e, "CreateSandbox", sandbox, nil)
		wantCode(t, err, codes.PermissionDenied)
	}
}

// bomb asks for 10^8 combinations.
const bomb = `package agent_policy
n := numbers.range(1, 10000)
CreateSandboxRequest if count([1 | n[_] + n[_] == -1]) > 0
StartContainerRequest := true
`

func TestAnEndlessEvaluationIsCutOff(t *testing.T) {
	t.Parallel()
	e := loaded(t, Config{EvalLimit: 50 * time.Millisecond}, bomb)
	start := time.Now()
	_, err := ask(t.Context(), e, "CreateSandbox", &agentpb.CreateSandboxRequest{}, nil)
	wantCode(t, err, codes.Internal)
	if !strings.Contains(err.Error(), "took longer than 50ms") {
		t.Errorf("got %q, want the reason", err)
	}
	if d := time.Since(start); d > 5*time.Second {
		t.Errorf("the evaluation took %v", d)
	}
	_, err = ask(t.Context(), e, "StartContainer", &agentpb.StartContainerRequest{}, nil)
	wantCode(t, err, codes.OK)
}

func TestTheClientsDeadlineEndsAnEvaluation(t *testing.T) {
	t.Parallel()
	e := loaded(t, Config{EvalLimit: time.Hour}, bomb)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err := ask(ctx, e, "CreateSandbox", &agentpb.CreateSandboxRequest{}, nil)
	wantCode(t, err, codes.Internal)
}

func TestALoadThatDoesNotEndIsCutOff(t *testing.T) {
	t.Parallel()
	e := New(Config{EvalLimit: 50 * time.Millisecond})
	err := e.Load(t.Context(), strings.Replace(bomb, "CreateSandboxRequest", failingRule, 1))
	if !errors.Is(err, ErrBadPolicy) {
		t.Errorf("got %v, want ErrBadPolicy", err)
	}
}

func TestPrintsAreBounded(t *testing.T) {
	t.Parallel()
	p, err := compile(`package agent_policy
CreateSandboxRequest := false if {
	every x in numbers.range(1, 20000) { print(x, "`+strings.Repeat("p", 1000)+`") }
}`, []string{"CreateSandboxRequest"})
	if err != nil {
		t.Fatal(err)
	}
	l, err := newLedger(t.Context(), p, time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	v, _, err := l.decide(t.Context(), "CreateSandboxRequest", mustEncode(t, &agentpb.CreateSandboxRequest{}))
	if err != nil {
		t.Fatal(err)
	}
	if last := v.prints[len(v.prints)-1]; !strings.HasPrefix(last, "agent_policy:3: 20000 ") {
		t.Errorf("the last print is lost; kept is %.40q", last)
	}
	if n := len(strings.Join(v.prints, "")); n > maxPrintBytes || n < maxPrintBytes/2 {
		t.Errorf("%d bytes of prints were kept, want at most %d and not much less", n, maxPrintBytes)
	}
}

func TestGeneratedPolicyDialect(t *testing.T) {
	t.Parallel()
	route := func(dest, dev string) string {
		return fmt.Sprintf(`{"routes": {"Routes": [{"dest": %q, "device": %q}]}}`, dest, dev)
	}
	for name, tc := range map[string]struct {
		method, req string
		want        codes.Code
	}{
		"sandbox":                    {"CreateSandbox", `{"sandboxId": "s", "storages": [{"driver": "ephemeral", "mountPoint": "/run/kata-containers/sandbox/shm"}]}`, codes.OK},
		"sandbox with hooks":         {"CreateSandbox", `{"guestHookPath": "/h"}`, codes.PermissionDenied},
		"sandbox with module":        {"CreateSandbox", `{"kernelModules": [{"name": "evil"}]}`, codes.PermissionDenied},
		"sandbox sharing pids":       {"CreateSandbox", `{"sandboxPidns": true}`, codes.PermissionDenied},
		"sandbox with other storage": {"CreateSandbox", `{"storages": [{"driver": "9p", "mountPoint": "/run/kata-containers/x"}]}`, codes.PermissionDenied},
		"file":                       {"CopyFile", `{"path": "/run/kata-containers/shared/containers/abc-resolv", "fileMode": 33188, "dirMode": 493}`, codes.OK},
		"file writable by all":       {"CopyFile", `{"path": "/run/kata-containers/shared/containers/abc", "fileMode": 33206}`, codes.PermissionDenied},
		"file elsewhere":             {"CopyFile", `{"path": "/run/kata-containers/shared/containers/../../x", "fileMode": 33188}`, codes.PermissionDenied},
		"device":                     {"CopyFile", `{"path": "/run/kata-containers/shared/containers/abc", "fileMode": 8612}`, codes.PermissionDenied},
		"link":                       {"CopyFile", `{"path": "/x", "fileMode": 41471, "data": "Li5kYXRhL2E="}`, codes.OK}, // ..data/a
		"link upwards":               {"CopyFile", `{"path": "/x", "fileMode": 41471, "data": "YS8uLi9i"}`, codes.PermissionDenied},
		"link absolute":              {"CopyFile", `{"path": "/x", "fileMode": 41471, "data": "L2V0Yw=="}`, codes.PermissionDenied},
		"link not UTF-8":             {"CopyFile", `{"path": "/x", "fileMode": 41471, "data": "/w=="}`, codes.InvalidArgument},
		"route":                      {"UpdateRoutes", route("10.1.0.0/16", "eth0"), codes.OK},
		"route too wide":             {"UpdateRoutes", route("0.0.0.0/0", "eth0"), codes.PermissionDenied},
		"route on loopback":          {"UpdateRoutes", route("10.1.0.0/16", "lo"), codes.PermissionDenied},
		"route without body":         {"UpdateRoutes", `{}`, codes.PermissionDenied},
		"policy":                     {"SetPolicy", `{"policy": "package agent_policy"}`, codes.PermissionDenied},
		"write":                      {"WriteStdin", `{"containerId": "c1", "data": "AAAA"}`, codes.PermissionDenied},
		"exec":                       {"ExecProcess", `{"containerId": "c1", "process": {"Args": ["ls", "-l"]}}`, codes.OK},
		"exec other command":         {"ExecProcess", `{"containerId": "c1", "process": {"Args": ["ls", "-l", ";", "sh"]}}`, codes.PermissionDenied},
		"exec without process":       {"ExecProcess", `{"containerId": "c1"}`, codes.PermissionDenied},
		"exec elsewhere":             {"ExecProcess", `{"containerId": "zz", "process": {"Args": ["ls"]}}`, codes.PermissionDenied},
		"rule that is absent":        {"AddSwap", `{}`, codes.Internal},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			e := loaded(t, Config{}, genpolicy(t))
			wantCode(t, create(t, e, appContainer(t, "c1"), nil), codes.OK)
			req := fromJSON(t, requests(t)[tc.method], tc.req)
			_, err := ask(t.Context(), e, tc.method, req, nil)
			wantCode(t, err, tc.want)
		})
	}
}

// TestEachChangeOfAnAllowedContainerIsRefused mutates one thing at a time.
func TestEachChangeOfAnAllowedContainerIsRefused(t *testing.T) {
	t.Parallel()
	for name, mutate := range map[string]func(*agentpb.CreateContainerRequest){
		"argument":        func(r *agentpb.CreateContainerRequest) { r.OCI.Process.Args[2] = "echo ho" },
		"more arguments":  func(r *agentpb.CreateContainerRequest) { r.OCI.Process.Args = append(r.OCI.Process.Args, "") },
		"environment":     func(r *agentpb.CreateContainerRequest) { r.OCI.Process.Env[0] = "PATH=/host" },
		"new environment": func(r *agentpb.CreateContainerRequest) { r.OCI.Process.Env = append(r.OCI.Process.Env, "LD_PRELOAD=x") },
		"privileges":      func(r *agentpb.CreateContainerRequest) { r.OCI.Process.NoNewPrivileges = false },
		"image":           func(r *agentpb.CreateContainerRequest) { r.Storages[0].Source = "registry.example/app:2" },
		"driver":          func(r *agentpb.CreateContainerRequest) { r.Storages[0].Driver = "virtio-fs" },
		"no storage":      func(r *agentpb.CreateContainerRequest) { r.Storages = nil },
		"mount source":    func(r *agentpb.CreateContainerRequest) { r.OCI.Mounts[1].Source = "/" },
		"mount climbs":    func(r *agentpb.CreateContainerRequest) { r.OCI.Mounts[1].Source = "/run/kata-containers/../x" },
		"mount type":      func(r *agentpb.CreateContainerRequest) { r.OCI.Mounts[0].Type = "nfs" },
		"hooks":           func(r *agentpb.CreateContainerRequest) { r.OCI.Hooks = &agentpb.Hooks{} },
		"user by name":    func(r *agentpb.CreateContainerRequest) { r.StringUser = &agentpb.StringUser{} },
		"shared mounts":   func(r *agentpb.CreateContainerRequest) { r.SharedMounts = []*agentpb.SharedMount{{}} },
		"no spec":         func(r *agentpb.CreateContainerRequest) { r.OCI = nil },
		"no process":      func(r *agentpb.CreateContainerRequest) { r.OCI.Process = nil },
		"sandbox name":    func(r *agentpb.CreateContainerRequest) { r.OCI.Annotations["io.kubernetes.cri.sandbox-name"] = "../x" },
		"no sandbox name": func(r *agentpb.CreateContainerRequest) { r.OCI.Annotations = nil },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			e := loaded(t, Config{}, genpolicy(t))
			req := appContainer(t, "c1")
			mutate(req)
			wantCode(t, create(t, e, req, nil), codes.PermissionDenied)
			wantState(t, e, emptyState)
		})
	}
}
