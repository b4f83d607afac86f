// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package metrics

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"cocoon/internal/bounded"
)

// errFormat is returned for a file that is not what the kernel writes.
var errFormat = errors.New("not as the kernel writes it")

// ticks is what the kernel counts CPU time in, per second. It is 100 in the
// interface to user space whatever the kernel itself ticks at.
const ticks = 100

// number reads a whole number that is not negative.
func number(text string) (float64, error) {
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		return 0, fmt.Errorf("number %q: %w", clip(text), errFormat)
	}
	return float64(n), nil
}

// clip keeps a text that makes no sense from filling a log.
func clip(text string) string { return text[:min(len(text), 64)] }

// atMost bounds the samples of a family.
func atMost(all []sample) ([]sample, error) {
	if len(all) > maxSamples {
		return nil, fmt.Errorf("%d samples: %w", len(all), bounded.ErrTooLarge)
	}
	return all, nil
}

// Indices into /proc/self/stat from the field behind the name on, which is
// field 3 of proc_pid_stat(5).
const (
	statUTime   = 14 - 3
	statSTime   = 15 - 3
	statCUTime  = 16 - 3
	statCSTime  = 17 - 3
	statThreads = 20 - 3
	statVSize   = 23 - 3
	statRSS     = 24 - 3
)

// fromStat makes a parser of /proc/self/stat from what is wanted of it.
func fromStat(want func([]float64) []sample) func([]byte) ([]sample, error) {
	return func(data []byte) ([]sample, error) {
		fields, err := parseStat(data)
		if err != nil {
			return nil, err
		}
		return want(fields), nil
	}
}

// parseStat reads the numbers of /proc/self/stat. The name in it may hold
// anything, so the last bracket ends it.
func parseStat(data []byte) ([]float64, error) {
	fields := strings.Fields(string(data[bytes.LastIndexByte(data, ')')+1:]))
	if len(fields) <= statRSS {
		return nil, fmt.Errorf("%d fields: %w", len(fields), errFormat)
	}
	numbers := make([]float64, statRSS+1)
	for _, i := range []int{statUTime, statSTime, statCUTime, statCSTime, statThreads, statVSize, statRSS} {
		n, err := number(fields[i])
		if err != nil {
			return nil, err
		}
		numbers[i] = n
	}
	return numbers, nil
}

func threads(f []float64) []sample   { return []sample{{value: f[statThreads]}} }
func totalTime(f []float64) []sample { return []sample{{value: (f[statUTime] + f[statSTime]) / ticks}} }
func totalVM(f []float64) []sample   { return []sample{{value: f[statVSize]}} }
func totalRSS(f []float64) []sample  { return []sample{{value: f[statRSS] * float64(os.Getpagesize())}} }

func cpuTicks(f []float64) []sample {
	return []sample{
		{labels: []string{"utime"}, value: f[statUTime]}, {labels: []string{"stime"}, value: f[statSTime]},
		{labels: []string{"cutime"}, value: f[statCUTime]}, {labels: []string{"cstime"}, value: f[statCSTime]},
	}
}

// named picks the lines "Name: value" or "Name: value kB" whose names are in
// items. kibi is what a kB counts.
func named(data []byte, items map[string]string, kibi float64) ([]sample, error) {
	var all []sample
	seen := make(map[string]bool)
	for line := range strings.Lines(string(data)) {
		name, value, _ := strings.Cut(line, ":")
		item, wanted := items[name]
		if !wanted || seen[item] {
			continue
		}
		fields := strings.Fields(value)
		if len(fields) == 0 {
			return nil, fmt.Errorf("%s without a value: %w", name, errFormat)
		}
		n, err := number(fields[0])
		if err != nil {
			return nil, err
		}
		if len(fields) > 1 {
			n *= kibi
		}
		seen[item] = true
		all = append(all, sample{labels: []string{item}, value: n})
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("no known line: %w", errFormat)
	}
	return all, nil
}

func parseStatus(data []byte) ([]sample, error)  { return named(data, statusItems, 1) }
func parseIO(data []byte) ([]sample, error)      { return named(data, ioItems, 1) }
func parseMeminfo(data []byte) ([]sample, error) { return named(data, memItems, 1024) }

// parseVMStat reads lines "name value".
func parseVMStat(data []byte) ([]sample, error) {
	var all []sample
	seen := make(map[string]bool)
	for line := range strings.Lines(string(data)) {
		fields := strings.Fields(strings.ToValidUTF8(line, "?"))
		if len(fields) != 2 || seen[fields[0]] {
			return nil, fmt.Errorf("line %q: %w", clip(line), errFormat)
		}
		n, err := number(fields[1])
		if err != nil {
			return nil, err
		}
		seen[fields[0]] = true
		all = append(all, sample{labels: fields[:1], value: n})
	}
	return atMost(all)
}

// parseLoad reads the three averages of /proc/loadavg.
func parseLoad(data []byte) ([]sample, error) {
	fields := strings.Fields(string(data))
	if len(fields) < 4 {
		return nil, fmt.Errorf("%d fields: %w", len(fields), errFormat)
	}
	var all []sample
	for i, item := range []string{"load1", "load5", "load15"} {
		v, err := strconv.ParseFloat(fields[i], 64)
		if err != nil || !(v >= 0 && v < 1e15) {
			return nil, fmt.Errorf("average %q: %w", clip(fields[i]), errFormat)
		}
		all = append(all, sample{labels: []string{item}, value: v})
	}
	return all, nil
}

// parseTasks reads how many tasks run and exist from /proc/loadavg.
func parseTasks(data []byte) ([]sample, error) {
	fields := strings.Fields(string(data))
	if len(fields) < 4 {
		return nil, fmt.Errorf("%d fields: %w", len(fields), errFormat)
	}
	running, existing, _ := strings.Cut(fields[3], "/")
	cur, err := number(running)
	if err != nil {
		return nil, err
	}
	most, err := number(existing)
	if err != nil {
		return nil, err
	}
	return []sample{{labels: []string{"cur"}, value: cur}, {labels: []string{"max"}, value: most}}, nil
}
