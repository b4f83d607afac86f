// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package metrics

import (
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"

	"cocoon/internal/bounded"
)

// counted turns the fields of one device into samples named by items. An older
// kernel has fewer fields, a newer one more; at least least are needed.
func counted(device string, fields, items []string, least int) ([]sample, error) {
	if len(fields) < least {
		return nil, fmt.Errorf("%q with %d fields: %w", clip(device), len(fields), errFormat)
	}
	var all []sample
	for i, text := range fields[:min(len(fields), len(items))] {
		n, err := number(text)
		if err != nil {
			return nil, err
		}
		all = append(all, sample{labels: []string{device, items[i]}, value: n})
	}
	return all, nil
}

// parseCPUTime reads the lines of /proc/stat that begin with cpu, and turns
// ticks into milliseconds.
func parseCPUTime(data []byte) ([]sample, error) {
	var all []sample
	seen := make(map[string]bool)
	for line := range strings.Lines(string(data)) {
		fields := strings.Fields(line)
		if len(fields) == 0 || !strings.HasPrefix(fields[0], "cpu") {
			continue
		}
		cpu := strings.TrimPrefix(fields[0], "cpu")
		if _, err := number(cpu); err != nil && cpu != "" || seen[cpu] {
			return nil, fmt.Errorf("line %q: %w", clip(line), errFormat)
		}
		seen[cpu] = true
		if cpu == "" {
			cpu = "total"
		}
		times, err := counted(cpu, fields[1:], cpuItems, 4)
		if err != nil {
			return nil, err
		}
		for i := range times {
			times[i].value *= 1000 / ticks
		}
		all = append(all, times...)
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("no processor: %w", errFormat)
	}
	return atMost(all)
}

// parseNetDev reads /proc/net/dev: two lines of headings, then a line for each
// interface. A name holds no white space, but may hold a colon.
func parseNetDev(data []byte) ([]sample, error) {
	var all []sample
	seen := make(map[string]bool)
	row := 0
	for line := range strings.Lines(string(data)) {
		if row++; row <= 2 {
			continue
		}
		at := strings.LastIndexByte(line, ':')
		name := strings.ToValidUTF8(strings.TrimSpace(line[:max(at, 0)]), "?")
		if name == "" || seen[name] {
			return nil, fmt.Errorf("line %q: %w", clip(line), errFormat)
		}
		seen[name] = true
		counts, err := counted(name, strings.Fields(line[at+1:]), netItems, len(netItems))
		if err != nil {
			return nil, err
		}
		all = append(all, counts...)
	}
	return atMost(all)
}

// parseDisks reads /proc/diskstats: major, minor, name, counts.
func parseDisks(data []byte) ([]sample, error) {
	var all []sample
	seen := make(map[string]bool)
	for line := range strings.Lines(string(data)) {
		fields := strings.Fields(strings.ToValidUTF8(line, "?"))
		if len(fields) < 4 || seen[fields[2]] {
			return nil, fmt.Errorf("line %q: %w", clip(line), errFormat)
		}
		seen[fields[2]] = true
		counts, err := counted(fields[2], fields[3:], diskItems, 11)
		if err != nil {
			return nil, err
		}
		all = append(all, counts...)
	}
	return atMost(all)
}

// measured are the kinds of file systems whose room is told.
var measured = []string{"ext4", "xfs", "btrfs", "vfat", "overlay"}

const (
	// maxMounts bounds the file systems that are measured.
	maxMounts = 512

	// maxMountPoint bounds the length of a label, in bytes. A workload can make
	// longer ones, which would only fill the text.
	maxMountPoint = 512
)

// mount is a file system to be measured.
type mount struct{ point, device string }

// usage is the three samples of a file system.
func (m mount) usage(total, free, available float64) []sample {
	return []sample{
		{labels: []string{m.point, m.device, "total"}, value: total},
		{labels: []string{m.point, m.device, "used"}, value: max(total-free, 0)},
		{labels: []string{m.point, m.device, "available"}, value: available},
	}
}

// parseMounts picks the mounts of /proc/self/mountinfo whose room is told: the
// first of each device whose file system can be written to.
func parseMounts(data []byte) ([]mount, error) {
	var all []mount
	seen := make(map[string]bool)
	points := make(map[string]bool)
	for line := range strings.Lines(string(data)) {
		before, after, found := strings.Cut(strings.TrimSuffix(line, "\n"), " - ")
		head, tail := strings.Fields(before), strings.Fields(after)
		if !found || len(head) < 6 || len(tail) < 3 {
			return nil, fmt.Errorf("mount %q: %w", clip(line), errFormat)
		}
		point := strings.ToValidUTF8(unescape(head[4]), "?")
		if !slices.Contains(measured, tail[0]) || slices.Contains(strings.Split(tail[2], ","), "ro") ||
			seen[head[2]] || points[point] || len(point) > maxMountPoint {
			continue
		}
		seen[head[2]], points[point] = true, true
		all = append(all, mount{point: point, device: strings.ToValidUTF8(path.Base(unescape(tail[1])), "?")})
		if len(all) > maxMounts {
			return nil, fmt.Errorf("more than %d file systems: %w", maxMounts, bounded.ErrTooLarge)
		}
	}
	return all, nil
}

// unescape undoes the kernel's \ooo for white space and backslashes.
func unescape(text string) string {
	var b strings.Builder
	for i := 0; i < len(text); i++ {
		if text[i] == '\\' && i+4 <= len(text) {
			if n, err := strconv.ParseUint(text[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(n))
				i += 3
				continue
			}
		}
		b.WriteByte(text[i])
	}
	return b.String()
}
