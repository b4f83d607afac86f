// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package snp

import (
	"bytes"
	"compress/gzip"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"io"
	"math/big"
	"slices"
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

// stored are the vectors' files that are there.
func stored(t testing.TB, name string) []byte {
	t.Helper()
	switch name {
	case "ovmf_AmdSev_suffix.bin", "ovmf_OvmfX64_suffix.bin":
		return sharedtest.Read(t, "measure/snp/"+name)
	case "svsm_ovmf.fd", "svsm.bin":
		z := must[*gzip.Reader](t)(gzip.NewReader(bytes.NewReader(sharedtest.Read(t, "measure/snp/"+name+".gz"))))
		return must[[]byte](t)(io.ReadAll(z))
	}
	return nil
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

func (v vector) config(t testing.TB, firmware []byte) Config {
	t.Helper()
	cfg := Config{Firmware: must[*ovmf.Image](t)(ovmf.Parse(firmware)), Signature: v.Signature, Features: v.Features, VMM: v.VMM, VarsSize: v.VarsSize}
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

// The published vectors are sev-snp-measure's own. Those that need a firmware
// that is not stored are left to whoever has it.
func TestTheVectorsOfTheReference(t *testing.T) {
	t.Parallel()
	var file struct{ Vectors []vector }
	if err := json.Unmarshal(sharedtest.Read(t, "measure/snp/launch_digest.json"), &file); err != nil {
		t.Fatal(err)
	}
	ran := 0
	for _, v := range file.Vectors {
		firmware := stored(t, v.OVMF)
		if firmware == nil {
			continue
		}
		ran++
		got, err := v.compute(v.config(t, firmware))
		if v.Error != "" {
			if !errors.Is(err, ErrNoHashes) {
				t.Errorf("%s: %s, %v", v.ID, got, err)
			}
		} else if err != nil || got != v.Digest {
			t.Errorf("%s: %s, want %s (%v)", v.ID, got, v.Digest, err)
		}
	}
	if ran < 25 {
		t.Errorf("only %d vectors ran", ran)
	}
}

func TestStatesAndSignaturesAreThoseOfTheReference(t *testing.T) {
	t.Parallel()
	var file struct {
		VMSA []struct {
			VMM       VMM            `json:"vmm_type"`
			EIP       uint32         `json:"eip"`
			Signature uint32         `json:"vcpu_sig"`
			Features  uint64         `json:"guest_features"`
			SHA384    string         `json:"sha384"`
			Nonzero   map[string]int `json:"nonzero"`
		} `json:"vmsa"`
		Signatures map[string]uint32 `json:"cpu_sigs"`
	}
	if err := json.Unmarshal(sharedtest.Read(t, "measure/snp/intermediate.json"), &file); err != nil {
		t.Fatal(err)
	}
	for _, v := range file.VMSA {
		if v.VMM != QEMU && v.VMM != EC2 && v.VMM != GCE {
			continue
		}
		s := must[state](t)(Config{VMM: v.VMM, Signature: v.Signature, Features: v.Features}.state(v.EIP))
		if d := sha512.Sum384(s[:]); hex.EncodeToString(d[:]) != v.SHA384 {
			t.Errorf("%s at %#x: %x", v.VMM, v.EIP, d)
		}
	}
	for model, want := range file.Signatures {
		if model == "host" {
			continue
		}
		if got, err := SignatureOf(model); err != nil || got != want {
			t.Errorf("%s: %#x, want %#x (%v)", model, got, want, err)
		}
	}
	if len(file.VMSA) == 0 || len(file.Signatures) == 0 {
		t.Error("nothing was compared")
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

// The digests come from sev-snp-measure 0.0.13, run on the file that ovmftest
// makes, with files of the one letter "k" and "i" and -v 1 to 3.
func TestTheDigestsOfOurOwnFirmware(t *testing.T) {
	t.Parallel()
	want := []string{
		"77bf3076579df48182a9a5171b9c03c6dee4e5ddb61d063616915ccd976966b6ef9916b4936d43a1d074c5b2a41082d8",
		"f7e2f12555b0f59d3593abfbbaddde429e66f88a80cc043a3a16e2bf236143440d5101ee7c5e8f24dd31f7a6392c22c5",
		"379b188be75e6e95d6f0fb1b02e9a2c5bc87ded469d53229a285ccbae7d82ed678d8e65bdaca01b940b19fc1de037db4",
	}
	got, steps, err := Launch(testConfig(t), 3)
	if err != nil {
		t.Fatal(err)
	}
	for i, d := range got {
		if hex.EncodeToString(d[:]) != want[i] {
			t.Errorf("%d processors: %x", i+1, d)
		}
	}
	if last := steps[len(steps)-1]; last.Digest != got[2] || last.What != "state of processor 2" || steps[0].What != "firmware" || steps[0].Pages != 2 {
		t.Errorf("steps %+v", steps)
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

func TestAFirmwaresDigestStandsForIt(t *testing.T) {
	t.Parallel()
	cfg := testConfig(t)
	want, _, err := Launch(cfg, 1)
	if err != nil {
		t.Fatal(err)
	}
	d := must[Digest](t)(FirmwareDigest(cfg.Firmware))
	cfg.FirmwareDigest, cfg.Firmware = &d, must[*ovmf.Image](t)(ovmf.Parse(cfg.Firmware.Data[pageSize:]))
	if got, _, err := Launch(cfg, 1); err != nil || got[0] != want[0] {
		t.Errorf("%x, want %x (%v)", got, want[0], err)
	}
}

func TestLaunchesThatCannotBeAreRefused(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		n     int
		spoil func(*Config)
		want  error
	}{
		"no processor":       {0, func(*Config) {}, ErrConfig},
		"too many":           {maxVCPUs + 1, func(*Config) {}, ErrConfig},
		"no firmware":        {1, func(c *Config) { c.Firmware = nil }, ErrConfig},
		"unknown VMM":        {1, func(c *Config) { c.VMM = "vmx" }, ErrConfig},
		"half a page":        {1, func(c *Config) { c.Firmware.Data = c.Firmware.Data[100:] }, ErrConfig},
		"kernel below SVSM":  {1, func(c *Config) { c.SVSM = c.Firmware }, ErrConfig},
		"SVSM without start": {1, func(c *Config) { c.SVSM, c.Kernel = c.Firmware, nil }, ovmf.ErrFirmware},
	} {
		cfg := testConfig(t)
		tc.spoil(&cfg)
		if d, _, err := Launch(cfg, tc.n); !errors.Is(err, tc.want) {
			t.Errorf("%s: %x, %v", name, d, err)
		}
	}
	if _, err := LaunchSEV(Config{}, 0); !errors.Is(err, ErrConfig) {
		t.Errorf("SEV without firmware: %v", err)
	}
	for _, model := range []string{"", "host", "EPYC-", "EPYC-v", "EPYC-v0", "EPYC-v44", "epyc", "Opteron"} {
		if s, err := SignatureOf(model); !errors.Is(err, ErrConfig) || err != nil && !strings.Contains(err.Error(), "EPYC-Milan") {
			t.Errorf("%q: %#x, %v", model, s, err)
		}
	}
}

func key(t testing.TB, text string) *ecdsa.PrivateKey {
	t.Helper()
	b, _ := pem.Decode([]byte(text))
	return must[*ecdsa.PrivateKey](t)(x509.ParseECPrivateKey(b.Bytes))
}

// The keys are test keys that the reference publishes.
func TestTheIDBlockIsTheReferences(t *testing.T) {
	t.Parallel()
	var v struct {
		Digest    string `json:"launch_digest_b64"`
		Policy    uint64
		Block     string `json:"id_block_b64"`
		IDDigest  string `json:"id_key_digest_b64"`
		AuDigest  string `json:"author_key_digest_b64"`
		IDKey     string `json:"id_key_pem"`
		AuthorKey string `json:"author_key_pem"`
	}
	if err := json.Unmarshal(sharedtest.Read(t, "measure/snp/id_block.json"), &v); err != nil {
		t.Fatal(err)
	}
	b := IDBlock{LaunchDigest: Digest(must[[]byte](t)(base64.StdEncoding.DecodeString(v.Digest))), Policy: v.Policy}
	if got := base64.StdEncoding.EncodeToString(b.Bytes()); got != v.Block {
		t.Errorf("block %s", got)
	}
	for text, want := range map[string]string{v.IDKey: v.IDDigest, v.AuthorKey: v.AuDigest} {
		if d := must[Digest](t)(KeyDigest(&key(t, text).PublicKey)); base64.StdEncoding.EncodeToString(d[:]) != want {
			t.Errorf("digest of a key: %x", d)
		}
	}
}

func TestAnIDBlockIsSigned(t *testing.T) {
	t.Parallel()
	id := must[*ecdsa.PrivateKey](t)(ecdsa.GenerateKey(elliptic.P384(), rand.Reader))
	author := must[*ecdsa.PrivateKey](t)(ecdsa.GenerateKey(elliptic.P384(), rand.Reader))
	b := IDBlock{Policy: DefaultPolicy, GuestSVN: 3, FamilyID: [16]byte{1}}
	raw := must[[]byte](t)(Auth(b, id, author))
	little := func(at int) *big.Int {
		n := slices.Clone(raw[at : at+number])
		slices.Reverse(n)
		return new(big.Int).SetBytes(n)
	}
	public := must[[]byte](t)(PublicKey(&id.PublicKey))
	block, vouched := sha512.Sum384(b.Bytes()), sha512.Sum384(public)
	if len(raw) != idAuthSize || !bytes.Equal(raw[atIDKey:atIDKey+keySize], public) || binary.LittleEndian.Uint32(raw[4:]) != 1 {
		t.Error("keys are elsewhere")
	}
	if !ecdsa.Verify(&id.PublicKey, block[:], little(atIDSignature), little(atIDSignature+number)) {
		t.Error("the block's signature does not hold")
	}
	if !ecdsa.Verify(&author.PublicKey, vouched[:], little(atAuthorSignature), little(atAuthorSignature+number)) {
		t.Error("the author's signature does not hold")
	}
	alone := must[[]byte](t)(Auth(b, id, nil))
	if binary.LittleEndian.Uint32(alone[4:]) != 0 || len(bytes.Trim(alone[atAuthorSignature:], "\x00")) != 0 {
		t.Error("an author is there that nobody named")
	}
	other := must[*ecdsa.PrivateKey](t)(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	if _, err := Auth(b, other, nil); !errors.Is(err, ErrConfig) {
		t.Errorf("a key of another curve: %v", err)
	}
}

func BenchmarkLaunch64(b *testing.B) {
	cfg := testConfig(b)
	for b.Loop() {
		if _, _, err := Launch(cfg, 64); err != nil {
			b.Fatal(err)
		}
	}
}
