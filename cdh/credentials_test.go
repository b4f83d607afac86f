// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package cdh

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"cocoon/internal/stage"
)

func TestCredentialsAreFetchedToTheirFolderOnly(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "kbs")
	h := New(Config{}, Deps{Broker: table{"kbs:///a/b/c": []byte("cred")}})
	good := Credential{Path: DefaultCredentialDir + "/kms-credential/aws/credential.json", URI: "kbs:///a/b/c"}
	if err := h.FetchCredentials(t.Context(), dir, []Credential{good}); err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(dir, "kms-credential/aws/credential.json")
	b, err := os.ReadFile(name)
	if err != nil || string(b) != "cred" {
		t.Errorf("got %q, %v", b, err)
	}
	if st, err := os.Stat(name); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", st.Mode(), err)
	}
	for _, path := range []string{
		"", "x", "/etc/passwd", DefaultCredentialDir, DefaultCredentialDir + "/", DefaultCredentialDir + "-evil/x", DefaultCredentialDir + "/../x",
		DefaultCredentialDir + "/a/./b", DefaultCredentialDir + "//a", DefaultCredentialDir + "/.",
	} {
		other := filepath.Join(t.TempDir(), "kbs")
		err := h.FetchCredentials(t.Context(), other, []Credential{good, {Path: path, URI: "kbs:///a/b/c"}})
		if !errors.Is(err, ErrCredentialPath) || stage.Of(err) != stage.Config {
			t.Errorf("%q: got %v", path, err)
		}
		if _, err := os.Stat(other); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%q: something was written: %v", path, err)
		}
	}
	missing := Credential{Path: DefaultCredentialDir + "/x", URI: "kbs:///a/b/absent"}
	if err := h.FetchCredentials(t.Context(), dir, []Credential{missing}); stage.Of(err) != stage.NotFound {
		t.Errorf("missing: got %v", err)
	}
	if _, err := os.Stat(filepath.Join(dir, "x")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("missing: a file was made: %v", err)
	}
}

func TestACredentialDoesNotFollowALinkOutOfItsFolder(t *testing.T) {
	t.Parallel()
	dir, outside := t.TempDir(), t.TempDir()
	if err := os.Symlink(outside, filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	h := New(Config{}, Deps{Broker: table{"kbs:///a/b/c": []byte("cred")}})
	err := h.FetchCredentials(t.Context(), dir, []Credential{{Path: DefaultCredentialDir + "/link/x", URI: "kbs:///a/b/c"}})
	if left, rerr := os.ReadDir(outside); err == nil || rerr != nil || len(left) != 0 {
		t.Fatalf("got %v; outside: %v, %v", err, left, rerr)
	}
}
