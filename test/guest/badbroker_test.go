// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package guest_test

import (
	"testing"

	"cocoon/internal/stage"
)

func TestAnUnreachableBrokerIsReported(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	bad, _ := s.encrypted(t, "app")
	o := s.settings()
	o.broker = &broker{url: "https://" + freeAddress(t), ca: s.broker.ca}
	refusal{
		image: bad, good: s.plain(t, "good"), stage: stage.Connect, names: []string{o.broker.url[len("https://"):], keyID},
	}.check(t, s, start(t, o))
}

func TestABrokerWithAnotherCertificateIsReported(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	bad, _ := s.encrypted(t, "app")
	o := s.settings()
	o.broker = &broker{url: s.broker.url, ca: startBroker(t, nil).ca}
	refusal{
		image: bad, good: s.plain(t, "good"), stage: stage.TLS, names: []string{o.broker.url[len("https://"):], keyID},
	}.check(t, s, start(t, o))
}

func TestAGuestThatMatchesNoReferenceValueIsToldSo(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.broker.expect(t, "another guest")
	bad, _ := s.encrypted(t, "app")
	refusal{
		image: bad, good: s.plain(t, "good"), stage: stage.ResourcePolicy, names: []string{keyID},
	}.check(t, s, start(t, s.settings()))
}

func TestAMissingKeyIsReported(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	if err := s.broker.admin.DeleteResource(t.Context(), keyPath); err != nil {
		t.Fatal(err)
	}
	bad, _ := s.encrypted(t, "app")
	refusal{
		image: bad, good: s.plain(t, "good"), stage: stage.NotFound, names: []string{keyID},
	}.check(t, s, start(t, s.settings()))
}

func TestAWrongKeyIsReported(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	bad, _ := s.encrypted(t, "app")
	s.broker.hold(t, keyPath, make([]byte, len(s.kek)))
	refusal{
		image: bad, good: s.plain(t, "good"), stage: stage.Decrypt, names: []string{keyID, bad},
	}.check(t, s, start(t, s.settings()))
}
