// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package snp

import (
	"fmt"
	"maps"
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

// signatures are those of QEMU's processor models, without their versions.
func signatures() map[string]uint32 {
	return map[string]uint32{
		"EPYC": signature(23, 1, 2), "EPYC-IBPB": signature(23, 1, 2), "EPYC-Rome": signature(23, 49, 0),
		"EPYC-Milan": signature(25, 1, 1), "EPYC-Genoa": signature(25, 17, 0), "EPYC-Turin": signature(26, 0, 0),
	}
}

// SignatureOf returns that of a QEMU processor model, such as EPYC-v4 or
// EPYC-Milan. "host" is whatever the host has.
func SignatureOf(model string) (uint32, error) {
	name := model
	if i := strings.LastIndex(model, "-v"); i > 0 && len(model) == i+3 && model[i+2] >= '1' && model[i+2] <= '9' {
		name = model[:i]
	}
	all := signatures()
	s, ok := all[name]
	if !ok {
		return 0, fmt.Errorf("processor model %.40q, want one of %s: %w", model, strings.Join(slices.Sorted(maps.Keys(all)), ", "), ErrConfig)
	}
	return s, nil
}
