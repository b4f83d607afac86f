// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package podvm

import (
	"errors"
	"strings"
	"testing"
)

const apfJSON = `{
 "pod-network": {"podip": "10.244.0.5/24", "pod-hw-addr": "1a:c8:e2:34:5c:90", "interface": "eth0", "worker-node-ip": "192.168.1.9/16",
  "tunnel-type": "vxlan", "routes": [
   {"dst": "::ffff:0.0.0.0/0", "gw": "10.244.0.1", "dev": "eth0", "protocol": "boot"},
   {"dst": "10.244.0.0/24", "gw": "", "dev": "eth0", "protocol": "kernel", "scope": "link"}],
  "neighbors": [{"ip": "10.244.0.1", "hw-addr": "1a:c8:e2:34:5c:91", "dev": "eth0", "state": "permanent"}, {"ip": "x", "state": "none"}],
  "mtu": 1500, "index": 2, "vxlan-id": 555002, "dedicated": false, "external-net-via-pod-vm": false},
 "Pod-Name": "p", "tls-server-key": "key", "tls-server-cert": "cert", "tls-client-ca": "ca", "sc-pp-prv": "x", "unknown": 1}`

func TestTheForwarderConfigurationIsRead(t *testing.T) {
	t.Parallel()
	a, err := ParseAPF([]byte(apfJSON))
	if err != nil {
		t.Fatal(err)
	}
	n := a.PodNetwork
	if a.PodName != "p" || a.ServerKey != "key" || n.PodIP.String() != "10.244.0.5/24" || n.WorkerIP.String() != "192.168.1.9" ||
		n.VXLANPort != 4789 || len(n.Routes) != 2 || n.Routes[0].Dst.String() != "0.0.0.0/0" || n.Routes[0].Gateway.String() != "10.244.0.1" ||
		len(n.Neighbors) != 1 || n.MTU != 1500 {
		t.Fatalf("got %+v %+v", a, n)
	}
	for dst, want := range map[string]string{"": "0.0.0.0/0", "0.0.0.0/0": "0.0.0.0/0", "::ffff:10.1.0.0/16": "10.1.0.0/16", "::ffff:10.1.0.0/112": "10.1.0.0/16"} {
		if p, err := parseV4(dst); err != nil || p.String() != want {
			t.Errorf("%q: got %v, %v", dst, p, err)
		}
	}
	if a, err := ParseAPF([]byte(`{}`)); err != nil || a.PodNetwork != nil {
		t.Errorf("without a network: %+v, %v", a, err)
	}
}

func TestABadForwarderConfigurationIsRefused(t *testing.T) {
	t.Parallel()
	for _, change := range [][2]string{
		{`"10.244.0.5/24"`, `"10.244.0.5"`}, {`"10.244.0.5/24"`, `"fd00::1/64"`}, {`"10.244.0.5/24"`, `""`}, {`"10.244.0.5/24"`, `5`},
		{`"1a:c8:e2:34:5c:90"`, `"x"`}, {`"1a:c8:e2:34:5c:90"`, `"00:00:00:00:fe:80:00:00"`}, {`"interface": "eth0"`, `"interface": ""`},
		{`"interface": "eth0"`, `"interface": "../x"`}, {`"interface": "eth0"`, `"interface": "lo"`}, {`"interface": "eth0"`, `"interface": "sixteencharacter"`},
		{`"192.168.1.9/16"`, `"host"`}, {`"vxlan"`, `"gre"`}, {`"mtu": 1500`, `"mtu": -1`}, {`"mtu": 1500`, `"mtu": 100`}, {`"mtu": 1500`, `"mtu": 1e9`},
		{`555002`, `16777216`}, {`555002`, `-1`}, {`"index": 2`, `"vxlan-port": 65536`}, {`::ffff:0.0.0.0/0`, `::/0`}, {`::ffff:0.0.0.0/0`, `::ffff:0.0.0.0/40`},
		{`"10.244.0.1", "dev"`, `"gw", "dev"`}, {`"boot"`, `"bgp"`}, {`"link"`, `"here"`}, {`"permanent"`, `"forever"`}, {`5c:91`, `zz`}, {`"ip": "10.244.0.1"`, `"ip": "y"`},
		{`"tls-server-key": "key"`, `"tls-server-key": ["secret"]`}, {`{`, ``}, {`"unknown": 1}`, `"unknown": 1} x`},
	} {
		bad := strings.Replace(apfJSON, change[0], change[1], 1)
		if bad == apfJSON {
			t.Errorf("%v changes nothing", change)
		}
		if a, err := ParseAPF([]byte(bad)); !errors.Is(err, ErrAPF) || strings.Contains(err.Error(), "secret") {
			t.Errorf("%v: got %+v, %v", change, a, err)
		}
	}
	if _, err := ParseAPF(make([]byte, maxAPF+1)); !errors.Is(err, ErrAPF) {
		t.Errorf("huge: got %v", err)
	}
}

func FuzzAPF(f *testing.F) {
	f.Add([]byte(apfJSON))
	f.Add([]byte(`{"pod-network":null}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		a, err := ParseAPF(data)
		if err == nil && a.PodNetwork != nil && (!a.PodNetwork.PodIP.Addr().Is4() || !a.PodNetwork.WorkerIP.IsValid() || a.PodNetwork.VXLANPort == 0) {
			t.Fatalf("accepted %q as %+v", data, a.PodNetwork)
		}
	})
}
