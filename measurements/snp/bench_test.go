// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package snp

import (
	"slices"
	"testing"

	"cocoon/measurements/ovmf/ovmftest"
)

// large is a configuration with a firmware as large as a real one.
func large(b *testing.B) Config {
	b.Helper()
	cfg := testConfig(b)
	end := ovmftest.Firmware()
	body := make([]byte, 4<<20-len(end))
	for i := range body {
		body[i] = byte(i * 31 >> 3)
	}
	firmware(b, &cfg, slices.Concat(body, end))
	return cfg
}

func launch(b *testing.B, cfg Config, n int) {
	b.Helper()
	b.ReportAllocs()
	for b.Loop() {
		if d, _, err := Launch(cfg, n); err != nil || len(d) != n {
			b.Fatal(len(d), err)
		}
	}
}

func BenchmarkLaunchOneProcessor(b *testing.B) { launch(b, large(b), 1) }

// All digests of 1 to 64 processors.
func BenchmarkLaunchUpTo64Processors(b *testing.B) { launch(b, large(b), 64) }

func BenchmarkLaunchUpTo64ByTheFirmwaresDigest(b *testing.B) {
	cfg := large(b)
	d := must[Digest](b)(FirmwareDigest(cfg.Firmware))
	cfg.FirmwareDigest = &d
	launch(b, cfg, 64)
}
