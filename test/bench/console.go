// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"cocoon/test/vm"
)

// readyMarker is what the guest role logs when it serves.
const readyMarker = `"msg":"ready"`

// console is what a guest said about its boot.
type console struct {
	kernelMillis, initMillis float64
	steps                    []bootStep
	memory                   idleMemory
}

// silentMillis is what the steps took that ran before the console was told to
// show them.
func (c console) silentMillis() float64 {
	rest := c.initMillis
	for _, s := range c.steps {
		rest -= s.millis
	}
	return max(rest, 0)
}

type bootStep struct {
	name   string
	millis float64
}

// idleMemory is in KiB.
type idleMemory struct {
	GuestRSS  int `json:"guest_rss_kib"`
	GuestAnon int `json:"guest_anon_kib"`
	InitRSS   int `json:"init_rss_kib"`
	InitAnon  int `json:"init_anon_kib"`
}

var (
	stepLine  = regexp.MustCompile(`init: boot step=("[^"]+"|\S+) n=\S+ ms="?([0-9.]+)`)
	totalLine = regexp.MustCompile(`init: boot finished kernel_ms="?([0-9.]+)"? init_ms="?([0-9.]+)`)
	readyLine = regexp.MustCompile(`\{[^\r\n]*` + readyMarker + `[^\r\n]*\}`)
)

// readConsole finds the boot steps, their totals, the memory use and the
// orderly end. All of them have to be there.
func readConsole(text string) (console, error) {
	var c console
	for _, m := range stepLine.FindAllStringSubmatch(text, -1) {
		ms, err := strconv.ParseFloat(m[2], 64)
		if err != nil {
			return c, fmt.Errorf("boot step %s: %w", m[1], err)
		}
		c.steps = append(c.steps, bootStep{strings.Trim(m[1], `"`), ms})
	}
	if len(c.steps) == 0 {
		return c, errors.New("no boot step")
	}
	total := totalLine.FindStringSubmatch(text)
	if total == nil {
		return c, errors.New("the boot was not finished")
	}
	var kernelErr, initErr error
	c.kernelMillis, kernelErr = strconv.ParseFloat(total[1], 64)
	c.initMillis, initErr = strconv.ParseFloat(total[2], 64)
	if err := errors.Join(kernelErr, initErr); err != nil {
		return c, fmt.Errorf("boot times: %w", err)
	}
	if err := json.Unmarshal([]byte(readyLine.FindString(text)), &c.memory); err != nil {
		return c, fmt.Errorf("memory use: %w", err)
	}
	if c.memory.GuestRSS == 0 || c.memory.InitRSS == 0 {
		return c, errors.New("the guest does not know its memory use")
	}
	if !strings.Contains(text, vm.PowerDown) {
		return c, errors.New("the machine was not powered off")
	}
	return c, nil
}
