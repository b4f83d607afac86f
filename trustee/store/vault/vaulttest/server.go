// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

// Package vaulttest plays a Vault for tests.
package vaulttest

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"path"
	"slices"
	"strings"
	"sync"
)

// Server answers as Vault does, with the bodies that a real server (OpenBao) was
// seen to send. Its engine is mounted at "secret".
type Server struct {
	version int
	token   string

	mu      sync.Mutex
	entries map[string]string // path of the entry: JSON of its fields
	asked   int
}

// New returns a server whose engine has a version, and that takes one token.
func New(version int, token string) *Server {
	return &Server{version: version, token: token, entries: map[string]string{}}
}

// Put stores an entry: its fields, as JSON.
func (f *Server) Put(entry, fields string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.entries[entry] = fields
}

// Entry returns the fields of an entry, as JSON.
func (f *Server) Entry(name string) string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.entries[name]
}

// Asked is how many calls have come.
func (f *Server) Asked() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.asked
}

// ServeHTTP implements http.Handler.
func (f *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.asked++
	p := strings.TrimPrefix(r.URL.Path, "/v1/")
	answer := func(status int, format string, args ...any) {
		w.WriteHeader(status)
		fmt.Fprintf(w, format, args...)
	}
	kind := ""
	entry, _ := strings.CutPrefix(p+"/", "secret/")
	entry = strings.TrimSuffix(entry, "/")
	if f.version == 2 {
		kind, entry, _ = strings.Cut(entry, "/")
	}
	fields, ok := f.entries[entry]
	switch {
	case r.Header.Get("X-Vault-Token") != f.token:
		answer(403, `{"errors":["permission denied"]}`)
	case p == "sys/internal/ui/mounts/secret":
		answer(200, `{"data":{"type":"kv","options":{"version":"%d"}}}`, f.version)
	case r.URL.Query().Get("list") == "true" && (f.version == 1 || kind == "metadata"):
		f.list(w, strings.Trim(entry, "/"))
	case r.Method == http.MethodPost && (f.version == 1 || kind == "data"):
		body, err := io.ReadAll(r.Body)
		if err != nil {
			answer(400, `{"errors":["%v"]}`, err)
			return
		}
		if f.version == 2 {
			var wrapped struct{ Data json.RawMessage }
			if json.Unmarshal(body, &wrapped) != nil || wrapped.Data == nil {
				answer(400, `{"errors":["no data provided"]}`)
				return
			}
			body = wrapped.Data
			answer(200, `{"data":{"version":1}}`)
		} else {
			w.WriteHeader(204)
		}
		f.entries[entry] = string(body)
	case !ok:
		answer(404, `{"errors":[]}`)
	case r.Method == http.MethodDelete:
		delete(f.entries, entry)
		w.WriteHeader(204)
	case kind == "metadata":
		answer(200, `{"data":{"current_version":1}}`)
	case f.version == 2:
		answer(200, `{"data":{"data":%s,"metadata":{"version":1}}}`, fields)
	default:
		answer(200, `{"data":%s}`, fields)
	}
}

func (f *Server) list(w io.Writer, below string) {
	keys := map[string]bool{}
	for e := range f.entries {
		rest, ok := strings.CutPrefix("/"+e, path.Join("/", below)+"/")
		if below == "" {
			rest, ok = e, true
		}
		if name, _, dir := strings.Cut(rest, "/"); ok && dir {
			keys[name+"/"] = true
		} else if ok {
			keys[name] = true
		}
	}
	if len(keys) == 0 {
		w.(http.ResponseWriter).WriteHeader(404)
		fmt.Fprint(w, `{"errors":[]}`)
		return
	}
	if err := json.NewEncoder(w).Encode(map[string]any{"data": map[string]any{"keys": slices.Sorted(maps.Keys(keys))}}); err != nil {
		return // the client has gone
	}
}
