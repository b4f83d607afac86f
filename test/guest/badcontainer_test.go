// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package guest_test

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"testing"

	"cocoon/internal/stage"
)

func TestACommandThatDoesNotExistIsReported(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	image := s.plain(t, "good")
	refusal{
		image: image, args: []string{"/bin/absent"}, good: image, stage: stage.Container, names: []string{"/bin/absent"},
	}.check(t, s, start(t, s.settings()))
}

func TestAnImageThatTheOwnersPolicyRejectsIsReported(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	bad := s.plain(t, "app")
	o := s.settings()
	o.image = fmt.Sprintf("image_security_policy = '{\"default\":[{\"type\":\"reject\"}],\"transports\":{\"docker\":{%q:[{\"type\":\"insecureAcceptAnything\"}]}}}'", s.ref("good"))
	refusal{image: bad, good: s.plain(t, "good"), stage: stage.ImagePolicy, names: []string{bad}}.check(t, s, start(t, o))
}

func TestAGuestDoesNotStartUnderAPolicyThatDoesNotCompile(t *testing.T) {
	t.Parallel()
	for name, text := range map[string]string{
		"unknown reference": "package agent_policy\n\nCreateSandboxRequest if { nowhere(input) }\n",
		"other package":     "package elsewhere\n\ndefault CreateSandboxRequest := true\n",
		"impure built-in":   "package agent_policy\n\nCreateSandboxRequest if { http.send({\"method\": \"get\", \"url\": \"https://127.0.0.1/\"}).status_code == 200 }\n",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSite(t)
			o := s.settings()
			o.policy = text
			g := launch(t, o)
			if err := g.waitEnd(); err == nil || !strings.Contains(err.Error(), "exit status 1") {
				t.Fatalf("the guest ended with %v", err)
			}
			wantOneErrorLine(t, g.out.String(), "policy: ", g.dir+"/policy.rego")
			if _, err := os.Lstat(g.socket()); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("the agent's socket: %v", err)
			}
		})
	}
}

// wantOneErrorLine checks what a guest that does not start prints beside its
// log: one line with the texts.
func wantOneErrorLine(t *testing.T, out string, texts ...string) {
	t.Helper()
	var plain []string
	for line := range strings.Lines(out) {
		if !strings.HasPrefix(line, "{") {
			plain = append(plain, line)
		}
	}
	if len(plain) != 1 || len(plain[0]) > maxOwnerText {
		t.Fatalf("it prints %d lines, want one of at most %d bytes: %q", len(plain), maxOwnerText, plain)
	}
	t.Logf("it prints: %s", plain[0])
	for _, text := range texts {
		if !strings.Contains(plain[0], text) {
			t.Errorf("%q is not named", text)
		}
	}
}
