// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package server_test

import (
	"encoding/base64"
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"cocoon/trustee/admin"
	"cocoon/trustee/pki"
	"cocoon/trustee/server"
)

func enc(s string) string { return base64.RawURLEncoding.EncodeToString([]byte(s)) }

func TestForgedTokensAreRefused(t *testing.T) {
	t.Parallel()
	b, foreign := ready(t, nil), ready(t, nil)
	g, stranger := b.attested(t), foreign.attested(t)
	part := strings.Split(g.token, ".")
	alien := strings.Split(stranger.token, ".")
	head := string(must[[]byte](t)(base64.RawURLEncoding.DecodeString(part[0])))
	body := string(must[[]byte](t)(base64.RawURLEncoding.DecodeString(part[1])))
	var fields map[string]any
	if err := json.Unmarshal([]byte(head), &fields); err != nil {
		t.Fatal(err)
	}
	without := func(name string) string {
		jwk := map[string]any{}
		for k, v := range fields["jwk"].(map[string]any) {
			if k != name {
				jwk[k] = v
			}
		}
		return enc(string(must[[]byte](t)(json.Marshal(map[string]any{"alg": "ES256", "typ": "JWT", "jwk": jwk}))))
	}
	for name, token := range map[string]string{
		"of another broker":          stranger.token,
		"signature of another":       part[0] + "." + part[1] + "." + alien[2],
		"header of another":          alien[0] + "." + part[1] + "." + alien[2],
		"other claims":               part[0] + "." + enc(strings.Replace(body, "affirming", "affirminG", 1)) + "." + part[2],
		"alg none":                   enc(`{"alg":"none","typ":"JWT"}`) + "." + part[1] + ".",
		"alg none with key":          enc(strings.Replace(head, "ES256", "none", 1)) + "." + part[1] + ".",
		"alg HS256":                  enc(`{"alg":"HS256"}`) + "." + part[1] + "." + part[2],
		"no key in the header":       enc(`{"alg":"ES256"}`) + "." + part[1] + "." + part[2],
		"key without certificate":    without("x5c") + "." + part[1] + "." + part[2],
		"key without alg":            without("alg") + "." + part[1] + "." + part[2],
		"no signature":               part[0] + "." + part[1] + ".",
		"two parts":                  part[0] + "." + part[1],
		"no token":                   "x",
		"JSON serialisation":         `{"payload":"` + part[1] + `","protected":"` + part[0] + `","signature":"` + part[2] + `"}`,
		"the operator's admin token": b.adminToken(t, 0),
	} {
		t.Run(name, func(t *testing.T) {
			a := g.send(t, request{method: http.MethodGet, path: "/kbs/v0/resource/default/key/1", bearer: token})
			a.want(t, http.StatusUnauthorized, "TokenVerifierError", "")
		})
	}
	if got := g.open(t, g.byToken(t, "default/key/1")); got != secretText {
		t.Fatalf("the base case of the table fails: %q", got)
	}
}

func TestTokensOfATrustedServiceCount(t *testing.T) {
	t.Parallel()
	issuer := ready(t, nil)
	b := ready(t, func(c *server.Config) { c.TrustedTokens = []string{filepath.Join(issuer.dir, pki.TokenCert)} })
	g := issuer.attested(t)
	g.url = b.url
	g.http = b.guest(t).http
	if got := g.open(t, g.byToken(t, "default/key/1")); got != secretText {
		t.Fatalf("got %q", got)
	}
}

func TestTheSessionCountsBeforeTheToken(t *testing.T) {
	t.Parallel()
	b := ready(t, nil)
	g := b.attested(t)
	a := g.send(t, request{method: http.MethodGet, path: "/kbs/v0/resource/default/key/1", cookie: g.cookie, bearer: "x"})
	if got := g.open(t, a); got != secretText {
		t.Fatalf("got %q", got)
	}
	a = g.send(t, request{method: http.MethodGet, path: "/kbs/v0/resource/default/key/1", cookie: "unknown", bearer: g.token})
	if got := g.open(t, a); got != secretText {
		t.Fatalf("got %q", got)
	}
}

func TestTokensSurviveARestart(t *testing.T) {
	t.Parallel()
	b := ready(t, nil)
	g := b.attested(t)
	copied := filepath.Join(t.TempDir(), "copy")
	if err := os.CopyFS(copied, os.DirFS(b.dir)); err != nil {
		t.Fatal(err)
	}
	again := start(t, func(c *server.Config) { c.Dir = copied })
	g.url = again.url
	pool := b.guest(t)
	g.http = pool.http
	if got := g.open(t, g.byToken(t, "default/key/1")); got != secretText {
		t.Fatalf("got %q", got)
	}
	g.byToken(t, "default/key/none").want(t, http.StatusNotFound, "PluginInternalError", "not found")
	owner := must[*admin.Client](t)(admin.NewClient(admin.ClientConfig{URL: again.url, CA: b.ca, Key: b.key}))
	t.Cleanup(owner.Close)
	if err := owner.DeleteReferenceValue(t.Context(), "svn"); err != nil {
		t.Fatal(err)
	}
	g.byToken(t, "default/key/1").want(t, http.StatusUnauthorized, "TokenVerifierError", "attest anew")
}

func TestResourceNamesAreChecked(t *testing.T) {
	t.Parallel()
	b := ready(t, nil)
	g := b.attested(t)
	for _, path := range []string{
		"", "default", "default/key", "default/key/1/2", "default/key/", "/default/key/1", "default//1", "default/key/1/",
		"../key/1", "default/../1", "default/key/..", "./key/1", "default/.tmp-x/1", "default/key/.hidden",
		"default/key/%2e%2e", "default%2Fkey%2F1", "default/key/%31", "default/key/a%00", "default/key/a%20b", "default/key/%C3%A9",
		"default/key/a:b", "default/key/a~", "default/key/a@b", "default/key/" + strings.Repeat("a", 129),
	} {
		g.byToken(t, path).want(t, http.StatusNotFound, "InvalidRequestPath", "")
	}
	g.byToken(t, "default/key/none").want(t, http.StatusNotFound, "PluginInternalError", "not found")
	for _, q := range []request{
		{method: http.MethodGet, path: "/"}, {method: http.MethodGet, path: "/kbs/v1/auth"}, {method: http.MethodGet, path: "/kbs/v0"},
		{method: http.MethodGet, path: "//kbs/v0/auth"},
	} {
		g.send(t, q).want(t, http.StatusNotFound, "InvalidRequestPath", "")
	}
	for _, q := range []request{
		{method: http.MethodGet, path: "/kbs/v0/auth"}, {method: http.MethodGet, path: "/kbs/v0/pkcs11/wrap-key"}, {method: http.MethodPut, path: "/kbs/v0/resource/a/b/c"},
		{method: http.MethodPost, path: "/kbs/v0/attest/x"}, {method: http.MethodPost, path: "/kbs/v0/auth/"},
		{method: http.MethodGet, path: "/kbs/v0/"}, {method: http.MethodGet, path: "/kbs/v0/../v0/auth"}, {method: http.MethodPost, path: "/kbs/v0/admin/resources"},
	} {
		g.send(t, q).want(t, http.StatusNotFound, "PluginNotFound", "")
	}
}

// A trusted service has rules of its own, of which this broker knows nothing.
func TestChangesHereSayNothingAboutVerdictsOfOthers(t *testing.T) {
	t.Parallel()
	other := ready(t, nil)
	b := ready(t, func(c *server.Config) { c.TrustedTokens = []string{filepath.Join(other.dir, pki.TokenCert)} })
	g := other.attested(t)
	g.url, g.http = b.url, b.guest(t).http
	b.register(t, map[string]any{"svn": []string{"7"}})
	if got := g.open(t, g.byToken(t, "default/key/1")); got != secretText {
		t.Fatalf("got %q", got)
	}
	if err := b.admin.SetResourcePolicy(t.Context(), "package policy\nallow := false"); err != nil {
		t.Fatal(err)
	}
	g.byToken(t, "default/key/1").want(t, http.StatusForbidden, "PolicyDeny", "data.policy.allow")
}

func TestARefusalByAnEarlierRunIsAppraisedAnew(t *testing.T) {
	t.Parallel()
	b := ready(t, nil)
	b.register(t, map[string]any{"svn": []string{"7"}})
	g := b.attested(t)
	g.byToken(t, "default/key/1").want(t, http.StatusForbidden, "PolicyDeny", "svn 1")
	copied := filepath.Join(t.TempDir(), "copy")
	if err := os.CopyFS(copied, os.DirFS(b.dir)); err != nil {
		t.Fatal(err)
	}
	again := start(t, func(c *server.Config) { c.Dir = copied })
	g.url, g.http = again.url, b.guest(t).http
	g.byToken(t, "default/key/1").want(t, http.StatusUnauthorized, "TokenVerifierError", "restarted since this attestation")
}
