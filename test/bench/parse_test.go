// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"slices"
	"strings"
	"testing"
)

const goodConsole = `[    3.100] init: boot step=root n=1/15 ms=0.4
[    3.200] init: boot step="command line" n=4/15 ms=1.5
[    3.900] init: boot finished kernel_ms=3012 init_ms=812.5
[    4.100] {"ts":"x","msg":"ready","guest_rss_kib":30000,"guest_anon_kib":6000,"init_rss_kib":12000,"init_anon_kib":2000}
[    5.000] reboot: Power down
`

func TestAConsoleTellsTheBoot(t *testing.T) {
	t.Parallel()
	c, err := readConsole(goodConsole)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(c.steps, []bootStep{{"root", 0.4}, {"command line", 1.5}}) || c.kernelMillis != 3012 || c.initMillis != 812.5 {
		t.Errorf("read %+v", c)
	}
	if c.memory != (idleMemory{30000, 6000, 12000, 2000}) {
		t.Errorf("memory is %+v", c.memory)
	}
}

func TestAnIncompleteConsoleIsAnError(t *testing.T) {
	t.Parallel()
	for name, text := range map[string]string{
		"empty":             "",
		"no step":           strings.ReplaceAll(goodConsole, "boot step", "other"),
		"not finished":      strings.ReplaceAll(goodConsole, "boot finished", "boot went on"),
		"not ready":         strings.ReplaceAll(goodConsole, `"ready"`, `"starting"`),
		"no memory":         strings.ReplaceAll(goodConsole, "init_rss_kib", "other"),
		"memory of no size": strings.ReplaceAll(goodConsole, "30000", `"many"`),
		"no power-off":      strings.ReplaceAll(goodConsole, "Power down", "System halted"),
		"strange time":      strings.ReplaceAll(goodConsole, "ms=0.4", "ms=0.4.4"),
	} {
		if c, err := readConsole(text); err == nil {
			t.Errorf("%s: read %+v", name, c)
		}
	}
}

func TestAStatusFieldIsInBytes(t *testing.T) {
	t.Parallel()
	const status = "Name:\tx\nVmHWM:\t    2048 kB\nVmRSS:\t      12 kB\nBad:\tmany kB\n"
	if n, err := statusField(status, "VmHWM"); err != nil || n != 2<<20 {
		t.Errorf("got %d, %v", n, err)
	}
	for _, name := range []string{"VmH", "Bad", "Name", "", "VmSwap"} {
		if n, err := statusField(status, name); err == nil {
			t.Errorf("field %q is %d", name, n)
		}
	}
}

func TestMountsBelowADirectoryComeInReverseOrder(t *testing.T) {
	t.Parallel()
	const table = "1 0 8:1 / / rw - ext4 x rw\n2 1 0:1 / /a rw - tmpfs t rw\n3 2 0:2 / /a/b rw - tmpfs t rw\n4 3 0:3 / /a/b/c rw - tmpfs t rw\n5 1 0:4 / /ab rw - tmpfs t rw\nshort\n"
	for dir, want := range map[string][]string{"/a": {"/a/b/c", "/a/b"}, "/ab": nil, "/nothing": nil} {
		if got := mountsBelow(table, dir); !slices.Equal(got, want) {
			t.Errorf("below %s: %q, want %q", dir, got, want)
		}
	}
}

func TestOptionsAreChecked(t *testing.T) {
	t.Parallel()
	o, err := parseOptions([]string{"--only", "size,pull", "--json", "/x/y.json", "--rounds", "3"})
	if err != nil || !slices.Equal(o.only, []string{"size", "pull"}) || o.json != "/x/y.json" || o.rounds != 3 || !strings.HasPrefix(o.bin, "/") {
		t.Errorf("got %+v, %v", o, err)
	}
	for _, args := range [][]string{{"argument"}, {"--only", "speed"}, {"--only", "size,"}, {"--rounds", "0"}, {"--rounds", "-1"}} {
		if o, err := parseOptions(args); err == nil {
			t.Errorf("%q is accepted: %+v", args, o)
		}
	}
}
