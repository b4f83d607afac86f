// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package snp

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"strings"
	"testing"

	"cocoon/internal/sharedtest"
	"cocoon/measurements/ovmf"
	"cocoon/measurements/ovmf/ovmftest"
)

func must[T any](t testing.TB) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// vector is one of launch_digest.json.
type vector struct {
	ID        string  `json:"id"`
	Mode      string  `json:"mode"`
	VCPUs     int     `json:"vcpus"`
	Signature uint32  `json:"vcpu_sig"`
	OVMF      string  `json:"ovmf"`
	Kernel    *string `json:"kernel"`
	Initrd    *string `json:"initrd"`
	Append    *string `json:"append"`
	Features  uint64  `json:"guest_features"`
	VMM       VMM     `json:"vmm_type"`
	OVMFHash  string  `json:"ovmf_hash"`
	SVSM      string  `json:"svsm"`
	VarsSize  uint64  `json:"ovmf_vars_size"`
	Digest    string  `json:"launch_digest"`
	Error     string  `json:"error"`
}

// stored are the vectors' files. It skips the test if one is not there, as is
// the distribution's firmware unless a user has put it beside the others.
func stored(t testing.TB, name string) []byte {
	t.Helper()
	switch name {
	case "ovmf_AmdSev_suffix.bin", "ovmf_OvmfX64_suffix.bin":
		return sharedtest.Read(t, "measure/snp/"+name)
	case "svsm_ovmf.fd", "svsm.bin", distributed:
		z := must[*gzip.Reader](t)(gzip.NewReader(bytes.NewReader(sharedtest.Read(t, "measure/snp/"+name+".gz"))))
		return must[[]byte](t)(io.ReadAll(z))
	}
	t.Fatalf("unknown file %q", name)
	return nil
}

// distributed is a firmware that the vectors name and do not hold.
const distributed = "OVMF.amdsev.2025.11-3ubuntu7.fd"

// described puts an image into c that says what the distribution's firmware
// does, and returns the digest of that.
func described(t testing.TB, c *Config) string {
	t.Helper()
	f := readIntermediate(t).OVMF[distributed]
	var list []ovmftest.Section
	for _, s := range f.Metadata {
		list = append(list, ovmftest.Section{s.GPA, s.Size, s.Type})
	}
	firmware(t, c, ovmftest.Describing(f.EIP, f.HashTable, list...))
	return f.Hash
}

// content is a digest of a file of the vectors; null is no file.
func content(name *string) [sha256.Size]byte {
	formula := func(size, a, b int) []byte {
		c := make([]byte, size)
		for i := range c {
			c[i] = byte(a*i + b)
		}
		return c
	}
	switch {
	case name == nil || *name == "empty":
		return sha256.Sum256(nil)
	case *name == "gen:kernel":
		return sha256.Sum256(formula(3145851, 7, 3))
	case *name == "gen:initrd":
		return sha256.Sum256(formula(1048653, 13, 5))
	}
	return [sha256.Size]byte{}
}

func (v vector) config(t testing.TB) Config {
	t.Helper()
	cfg := Config{Signature: v.Signature, Features: v.Features, VMM: v.VMM, VarsSize: v.VarsSize}
	if v.OVMF == distributed && v.Mode == "snp" {
		v.OVMFHash = described(t, &cfg)
	} else {
		firmware(t, &cfg, stored(t, v.OVMF))
	}
	if v.OVMFHash != "" {
		cfg.FirmwareDigest = (*Digest)(must[[]byte](t)(hex.DecodeString(v.OVMFHash)))
	}
	if v.Kernel != nil {
		cfg.Kernel = &Kernel{Kernel: content(v.Kernel), Initrd: content(v.Initrd)}
		if v.Append != nil {
			cfg.Kernel.Cmdline = *v.Append
		}
	}
	if v.SVSM != "" {
		cfg.SVSM = must[*ovmf.Image](t)(ovmf.Parse(stored(t, v.SVSM)))
	}
	return cfg
}

func (v vector) compute(cfg Config) (string, error) {
	switch v.Mode {
	case "sev", "seves":
		n := v.VCPUs
		if v.Mode == "sev" {
			n = 0
		}
		d, err := LaunchSEV(cfg, n)
		return hex.EncodeToString(d[:]), err
	}
	d, _, err := Launch(cfg, v.VCPUs)
	if err != nil {
		return "", err
	}
	return hex.EncodeToString(d[v.VCPUs-1][:]), nil
}

// The published vectors are sev-snp-measure's own.
func TestTheVectorsOfTheReference(t *testing.T) {
	t.Parallel()
	var file struct{ Vectors []vector }
	if err := json.Unmarshal(sharedtest.Read(t, "measure/snp/launch_digest.json"), &file); err != nil {
		t.Fatal(err)
	}
	if len(file.Vectors) < 40 {
		t.Errorf("only %d vectors", len(file.Vectors))
	}
	for _, v := range file.Vectors {
		t.Run(v.ID, func(t *testing.T) {
			t.Parallel()
			got, err := v.compute(v.config(t))
			if v.Error != "" {
				if !errors.Is(err, ErrNoHashes) {
					t.Errorf("%s, %v", got, err)
				}
			} else if err != nil || got != v.Digest {
				t.Errorf("%s, want %s (%v)", got, v.Digest, err)
			}
		})
	}
}

// intermediate is what the reference has on the way to a digest.
type intermediate struct {
	OVMF map[string]struct {
		Hash      string         `json:"ovmf_hash"`
		Metadata  []ovmf.Section `json:"metadata"`
		EIP       uint32         `json:"sev_es_reset_eip"`
		HashTable uint32         `json:"sev_hashes_table_gpa"`

		Cmdline string `json:"cmdline"`
		Table   string `json:"table_hex"`
		Page    string `json:"page_sha384"`
	} `json:"ovmf"`
	VMSA []struct {
		VMM       VMM    `json:"vmm_type"`
		EIP       uint32 `json:"eip"`
		Signature uint32 `json:"vcpu_sig"`
		Features  uint64 `json:"guest_features"`
		SHA384    string `json:"sha384"`
	} `json:"vmsa"`
	Signatures map[string]uint32 `json:"cpu_sigs"`
}

func readIntermediate(t testing.TB) (v intermediate) {
	t.Helper()
	if err := json.Unmarshal(sharedtest.Read(t, "measure/snp/intermediate.json"), &v); err != nil {
		t.Fatal(err)
	}
	if len(v.OVMF) < 3 || len(v.VMSA) < 7 || len(v.Signatures) < 16 {
		t.Fatalf("%d firmwares, %d states, %d signatures", len(v.OVMF), len(v.VMSA), len(v.Signatures))
	}
	return v
}

func TestStatesAndSignaturesAreThoseOfTheReference(t *testing.T) {
	t.Parallel()
	file := readIntermediate(t)
	for _, v := range file.VMSA {
		cfg := Config{VMM: v.VMM, Signature: v.Signature, Features: v.Features}
		var s state
		if v.VMM == "svsm-qemu" {
			s = cfg.svsmState(v.EIP)
		} else {
			s = must[state](t)(cfg.state(v.EIP))
		}
		if d := sha512.Sum384(s[:]); hex.EncodeToString(d[:]) != v.SHA384 {
			t.Errorf("%s at %#x: %x", v.VMM, v.EIP, d)
		}
	}
	for model, want := range file.Signatures {
		if got, err := SignatureOf(model); err != nil || got != want {
			t.Errorf("%s: %#x, want %#x (%v)", model, got, want, err)
		}
	}
}

func TestFirmwareAndHashesAreThoseOfTheReference(t *testing.T) {
	t.Parallel()
	file := readIntermediate(t)
	for _, name := range []string{"ovmf_AmdSev_suffix.bin", "ovmf_OvmfX64_suffix.bin"} {
		d := must[Digest](t)(FirmwareDigest(must[*ovmf.Image](t)(ovmf.Parse(stored(t, name)))))
		if want := file.OVMF[name].Hash; hex.EncodeToString(d[:]) != want {
			t.Errorf("%s: %x, want %s", name, d, want)
		}
	}
	t.Run(distributed, func(t *testing.T) {
		t.Parallel()
		i := must[*ovmf.Image](t)(ovmf.Parse(stored(t, distributed)))
		if d := must[Digest](t)(FirmwareDigest(i)); hex.EncodeToString(d[:]) != file.OVMF[distributed].Hash {
			t.Errorf("%x", d)
		}
	})
	v := file.OVMF["hashes_table_for_gen_kernel_initrd_cmdline"]
	kernel, initrd := "gen:kernel", "gen:initrd"
	cfg := Config{
		Firmware: must[*ovmf.Image](t)(ovmf.Parse(stored(t, "ovmf_AmdSev_suffix.bin"))),
		Kernel:   &Kernel{Kernel: content(&kernel), Initrd: content(&initrd), Cmdline: v.Cmdline},
	}
	if table := must[[]byte](t)(cfg.Kernel.table()); hex.EncodeToString(table) != v.Table {
		t.Errorf("table %x, want %s", table, v.Table)
	}
	page := must[[]byte](t)(cfg.hashesPage(ovmf.Section{GPA: 0x810000, Size: pageSize, Type: ovmf.KernelHashes}))
	if d := sha512.Sum384(page); hex.EncodeToString(d[:]) != v.Page {
		t.Errorf("page %x, want %s", d, v.Page)
	}
}

// testConfig is of a small firmware of our own.
func testConfig(t testing.TB) Config {
	t.Helper()
	return Config{
		Firmware: must[*ovmf.Image](t)(ovmf.Parse(ovmftest.Firmware())), Signature: 0x800f12, Features: 1, VMM: QEMU,
		Kernel: &Kernel{Kernel: sha256.Sum256([]byte("k")), Initrd: sha256.Sum256([]byte("i")), Cmdline: "quiet"},
	}
}

func TestEveryInputMatters(t *testing.T) {
	t.Parallel()
	base, _, err := Launch(testConfig(t), 2)
	if err != nil {
		t.Fatal(err)
	}
	seen := map[Digest]string{base[1]: "nothing", base[0]: "one processor"}
	for name, change := range map[string]func(*Config){
		"kernel": func(c *Config) { c.Kernel.Kernel[0]++ }, "initrd": func(c *Config) { c.Kernel.Initrd[0]++ }, "command line": func(c *Config) { c.Kernel.Cmdline += " " },
		"no kernel": func(c *Config) { c.Kernel = nil }, "model": func(c *Config) { c.Signature++ }, "features": func(c *Config) { c.Features = 0x21 },
		"firmware": func(c *Config) { c.Firmware.Data[0]++ }, "EC2": func(c *Config) { c.VMM = EC2 }, "GCE": func(c *Config) { c.VMM = GCE },
	} {
		cfg := testConfig(t)
		change(&cfg)
		d, _, err := Launch(cfg, 2)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if other, ok := seen[d[1]]; ok {
			t.Errorf("%s gives the digest of %s", name, other)
		}
		seen[d[1]] = name
	}
}

func TestLaunchesThatCannotBeAreRefused(t *testing.T) {
	t.Parallel()
	spoilt := func(change func([]byte)) func(*Config) {
		return func(c *Config) {
			b := ovmftest.Firmware()
			change(b)
			firmware(t, c, b)
		}
	}
	// place returns the nth section of the metadata.
	place := func(b []byte, n int) []byte { return b[len(b)-ovmftest.SEVOffset+16+12*n:] }
	put := binary.LittleEndian.PutUint32
	for name, tc := range map[string]struct {
		n     int
		spoil func(*Config)
		want  error
	}{
		"no processor":          {0, func(*Config) {}, ErrConfig},
		"fewer":                 {-1, func(*Config) {}, ErrConfig},
		"too many":              {maxVCPUs + 1, func(*Config) {}, ErrConfig},
		"no firmware":           {1, func(c *Config) { c.Firmware = nil }, ErrConfig},
		"unknown VMM":           {1, func(c *Config) { c.VMM = "vmx" }, ErrConfig},
		"no VMM":                {1, func(c *Config) { c.VMM = "" }, ErrConfig},
		"half a page":           {1, func(c *Config) { c.Firmware.Data = c.Firmware.Data[100:] }, ErrConfig},
		"kernel below SVSM":     {1, func(c *Config) { k := c.Kernel; withSVSM(t, c); c.Kernel = k }, ErrConfig},
		"SVSM of EC2":           {1, func(c *Config) { withSVSM(t, c); c.VMM = EC2 }, ErrConfig},
		"SVSM of no VMM":        {1, func(c *Config) { withSVSM(t, c); c.VMM = "" }, ErrConfig},
		"SVSM somewhere":        {1, func(c *Config) { withSVSM(t, c); c.FirmwareDigest = &Digest{} }, ErrConfig},
		"SVSM below nothing":    {1, func(c *Config) { withSVSM(t, c); c.VarsSize = 4<<30 - 4*pageSize + pageSize }, ErrConfig},
		"SVSM astride of pages": {1, func(c *Config) { withSVSM(t, c); c.VarsSize = 100 }, ErrConfig},
		"SVSM without start":    {1, func(c *Config) { c.SVSM, c.Kernel = c.Firmware, nil }, ovmf.ErrFirmware},
		"SVSM starts behind it": {1, func(c *Config) { withSVSM(t, c); c.SVSM = late(t) }, ovmf.ErrFirmware},
		"no metadata":           {1, spoilt(func(b []byte) { put(b[len(b)-ovmftest.SEVOffset+12:], 0) }), ovmf.ErrFirmware},
		"no table":              {1, spoilt(func(b []byte) { b[len(b)-33]++ }), ovmf.ErrFirmware},
		"no further processors": {1, spoilt(func(b []byte) { put(b[bytes.LastIndex(b, []byte{0x04, 0xb0, 0x80, 0}):], 0) }), ovmf.ErrFirmware},
		"unknown section":       {1, spoilt(func(b []byte) { put(place(b, 4)[8:], 7) }), ovmf.ErrFirmware},
		"two pages of secrets":  {1, spoilt(func(b []byte) { put(place(b, 2)[4:], 2*pageSize) }), ovmf.ErrFirmware},
		"two pages of CPUID":    {1, spoilt(func(b []byte) { put(place(b, 3)[4:], 2*pageSize) }), ovmf.ErrFirmware},
		"two pages for hashes":  {1, spoilt(func(b []byte) { put(place(b, 5)[4:], 2*pageSize) }), ErrNoHashes},
		"hashes elsewhere":      {1, spoilt(func(b []byte) { put(place(b, 5), 0x811000) }), ErrNoHashes},
		"no section for hashes": {1, spoilt(func(b []byte) { put(place(b, 5)[8:], ovmf.SecMem) }), ErrNoHashes},
		"no base of hashes":     {1, spoilt(func(b []byte) { put(b[hashTableAt(b):], 0) }), ErrNoHashes},
		"hashes over the edge":  {1, spoilt(func(b []byte) { put(b[hashTableAt(b):], 0x810fc0) }), ErrNoHashes},
		"little room for them":  {1, spoilt(func(b []byte) { put(b[hashTableAt(b)+4:], 175) }), ErrNoHashes},
	} {
		cfg := testConfig(t)
		tc.spoil(&cfg)
		if d, steps, err := Launch(cfg, tc.n); !errors.Is(err, tc.want) || d != nil || steps != nil {
			t.Errorf("%s: %x, %v", name, d, err)
		}
	}
}

// hashTableAt is where the firmware says where hashes go.
func hashTableAt(b []byte) int {
	return bytes.LastIndex(b, binary.LittleEndian.AppendUint32(nil, ovmftest.HashTable))
}

// late is a service module that begins behind its end.
func late(t *testing.T) *ovmf.Image {
	t.Helper()
	b := ovmftest.SVSM()
	at := bytes.LastIndex(b, binary.LittleEndian.AppendUint32(nil, ovmftest.SVSMStart))
	binary.LittleEndian.PutUint32(b[at:], uint32(len(b)))
	return must[*ovmf.Image](t)(ovmf.Parse(b))
}

func TestLaunchesOfSEVThatCannotBeAreRefused(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		n     int
		spoil func(*Config)
		want  error
	}{
		"no firmware":           {0, func(c *Config) { c.Firmware = nil }, ErrConfig},
		"fewer than none":       {-1, func(*Config) {}, ErrConfig},
		"too many":              {maxVCPUs + 1, func(*Config) {}, ErrConfig},
		"by digest":             {0, func(c *Config) { c.FirmwareDigest = &Digest{} }, ErrConfig},
		"service module":        {1, func(c *Config) { withSVSM(t, c) }, ErrConfig},
		"unknown VMM":           {1, func(c *Config) { c.VMM = "vmx" }, ErrConfig},
		"no place for hashes":   {0, func(c *Config) { firmware(t, c, make([]byte, pageSize)) }, ErrNoHashes},
		"no further processors": {1, func(c *Config) { firmware(t, c, make([]byte, pageSize)); c.Kernel = nil }, ovmf.ErrFirmware},
	} {
		cfg := testConfig(t)
		tc.spoil(&cfg)
		if d, err := LaunchSEV(cfg, tc.n); !errors.Is(err, tc.want) || d != [sha256.Size]byte{} {
			t.Errorf("%s: %x, %v", name, d, err)
		}
	}
}

func TestOnlyModelsOfQEMUHaveASignature(t *testing.T) {
	t.Parallel()
	for _, model := range []string{"", "host", "EPYC-", "EPYC-v", "EPYC-v0", "EPYC-v6", "EPYC-v44", "EPYC-IBPB-v1", "EPYC-Milan-v5", "EPYC-Genoa-v4", "EPYC-Turin-v3", "EPYC-v4 ", "epyc", "Opteron"} {
		if s, err := SignatureOf(model); !errors.Is(err, ErrConfig) || !strings.Contains(err.Error(), "EPYC-v4, EPYC-v5, EPYC-IBPB, EPYC-Rome") {
			t.Errorf("%q: %#x, %v", model, s, err)
		}
	}
	for model, want := range map[string]uint32{
		"EPYC": 0x800f12, "EPYC-v5": 0x800f12, "EPYC-IBPB": 0x800f12, "EPYC-Rome-v5": 0x830f10, "EPYC-Milan-v4": 0xa00f11, "EPYC-Genoa-v3": 0xa10f10, "EPYC-Turin-v2": 0xb00f00,
	} {
		if got, err := SignatureOf(model); err != nil || got != want {
			t.Errorf("%s: %#x, want %#x (%v)", model, got, want, err)
		}
	}
}
