// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
)

// Credentials is a parsed auth.json (the containers-auth format). Its content
// is secret; it has no String method and must not be logged.
type Credentials struct {
	auths map[string]authn.AuthConfig
}

// ParseCredentials parses an auth.json. Entries without a credential of their
// own, as credential helpers leave them, are skipped. Error texts never hold
// what the file holds.
func ParseCredentials(data []byte) (*Credentials, error) {
	var file struct {
		Auths map[string]struct {
			Auth          string `json:"auth"`
			Username      string `json:"username"`
			Password      string `json:"password"`
			IdentityToken string `json:"identitytoken"`
		} `json:"auths"`
	}
	if err := json.Unmarshal(data, &file); err != nil {
		// The JSON error may quote the secret it stumbled over.
		return nil, errors.New("parse registry credentials: not a valid auth.json")
	}
	if file.Auths == nil {
		return nil, errors.New(`parse registry credentials: no "auths"`)
	}
	c := &Credentials{auths: make(map[string]authn.AuthConfig, len(file.Auths))}
	for key, e := range file.Auths {
		a := authn.AuthConfig{Username: e.Username, Password: e.Password, IdentityToken: e.IdentityToken}
		if e.Auth != "" {
			var ok bool
			if a.Username, a.Password, ok = decodeAuth(e.Auth); !ok {
				return nil, fmt.Errorf("parse registry credentials: entry %q: \"auth\" is not base64 of user:password", key)
			}
		}
		if a.Username != "" || a.IdentityToken != "" {
			c.auths[key] = a
		}
	}
	return c, nil
}

func decodeAuth(s string) (user, password string, ok bool) {
	b, err := base64.StdEncoding.DecodeString(s)
	if err != nil {
		return "", "", false
	}
	user, password, ok = strings.Cut(string(b), ":")
	return user, strings.Trim(password, "\n\x00"), ok
}

// For returns the credential for the repository: the entry with the longest
// matching path, then one for the registry in any of its spellings, else
// anonymous. Whole path components are compared. A nil receiver is anonymous.
func (c *Credentials) For(repo name.Repository) authn.Authenticator {
	if c == nil {
		return authn.Anonymous
	}
	host := canonicalHost(repo.RegistryStr())
	key := host + "/" + repo.RepositoryStr()
	best, length := authn.AuthConfig{}, -1
	// Sorted, so that of two spellings of one key the same wins every time.
	for _, entry := range slices.Sorted(maps.Keys(c.auths)) {
		e := canonicalKey(entry)
		if (key == e || strings.HasPrefix(key, e+"/")) && len(e) > length {
			best, length = c.auths[entry], len(e)
		}
	}
	if length < 0 {
		return authn.Anonymous
	}
	return authn.FromConfig(best)
}

// canonicalKey brings a key of auth.json to host[/path]. With a scheme it is
// an address of old clients, of which only the host counts.
func canonicalKey(key string) string {
	for _, scheme := range []string{"https://", "http://"} {
		if rest, ok := strings.CutPrefix(key, scheme); ok {
			host, _, _ := strings.Cut(rest, "/")
			return canonicalHost(host)
		}
	}
	host, path, ok := strings.Cut(strings.TrimSuffix(key, "/"), "/")
	if !ok {
		return canonicalHost(host)
	}
	return canonicalHost(host) + "/" + path
}

// canonicalHost unites the spellings of the default registry.
func canonicalHost(host string) string {
	base := strings.TrimPrefix(name.DefaultRegistry, "index.")
	if host == base || host == "registry-1."+base {
		return name.DefaultRegistry
	}
	return host
}
