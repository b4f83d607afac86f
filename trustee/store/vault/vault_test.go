// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package vault

import (
	"bytes"
	"context"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"cocoon/trustee/store"
	"cocoon/trustee/store/vault/vaulttest"
)

const testToken = "test-token"

func tokenFile(t *testing.T, token string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(file, []byte(token+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// connect serves h over TLS and returns resources in it.
func connect(t *testing.T, h http.Handler, change func(*Config)) *Resources {
	t.Helper()
	s := httptest.NewTLSServer(h)
	t.Cleanup(s.Close)
	ca := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg := Config{Address: s.URL + "/", Mount: "secret", Version: 2, TokenFile: tokenFile(t, testToken), CAFile: ca}
	if change != nil {
		change(&cfg)
	}
	r, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	})
	return r
}

func at(t *testing.T, s string) store.Path {
	t.Helper()
	p, err := store.ParsePath(s)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestSecretsAreKeptInBothVersionsOfTheEngine(t *testing.T) {
	t.Parallel()
	all := make([]byte, 256)
	for i := range all {
		all[i] = byte(i)
	}
	for _, version := range []int{1, 2} {
		for _, prefix := range []string{"", "/team/broker/"} {
			f := vaulttest.New(version, testToken)
			r := connect(t, f, func(c *Config) { c.Version, c.Prefix = version, prefix })
			if err := r.Check(t.Context()); err != nil {
				t.Errorf("version %d: %v", version, err)
			}
			if names, err := r.List(t.Context()); err != nil || len(names) != 0 {
				t.Errorf("an empty one lists %q, %v", names, err)
			}
			p, q := at(t, "default/key/1"), at(t, "a/b.c/d")
			for _, secret := range [][]byte{{}, []byte("text"), all} {
				if err := r.Set(t.Context(), p, secret); err != nil {
					t.Fatal(err)
				}
				if got, err := r.Get(t.Context(), p); err != nil || !bytes.Equal(got, secret) {
					t.Errorf("version %d: %d bytes become %q, %v", version, len(secret), got, err)
				}
			}
			if err := r.Set(t.Context(), q, []byte("2")); err != nil {
				t.Fatal(err)
			}
			if want := path.Join(strings.Trim(prefix, "/"), "a/b.c/d"); f.Entry(want) != `{"data":[50]}` {
				t.Errorf("version %d keeps %q as %q", version, f.Entry(want), want)
			}
			if names, err := r.List(t.Context()); err != nil || !slices.Equal(names, []string{"a/b.c/d", "default/key/1"}) {
				t.Errorf("version %d lists %q, %v", version, names, err)
			}
			if err := r.Delete(t.Context(), p); err != nil {
				t.Errorf("version %d: %v", version, err)
			}
			if err := r.Delete(t.Context(), p); !errors.Is(err, store.ErrNotFound) {
				t.Errorf("deleted twice: %v", err)
			}
			if _, err := r.Get(t.Context(), p); !errors.Is(err, store.ErrNotFound) || errors.Is(err, store.ErrUnavailable) {
				t.Errorf("what was deleted: %v", err)
			}
		}
	}
}

func TestTextThatAPersonStoredIsRead(t *testing.T) {
	t.Parallel()
	f := vaulttest.New(2, testToken)
	f.Put("a/b/c", `{"data":"grün","note":"x"}`)
	if got, err := connect(t, f, nil).Get(t.Context(), at(t, "a/b/c")); err != nil || string(got) != "grün" {
		t.Errorf("%q, %v", got, err)
	}
}

func TestEntriesOfOthersAreNoSecrets(t *testing.T) {
	t.Parallel()
	f := vaulttest.New(2, testToken)
	f.Put("a/b/c", `{"data":[1]}`)
	for _, other := range []string{"a/b", "short", "a/b/c/d", "a/.x/c", "a/b/ü", "a/b/c d"} {
		f.Put(other, `{}`)
	}
	if names, err := connect(t, f, nil).List(t.Context()); err != nil || !slices.Equal(names, []string{"a/b/c"}) {
		t.Errorf("%q, %v", names, err)
	}
	for name, fields := range map[string]string{
		"no field": `{}`, "null": `{"data":null}`, "number": `{"data":7}`, "object": `{"data":{}}`, "too large": `{"data":[256]}`, "negative": `{"data":[-1]}`,
		"fraction": `{"data":[1.5]}`, "null inside": `{"data":[1,null]}`, "text inside": `{"data":["1"]}`, "yes": `{"data":true}`, "no object": `7`,
		"too long": `{"data":"` + strings.Repeat("x", store.MaxResource+1) + `"}`,
	} {
		f.Put("a/b/c", fields)
		if got, err := connect(t, f, nil).Get(t.Context(), at(t, "a/b/c")); !errors.Is(err, store.ErrUnavailable) || errors.Is(err, store.ErrNotFound) || len(err.Error()) > 400 {
			t.Errorf("%s: %d bytes, %.300v", name, len(got), err)
		}
	}
}

func TestAnAnswerThatIsNoSecretIsNotTakenForOne(t *testing.T) {
	t.Parallel()
	const leak = "the-secret"
	for name, h := range map[string]http.HandlerFunc{
		"refused": func(w http.ResponseWriter, _ *http.Request) {
			http.Error(w, `{"errors":["permission denied"]}`, http.StatusForbidden)
		},
		"sealed": func(w http.ResponseWriter, _ *http.Request) {
			http.Error(w, `{"errors":["Vault is sealed"]}`, http.StatusServiceUnavailable)
		},
		"busy": func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(429) },
		"redirect": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Location", "http://127.0.0.1:1/")
			w.WriteHeader(307)
		},
		"other status": func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(206) },
		"nothing":      func(http.ResponseWriter, *http.Request) {},
		"no JSON":      func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "<html>"+leak) },
		"wrong types":  func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, `{"data":"`+leak+`"}`) },
		"endless":      func(w http.ResponseWriter, _ *http.Request) { w.Write(make([]byte, maxAnswer+1)) }, //nolint:errcheck // the client hangs up
		"other engine": func(w http.ResponseWriter, _ *http.Request) {
			http.Error(w, `{"errors":[],"warnings":["Invalid path for a versioned K/V secrets engine."]}`, 404)
		},
	} {
		r := connect(t, h, nil)
		p := at(t, "a/b/c")
		_, get := r.Get(t.Context(), p)
		_, list := r.List(t.Context())
		for what, err := range map[string]error{"get": get, "list": list, "delete": r.Delete(t.Context(), p), "check": r.Check(t.Context())} {
			if what == "delete" && (name == "no JSON" || name == "nothing" || name == "wrong types") {
				continue // its answer has no content to look at
			}
			if !errors.Is(err, store.ErrUnavailable) || errors.Is(err, store.ErrNotFound) || strings.Contains(err.Error(), leak) || strings.Contains(err.Error(), testToken) {
				t.Errorf("%s, %s: %v", name, what, err)
			}
		}
	}
}

func TestAMissingMountIsNoPlaceForASecret(t *testing.T) {
	t.Parallel()
	r := connect(t, http.NotFoundHandler(), nil)
	if err := r.Set(t.Context(), at(t, "a/b/c"), []byte("x")); !errors.Is(err, store.ErrUnavailable) {
		t.Errorf("set: %v", err)
	}
	if err := r.Check(t.Context()); !errors.Is(err, ErrConfig) {
		t.Errorf("check: %v", err)
	}
}

func TestTheOtherVersionIsNoticed(t *testing.T) {
	t.Parallel()
	for _, version := range []int{1, 2} {
		f := vaulttest.New(version, testToken)
		if err := connect(t, f, func(c *Config) { c.Version = 3 - version }).Check(t.Context()); !errors.Is(err, ErrConfig) {
			t.Errorf("version %d: %v", version, err)
		}
	}
}

func TestTheTokenIsReadAnew(t *testing.T) {
	t.Parallel()
	f := vaulttest.New(2, testToken)
	f.Put("a/b/c", `{"data":[1]}`)
	file := tokenFile(t, "an-old-one")
	r := connect(t, f, func(c *Config) { c.TokenFile = file })
	if _, err := r.Get(t.Context(), at(t, "a/b/c")); !errors.Is(err, store.ErrUnavailable) || !strings.Contains(err.Error(), "permission denied") {
		t.Errorf("an old token: %v", err)
	}
	for token, good := range map[string]bool{testToken: true, "": false, "two words": false, "line\nline": false, "\x01": false} {
		if err := os.WriteFile(file, []byte(token), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := r.Get(t.Context(), at(t, "a/b/c")); (err == nil) != good {
			t.Errorf("token %q: %v", token, err)
		}
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Get(t.Context(), at(t, "a/b/c")); !errors.Is(err, os.ErrNotExist) || !errors.Is(err, store.ErrUnavailable) {
		t.Errorf("no token: %v", err)
	}
}

func TestAServerThatNobodyVouchesForGetsNoToken(t *testing.T) {
	t.Parallel()
	f := vaulttest.New(2, testToken)
	r := connect(t, f, func(c *Config) { c.CAFile = "" })
	if err := r.Check(t.Context()); !errors.Is(err, store.ErrUnavailable) || f.Asked() != 0 {
		t.Errorf("%v, after %d calls", err, f.Asked())
	}
}

func TestASilentServerIsNotWaitedForForEver(t *testing.T) {
	t.Parallel()
	token := tokenFile(t, testToken)
	synctest.Test(t, func(t *testing.T) {
		r, err := New(Config{Address: "https://vault.test", Mount: "secret", Version: 2, TokenFile: token})
		if err != nil {
			t.Fatal(err)
		}
		r.client.Transport = silent{}
		start := time.Now()
		if _, err := r.Get(t.Context(), store.Path{Repository: "a", Type: "b", Tag: "c"}); !errors.Is(err, store.ErrUnavailable) || time.Since(start) != defaultTimeout {
			t.Errorf("after %s: %v", time.Since(start), err)
		}
	})
}

type silent struct{}

func (silent) RoundTrip(r *http.Request) (*http.Response, error) {
	<-r.Context().Done()
	return nil, context.Cause(r.Context())
}

func TestSettingsThatCannotWorkAreRefused(t *testing.T) {
	t.Parallel()
	noCert := tokenFile(t, "no certificate")
	for name, change := range map[string]func(*Config){
		"plain":       func(c *Config) { c.Address = "http://192.0.2.1:8200" },
		"no scheme":   func(c *Config) { c.Address = "127.0.0.1:8200" },
		"no host":     func(c *Config) { c.Address = "https://" },
		"not a URL":   func(c *Config) { c.Address = "https://%zz" },
		"a password":  func(c *Config) { c.Address = "https://u:hidden@v.test" },
		"a query":     func(c *Config) { c.Address = "https://v.test/?x=y" },
		"version":     func(c *Config) { c.Version = 3 },
		"no version":  func(c *Config) { c.Version = 0 },
		"no token":    func(c *Config) { c.TokenFile = "" },
		"no mount":    func(c *Config) { c.Mount = "/" },
		"mount above": func(c *Config) { c.Mount = "secret/../sys" },
		"prefix odd":  func(c *Config) { c.Prefix = "a?b" },
		"prefix hole": func(c *Config) { c.Prefix = "a//b" },
		"no roots":    func(c *Config) { c.CAFile = noCert },
	} {
		cfg := Config{Address: "https://v.test", Mount: "secret", Version: 2, TokenFile: noCert}
		change(&cfg)
		if r, err := New(cfg); !errors.Is(err, ErrConfig) || strings.Contains(err.Error(), "hidden") {
			t.Errorf("%s: %v, %v", name, r, err)
		}
	}
	if _, err := New(Config{Address: "http://[::1]:8200", Mount: "kv/team", Version: 1, TokenFile: "x", CAFile: "/absent"}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("absent roots: %v", err)
	}
}

func FuzzDecode(f *testing.F) {
	f.Add([]byte(`[1,2]`))
	f.Add([]byte(`"text"`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		secret, err := decode(raw)
		if err != nil {
			return
		}
		var again struct{ Data json.RawMessage }
		if err := json.Unmarshal(encode(secret, 1), &again); err != nil {
			t.Fatal(err)
		}
		if b, err := decode(again.Data); err != nil || !reflect.DeepEqual(b, secret) {
			t.Errorf("%q becomes %q, %v", secret, b, err)
		}
	})
}
