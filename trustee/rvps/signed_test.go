// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package rvps

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"cocoon/trustee/rvps/intoto"
	"cocoon/trustee/rvps/signer"
	"cocoon/trustee/store"
)

// statement is an in-toto message with the given predicate, signed by key
// unless that is nil.
func statement(t testing.TB, key ed25519.PrivateKey, predicate string) []byte {
	t.Helper()
	body := fmt.Sprintf(`{"_type":%q,"predicateType":%q,"predicate":%s}`, intoto.StatementType, intoto.PredicateType, predicate)
	sigs := ""
	if key != nil {
		message := fmt.Sprintf("DSSEv1 %d %s %d %s", len(intoto.PayloadType), intoto.PayloadType, len(body), body)
		sigs = fmt.Sprintf(`{"sig":%q}`, base64.StdEncoding.EncodeToString(ed25519.Sign(key, []byte(message))))
	}
	raw, err := NewSignedMessage("in-toto", fmt.Appendf(nil, `{"payloadType":%q,"payload":%q,"signatures":[%s]}`,
		intoto.PayloadType, base64.StdEncoding.EncodeToString([]byte(body)), sigs))
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func TestWhereSignersAreNamedTheyMustHaveSigned(t *testing.T) {
	t.Parallel()
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	_, other, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	key, err := signer.NewKey(public)
	if err != nil {
		t.Fatal(err)
	}
	d, err := store.OpenDir(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	})
	r, err := Open(d, time.Now, key)
	if err != nil {
		t.Fatal(err)
	}
	const values = `{"values":{"a":[1]}}`
	corim, err := NewSignedMessage("corim", []byte{0xd9, 1, 0xf5, 0xa1, 1, 0x80})
	if err != nil {
		t.Fatal(err)
	}
	for name, m := range map[string][]byte{"unsigned": statement(t, nil, values), "another key": statement(t, other, values), "unsigned CoRIM": corim} {
		for what, err := range map[string]error{"register": r.Register(m), "names": second(r.Names(m))} {
			if !errors.Is(err, ErrBadMessage) || !errors.Is(err, signer.ErrUnsigned) {
				t.Errorf("%s: %s: %v", name, what, err)
			}
		}
	}
	if err := errors.Join(r.Register(statement(t, private, values)), r.Register(newMessage(t, map[string]any{"plain": 1}, time.Time{}))); err != nil {
		t.Fatal(err)
	}
	if l := r.List(); len(l) != 2 || l[0].Signer != key.ID || l[1].Signer != "" {
		t.Fatalf("values %+v", l)
	}
}

func second[T any](_ T, err error) error { return err }

func TestValidityIsThatOfTheAuthorAndIsNamedInTheError(t *testing.T) {
	t.Parallel()
	c := &clock{t: time.Date(2030, 6, 1, 0, 0, 0, 0, time.UTC)}
	r := open(t, t.TempDir(), c)
	for name, tc := range map[string]struct{ predicate, says string }{
		"expired":    {`{"values":{"a":1},"expires":"2030-05-31T00:00:00Z"}`, "expiration 2030-05-31T00:00:00Z is past, it is 2030-06-01T00:00:00Z"},
		"just now":   {`{"values":{"a":1},"expires":"2030-06-01T00:00:00Z"}`, "is past"},
		"of the day": {`{"values":{"a":1},"notBefore":"2030-06-01T00:00:01Z"}`, "not valid before 2030-06-01T00:00:01Z, it is 2030-06-01T00:00:00Z"},
		"no name":    {`{"values":{"":1}}`, "name of 0 bytes"},
		"wildcard":   {`{"values":{"a*":1}}`, "wildcard"},
		"null":       {`{"values":{"a":null}}`, "null"},
		"nothing":    {`{"values":{}}`, "0 values"},
	} {
		m := statement(t, nil, tc.predicate)
		for _, err := range []error{r.Register(m), second(r.Names(m))} {
			if !errors.Is(err, ErrBadMessage) || !strings.Contains(err.Error(), tc.says) {
				t.Errorf("%s: %v, want %q", name, err, tc.says)
			}
		}
	}
	if err := r.Register(statement(t, nil, `{"values":{"a b":1},"notBefore":"2030-06-01T00:00:00Z","expires":"2030-06-02T00:00:00Z"}`)); err != nil {
		t.Fatal(err)
	}
	if _, ok := r.Query("a b"); !ok {
		t.Error("a valid value is not there")
	}
	c.t = c.t.Add(24 * time.Hour)
	if _, ok := r.Query("a b"); ok {
		t.Error("a value outlives its author's date")
	}
	if got := Listed([]string{"a b", "c"}); got != `"a b" c` {
		t.Errorf("listed as %s", got)
	}
}
