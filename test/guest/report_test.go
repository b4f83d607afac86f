// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package guest_test

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"cocoon/agent/policy"
)

func TestARunningGuestWritesDownWhatItRunsWith(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	_, root := withoutWorld(t, s.settings())
	path := filepath.Join(root, "run/cocoon/report.json")
	st, err := os.Stat(path)
	if err != nil || st.Mode().Perm() != 0o600 {
		t.Fatalf("%v (%v)", st, err)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var r struct {
		Version, Profile, TEE string
		Policy                string `json:"policy_sha256"`
		Settings              []struct{ Key, Value, From string }
		Steps                 []json.RawMessage
	}
	if err := json.Unmarshal(b, &r); err != nil {
		t.Fatal(err)
	}
	if want := fmt.Sprintf("%x", sha256.Sum256([]byte(policy.AllowAll()))); r.Policy != want {
		t.Errorf("policy %s, want %s", r.Policy, want)
	}
	if r.Version == "" || r.Profile != "host" || r.TEE != "sample" || len(r.Settings) < 20 || len(r.Steps) < 5 {
		t.Errorf("%s", b)
	}
}
