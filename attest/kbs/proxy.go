// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package kbs

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"

	"golang.org/x/net/http/httpproxy"
)

// Proxy says which proxies stand between the guest and the broker. A broker that
// is reached by https is so through the proxy, which learns its name and no
// more.
type Proxy struct {
	HTTPS string // URL of the proxy for a broker by https, "" for none
	HTTP  string // and for one by http
	No    string // hosts that are reached without, as in the variable NO_PROXY
}

// function returns the chooser for an http.Transport, nil if there is no proxy.
func (p Proxy) function() (func(*http.Request) (*url.URL, error), error) {
	for name, raw := range map[string]string{"https_proxy": p.HTTPS, "http_proxy": p.HTTP} {
		if err := checkProxy(raw); err != nil {
			return nil, fmt.Errorf("%s of the key broker: %w", name, err)
		}
	}
	if p.HTTPS == "" && p.HTTP == "" {
		return nil, nil
	}
	choose := (&httpproxy.Config{HTTPSProxy: p.HTTPS, HTTPProxy: p.HTTP, NoProxy: p.No}).ProxyFunc()
	return func(r *http.Request) (*url.URL, error) { return choose(r.URL) }, nil
}

// checkProxy looks at a proxy's URL. It may hold a password, so errors do not
// quote it.
func checkProxy(raw string) error {
	if raw == "" {
		return nil
	}
	u, err := url.Parse(raw)
	switch {
	case err != nil:
		return errors.New("its URL does not parse")
	case u.Scheme != "http" && u.Scheme != "https":
		return errors.New("its URL is neither http nor https")
	case u.Hostname() == "":
		return errors.New("its URL names no host")
	case u.Path != "" && u.Path != "/", u.RawQuery != "", u.Fragment != "":
		return errors.New("its URL has more than a host")
	}
	return nil
}
