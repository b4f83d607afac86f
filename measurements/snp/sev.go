// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package snp

import (
	"crypto/sha256"
	"fmt"
)

// LaunchSEV returns the launch digest of a guest of SEV, or of SEV-ES with n
// processors if n is not 0: one digest over firmware, hashes and states.
func LaunchSEV(cfg Config, n int) ([sha256.Size]byte, error) {
	var none [sha256.Size]byte
	switch {
	case cfg.Firmware == nil:
		return none, fmt.Errorf("no firmware: %w", ErrConfig)
	case n < 0 || n > maxVCPUs:
		return none, fmt.Errorf("%d processors, want 0 to %d: %w", n, maxVCPUs, ErrConfig)
	case cfg.FirmwareDigest != nil || cfg.SVSM != nil:
		return none, fmt.Errorf("a firmware's digest or a service module is for SEV-SNP only: %w", ErrConfig)
	}
	h := sha256.New()
	h.Write(cfg.Firmware.Data)
	if cfg.Kernel != nil {
		if _, ok := cfg.Firmware.HashTable(); !ok {
			return none, ErrNoHashes
		}
		t, err := cfg.Kernel.table()
		if err != nil {
			return none, err
		}
		h.Write(t)
	}
	if n > 0 {
		cfg.Features = 0
		first, further, err := cfg.states()
		if err != nil {
			return none, err
		}
		h.Write(first[:])
		for range n - 1 {
			h.Write(further[:])
		}
	}
	return [sha256.Size]byte(h.Sum(nil)), nil
}
