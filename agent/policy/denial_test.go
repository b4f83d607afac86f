// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"encoding/json"
	"log/slog"
	"strings"
	"testing"
	"unicode/utf8"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"cocoon/internal/wire/agentpb"
)

const talkative = `package agent_policy
default CreateContainerRequest := false
CreateContainerRequest if {
	print("args", input.OCI.Process.Args)
	print("env", input.OCI.Process.Env)
	some e in input.OCI.Process.Env
	print("entry", e)
	print("value", split(e, "=")[1])
	false
}
default WriteStreamRequest := false
default SetPolicyRequest := false
default ExecProcessRequest := false
ExecProcessRequest if {
	every x in numbers.range(1, 3000) { print("ééééééééééééééééééééé", x) }
	false
}
default CreateSandboxRequest := false
CreateSandboxRequest if {
	print("raw", base64.decode("//7/"))
	false
}
`

func TestADenialTellsTheRuleAndWhatThePolicyPrinted(t *testing.T) {
	t.Parallel()
	e := loaded(t, Config{}, talkative)
	err := create(t, e, appContainer(t, "c1"), nil)
	wantCode(t, err, codes.PermissionDenied)
	want := `CreateContainerRequest is blocked by policy: agent_policy:4: args ["/bin/sh", "-c", "echo hi"] agent_policy:5: env`
	if got := status.Convert(err).Message(); !strings.HasPrefix(got, want) {
		t.Errorf("got  %q\nwant %q…", got, want)
	}
}

func TestNoEnvironmentValueLeavesTheGuest(t *testing.T) {
	t.Parallel()
	owner, log := ownerLog()
	var public strings.Builder
	e := loaded(t, Config{Owner: owner, Log: slog.New(slog.NewTextHandler(&public, nil))}, talkative)
	req := appContainer(t, "c1")
	req.OCI.Process.Env = []string{"TOKEN=hunter22", `QUOTED=se"cr\et!`, "PIN=12", "bare-secret-value", "EMPTY="}
	err := create(t, e, req, nil)
	for where, text := range map[string]string{"host": err.Error(), "owner": log.String(), "public": public.String()} {
		for _, secret := range []string{"hunter22", `se"cr\et!`, `se\"cr\\et!`, "PIN=12", "bare-secret-value"} {
			if strings.Contains(text, secret) {
				t.Errorf("%q is in the %s's text: %s", secret, where, text)
			}
		}
	}
	if !strings.Contains(err.Error(), "TOKEN="+redacted) && !strings.Contains(err.Error(), redacted) {
		t.Errorf("no sign of a redaction: %v", err)
	}
	if strings.Contains(public.String(), "args") {
		t.Errorf("the public log holds prints: %s", public.String())
	}
}

func TestTheOwnerGetsTheWholeRequestAsOneJSONLine(t *testing.T) {
	t.Parallel()
	owner, log := ownerLog()
	e := loaded(t, Config{Owner: owner}, talkative+"\nHidePrintsFromHost := true")
	err := create(t, e, appContainer(t, "c1"), nil)
	if got, want := status.Convert(err).Message(), "CreateContainerRequest is blocked by policy: the reason is in the owner's log"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	var line struct {
		Rule    string
		Prints  []string
		Request struct {
			ContainerID string `json:"container_id"`
			OCI         struct{ Process struct{ Args, Env []string } }
		}
	}
	if err := json.Unmarshal(log.Bytes(), &line); err != nil {
		t.Fatalf("%v in %s", err, log)
	}
	if line.Rule != "CreateContainerRequest" || line.Request.ContainerID != "c1" || len(line.Prints) < 3 ||
		line.Request.OCI.Process.Args[2] != "echo hi" || line.Request.OCI.Process.Env[1] != "HOST_token="+redacted {
		t.Errorf("got %+v", line)
	}
}

func TestPayloadsAreNotLogged(t *testing.T) {
	t.Parallel()
	owner, log := ownerLog()
	e := loaded(t, Config{Owner: owner}, talkative)
	_, err := ask(t.Context(), e, "WriteStdin", &agentpb.WriteStreamRequest{Data: []byte("AAAA")}, nil)
	wantCode(t, err, codes.PermissionDenied)
	_, err = ask(t.Context(), e, "SetPolicy", &agentpb.SetPolicyRequest{Policy: "package secret"}, nil)
	wantCode(t, err, codes.PermissionDenied)
	if s := log.String(); strings.Contains(s, "AAAA") || strings.Contains(s, "[65") || strings.Contains(s, "secret") ||
		!strings.Contains(s, "<4 bytes>") || !strings.Contains(s, "<14 bytes>") {
		t.Errorf("got %s", s)
	}
}

func TestADenialIsCapped(t *testing.T) {
	t.Parallel()
	for _, limit := range []int{0, 1, 3, 100, 101, 4096} {
		e := loaded(t, Config{MaxDenial: limit}, talkative)
		_, err := ask(t.Context(), e, "ExecProcess", &agentpb.ExecProcessRequest{}, nil)
		msg := status.Convert(err).Message()
		if limit == 0 {
			limit = 16 << 10
		}
		if len(msg) > limit || len(msg) < limit-3 || !utf8.ValidString(msg) {
			t.Errorf("limit %d: got %d bytes, valid %v", limit, len(msg), utf8.ValidString(msg))
		}
	}
}

func TestBinaryPrintsDoNotBreakTheAnswer(t *testing.T) {
	t.Parallel()
	c := agentpb.NewAgentServiceClient(served(t, loaded(t, Config{}, talkative), agent{}))
	_, err := c.CreateSandbox(t.Context(), &agentpb.CreateSandboxRequest{})
	wantCode(t, err, codes.PermissionDenied)
	if !strings.Contains(err.Error(), "agent_policy:20: raw") {
		t.Errorf("got %q", err)
	}
}

func TestDeniedRequestsCannotFloodTheLog(t *testing.T) {
	t.Parallel()
	owner, log := ownerLog()
	e := loaded(t, Config{Owner: owner}, DenyAll())
	for range 10 * denialBurst {
		_, err := ask(t.Context(), e, "CreateSandbox", &agentpb.CreateSandboxRequest{}, nil)
		wantCode(t, err, codes.PermissionDenied)
	}
	if n := strings.Count(log.String(), "\n"); n < denialBurst || n > 5*denialBurst {
		t.Errorf("%d lines were logged, want about %d", n, denialBurst)
	}
}
