// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package netconf

import (
	"context"
	"errors"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"cocoon/internal/wire/typespb"
)

const mac1, mac2, mac3 = "02:00:ca:fe:00:01", "02:00:ca:fe:00:02", "02:00:ca:fe:00:03"

func v4(address, mask string) *typespb.IPAddress {
	return &typespb.IPAddress{Address: address, Mask: mask}
}

// addressesOf returns the addresses that ListInterfaces shows, with families.
func addressesOf(t *testing.T, l *lab, name string) []string {
	t.Helper()
	all, err := l.ListInterfaces(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for _, i := range all {
		if i.GetName() != name {
			continue
		}
		for _, a := range i.GetIPAddresses() {
			if !strings.HasPrefix(a.GetAddress(), "fe80:") {
				found = append(found, a.GetFamily().String()+" "+a.GetAddress()+"/"+a.GetMask())
			}
		}
	}
	slices.Sort(found)
	return found
}

func TestAnInterfaceGetsWhatTheRequestSays(t *testing.T) {
	t.Parallel()
	l := newLab(t, Config{})
	l.pair("ens1", "far", mac1)
	l.up("ens1", "far")
	l.address("ens1", "192.0.2.7/24")
	err := l.UpdateInterface(t.Context(), &typespb.Interface{
		Name: "eth0", Device: "eth0", HwAddr: strings.ToUpper(mac1), Mtu: 1400, RawFlags: unix.IFF_NOARP,
		IPAddresses: []*typespb.IPAddress{v4("10.1.0.5", "24"), {Family: typespb.IPFamily_v6, Address: "fd00::5", Mask: "64"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	a := l.attrs("eth0")
	if a == nil || a.MTU != 1400 || a.Flags&net.FlagUp == 0 || a.RawFlags&unix.IFF_NOARP == 0 || l.attrs("ens1") != nil {
		t.Fatalf("%+v", a)
	}
	want := []string{"v4 10.1.0.5/24", "v4 192.0.2.7/24", "v6 fd00::5/64"}
	if got := addressesOf(t, l, "eth0"); !slices.Equal(got, want) {
		t.Errorf("addresses %q, want %q", got, want)
	}
	// Again, without MTU and flags: the MTU stays, ARP is back.
	for range 2 {
		if err := l.UpdateInterface(t.Context(), &typespb.Interface{Name: "eth0", HwAddr: mac1, IPAddresses: []*typespb.IPAddress{v4("10.1.0.5", "24")}}); err != nil {
			t.Fatal(err)
		}
	}
	if a := l.attrs("eth0"); a.MTU != 1400 || a.RawFlags&unix.IFF_NOARP != 0 {
		t.Errorf("MTU %d, flags %#x", a.MTU, a.RawFlags)
	}
}

func TestInterfacesExchangeTheirNames(t *testing.T) {
	t.Parallel()
	l := newLab(t, Config{})
	l.pair("eth0", "farA", mac1)
	l.pair("eth1", "farB", mac2)
	l.up("eth0")
	if err := l.UpdateInterface(t.Context(), &typespb.Interface{Name: "eth0", HwAddr: mac2}); err != nil {
		t.Fatal(err)
	}
	for name, mac := range map[string]string{"eth0": mac2, "eth1": mac1} {
		if a := l.attrs(name); a == nil || a.HardwareAddr.String() != mac || a.Flags&net.FlagUp == 0 {
			t.Errorf("%s: %+v", name, a)
		}
	}
	if l.attrs("eth0_temp") != nil {
		t.Error("the temporary name is left")
	}
}

func TestAnInterfaceIsFoundByItsNameWhenNoneHasTheHardwareAddress(t *testing.T) {
	t.Parallel()
	l := newLab(t, Config{})
	l.pair("eth0", "far", mac1)
	if err := l.UpdateInterface(t.Context(), &typespb.Interface{Name: "eth0", HwAddr: mac3}); err != nil {
		t.Fatal(err)
	}
	if a := l.attrs("eth0"); a.HardwareAddr.String() != mac3 {
		t.Errorf("hardware address %s", a.HardwareAddr)
	}
}

func TestADevicesInterfaceGetsTheHardwareAddress(t *testing.T) {
	t.Parallel()
	l := newLab(t, Config{Devices: knownDevice("vf0")})
	l.pair("vf0", "far", mac1)
	if err := l.UpdateInterface(t.Context(), &typespb.Interface{Name: "net1", HwAddr: mac3, DevicePath: "02/01"}); err != nil {
		t.Fatal(err)
	}
	if a := l.attrs("net1"); a == nil || a.HardwareAddr.String() != mac3 {
		t.Errorf("%+v", a)
	}
}

func TestIPv6AddressesAreLeftOutWhereIPv6IsOff(t *testing.T) {
	t.Parallel()
	l := newLab(t, Config{})
	l.pair("eth0", "far", mac1)
	err := l.exclusive(t.Context(), func() error {
		for _, scope := range []string{"all", "default"} {
			if err := os.WriteFile("/proc/sys/net/ipv6/conf/"+scope+"/disable_ipv6", []byte("1"), 0); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Skipf("IPv6 cannot be switched off here: %v", err)
	}
	err = l.UpdateInterface(t.Context(), &typespb.Interface{Name: "eth0", HwAddr: mac1, IPAddresses: []*typespb.IPAddress{v4("fd00::5", "64"), v4("10.1.0.5", "24")}})
	if err != nil {
		t.Fatal(err)
	}
	if got := addressesOf(t, l, "eth0"); !slices.Equal(got, []string{"v4 10.1.0.5/24"}) {
		t.Errorf("%q", got)
	}
}

func TestARefusedInterfaceChangesNothing(t *testing.T) {
	t.Parallel()
	l := newLab(t, Config{HotplugTimeout: 1})
	l.pair("eth0", "far", mac1)
	l.pair("eth1", "farB", mac2)
	l.up("eth0")
	before := l.state()
	for name, tc := range map[string]struct {
		change func(*typespb.Interface)
		want   error
	}{
		"no name":             {func(i *typespb.Interface) { i.Name = "" }, ErrInvalid},
		"16 bytes of name":    {func(i *typespb.Interface) { i.Name = "abcdefghijklmnop" }, ErrInvalid},
		"slash in name":       {func(i *typespb.Interface) { i.Name = "a/b" }, ErrInvalid},
		"blank in name":       {func(i *typespb.Interface) { i.Name = "a b" }, ErrInvalid},
		"colon in name":       {func(i *typespb.Interface) { i.Name = "eth0:1" }, ErrInvalid},
		"NUL in name":         {func(i *typespb.Interface) { i.Name = "a\x00" }, ErrInvalid},
		"template":            {func(i *typespb.Interface) { i.Name = "eth%d" }, ErrInvalid},
		"parent directory":    {func(i *typespb.Interface) { i.Name = ".." }, ErrInvalid},
		"loopback":            {func(i *typespb.Interface) { i.Name, i.HwAddr = "lo", "" }, ErrInvalid},
		"zero MAC":            {func(i *typespb.Interface) { i.HwAddr = "00:00:00:00:00:00" }, ErrInvalid},
		"multicast MAC":       {func(i *typespb.Interface) { i.HwAddr = "01:00:5e:00:00:01" }, ErrInvalid},
		"short MAC":           {func(i *typespb.Interface) { i.HwAddr = "02:00:00:00:00" }, ErrInvalid},
		"InfiniBand MAC":      {func(i *typespb.Interface) { i.HwAddr = "02:00:00:00:00:00:00:01" }, ErrInvalid},
		"MTU too small":       {func(i *typespb.Interface) { i.Mtu = 67 }, ErrInvalid},
		"MTU too large":       {func(i *typespb.Interface) { i.Mtu = 1 << 40 }, ErrInvalid},
		"MTU of 2^64":         {func(i *typespb.Interface) { i.Mtu = 1<<64 - 1 }, ErrInvalid},
		"small MTU for IPv6":  {func(i *typespb.Interface) { i.Mtu = 1279; i.IPAddresses[0] = v4("fd00::1", "64") }, ErrInvalid},
		"no mask":             {func(i *typespb.Interface) { i.IPAddresses[0].Mask = "" }, ErrInvalid},
		"dotted mask":         {func(i *typespb.Interface) { i.IPAddresses[0].Mask = "255.255.255.0" }, ErrInvalid},
		"mask too long":       {func(i *typespb.Interface) { i.IPAddresses[0].Mask = "33" }, ErrInvalid},
		"negative mask":       {func(i *typespb.Interface) { i.IPAddresses[0].Mask = "-1" }, ErrInvalid},
		"octal mask":          {func(i *typespb.Interface) { i.IPAddresses[0].Mask = "024" }, ErrInvalid},
		"no address":          {func(i *typespb.Interface) { i.IPAddresses[0].Address = "" }, ErrInvalid},
		"nil address":         {func(i *typespb.Interface) { i.IPAddresses[0] = nil }, ErrInvalid},
		"loopback address":    {func(i *typespb.Interface) { i.IPAddresses[0].Address = "127.0.0.1" }, ErrInvalid},
		"multicast address":   {func(i *typespb.Interface) { i.IPAddresses[0].Address = "224.0.0.1" }, ErrInvalid},
		"unspecified address": {func(i *typespb.Interface) { i.IPAddresses[0].Address = "0.0.0.0" }, ErrInvalid},
		"zone":                {func(i *typespb.Interface) { i.IPAddresses[0] = v4("fe80::1%eth0", "64") }, ErrInvalid},
		"mapped address":      {func(i *typespb.Interface) { i.IPAddresses[0] = v4("::ffff:10.0.0.1", "120") }, ErrInvalid},
		"too many addresses": {func(i *typespb.Interface) {
			i.IPAddresses = slices.Repeat(i.IPAddresses, maxAddresses+1)
		}, ErrInvalid},
		"path outside":     {func(i *typespb.Interface) { i.DevicePath = "../.." }, ErrInvalid},
		"slot too high":    {func(i *typespb.Interface) { i.DevicePath = "20" }, ErrInvalid},
		"absent device":    {func(i *typespb.Interface) { i.DevicePath = "02/01" }, ErrNoDevice},
		"no such link":     {func(i *typespb.Interface) { i.Name, i.HwAddr = "eth9", mac3 }, ErrNoLink},
		"no such name":     {func(i *typespb.Interface) { i.Name, i.HwAddr = "eth9", "" }, ErrNoLink},
		"what follows one": {func(i *typespb.Interface) { i.IPAddresses = append(i.IPAddresses, v4("x", "24")) }, ErrInvalid},
	} {
		i := &typespb.Interface{Name: "eth0", HwAddr: mac2, IPAddresses: []*typespb.IPAddress{v4("10.1.0.5", "24")}}
		tc.change(i)
		if err := l.UpdateInterface(t.Context(), i); !errors.Is(err, tc.want) {
			t.Errorf("%s: error %v, want %v", name, err, tc.want)
		}
		if after := l.state(); after != before {
			t.Fatalf("%s changed\n%s\nto\n%s", name, before, after)
		}
	}
}

// A veth takes no MTU above 65535: the kernel refuses after the names have been
// exchanged and addresses added.
func TestAFailedUpdateIsUndone(t *testing.T) {
	t.Parallel()
	l := newLab(t, Config{})
	l.pair("eth0", "farA", mac1)
	l.pair("eth1", "farB", mac2)
	l.pair("taken_temp", "farC", mac3)
	l.up("eth0", "farA", "farB")
	l.address("eth1", "192.0.2.7/24")
	before := l.state()
	for _, name := range []string{"eth0", "eth1", "new0", "taken"} {
		if name == "taken" {
			l.pair("taken", "farD", "02:00:ca:fe:00:04")
			before = l.state()
		}
		err := l.UpdateInterface(t.Context(), &typespb.Interface{
			Name: name, HwAddr: mac2, Mtu: maxMTU, IPAddresses: []*typespb.IPAddress{v4("10.1.0.5", "24"), v4("192.0.2.7", "24")},
		})
		if err == nil {
			t.Fatalf("%s: a veth took an MTU of %d", name, maxMTU)
		}
		if after := l.state(); after != before {
			t.Fatalf("%s: undone to\n%s\nfrom\n%s\n%v", name, after, before, err)
		}
	}
}

// The hardware address is the first thing that is changed.
func TestAFailedUpdateTakesTheHardwareAddressBack(t *testing.T) {
	t.Parallel()
	l := newLab(t, Config{Devices: knownDevice("eth0")})
	l.pair("eth0", "far", mac1)
	l.up("eth0")
	before := l.state()
	for _, path := range []string{"", "02/01"} {
		err := l.UpdateInterface(t.Context(), &typespb.Interface{Name: "eth0", HwAddr: mac3, Mtu: maxMTU, DevicePath: path})
		if err == nil || l.state() != before {
			t.Errorf("%q: %v\n%s\n%s", path, err, before, l.state())
		}
	}
}

// The loopback interface has no hardware address of its own to be found by.
func TestALoopbackThatIsFoundByItsDeviceIsRefused(t *testing.T) {
	t.Parallel()
	l := newLab(t, Config{Devices: knownDevice("lo")})
	before := l.state()
	for mac, want := range map[string]error{"": ErrInvalid, mac1: ErrNoLink} {
		err := l.UpdateInterface(t.Context(), &typespb.Interface{Name: "eth0", HwAddr: mac, DevicePath: "02"})
		if !errors.Is(err, want) || l.state() != before {
			t.Errorf("%q: %v, want %v; %s", mac, err, want, l.state())
		}
	}
}

func TestConcurrentExchangesLeaveEveryNameInUse(t *testing.T) {
	t.Parallel()
	l := newLab(t, Config{})
	l.pair("eth0", "farA", mac1)
	l.pair("eth1", "farB", mac2)
	var wg sync.WaitGroup
	for i := range 20 {
		wg.Go(func() {
			if err := l.UpdateInterface(t.Context(), &typespb.Interface{Name: "eth0", HwAddr: []string{mac1, mac2}[i%2]}); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if l.attrs("eth0") == nil || l.attrs("eth1") == nil {
		t.Error(l.state())
	}
}

func TestARequestWhoseCallerHasGoneChangesNothing(t *testing.T) {
	t.Parallel()
	l := newLab(t, Config{})
	l.pair("eth0", "far", mac1)
	before := l.state()
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	for _, device := range []string{"", "02/01"} {
		err := l.UpdateInterface(gone, &typespb.Interface{Name: "eth5", HwAddr: mac1, DevicePath: device})
		if !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	}
	if l.state() != before {
		t.Error(l.state())
	}
}

func TestANetworkThatIsNotThereIsAnError(t *testing.T) {
	t.Parallel()
	if _, err := New(Config{}); err == nil {
		t.Error("a network without a way to find devices")
	}
	n, err := New(Config{Namespace: t.TempDir() + "/absent", Devices: noDevice{}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := n.ListInterfaces(t.Context()); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
	if _, err := n.ListRoutes(t.Context()); err == nil {
		t.Error("routes of no network")
	}
	if n, err = New(Config{Namespace: os.DevNull, Devices: noDevice{}}); err != nil {
		t.Fatal(err)
	}
	if err := n.withHandle(t.Context(), func(*netlink.Handle) error { return nil }); !errors.Is(err, unix.EINVAL) {
		t.Error(err)
	}
}
