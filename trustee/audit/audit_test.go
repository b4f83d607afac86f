// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package audit_test

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"cocoon/trustee/audit"
)

func TestTheAuditLogKeepsVerdictsButNoKeysAndNoConfiguration(t *testing.T) {
	t.Parallel()
	var claims map[string]any
	err := json.Unmarshal([]byte(`{"tee-pubkey":"K","submods":{"x":7,"cpu0":{"ear.status":"affirming","other":"O","ear.veraison.annotated-evidence":`+
		`{"runtime_data_claims":{"tee-pubkey":"K"},"init_data_claims":{"aa.toml":"C"},"init_data":"digest","sample":{"svn":"1"}}}}}`), &claims)
	if err != nil {
		t.Fatal(err)
	}
	got, err := json.Marshal(audit.Summary(claims))
	if err != nil {
		t.Fatal(err)
	}
	want := `{"cpu0":{"claims":{"init_data":"digest","sample":{"svn":"1"}},"reasons":null,"status":"affirming"},"x":{"claims":{},"reasons":null,"status":null}}`
	if string(got) != want {
		t.Fatalf("summary %s, want %s", got, want)
	}
}

type broken struct{}

func (broken) Write([]byte) (int, error) { return 0, errors.New("disk full") }

func TestARecordIsOneLineWhateverAGuestPutsIntoIt(t *testing.T) {
	t.Parallel()
	var b strings.Builder
	at := time.Unix(1_000_000, 0)
	l := audit.New(&b, func() time.Time { return at })
	if err := l.Write(audit.Record{Event: "attest", Decision: "refused", Reason: "x\n{\"event\":\"resource\"}"}); err != nil {
		t.Fatal(err)
	}
	var r audit.Record
	if err := json.Unmarshal([]byte(b.String()), &r); err != nil || strings.Count(b.String(), "\n") != 1 || !r.Time.Equal(at) {
		t.Fatalf("log %q, %v", b.String(), err)
	}
	if err := audit.New(broken{}, time.Now).Write(r); err == nil || !strings.Contains(err.Error(), "disk full") {
		t.Fatalf("error %v", err)
	}
}
