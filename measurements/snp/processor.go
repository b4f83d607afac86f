// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package snp

import (
	"fmt"
	"slices"
	"strings"
)

// signature is the number that CPUID gives for a processor.
func signature(family, model, stepping uint32) uint32 {
	low, high := family, uint32(0)
	if family > 15 {
		low, high = 15, family-15
	}
	return high<<20 | model>>4<<16 | low<<8 | model&15<<4 | stepping
}

// processor is a model of QEMU's with its versions, from target/i386/cpu.c.
type processor struct {
	name      string
	signature uint32
	// versions is the highest. QEMU has changed the signature of other makers'
	// models from one version to the next, so one not listed is not guessed.
	versions int
}

func processors() []processor {
	return []processor{
		{"EPYC", signature(23, 1, 2), 5}, {"EPYC-IBPB", signature(23, 1, 2), 0}, {"EPYC-Rome", signature(23, 49, 0), 5},
		{"EPYC-Milan", signature(25, 1, 1), 4}, {"EPYC-Genoa", signature(25, 17, 0), 3}, {"EPYC-Turin", signature(26, 0, 0), 2},
	}
}

// names are those that QEMU knows the model under.
func (p processor) names() []string {
	names := []string{p.name}
	for v := range p.versions {
		names = append(names, fmt.Sprintf("%s-v%d", p.name, v+1))
	}
	return names
}

// Models are names of QEMU's models, one for each signature.
func Models() []string {
	var names []string
	seen := map[uint32]bool{}
	for _, p := range processors() {
		if !seen[p.signature] {
			seen[p.signature] = true
			names = append(names, p.name)
		}
	}
	return names
}

// SignatureOf returns that of a QEMU processor model, such as EPYC-v4 or
// EPYC-Milan. "host" is whatever the host has.
func SignatureOf(model string) (uint32, error) {
	var known []string
	for _, p := range processors() {
		names := p.names()
		if slices.Contains(names, model) {
			return p.signature, nil
		}
		known = append(known, names...)
	}
	return 0, fmt.Errorf("processor model %.40q, want one of %s: %w", model, strings.Join(known, ", "), ErrConfig)
}
