// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package snp

import (
	"encoding/hex"
	"slices"
	"testing"

	"cocoon/measurements/ovmf"
	"cocoon/measurements/ovmf/ovmftest"
)

// hashesFirst is ovmftest's firmware with the last item of its metadata, the
// place for hashes, as the first: its order counts, not that of addresses.
func hashesFirst() []byte {
	b := ovmftest.Firmware()
	list := b[len(b)-ovmftest.SEVOffset+16:][:6*12]
	copy(list, slices.Concat(list[5*12:], list[:5*12]))
	return b
}

func firmware(t testing.TB, c *Config, b []byte) {
	t.Helper()
	c.Firmware = must[*ovmf.Image](t)(ovmf.Parse(b))
}

func model(t testing.TB, c *Config, name string) {
	t.Helper()
	c.Signature = must[uint32](t)(SignatureOf(name))
}

// The digests were made with sev-snp-measure 0.0.13 of files that ovmftest and
// this test make: fw.fd, first.fd (hashesFirst), svsm.fd, and k and i of that one
// letter:
//
//	sev-snp-measure --mode snp --vcpus N --vcpu-type MODEL --vmm-type VMM \
//	    --guest-features 0x1 --ovmf fw.fd --kernel k --initrd i --append quiet
//
// less what a case says is not there; "SVSM" with --mode snp:svsm --svsm svsm.fd
// --vars-size 4096, "SEV" with --mode sev and seves.
func TestTheDigestsOfOurOwnFirmware(t *testing.T) {
	t.Parallel()
	none := content(nil)
	for name, tc := range map[string]struct {
		mode   string
		n      int
		change func(*Config)
		want   string
	}{
		"one processor":    {"snp", 1, func(*Config) {}, "77bf3076579df48182a9a5171b9c03c6dee4e5ddb61d063616915ccd976966b6ef9916b4936d43a1d074c5b2a41082d8"},
		"two":              {"snp", 2, func(*Config) {}, "f7e2f12555b0f59d3593abfbbaddde429e66f88a80cc043a3a16e2bf236143440d5101ee7c5e8f24dd31f7a6392c22c5"},
		"three":            {"snp", 3, func(*Config) {}, "379b188be75e6e95d6f0fb1b02e9a2c5bc87ded469d53229a285ccbae7d82ed678d8e65bdaca01b940b19fc1de037db4"},
		"64":               {"snp", 64, func(*Config) {}, "2acdbc412b75c9942a8c32c0c006431328f2dd0bd30a1a29aa426509bb034162947261b37562b27c2624ca953ae51dfc"},
		"EC2":              {"snp", 2, func(c *Config) { c.VMM = EC2 }, "26e36855f01665baa388e6ad4071816dbcc8717646dcb805f4e30b06a41bc6923a5bfb456ffed5b87870f42a71686d37"},
		"GCE":              {"snp", 2, func(c *Config) { c.VMM = GCE }, "bc108bbe8dedd321d7292f2cbe2fd0e9eb503ce1ff3744fadc5d17170926f6cc6097fc2db9b8c5c2620dbd3d526e501d"},
		"no kernel":        {"snp", 2, func(c *Config) { c.Kernel = nil }, "44aaa073a6f7a546f064f19c9df414ff37c6457b85a80f6276153907e26ba03816c937c04299f293c26b21467e22ca2d"},
		"no initrd":        {"snp", 2, func(c *Config) { c.Kernel.Initrd = none }, "86aa9508d515805aafcfdd70edb261b77b38f3bd4373538f3cc936ebb87f319ee706e73bebcda2a164436dd424996ba7"},
		"no command line":  {"snp", 2, func(c *Config) { c.Kernel.Cmdline = "" }, "58e067a320a6014bbc823071d5e31ba0d2228d524c86edebbfa156d20fbe1296a261b8709d0fcc8268b8412559b5426e"},
		"DebugSwap":        {"snp", 2, func(c *Config) { c.Features = 0x21 }, "58603cd2d4797e77791c648cbda5902fd0bc1920ac0bd5ca9188abfdd63cb3bdaa3187118e085dffdbf35ef37a085216"},
		"Rome":             {"snp", 2, func(c *Config) { model(t, c, "EPYC-Rome-v2") }, "cc3e6d19ab38851598a2b8ba838d47a91d29d9403e0996d2a8e9fd0124a267ae2e0d4cf5b4672bacc11c3345597f060a"},
		"Milan":            {"snp", 2, func(c *Config) { model(t, c, "EPYC-Milan") }, "2d7ed1b1acca0b9ff3466ac72bf2a11cb330be1b9b160dd037593e8c0d9fa93408996dc88e558244e40fc6c268017c2d"},
		"Genoa":            {"snp", 2, func(c *Config) { model(t, c, "EPYC-Genoa-v1") }, "48581e9ca33b102b95cf7279e51fdb94034db8fdcb50a30d40bab53ba8cbf9f0384b888f866e2c21886dc420706d8db0"},
		"Turin":            {"snp", 2, func(c *Config) { model(t, c, "EPYC-Turin") }, "3a9f63fd54dfbaa21f8645883582c08223e20162da27f92d599e7db0d43c85993646edeb940e8b675550b07628a701c9"},
		"hashes first":     {"snp", 2, func(c *Config) { firmware(t, c, hashesFirst()) }, "ef922a10ff3dc27bff44a70fe3a813837955ba5f084241a09ac5ec8b6a7d87618078ff939db2cbc5753d6dedfb28e1b2"},
		"hashes first EC2": {"snp", 2, func(c *Config) { firmware(t, c, hashesFirst()); c.VMM = EC2 }, "28f6857543efb9fe230dc93b014305d0978fb0957b203d18699354ac9e3a4d52e478de17b66ccf2f1ab36e1735d30c9b"},
		"SVSM":             {"snp", 2, func(c *Config) { withSVSM(t, c) }, "e1a7a43095319011c6d7e66cbb029f517c731437c9f4207c53b1c2f356464c8dfa54ff90248405b1f7df5f9ac91b4c0c"},
		"SEV":              {"sev", 0, func(*Config) {}, "f0cef44a65531958a98d367b7866c44f8e43c08534a22e569dcabc1d10e8aa58"},
		"SEV-ES":           {"seves", 2, func(*Config) {}, "ec824b6060a4ee753296ba84290f936a5f0ce625b39ab4133385e0b94ef11995"},
	} {
		cfg := testConfig(t)
		tc.change(&cfg)
		if got, err := (vector{Mode: tc.mode, VCPUs: tc.n}).compute(cfg); err != nil || got != tc.want {
			t.Errorf("%s: %s, want %s (%v)", name, got, tc.want, err)
		}
	}
}

// withSVSM puts a service module below the firmware.
func withSVSM(t testing.TB, c *Config) {
	t.Helper()
	c.SVSM, c.VarsSize, c.Kernel = must[*ovmf.Image](t)(ovmf.Parse(ovmftest.SVSM())), pageSize, nil
}

// The digest was made with sev-snp-measure --mode snp:ovmf-hash --ovmf fw.fd.
func TestAFirmwaresDigestStandsForIt(t *testing.T) {
	t.Parallel()
	cfg := testConfig(t)
	want, _, err := Launch(cfg, 1)
	if err != nil {
		t.Fatal(err)
	}
	d := must[Digest](t)(FirmwareDigest(cfg.Firmware))
	if hex.EncodeToString(d[:]) != "505c21d19e88b552071af3b4bd7e29ca343bf63d9bb1e6875d1f1dc52888f1840460730d2a2963a2e2b3541145c81f0b" {
		t.Errorf("firmware's digest %x", d)
	}
	cfg.FirmwareDigest = &d
	firmware(t, &cfg, cfg.Firmware.Data[pageSize:])
	if got, _, err := Launch(cfg, 1); err != nil || got[0] != want[0] {
		t.Errorf("%x, want %x (%v)", got, want[0], err)
	}
}

func TestStepsTellTheWholeWay(t *testing.T) {
	t.Parallel()
	digests, steps, err := Launch(testConfig(t), 2)
	if err != nil {
		t.Fatal(err)
	}
	want := []struct {
		kind  PageType
		name  string
		gpa   uint64
		pages int
	}{
		{Normal, "NORMAL", 0xffffe000, 2}, {Zero, "ZERO", 0x800000, 9}, {Zero, "ZERO", 0x80a000, 3}, {Secrets, "SECRETS", 0x80d000, 1},
		{CPUID, "CPUID", 0x80e000, 1}, {Zero, "ZERO", 0x80f000, 1}, {Normal, "NORMAL", 0x810000, 1}, {VMSA, "VMSA", vmsaGPA, 1}, {VMSA, "VMSA", vmsaGPA, 1},
	}
	if len(steps) != len(want) {
		t.Fatalf("%d steps, want %d", len(steps), len(want))
	}
	for i, w := range want {
		if s := steps[i]; s.Type != w.kind || s.Type.String() != w.name || s.GPA != w.gpa || s.Pages != w.pages || s.What == "" {
			t.Errorf("step %d is %+v, want %+v", i, s, w)
		}
	}
	if steps[7].Digest != digests[0] || steps[8].Digest != digests[1] || steps[0].Digest != must[Digest](t)(FirmwareDigest(testConfig(t).Firmware)) {
		t.Error("a step's digest is not the one after it")
	}
	cfg := testConfig(t)
	cfg.VMM = GCE
	if _, steps, err = Launch(cfg, 1); err != nil || steps[1].Type.String() != "UNMEASURED" || PageType(9).String() != "PageType(9)" {
		t.Errorf("steps %+v, %v", steps, err)
	}
}
