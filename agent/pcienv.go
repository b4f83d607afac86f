// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"slices"
	"strings"

	"cocoon/agent/device"
)

// Variables by which device plugins of Kubernetes tell a program the PCI
// addresses of its devices: a list, and JSON that mentions them.
const (
	pciPrefix     = "PCIDEVICE_"
	pciInfoSuffix = "_INFO"
)

// translatePCI returns the environment with the PCI addresses of the host
// replaced by those of the guest. A variable of which an address is not known
// stays as it is.
func translatePCI(env []string, guest map[string]string) []string {
	if len(guest) == 0 {
		return env
	}
	env = slices.Clone(env)
	for i, e := range env {
		name, value, ok := strings.Cut(e, "=")
		if !ok || !strings.HasPrefix(name, pciPrefix) || strings.HasSuffix(name, pciInfoSuffix) {
			continue
		}
		hosts := strings.Split(value, ",")
		translated, known := translateList(hosts, guest)
		if !known {
			continue
		}
		env[i] = name + "=" + strings.Join(translated, ",")
		info := name + pciInfoSuffix + "="
		for j, other := range env {
			if text, is := strings.CutPrefix(other, info); is {
				env[j] = info + replaceAddresses(text, hosts, guest)
			}
		}
	}
	return env
}

// translateList reports as well whether all of the list are addresses that
// are known.
func translateList(hosts []string, guest map[string]string) ([]string, bool) {
	out := make([]string, len(hosts))
	for i, h := range hosts {
		g, known := guest[h]
		if !known || !device.IsPCIAddress(h) {
			return nil, false
		}
		out[i] = g
	}
	return out, true
}

// replaceAddresses replaces all in one pass: an address of the guest may be
// another device's on the host.
func replaceAddresses(text string, hosts []string, guest map[string]string) string {
	var pairs []string
	for _, h := range hosts {
		pairs = append(pairs, h, guest[h])
	}
	return strings.NewReplacer(pairs...).Replace(text)
}
