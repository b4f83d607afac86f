// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package cdh

import (
	"errors"
	"fmt"
	"net/url"
	"strings"
)

// ErrURI is returned for a resource URI that is malformed or would leave its
// plugin's name space.
var ErrURI = errors.New("not a resource URI")

// pluginResource is the plugin that the bare scheme kbs stands for.
const pluginResource = "resource"

// maxURI bounds a resource URI in bytes.
const maxURI = 4096

// Resource names a resource of the key broker.
type Resource struct {
	// Plugin is the broker's plugin, "resource" for the scheme kbs.
	Plugin string
	// Path is percent-encoded, without a leading slash and without empty or
	// dot segments.
	Path string
	// Query is percent-encoded, without the question mark.
	Query string
}

// ParseResource reads kbs://[HOST]/PATH[?QUERY] and kbs+PLUGIN://… as well as a
// bare /PATH, which some producers of encrypted images write. The host is
// ignored: the configured broker is the only one that is asked. Whoever wrote
// the URI must not reach another endpoint of the broker with it, so dot
// segments are refused, also when percent-encoded.
func ParseResource(uri string) (Resource, error) {
	if len(uri) > maxURI {
		return Resource{}, fmt.Errorf("of %d bytes: %w", len(uri), ErrURI)
	}
	if strings.HasPrefix(uri, "/") {
		uri = "kbs://" + uri
	}
	rest, _, _ := strings.Cut(uri, "#")
	rest, query, _ := strings.Cut(rest, "?")
	scheme, rest, ok := strings.Cut(rest, "://")
	if !ok {
		return Resource{}, fmt.Errorf("%.100q has no scheme: %w", uri, ErrURI)
	}
	plugin, err := parsePlugin(scheme)
	if err != nil {
		return Resource{}, err
	}
	_, path, ok := strings.Cut(rest, "/")
	if !ok || path == "" {
		return Resource{}, fmt.Errorf("%.100q has no path: %w", uri, ErrURI)
	}
	var segments []string
	for s := range strings.SplitSeq(path, "/") {
		s, err := encode(s)
		if err != nil {
			return Resource{}, fmt.Errorf("path of %.100q: %w", uri, err)
		}
		if d, _ := url.PathUnescape(s); d == "" || d == "." || d == ".." || strings.ContainsAny(d, "/\\") {
			return Resource{}, fmt.Errorf("path segment %.60q: %w", s, ErrURI)
		}
		segments = append(segments, s)
	}
	if query, err = encode(query); err != nil {
		return Resource{}, fmt.Errorf("query of %.100q: %w", uri, err)
	}
	r := Resource{Plugin: plugin, Path: strings.Join(segments, "/"), Query: query}
	// Encoding makes it longer, and what is sent must be bounded too.
	if n := len(r.String()); n > maxURI {
		return Resource{}, fmt.Errorf("of %d bytes when encoded: %w", n, ErrURI)
	}
	return r, nil
}

func parsePlugin(scheme string) (string, error) {
	scheme = strings.ToLower(scheme)
	if scheme == "kbs" {
		return pluginResource, nil
	}
	plugin, ok := strings.CutPrefix(scheme, "kbs+")
	if !ok {
		return "", fmt.Errorf("scheme %.60q is neither kbs nor kbs+PLUGIN: %w", scheme, ErrURI)
	}
	if strings.Trim(plugin, "abcdefghijklmnopqrstuvwxyz0123456789-.") != "" || strings.Trim(plugin, ".-") != plugin || plugin == "" {
		return "", fmt.Errorf("plugin %.60q: %w", plugin, ErrURI)
	}
	return plugin, nil
}

// encode percent-encodes what may not stand in a URL, keeps what is encoded,
// and refuses control characters in either form.
func encode(s string) (string, error) {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c < 0x20 || c == 0x7f:
			return "", fmt.Errorf("control character: %w", ErrURI)
		case c == ' ' || c >= 0x80 || strings.IndexByte(`"<>\^`+"`{|}", c) >= 0:
			fmt.Fprintf(&b, "%%%02X", c)
		default:
			b.WriteByte(c)
		}
	}
	d, err := url.PathUnescape(b.String())
	if err != nil {
		return "", fmt.Errorf("percent-encoding: %w", ErrURI)
	}
	if strings.ContainsFunc(d, func(r rune) bool { return r < 0x20 || r == 0x7f }) {
		return "", fmt.Errorf("control character: %w", ErrURI)
	}
	return b.String(), nil
}

// String returns the canonical URI.
func (r Resource) String() string {
	scheme := "kbs"
	if r.Plugin != pluginResource {
		scheme += "+" + r.Plugin
	}
	u := scheme + ":///" + r.Path
	if r.Query != "" {
		u += "?" + r.Query
	}
	return u
}
