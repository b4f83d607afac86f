// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package boot

import (
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestStaticAddressesAreParsed(t *testing.T) {
	t.Parallel()
	dns := []netip.Addr{netip.MustParseAddr("10.0.2.3"), netip.MustParseAddr("10.0.2.4")}
	for in, want := range map[string]*NetConfig{
		"off":                  nil,
		"none":                 nil,
		"dhcp":                 {DHCP: true},
		"::::host-1:eth0:dhcp": {DHCP: true, Hostname: "host-1", Device: "eth0"},
		"10.0.2.15::10.0.2.2:255.255.255.0": {
			Address: netip.MustParsePrefix("10.0.2.15/24"), Gateway: netip.MustParseAddr("10.0.2.2"),
		},
		"10.0.2.15:1.1.1.1::255.255.255.255:host-1:eth0:none:10.0.2.3:10.0.2.4:10.0.2.5": {
			Address: netip.MustParsePrefix("10.0.2.15/32"), Hostname: "host-1", Device: "eth0", DNS: dns,
		},
	} {
		got, err := ParseIP(in)
		if err != nil {
			t.Errorf("%s: %v", in, err)
		}
		if diff := cmp.Diff(want, got, cmp.Comparer(func(a, b netip.Addr) bool { return a == b }),
			cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })); diff != "" {
			t.Errorf("%s differs (-want +got):\n%s", in, diff)
		}
	}
}

func TestMalformedAddressesAreRefused(t *testing.T) {
	t.Parallel()
	for _, in := range []string{
		"", "bootp", "on", "10.0.2.15::::::dhcp", "::::::dhcp:1.1.1.1", ":::255.255.255.0:::dhcp", "::::a/b::dhcp", ":::::../x:dhcp", "10.0.2.15", "10.0.2.15:::", ":::255.255.255.0", "10.0.2.15:::255.0.255.0", "10.0.2.15:::0.0.0.0",
		"10.0.2.300:::255.255.255.0", "0.0.0.0:::255.255.255.0", "224.0.0.1:::255.255.255.0", "10.0.2.15::10.0.3.1:255.255.255.0",
		"10.0.2.15::gw:255.255.255.0", "10.0.2.15:::255.255.255.0:::dhcp", "10.0.2.15:::255.255.255.0:::both",
		"10.0.2.15:::255.255.255.0:a/b", "10.0.2.15:::255.255.255.0::../eth0", "10.0.2.15:::255.255.255.0::interface-too-long",
		"10.0.2.15:::255.255.255.0:::off:x", "10.0.2.15:::255.255.255.0:::off::fe80", "::1:::255.255.255.0",
		"10.0.2.15:::255.255.255.0:::off::::extra", "10.0.2.15:::255.255.255.0:" + strings.Repeat("h", 65),
	} {
		if c, err := ParseIP(in); !errors.Is(err, ErrNetConfig) {
			t.Errorf("%q gives %+v, %v; want ErrNetConfig", in, c, err)
		}
	}
}

func TestTheModuleListIsParsed(t *testing.T) {
	t.Parallel()
	got, err := ParseModules("/lib/modules/6.1/kernel/a.ko\n\n?/lib/modules/6.1/b.ko")
	want := []Module{{Path: "/lib/modules/6.1/kernel/a.ko"}, {Path: "/lib/modules/6.1/b.ko", Optional: true}}
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("got %+v, %v", got, err)
	}
	for _, in := range []string{
		"a.ko", "/lib/modules/../../tmp/a.ko", "/lib/modules/6.1/a.ko.xz", "/lib/modules//a.ko", "?", "??/lib/modules/a.ko",
		"/lib/modules/a.ko \n", strings.Repeat("/lib/modules/a.ko\n", maxModules+1),
	} {
		if _, err := ParseModules(in); !errors.Is(err, ErrModuleList) {
			t.Errorf("%.40q: got %v, want ErrModuleList", in, err)
		}
	}
}

func TestABadTimelineIsRefused(t *testing.T) {
	t.Parallel()
	for _, in := range []string{"", "[]", `{"steps":3}`, strings.Repeat(" ", maxTimeline+1)} {
		if tl, err := ReadTimeline(strings.NewReader(in)); err == nil {
			t.Errorf("%.20q gives %+v", in, tl)
		}
	}
}

func FuzzParseIP(f *testing.F) {
	f.Add("10.0.2.15::10.0.2.2:255.255.255.0:::off:10.0.2.3")
	f.Add("off")
	f.Add("10.0.2.15:::255.255.255.255:h:e")
	f.Fuzz(func(t *testing.T, value string) {
		c, err := ParseIP(value)
		if err != nil {
			if !errors.Is(err, ErrNetConfig) {
				t.Errorf("error %v is not ErrNetConfig", err)
			}
			return
		}
		if c == nil {
			return
		}
		if !c.Address.Addr().Is4() || c.Address.Bits() < 1 || len(c.DNS) > 2 || strings.ContainsAny(c.Device, "/.") {
			t.Errorf("accepted %+v", c)
		}
		if c.Gateway.IsValid() && !c.Address.Contains(c.Gateway) {
			t.Errorf("gateway %s is not in %s", c.Gateway, c.Address)
		}
	})
}

func FuzzParseModules(f *testing.F) {
	f.Add("/lib/modules/6.1/kernel/a.ko\n?/lib/modules/6.1/b.ko\n")
	f.Add("/lib/modules/../etc/x.ko")
	f.Fuzz(func(t *testing.T, text string) {
		mods, err := ParseModules(text)
		if err != nil {
			return
		}
		for _, m := range mods {
			if !strings.HasPrefix(m.Path, "/lib/modules/") || strings.Contains(m.Path, "/../") {
				t.Errorf("accepted %q", m.Path)
			}
		}
	})
}

func FuzzDiskMounts(f *testing.F) {
	f.Add("proc /proc proc rw 0 0\n/dev/vda /a\\040b ext4 rw 0 0\n")
	f.Fuzz(func(t *testing.T, table string) {
		if n, lines := len(diskMounts(table)), strings.Count(table, "\n")+1; n > lines {
			t.Errorf("%d targets from %d lines", n, lines)
		}
	})
}
