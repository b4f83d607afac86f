// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package podvm

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"

	"cocoon/internal/bounded"
)

// ErrAPF is returned for an apf.json that is malformed.
var ErrAPF = errors.New("malformed apf.json")

// Limits of apf.json.
const (
	maxAPF     = 1 << 20
	maxRoutes  = 1024
	maxNeighs  = 4096
	defaultUDP = 4789
)

// APF is what the adaptor tells the forwarder. It is host-controlled.
type APF struct {
	PodNamespace, PodName string
	// ServerCert and ServerKey are PEM text, ClientCA too; empty if absent.
	ServerCert, ServerKey, ClientCA string
	// MinVersion is empty, VersionTLS12 or VersionTLS13.
	MinVersion string
	// CipherSuites holds IANA names, for TLS 1.2 only.
	CipherSuites []string
	// PodNetwork is nil if the pod has no network of its own.
	PodNetwork *PodNetwork
}

// PodNetwork describes the tunnel to the worker node.
type PodNetwork struct {
	PodIP     netip.Prefix // IPv4
	HWAddr    net.HardwareAddr
	Interface string
	WorkerIP  netip.Addr
	Routes    []Route
	Neighbors []Neighbor
	MTU       int // 0 for the greatest that fits
	VXLANPort int
	VXLANID   int
	// Dedicated and ExternalNet ask for a second network card.
	Dedicated, ExternalNet bool
}

// Route is one route of the pod.
type Route struct {
	Dst      netip.Prefix
	Gateway  netip.Addr // invalid for none
	Dev      string
	Protocol string // static, boot, dhcp, kernel or empty
	Scope    string // universe, site, link, host, nowhere or empty
}

// Neighbor is one permanent neighbour of the pod.
type Neighbor struct {
	IP     netip.Addr
	HWAddr net.HardwareAddr
	Dev    string
	State  string
}

type apfFile struct {
	PodNetwork   *podNetworkFile `json:"pod-network"`
	PodNamespace string          `json:"pod-namespace"`
	PodName      string          `json:"pod-name"`
	ServerCert   string          `json:"tls-server-cert"`
	ServerKey    string          `json:"tls-server-key"`
	ClientCA     string          `json:"tls-client-ca"`
	MinVersion   string          `json:"tls-min-version"`
	CipherSuites []string        `json:"tls-cipher-suites"`
}

type podNetworkFile struct {
	PodIP     string `json:"podip"`
	HWAddr    string `json:"pod-hw-addr"`
	Interface string `json:"interface"`
	WorkerIP  string `json:"worker-node-ip"`
	Tunnel    string `json:"tunnel-type"`
	Routes    []struct {
		Dst      string `json:"dst"`
		Gateway  string `json:"gw"`
		Dev      string `json:"dev"`
		Protocol string `json:"protocol"`
		Scope    string `json:"scope"`
	} `json:"routes"`
	Neighbors []struct {
		IP     string `json:"ip"`
		HWAddr string `json:"hw-addr"`
		Dev    string `json:"dev"`
		State  string `json:"state"`
	} `json:"neighbors"`
	MTU         int  `json:"mtu"`
	VXLANPort   int  `json:"vxlan-port"`
	VXLANID     int  `json:"vxlan-id"`
	Dedicated   bool `json:"dedicated"`
	ExternalNet bool `json:"external-net-via-pod-vm"`
}

// ParseAPF reads apf.json. Unknown keys are ignored, since adaptors of several
// versions write it.
func ParseAPF(data []byte) (*APF, error) {
	if len(data) > maxAPF {
		return nil, fmt.Errorf("%w: %w", ErrAPF, bounded.ErrTooLarge)
	}
	var f apfFile
	if err := json.Unmarshal(data, &f); err != nil {
		// The decoder's text may quote the private key.
		if e, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
			return nil, fmt.Errorf("%w: field %q has the wrong type", ErrAPF, e.Field)
		}
		return nil, fmt.Errorf("%w: not JSON", ErrAPF)
	}
	a := &APF{
		PodNamespace: f.PodNamespace, PodName: f.PodName,
		ServerCert: f.ServerCert, ServerKey: f.ServerKey, ClientCA: f.ClientCA,
		MinVersion: f.MinVersion, CipherSuites: f.CipherSuites,
	}
	if f.PodNetwork == nil {
		return a, nil
	}
	n, err := f.PodNetwork.parse()
	if err != nil {
		return nil, fmt.Errorf("%w: pod-network: %w", ErrAPF, err)
	}
	a.PodNetwork = n
	return a, nil
}

func (f *podNetworkFile) parse() (*PodNetwork, error) {
	n := &PodNetwork{
		Interface: f.Interface, MTU: f.MTU, VXLANPort: f.VXLANPort, VXLANID: f.VXLANID,
		Dedicated: f.Dedicated, ExternalNet: f.ExternalNet,
	}
	var err error
	if n.PodIP, err = parseV4(f.PodIP); err != nil || n.PodIP.Bits() == 0 {
		return nil, fmt.Errorf("podip %.60q is not an IPv4 prefix", f.PodIP)
	}
	worker, err := netip.ParsePrefix(f.WorkerIP)
	if err != nil {
		return nil, fmt.Errorf("worker-node-ip %.60q is not a prefix", f.WorkerIP)
	}
	n.WorkerIP = worker.Addr().Unmap()
	if n.HWAddr, err = parseMAC(f.HWAddr); err != nil {
		return nil, err
	}
	if n.VXLANPort == 0 {
		n.VXLANPort = defaultUDP
	}
	switch {
	case f.Tunnel != "vxlan":
		return nil, fmt.Errorf("tunnel-type %.60q is not vxlan", f.Tunnel)
	case !validInterface(n.Interface):
		return nil, fmt.Errorf("interface %.60q is not a name", n.Interface)
	case n.MTU < 0 || n.MTU > 65535 || n.MTU != 0 && n.MTU < 576:
		return nil, fmt.Errorf("mtu %d is out of range", n.MTU)
	case n.VXLANPort < 1 || n.VXLANPort > 65535:
		return nil, fmt.Errorf("vxlan-port %d is out of range", n.VXLANPort)
	case n.VXLANID < 0 || n.VXLANID >= 1<<24:
		return nil, fmt.Errorf("vxlan-id %d is out of range", n.VXLANID)
	}
	if n.Routes, err = f.routes(); err != nil {
		return nil, err
	}
	n.Neighbors, err = f.neighbors()
	return n, err
}

// validInterface follows the kernel's rules for names.
func validInterface(s string) bool {
	return s != "" && s != "." && s != ".." && len(s) <= 15 && !strings.ContainsAny(s, "/: \t\n\v\f\r\x00") && s != "lo"
}

func parseMAC(s string) (net.HardwareAddr, error) {
	m, err := net.ParseMAC(s)
	if err != nil || len(m) != 6 {
		return nil, fmt.Errorf("hardware address %.60q is not of six bytes", s)
	}
	return m, nil
}

func (f *podNetworkFile) routes() ([]Route, error) {
	if len(f.Routes) > maxRoutes {
		return nil, fmt.Errorf("%d routes: %w", len(f.Routes), bounded.ErrTooLarge)
	}
	routes := make([]Route, 0, len(f.Routes))
	for i, r := range f.Routes {
		route := Route{Dev: r.Dev, Protocol: r.Protocol, Scope: r.Scope}
		var err error
		if route.Dst, err = parseV4(r.Dst); err != nil {
			return nil, fmt.Errorf("route %d: dst %.60q is not an IPv4 prefix", i, r.Dst)
		}
		if r.Gateway != "" {
			gw, err := netip.ParseAddr(r.Gateway)
			if route.Gateway = gw.Unmap(); err != nil || !route.Gateway.Is4() {
				return nil, fmt.Errorf("route %d: gw %.60q is not an IPv4 address", i, r.Gateway)
			}
		}
		if !oneOf(r.Protocol, "", "static", "boot", "dhcp", "kernel") || !oneOf(r.Scope, "", "universe", "site", "link", "host", "nowhere") {
			return nil, fmt.Errorf("route %d: protocol %.20q or scope %.20q is unknown", i, r.Protocol, r.Scope)
		}
		routes = append(routes, route)
	}
	return routes, nil
}

func (f *podNetworkFile) neighbors() ([]Neighbor, error) {
	if len(f.Neighbors) > maxNeighs {
		return nil, fmt.Errorf("%d neighbors: %w", len(f.Neighbors), bounded.ErrTooLarge)
	}
	var list []Neighbor
	for i, n := range f.Neighbors {
		if !oneOf(n.State, "", "none", "incomplete", "reachable", "stale", "delay", "probe", "failed", "noarp", "permanent") {
			return nil, fmt.Errorf("neighbor %d: state %.20q is unknown", i, n.State)
		}
		if n.State == "" || n.State == "none" || n.HWAddr == "" {
			continue
		}
		mac, err := parseMAC(n.HWAddr)
		if err != nil {
			return nil, fmt.Errorf("neighbor %d: %w", i, err)
		}
		ip, err := netip.ParseAddr(n.IP)
		if err != nil {
			return nil, fmt.Errorf("neighbor %d: ip %.60q is not an address", i, n.IP)
		}
		list = append(list, Neighbor{IP: ip.Unmap(), HWAddr: mac, Dev: n.Dev, State: n.State})
	}
	return list, nil
}

func oneOf(s string, values ...string) bool {
	for _, v := range values {
		if s == v {
			return true
		}
	}
	return false
}

// parseV4 reads an IPv4 prefix; empty is the default route. Adaptors write a
// prefix as an IPv4-mapped address with the IPv4 length.
func parseV4(s string) (netip.Prefix, error) {
	if s == "" {
		return netip.PrefixFrom(netip.IPv4Unspecified(), 0), nil
	}
	p, err := netip.ParsePrefix(s)
	if err != nil {
		return netip.Prefix{}, err
	}
	addr, bits := p.Addr().Unmap(), p.Bits()
	if p.Addr().Is4In6() && bits > 32 {
		bits -= 96
	}
	v4 := netip.PrefixFrom(addr, bits)
	if !addr.Is4() || !v4.IsValid() {
		return netip.Prefix{}, ErrAPF
	}
	return v4, nil
}
