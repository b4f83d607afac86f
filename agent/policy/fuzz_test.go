// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/open-policy-agent/opa/v1/ast"
	"google.golang.org/protobuf/proto"

	"cocoon/internal/wire/agentpb"
)

func FuzzEncode(f *testing.F) {
	svc := agentpb.File_agent_agent_proto.Services().ByName("AgentService").Methods()
	add := func(method int, m proto.Message) {
		raw, err := proto.Marshal(m)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(uint8(method), raw)
	}
	for i := range svc.Len() {
		add(i, newMessage(f, svc.Get(i).Input()))
	}
	add(svc.ByName("CreateContainer").Index(), appContainer(f, "c1"))
	add(svc.ByName("CopyFile").Index(), &agentpb.CopyFileRequest{FileMode: 0o120777, Data: []byte{0xff}})
	add(svc.ByName("MemAgentMemcgSet").Index(), &agentpb.MemAgentMemcgConfig{PeriodSecs: proto.Uint64(1 << 63)})
	f.Fuzz(func(t *testing.T, method uint8, raw []byte) {
		m := newMessage(t, svc.Get(int(method)%svc.Len()).Input())
		if proto.Unmarshal(raw, m) != nil {
			return // the interceptor refuses it
		}
		v, err := encode(m)
		if err != nil {
			if !errors.Is(err, errTooComplex) && !errors.Is(err, errSymlinkTarget) {
				t.Fatal(err)
			}
			return
		}
		checkNames(t, v, m)
		hiddenForm, _, err := encodeRedacted(m)
		if err != nil {
			t.Fatal(err)
		}
		if _, ok := asJSON(hiddenForm).(json.RawMessage); !ok {
			t.Errorf("the redacted form is no JSON: %v", asJSON(hiddenForm))
		}
	})
}

// checkNames wants one member per field or oneof, and valid JSON.
func checkNames(t *testing.T, v ast.Value, m proto.Message) {
	t.Helper()
	o, ok := v.(ast.Object)
	if !ok {
		t.Fatalf("got a %T", v)
	}
	if _, ok := asJSON(v).(json.RawMessage); !ok {
		t.Errorf("not JSON: %v", asJSON(v))
	}
	if _, ok := m.(*agentpb.CopyFileRequest); ok {
		if o.Len() != 9 {
			t.Errorf("CopyFileRequest has %d members", o.Len())
		}
		return
	}
	if want := m.ProtoReflect().Descriptor().Fields().Len(); o.Len() != want {
		t.Errorf("got %d members, want %d", o.Len(), want)
	}
}

func FuzzLoad(f *testing.F) {
	f.Add(AllowAll())
	f.Add(genpolicy(f))
	f.Add(talkative)
	f.Add(baselessPolicy)
	f.Add("package agent_policy\nx { y[z] }\ny[1]")
	f.Add("package agent_policy\nimport rego.v1\nAllowRequestsFailingPolicy if every x in [1] { x > 0 }")
	f.Fuzz(func(t *testing.T, text string) {
		p, err := compile(text, []string{"CreateSandboxRequest"})
		if err != nil {
			if !errors.Is(err, ErrBadPolicy) {
				t.Errorf("got %v, want ErrBadPolicy", err)
			}
			return
		}
		if len(p.queries) != 5 || len(p.digest) != 64 {
			t.Errorf("got %d queries, digest %q", len(p.queries), p.digest)
		}
	})
}

// bigPolicy is a generated policy with many containers, more than 200 KiB.
func bigPolicy(tb testing.TB) string {
	head, _, ok := strings.Cut(genpolicy(tb), "policy_data := {")
	if !ok {
		tb.Fatal("the test policy has no data")
	}
	var b strings.Builder
	b.WriteString(head + `policy_data := {"sandbox": {"drivers": [], "name_regex": "^[a-z0-9-]+$"}, "copy_regex": "^x$", "containers": [` + "\n")
	for i := range 600 {
		var env []string
		for j := range 12 {
			env = append(env, fmt.Sprintf(`"VARIABLE_%d=%d"`, j, i*j))
		}
		fmt.Fprintf(&b, `{"args": ["/bin/%d"], "image": "registry.example/app:1", "image_key": "YXBwOjE=", "env": [%s], "env_regex": [], "exec_regex": []},`+"\n",
			i, strings.Join(env, ", "))
	}
	b.WriteString(`{"args": ["/bin/sh", "-c", "echo hi"], "image": "registry.example/app:1", "image_key": "YXBwOjE=", "env": ["PATH=/bin"], "env_regex": ["^HOST_$(name)=.*$"], "exec_regex": []}]}` + "\n")
	return b.String()
}

func BenchmarkDecisionAllowAll(b *testing.B) {
	e := loaded(b, Config{}, AllowAll())
	req := appContainer(b, "c1")
	for b.Loop() {
		if _, err := ask(b.Context(), e, "CreateContainer", req, nil); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkDecisionRead(b *testing.B) {
	e := loaded(b, Config{}, AllowAll())
	req := &agentpb.ReadStreamRequest{ContainerId: "c1", Len: 32768}
	for b.Loop() {
		if _, err := ask(b.Context(), e, "ReadStdout", req, nil); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkDecisionBigPolicy creates and removes a container: two decisions
// with state changes, the first over 601 policy containers.
func BenchmarkDecisionBigPolicy(b *testing.B) {
	text := bigPolicy(b)
	if len(text) < 200<<10 {
		b.Fatalf("the policy has only %d bytes", len(text))
	}
	e := loaded(b, Config{}, text)
	create, gone := appContainer(b, "c1"), remove("c1")
	for b.Loop() {
		if _, err := ask(b.Context(), e, "CreateContainer", create, nil); err != nil {
			b.Fatal(err)
		}
		if _, err := ask(b.Context(), e, "RemoveContainer", gone, nil); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkLoadBigPolicy(b *testing.B) {
	text, e := bigPolicy(b), New(Config{})
	for b.Loop() {
		if err := e.Load(b.Context(), text); err != nil {
			b.Fatal(err)
		}
	}
}
