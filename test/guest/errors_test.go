// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package guest_test

import (
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"cocoon/imagers/imagetest"
	"cocoon/internal/stage"
	"cocoon/trustee/server"
)

func TestAGuestThatTheVerifierRefusesIsToldSo(t *testing.T) {
	t.Parallel()
	s := newSiteWith(t, startBroker(t, func(c *server.Config) { c.AllowSample = false }))
	bad, _ := s.encrypted(t, "app")
	refusal{
		image: bad, good: s.plain(t, "good"), stage: stage.AttestDenied, names: []string{keyID},
	}.check(t, s, start(t, s.settings()))
}

func TestAnEncryptedGzipLayerThatWasCutIsReportedOnce(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	cut := imagetest.Encrypt(t, imagetest.GzipLayer(t, busyboxTar(t)), s.kek, keyID)
	cut.Blob = cut.Blob[:len(cut.Blob)/2]
	s.image(t, "app", cut)
	refusal{
		image: s.ref("app:1"), good: s.plain(t, "good"), stage: stage.Decrypt,
		names: []string{s.ref("app:1"), digest.FromBytes(cut.Blob).String()},
	}.check(t, s, start(t, s.settings()))
}

func TestAPolicyOfBadSyntaxIsReportedInOneLine(t *testing.T) {
	t.Parallel()
	o := newSite(t).settings()
	o.policy = "package agent_policy\n\ndefault CreateSandboxRequest = = true\n"
	g := launch(t, o)
	if err := g.waitEnd(); err == nil {
		t.Error("it ended well")
	}
	wantOneErrorLine(t, g.out.String(), "policy: ", g.dir+"/policy.rego")
}

func TestAnErrorSaysEachThingOnce(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	image := s.plain(t, "good")
	absent := freeAddress(t) + "/app:1"
	key, _ := s.encrypted(t, "app")
	if err := s.broker.admin.DeleteResource(t.Context(), keyPath); err != nil {
		t.Fatal(err)
	}
	g := start(t, s.settings())
	g.sandbox(t)
	for name, c := range map[string]struct{ image, command, once string }{
		"command":  {image, "/bin/absent", "create container"},
		"registry": {absent, "/bin/sh", "connection refused"},
		"image":    {absent, "/bin/sh", "Failed to pull image"},
		"key":      {key, "/bin/sh", keyID},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			err := g.create(t, newID("bad"), c.image, c.command)
			if err == nil {
				t.Fatal("the container runs")
			}
			if n := strings.Count(err.Error(), c.once); n != 1 {
				t.Errorf("%q is said %d times: %v", c.once, n, err)
			}
		})
	}
}
