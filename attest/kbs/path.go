// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package kbs

import (
	"fmt"
	"net/url"
	"strings"
)

// DefaultPlugin serves stored secrets.
const DefaultPlugin = "resource"

const (
	maxPath  = 1024
	maxQuery = 4096
)

// ResourcePath names one secret of a broker. The zero value names none.
type ResourcePath struct {
	plugin, path, query string
}

// NewResourcePath checks a plugin, path and query by the broker's rules: each
// segment begins with a letter, digit, '_' or '-' and goes on with these or
// '.'. Slashes around path are dropped. Plugin "resource", or "", takes exactly
// repository/type/tag.
func NewResourcePath(plugin, path, query string) (ResourcePath, error) {
	if plugin == "" {
		plugin = DefaultPlugin
	}
	path = strings.Trim(path, "/")
	if len(plugin)+len(path) > maxPath || len(query) > maxQuery {
		return ResourcePath{}, fmt.Errorf("resource path of %d and query of %d bytes: too long", len(path), len(query))
	}
	if !validSegment(plugin) {
		return ResourcePath{}, fmt.Errorf("plugin %q: character not allowed", plugin)
	}
	segments := strings.Split(path, "/")
	for _, s := range segments {
		if !validSegment(s) {
			return ResourcePath{}, fmt.Errorf("resource path %q: segment %q not allowed", path, s)
		}
	}
	if plugin == DefaultPlugin && len(segments) != 3 {
		return ResourcePath{}, fmt.Errorf("resource path %q is not repository/type/tag", path)
	}
	if i := strings.IndexFunc(query, badInQuery); i >= 0 {
		return ResourcePath{}, fmt.Errorf("resource query %q: character %d not allowed", query, i)
	}
	return ResourcePath{plugin: plugin, path: path, query: query}, nil
}

// ParseURI parses kbs://[host]/repository/type/tag[?query] and
// kbs+plugin://[host]/path[?query]. The host is only informational: the
// configured broker is asked.
func ParseURI(uri string) (ResourcePath, error) {
	if len(uri) > maxPath+maxQuery {
		return ResourcePath{}, fmt.Errorf("resource URI of %d bytes is too long", len(uri))
	}
	u, err := url.Parse(uri)
	if err != nil {
		return ResourcePath{}, fmt.Errorf("parse resource URI: %w", err)
	}
	plugin, ok := DefaultPlugin, u.Scheme == "kbs"
	if !ok {
		plugin, ok = strings.CutPrefix(u.Scheme, "kbs+")
	}
	if !ok || plugin == "" || u.Opaque != "" || u.User != nil || u.Fragment != "" {
		return ResourcePath{}, fmt.Errorf("resource URI %q is not kbs://host/repository/type/tag", uri)
	}
	return NewResourcePath(plugin, u.EscapedPath(), u.RawQuery)
}

// Plugin returns the broker's plugin that serves the resource.
func (p ResourcePath) Plugin() string { return p.plugin }

// Path returns the path below the plugin, without slashes around it.
func (p ResourcePath) Path() string { return p.path }

// Query returns the query without its question mark.
func (p ResourcePath) Query() string { return p.query }

// String returns the URI form without a host and without the query, which may
// hold what a plugin considers secret.
func (p ResourcePath) String() string {
	if p.plugin == DefaultPlugin {
		return "kbs:///" + p.path
	}
	return "kbs+" + p.plugin + ":///" + p.path
}

func validSegment(s string) bool {
	for i, r := range []byte(s) {
		ok := r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '_' || r == '-'
		if !ok && (i == 0 || r != '.') {
			return false
		}
	}
	return s != ""
}

// badInQuery reports what RFC 3986 has no place for in a query; servers differ
// in what they make of it.
func badInQuery(r rune) bool { return r <= ' ' || r >= 0x7f || strings.ContainsRune("#\\\"<>^`{|}", r) }
