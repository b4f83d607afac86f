// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package guest_test

import (
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc/status"

	"cocoon/internal/stage"
)

// maxOwnerText is what an event of Kubernetes shows of an error, in bytes.
const maxOwnerText = 2 << 10

// refusal is a container that cannot be had, and what its owner is told.
type refusal struct {
	image string
	args  []string // a good command if nil
	stage stage.Stage
	names []string // the objects concerned
	good  string   // image that the guest can still run
}

// check creates the container and expects one clear error, no trace, and a
// guest that goes on serving.
func (r refusal) check(t *testing.T, s *site, g *guest) {
	t.Helper()
	if r.args == nil {
		r.args = forever
	}
	g.sandbox(t)
	before := g.traces(t)
	id := newID("bad")
	err := g.create(t, id, r.image, r.args...)
	if err == nil {
		t.Fatal("the container runs")
	}
	r.wantText(t, s, status.Convert(err).Message())
	g.wantNoTrace(t, id, before)
	if err := g.Check(t.Context()); err != nil {
		t.Errorf("the guest no longer serves: %v", err)
	}
	g.wantRun(t, id, r.good)
	g.wantNoTrace(t, id, before)
	wantNoSecret(t, s, g.out.String())
}

// wantText checks the error that the owner reads.
func (r refusal) wantText(t *testing.T, s *site, text string) {
	t.Helper()
	t.Logf("the owner reads: %s", text)
	if got := stageOf(text); got != r.stage {
		t.Errorf("the text names stage %q, want %q", got, r.stage)
	}
	for _, name := range r.names {
		if !strings.Contains(text, name) {
			t.Errorf("%q is not named", name)
		}
	}
	if len(text) > maxOwnerText || strings.ContainsAny(text, "\n\r") {
		t.Errorf("a text of %d bytes, or of several lines", len(text))
	}
	wantNoSecret(t, s, text)
}

// stageOf finds the stage in a text as a tool would: the first part between
// colons that is the name of one. Parts behind it may be texts of libraries.
func stageOf(text string) stage.Stage {
	all := []stage.Stage{
		stage.UserData, stage.Initdata, stage.Config, stage.Policy, stage.DNS, stage.Connect, stage.TLS, stage.KBS, stage.Evidence,
		stage.AttestDenied, stage.ResourcePolicy, stage.NotFound, stage.Registry, stage.Unauthorized, stage.Digest,
		stage.ImagePolicy, stage.Decrypt, stage.Unpack, stage.Mount, stage.Container,
	}
	for part := range strings.SplitSeq(text, ": ") {
		if slices.Contains(all, stage.Stage(part)) {
			return stage.Stage(part)
		}
	}
	return ""
}
