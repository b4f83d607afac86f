// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package metrics

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"cocoon/internal/bounded"
)

// procfs is what a small guest's kernel writes.
var procfs = map[string]string{
	"self/stat": "7 (co) co ) on) S 1 7 7 0 -1 4194304 120 0 0 0 1200 300 5 6 20 0 11 0 707 3133440 380 18446744073709551615 0 0\n",
	"self/status": "Name:\tcocoon\nVmPeak:\t    3060 kB\nVmRSS:\t    1696 kB\nRssAnon:\t 112 kB\nHugetlbPages:\t 0 kB\nThreads:\t11\n" +
		"voluntary_ctxt_switches:\t5\nnonvoluntary_ctxt_switches:\t2\n",
	"self/io":   "rchar: 8688\nwchar: 1712\nsyscr: 14\nsyscw: 2\nread_bytes: 4096\nwrite_bytes: 0\ncancelled_write_bytes: 1\n",
	"loadavg":   "9.65 6.39 4.00 15/208 22801\n",
	"stat":      "cpu  354505 63912 151122 828721 4132 0 2273 704 1 2\ncpu0 175804 31851 73255 419286 1379 0 371 348 0 0\nintr 5 6\nctxt 9\n",
	"vmstat":    "nr_free_pages 5028383\npgfault 18446744073709551615\n",
	"net/dev":   "Inter-|   Receive  |  Transmit\n face |bytes |bytes\n    lo: 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16\neth0:1:17 0 0 0 0 0 0 0 18 0 0 0 0 0 0 0\n",
	"diskstats": "   8       0 vda 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17\n   8       1 vda1 1 2 3 4 5 6 7 8 9 10 11\n",
	"meminfo":   "MemTotal:       24684092 kB\nMemFree: 1 kB\nSwapTotal: 0 kB\nActive(anon): 3 kB\nHugePages_Total:       4\nNew_Thing: 5 kB\n",
	"thread-self/mountinfo": "22 27 0:21 / /proc rw - proc proc rw\n" +
		"30 1 8:1 / / rw,relatime shared:1 - ext4 /dev/vda1 rw,errors=remount-ro\n" +
		"31 30 8:1 /x /again rw - ext4 /dev/vda1 rw\n" +
		"32 30 8:2 / /sealed ro - ext4 /dev/vda2 ro,x\n" +
		`33 30 0:40 / /a\040"b\134c rw - overlay overlay rw,lowerdir=/l` + "\n" +
		"34 30 8:3 / /gone rw - xfs /dev/mapper/gone rw\n" +
		"35 30 0:41 / /tmp rw - tmpfs tmpfs rw\n",
}

func statfs(path string, to *unix.Statfs_t) error {
	if path == "/gone" {
		return unix.EIO
	}
	*to = unix.Statfs_t{Frsize: 1024, Blocks: 100, Bfree: 40, Bavail: 30, Files: 10, Ffree: 4}
	return nil
}

// collector reads a copy of procfs with some files changed; "-" removes one.
func collector(t *testing.T, changes map[string]string) (*Collector, *bytes.Buffer) {
	t.Helper()
	dir := t.TempDir()
	files := maps.Clone(procfs)
	maps.Copy(files, changes)
	for name, text := range files {
		file := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if text == "-" {
			continue
		}
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	var log bytes.Buffer
	return New(Config{Proc: dir, Statfs: statfs, Log: slog.New(slog.NewTextHandler(&log, nil))}), &log
}

var sampleLine = regexp.MustCompile(`^([a-zA-Z_:][a-zA-Z0-9_:]*)(\{((?:[a-zA-Z_]\w*="(?:[^"\\\n]|\\[\\"n])*",?)*)\})? (\S+)$`)

// scan reads the text format strictly: every sample belongs to the family
// announced above it, no family and no series comes twice.
func scan(text string) (map[string]float64, error) {
	if !strings.HasSuffix(text, "\n") {
		return nil, errors.New("no end of line at the end")
	}
	all := make(map[string]float64)
	var name, announced string
	known := make(map[string]bool)
	for line := range strings.Lines(text) {
		line = strings.TrimSuffix(line, "\n")
		if rest, is := strings.CutPrefix(line, "# HELP "); is {
			announced, _, _ = strings.Cut(rest, " ")
			continue
		}
		if rest, is := strings.CutPrefix(line, "# TYPE "); is {
			f := strings.Fields(rest)
			if len(f) != 2 || f[0] != announced || known[f[0]] || f[1] != "gauge" && f[1] != "counter" {
				return nil, fmt.Errorf("family: %q", line)
			}
			name, known[f[0]] = f[0], true
			continue
		}
		m := sampleLine.FindStringSubmatch(line)
		if m == nil || m[1] != name {
			return nil, fmt.Errorf("sample: %q", line)
		}
		v, err := strconv.ParseFloat(m[4], 64)
		series := m[1] + m[2]
		if _, twice := all[series]; twice || err != nil {
			return nil, fmt.Errorf("sample: %q", line)
		}
		all[series] = v
	}
	return all, nil
}

func TestTheGuestTellsWhatDashboardsAskFor(t *testing.T) {
	t.Parallel()
	c, log := collector(t, nil)
	for n := range 2 {
		text, err := c.Text(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		got, err := scan(text)
		if err != nil {
			t.Fatal(err)
		}
		for series, want := range map[string]float64{
			`kata_agent_scrape_count`:                                                           float64(n + 1),
			`kata_agent_threads`:                                                                11,
			`kata_agent_total_time`:                                                             15,
			`kata_agent_total_vm`:                                                               3133440,
			`kata_agent_total_rss`:                                                              380 * float64(os.Getpagesize()),
			`kata_agent_proc_status{item="vmrss"}`:                                              1696,
			`kata_agent_proc_status{item="nonvoluntary_ctxt_switches"}`:                         2,
			`kata_agent_io_stat{item="cancelled_write_bytes"}`:                                  1,
			`kata_agent_proc_stat{item="cstime"}`:                                               6,
			`kata_guest_load{item="load15"}`:                                                    4,
			`kata_guest_tasks{item="cur"}`:                                                      15,
			`kata_guest_tasks{item="max"}`:                                                      208,
			`kata_guest_cpu_time{cpu="total",item="user"}`:                                      3545050,
			`kata_guest_cpu_time{cpu="0",item="steal"}`:                                         3480,
			`kata_guest_vm_stat{item="nr_free_pages"}`:                                          5028383,
			`kata_guest_netdev_stat{interface="lo",item="recv_multicast"}`:                      8,
			`kata_guest_netdev_stat{interface="lo",item="sent_bytes"}`:                          9,
			`kata_guest_netdev_stat{interface="eth0:1",item="sent_bytes"}`:                      18,
			`kata_guest_diskstat{disk="vda",item="time_flushing"}`:                              17,
			`kata_guest_diskstat{disk="vda1",item="weighted_time_in_progress"}`:                 11,
			`kata_guest_meminfo{item="mem_total"}`:                                              24684092 * 1024,
			`kata_guest_meminfo{item="active_anon"}`:                                            3072,
			`kata_guest_meminfo{item="hugepages_total"}`:                                        4,
			`kata_guest_filesystem_bytes{mount="/",device="vda1",item="used"}`:                  60 * 1024,
			`kata_guest_filesystem_inodes{mount="/a \"b\\c",device="overlay",item="available"}`: 4,
		} {
			if v, there := got[series]; !there || v != want {
				t.Errorf("%s: %v (there: %t), want %v", series, v, there, want)
			}
		}
		for series := range got {
			for _, not := range []string{"/proc", "/again", "/sealed", "/gone", "/tmp", "New_Thing", "new_thing"} {
				if strings.Contains(series, not) {
					t.Errorf("%s is told", series)
				}
			}
		}
		if !strings.Contains(text, "# TYPE kata_agent_scrape_count counter\n") {
			t.Error("the count of reads is no counter")
		}
	}
	if !strings.Contains(log.String(), "file system cannot be measured") {
		t.Errorf("a file system that cannot be measured is not logged: %q", log)
	}
}

func TestASourceThatMakesNoSenseLeavesOnlyItsOwnMetricsOut(t *testing.T) {
	t.Parallel()
	row := " 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16\n"
	heads := "Inter-|\n face |\n"
	for name, tc := range map[string]struct{ file, text, metric string }{
		"missing":                 {"loadavg", "-", "kata_guest_load"},
		"empty load":              {"loadavg", "", "kata_guest_load"},
		"load not a number":       {"loadavg", "NaN 1 1 1/2 3\n", "kata_guest_load"},
		"endless load":            {"loadavg", "1 Inf 1 1/2 3\n", "kata_guest_load"},
		"negative load":           {"loadavg", "-1 1 1 1/2 3\n", "kata_guest_load"},
		"tasks without a slash":   {"loadavg", "1 1 1 12 3\n", "kata_guest_tasks"},
		"stat cut short":          {"self/stat", "7 (x) S 1 2 3\n", "kata_agent_threads"},
		"stat with a word":        {"self/stat", strings.Replace(procfs["self/stat"], " 1200 ", " x ", 1), "kata_agent_total_time"},
		"status without a value":  {"self/status", "VmRSS:\n", "kata_agent_proc_status"},
		"status of nothing known": {"self/status", "Name: x\n", "kata_agent_proc_status"},
		"io is negative":          {"self/io", "rchar: -1\n", "kata_agent_io_stat"},
		"cpu that is no number":   {"stat", "cpux 1 2 3 4\n", "kata_guest_cpu_time"},
		"cpu twice":               {"stat", "cpu0 1 2 3 4\ncpu0 1 2 3 4\n", "kata_guest_cpu_time"},
		"cpu with few fields":     {"stat", "cpu0 1 2 3\n", "kata_guest_cpu_time"},
		"no cpu":                  {"stat", "intr 1\n", "kata_guest_cpu_time"},
		"vmstat of three":         {"vmstat", "a 1 2\n", "kata_guest_vm_stat"},
		"vmstat twice":            {"vmstat", "a 1\na 2\n", "kata_guest_vm_stat"},
		"too many lines":          {"vmstat", numbered(maxSamples + 1), "kata_guest_vm_stat"},
		"too large a number":      {"vmstat", "a 18446744073709551616\n", "kata_guest_vm_stat"},
		"interface without name":  {"net/dev", heads + "  :" + row, "kata_guest_netdev_stat"},
		"interface twice":         {"net/dev", heads + "a:" + row + "a:" + row, "kata_guest_netdev_stat"},
		"interface with no colon": {"net/dev", heads + "a " + row, "kata_guest_netdev_stat"},
		"interface cut short":     {"net/dev", heads + "a: 1 2\n", "kata_guest_netdev_stat"},
		"disk cut short":          {"diskstats", "8 0 vda 1 2 3\n", "kata_guest_diskstat"},
		"disk without a name":     {"diskstats", "8 0\n", "kata_guest_diskstat"},
		"disk twice":              {"diskstats", strings.Repeat("8 0 vda 1 2 3 4 5 6 7 8 9 10 11\n", 2), "kata_guest_diskstat"},
		"mount without separator": {"thread-self/mountinfo", "1 2 8:1 / / rw ext4 /dev/vda rw\n", "kata_guest_filesystem_bytes"},
		"mount cut short":         {"thread-self/mountinfo", "1 2 8:1 - ext4\n", "kata_guest_filesystem_bytes"},
		"too large a file":        {"meminfo", "MemTotal: 1 kB\n" + strings.Repeat("x", maxSource), "kata_guest_meminfo"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c, log := collector(t, map[string]string{tc.file: tc.text})
			text, err := c.Text(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if _, err := scan(text); err != nil {
				t.Error(err)
			}
			if strings.Contains(text, tc.metric+"{") || strings.Contains(text, tc.metric+" ") {
				t.Errorf("%s is told", tc.metric)
			}
			if !strings.Contains(log.String(), "metric="+tc.metric) {
				t.Errorf("that %s is missing is not logged: %s", tc.metric, log)
			}
			if !strings.Contains(text, "kata_agent_scrape_count 1\n") || strings.Count(text, "# TYPE ") < 8 {
				t.Errorf("the other metrics are gone too: %s", text)
			}
		})
	}
}

func numbered(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "v%d 1\n", i)
	}
	return b.String()
}

func TestManyFileSystemsAreBounded(t *testing.T) {
	t.Parallel()
	var b strings.Builder
	for i := range maxMounts + 1 {
		fmt.Fprintf(&b, "1 2 8:%d / /m%d rw - ext4 /dev/vda rw\n", i, i)
	}
	if _, err := parseMounts([]byte(b.String())); !errors.Is(err, bounded.ErrTooLarge) {
		t.Errorf("error %v", err)
	}
	long := "1 2 8:1 / /" + strings.Repeat("x", maxMountPoint) + " rw - ext4 /dev/vda rw\n"
	if m, err := parseMounts([]byte(long)); err != nil || len(m) != 0 {
		t.Errorf("a long mount point is told: %v (%v)", m, err)
	}
}

func TestACallerWhoGivesUpWaitsForNoOtherReader(t *testing.T) {
	t.Parallel()
	c, _ := collector(t, nil)
	c.turn <- struct{}{} // another one reads
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := c.Text(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
	<-c.turn
	if _, err := c.Text(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestTheKernelOfThisMachineIsUnderstood(t *testing.T) {
	t.Parallel()
	c := New(Config{})
	text, err := c.Text(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	got, err := scan(text)
	if err != nil {
		t.Fatal(err)
	}
	for _, series := range []string{
		"kata_agent_threads", `kata_guest_meminfo{item="mem_total"}`, `kata_guest_cpu_time{cpu="total",item="idle"}`,
		`kata_agent_proc_status{item="vmrss"}`, `kata_guest_tasks{item="max"}`,
	} {
		if got[series] <= 0 {
			t.Errorf("%s is %v", series, got[series])
		}
	}
}

// FuzzFamilies feeds every parser: none may panic, and what it yields has to
// make a text that a reader accepts.
func FuzzFamilies(f *testing.F) {
	for _, text := range procfs {
		f.Add([]byte(text))
	}
	f.Add([]byte("H\nH\n\xff: 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16\n"))
	f.Add([]byte(`1 2 8:1 / /\377\12 rw - vfat \057 rw`))
	f.Fuzz(func(t *testing.T, data []byte) {
		for _, fam := range families {
			samples, err := fam.parse(data)
			checkFamily(t, fam, samples, err)
		}
		mounts, err := parseMounts(data)
		var samples []sample
		for _, m := range mounts {
			samples = append(samples, m.usage(3, 2, 1)...)
		}
		checkFamily(t, bytesFamily, samples, err)
	})
}

func checkFamily(t *testing.T, fam family, samples []sample, err error) {
	t.Helper()
	if err != nil {
		if len(samples) > 0 {
			t.Errorf("%s: samples and the error %v", fam.name, err)
		}
		return
	}
	var b strings.Builder
	write(&b, fam, samples)
	if b.Len() == 0 {
		return
	}
	if got, err := scan(b.String()); err != nil || len(got) != len(samples) {
		t.Errorf("%d of %d series: %v\n%q", len(got), len(samples), err, b.String())
	}
}
