// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package snp

import (
	"errors"
	"testing"

	"cocoon/measurements/ovmf"
	"cocoon/measurements/ovmf/ovmftest"
)

// A stranger's firmware and service module lead to a digest or to an error that
// callers know, and each further processor does not change those before.
func FuzzLaunch(f *testing.F) {
	f.Add(ovmftest.Firmware(), []byte(nil), uint64(0), true, uint8(0))
	f.Add(ovmftest.Firmware(), []byte(nil), uint64(0), true, uint8(1))
	f.Add(hashesFirst(), []byte(nil), uint64(0), false, uint8(2))
	f.Add(ovmftest.Firmware(), ovmftest.SVSM(), uint64(pageSize), false, uint8(0))
	f.Add(ovmftest.Firmware(), ovmftest.SVSM(), uint64(1<<63), false, uint8(0))
	f.Fuzz(func(t *testing.T, firmware, svsm []byte, vars uint64, kernel bool, vmm uint8) {
		i, err := ovmf.Parse(firmware)
		if err != nil {
			return
		}
		cfg := Config{Firmware: i, Features: 1, VMM: []VMM{QEMU, EC2, GCE}[vmm%3], VarsSize: vars}
		if kernel {
			cfg.Kernel = &Kernel{}
		}
		if len(svsm) > 0 {
			if cfg.SVSM, err = ovmf.Parse(svsm); err != nil {
				return
			}
		}
		two, steps, err := Launch(cfg, 2)
		if err != nil {
			if !errors.Is(err, ErrConfig) && !errors.Is(err, ErrNoHashes) && !errors.Is(err, ovmf.ErrFirmware) {
				t.Errorf("no mark on %v", err)
			}
			return
		}
		one, _, err := Launch(cfg, 1)
		if err != nil || len(two) != 2 || one[0] != two[0] || two[0] == two[1] || steps[len(steps)-1].Digest != two[1] {
			t.Errorf("%x, then %x (%v)", one, two, err)
		}
		if kernel {
			hashed := false
			for _, s := range steps {
				hashed = hashed || s.Type == Normal && s.Pages == 1 && s.GPA < i.GPA()
			}
			if !hashed {
				t.Error("a kernel that nothing binds")
			}
		}
	})
}
