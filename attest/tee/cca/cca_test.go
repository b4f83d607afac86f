// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package cca

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"cocoon/attest/tee/tsm"
)

// kernel plays configfs: it fills the folders that are made.
type kernel struct {
	files map[string]string
	make  error
	left  *int // folders that are not removed
}

func (k kernel) Make(base string) (string, error) {
	if k.make != nil {
		return "", k.make
	}
	dir, err := os.MkdirTemp(base, "req-")
	if err != nil {
		return "", err
	}
	*k.left++
	for name, text := range k.files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			return "", err
		}
	}
	return dir, nil
}

func (k kernel) Remove(dir string) error {
	*k.left--
	return os.RemoveAll(dir)
}

// token has what the guest looks for.
func token(challenge string) string {
	data := make([]byte, DataSize)
	copy(data, challenge)
	return "\xd9\x01\x8f\xa2 platform \x0a\x58\x40" + string(data) + " more"
}

// files are those of a realm's kernel, with changes as name and text; a text of
// "absent" takes the file away.
func files(changes ...string) map[string]string {
	m := map[string]string{"provider": "arm_cca_guest\n", "inblob": "", "outblob": token("data"), "generation": "1\n"}
	for i := 0; i < len(changes); i += 2 {
		m[changes[i]] = changes[i+1]
		if changes[i+1] == "absent" {
			delete(m, changes[i])
		}
	}
	return m
}

func (k kernel) attester(t *testing.T) *Attester {
	t.Helper()
	return &Attester{tokens: tsm.Reporter{Dir: t.TempDir(), FS: k}}
}

func TestEvidenceIsTheTokenInNumbers(t *testing.T) {
	t.Parallel()
	left := 0
	a := kernel{files: files(), left: &left}.attester(t)
	raw, err := a.Evidence(t.Context(), []byte("data"))
	if err != nil || a.TEE() != "cca" || !bytes.HasPrefix(raw, []byte(`{"token":[217,1,143,162,`)) {
		t.Fatalf("%s: %s (%v)", a.TEE(), raw, err)
	}
	var e Evidence
	if err := json.Unmarshal(raw, &e); err != nil || string(e.Token) != token("data") || left != 0 {
		t.Errorf("%q, %d folders left (%v)", e.Token, left, err)
	}
}

func TestNoEvidenceOfAnotherRequestIsHandedOut(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		k    kernel
		data string
		want error
		text string
	}{
		"no configfs":        {kernel{make: os.ErrNotExist}, "data", tsm.ErrUnsupported, ""},
		"no provider":        {kernel{make: unix.ENXIO}, "data", tsm.ErrUnsupported, ""},
		"another provider":   {kernel{files: files("provider", "tdx_guest\n")}, "data", tsm.ErrUnsupported, `"tdx_guest"`},
		"busy":               {kernel{make: unix.EBUSY}, "data", unix.EBUSY, "make a TSM request"},
		"asked twice":        {kernel{files: files("generation", "2\n")}, "data", tsm.ErrStale, ""},
		"no generation":      {kernel{files: files("generation", "absent")}, "data", os.ErrNotExist, ""},
		"nothing":            {kernel{files: files("outblob", "")}, "data", nil, "empty"},
		"no answer":          {kernel{files: files("outblob", "absent")}, "data", os.ErrNotExist, ""},
		"short":              {kernel{files: files("outblob", "\xd9\x01")}, "data", ErrToken, "2 bytes"},
		"cut in the nonce":   {kernel{files: files("outblob", token("data")[:60])}, "data", ErrToken, "another"},
		"no token":           {kernel{files: files("outblob", "x"+token("data"))}, "data", ErrToken, "399"},
		"wrong nonce":        {kernel{files: files("outblob", token("date"))}, "data", ErrToken, "another"},
		"nonce of no data":   {kernel{files: files("outblob", token(""))}, "data", ErrToken, "another"},
		"too long a request": {kernel{files: files()}, strings.Repeat("x", DataSize+1), nil, "65 bytes, at most 64"},
	} {
		left := 0
		tc.k.left = &left
		raw, err := tc.k.attester(t).Evidence(t.Context(), []byte(tc.data))
		if err == nil || raw != nil || tc.want != nil && !errors.Is(err, tc.want) || !strings.Contains(err.Error(), tc.text) {
			t.Errorf("%s: %s (%v)", name, raw, err)
		}
		if left != 0 {
			t.Errorf("%s: %d folders are left", name, left)
		}
	}
}

func TestEvidenceThatIsNoListOfBytesIsRefused(t *testing.T) {
	t.Parallel()
	for _, text := range []string{`{"token":"AQI="}`, `{"token":[256]}`, `{"token":[-1]}`, `{"token":[1.5]}`, `{"token":[null]}`, `{"token":{}}`, `{"token":null}`, `{"token":[[1]]}`, `[]`} {
		var e Evidence
		if err := json.Unmarshal([]byte(text), &e); err == nil && len(e.Token) > 0 {
			t.Errorf("%s is read as %x", text, e.Token)
		}
	}
}

func FuzzEvidence(f *testing.F) {
	f.Add([]byte(`{"token":[217,1,143]}`))
	f.Add([]byte(`{"token":"2QGP"}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		var e Evidence
		if json.Unmarshal(text, &e) != nil {
			return
		}
		raw, err := json.Marshal(e)
		if err != nil {
			t.Fatal(err)
		}
		var again Evidence
		if err := json.Unmarshal(raw, &again); err != nil || !bytes.Equal(e.Token, again.Token) {
			t.Fatalf("%x became %x (%v)", e.Token, again.Token, err)
		}
	})
}
