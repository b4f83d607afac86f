// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"cocoon/attest/tee/tdx"
	"cocoon/measurements/explain"
	"cocoon/measurements/ovmf/ovmftest"
	"cocoon/measurements/predict"
	"cocoon/measurements/shim"
	"cocoon/mkimage/image"
)

// saved writes evidence to a file.
func saved(t *testing.T, evidence []byte) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "evidence")
	if err := os.WriteFile(file, evidence, 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

func unhex(t *testing.T, text string) []byte {
	t.Helper()
	b, err := hex.DecodeString(text)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// report is one of SNP, without a signature.
func snpReport(t *testing.T, measurement, hostData string) []byte {
	t.Helper()
	b := make([]byte, 1184)
	b[0] = 3
	copy(b[0x90:], unhex(t, measurement))
	copy(b[0xc0:], unhex(t, hostData))
	return b
}

// tdxQuote is one with registers, without a signature.
func tdxQuote(t *testing.T, registers map[string]string) []byte {
	t.Helper()
	b := make([]byte, 48+584+4)
	binary.LittleEndian.PutUint16(b, 4)
	b[4] = 0x81
	q, err := tdx.ParseQuote(b)
	if err != nil {
		t.Fatal(err)
	}
	for name, value := range registers {
		copy(q.Field(name), unhex(t, value)) // a part of b
	}
	return b
}

// tpmEvidence has registers, and a quote of nobody.
func tpmEvidence(t *testing.T, registers map[int]string) []byte {
	t.Helper()
	pcrs := make([]string, 24)
	for i := range pcrs {
		pcrs[i] = strings.Repeat("00", 32)
		if v, ok := registers[i]; ok {
			pcrs[i] = v
		}
	}
	b, err := json.Marshal(map[string]any{"tpm_quote": map[string]any{"pcrs": pcrs}, "ak_public": []byte("key")})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// valueOf is that of a register in the last result of a command.
func valueOf(t *testing.T, register string, args ...string) string {
	t.Helper()
	all := predicted(t, args)
	for _, v := range all[len(all)-1].Values {
		if v.Name == register {
			return v.Value
		}
	}
	t.Fatalf("no %s", register)
	return ""
}

// lineOf is the command line of a shim that is configured in another way.
func lineOf(t *testing.T, dir, by string, change func(*shim.Config)) string {
	t.Helper()
	m, err := image.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	c, err := predict.DefaultLaunch().Config(m)
	if err != nil {
		t.Fatal(err)
	}
	change(&c)
	text, err := predict.Compose(by, c)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// says runs explain and compares what it prints, and whether it fails.
func says(t *testing.T, name string, fits bool, evidence []byte, args []string, want ...string) {
	t.Helper()
	out, err := run(t, append([]string{"explain", saved(t, evidence)}, args...)...)
	if fits != (err == nil) || err != nil && !errors.Is(err, errDiffers) {
		t.Errorf("%s: %v", name, err)
	}
	for _, w := range want {
		if !strings.Contains(out, w) {
			t.Errorf("%s: output lacks %q:\n%s", name, w, out)
		}
	}
}

func TestALaunchOfSNPIsExplained(t *testing.T) {
	t.Parallel()
	dir, firmware := built(t, "snp")
	other, _ := built(t, "snp-verity")
	second := filepath.Join(filepath.Dir(firmware), "second.fd")
	changed := ovmftest.Firmware()
	changed[0] ^= 1
	if err := os.WriteFile(second, changed, 0o600); err != nil {
		t.Fatal(err)
	}
	base := []string{dir, "--firmware", firmware, "--vcpus", "40"}
	none := strings.Repeat("00", 32)
	debug := lineOf(t, dir, "go", func(c *shim.Config) { c.Debug = true })
	console := lineOf(t, dir, "rs", func(c *shim.Config) { c.Debug, c.Agent["debug_console"] = true, "1026" })
	for name, tc := range map[string]struct {
		launch, args []string
		want         []string
	}{
		"as built":   {[]string{"--shim", "rs", "--vcpus", "3"}, nil, []string{"expected   snp_launch_measurement", "shim rs, vcpus 3, cpu EPYC-v4, features 0x1"}},
		"processors": {[]string{"--vcpus", "40"}, nil, []string{"changed    snp_launch_measurement", "- 40 processors, more than 32"}},
		"model":      {[]string{"--cpu", "EPYC-Genoa"}, nil, []string{"- processor model EPYC-Genoa instead of EPYC-v4"}},
		"features":   {[]string{"--features", "33"}, nil, []string{"- SEV features 0x21 instead of 0x1"}},
		"newline":    {[]string{"--cmdline", lineOf(t, dir, "go", func(*shim.Config) {}) + "\n"}, nil, []string{"- a newline at the end"}},
		"debug":      {[]string{"--cmdline", debug}, nil, []string{"- shim configured with enable_debug of the hypervisor"}},
		"two options": {[]string{"--cmdline", console}, nil, []string{
			"- shim configured with enable_debug of the hypervisor", "- shim configured with debug_console_enabled of the agent"}},
		"firmware": {[]string{"--firmware", second}, []string{"--firmware", second}, []string{"- firmware " + second + " instead of " + firmware}},
		"image":    {[]string{"IMAGE", other}, []string{"--other", other}, []string{"- image " + other + " instead of " + dir}},
		"words": {[]string{"--kernel-params", "foo=1"}, nil, []string{
			"unknown    snp_launch_measurement", "? firmware", "? a command line with words that were not tried"}},
	} {
		launch := append([]string{"snp", dir, "--firmware", firmware, "--vcpus", "1"}, tc.launch...)
		if i := slices.Index(launch, "IMAGE"); i >= 0 {
			launch = []string{"snp", launch[i+1], "--firmware", firmware, "--vcpus", "1"}
		}
		evidence := snpReport(t, valueOf(t, "snp_launch_measurement", launch...), none)
		says(t, name, name == "as built", evidence, append(slices.Clone(base), tc.args...), append(tc.want, "expected   snp_host_data", "No signature was")...)
	}
	words := snpReport(t, valueOf(t, "snp_launch_measurement", "snp", dir, "--firmware", firmware, "--vcpus", "1", "--kernel-params", "foo=1"), none)
	says(t, "words that are named", true, words, append(slices.Clone(base), "--kernel-params", "foo=1"), "expected   snp_launch_measurement")
	says(t, "a folder of firmware", true, words, []string{dir, "--firmware", filepath.Dir(firmware), "--kernel-params", "foo=1", "--vcpus", "1"}, "is of image "+dir+", firmware "+firmware)
}

func TestInitdataThatAHostChangesIsSeen(t *testing.T) {
	t.Parallel()
	dir, firmware := built(t, "snp")
	document, _ := ownersDocument(t, "sha384")
	args := []string{"snp", dir, "--firmware", firmware, "--vcpus", "1", "--initdata", document}
	digest, host := valueOf(t, "snp_launch_measurement", args...), valueOf(t, "snp_host_data", args...)
	base := []string{dir, "--firmware", firmware, "--vcpus", "1"}
	named := append(slices.Clone(base), "--initdata", document)
	says(t, "the owner's", true, snpReport(t, digest, host), named, "expected   snp_host_data", "is of initdata the document")
	says(t, "withheld", false, snpReport(t, digest, strings.Repeat("00", 32)), named, "changed    snp_host_data", "- the host handed over no initdata")
	says(t, "another", false, snpReport(t, digest, strings.Repeat("11", 32)), named, "unknown    snp_host_data", "? the host handed over another initdata")
	says(t, "not named", true, snpReport(t, digest, host), base, "unchecked  snp_host_data", "? the guest was started with initdata")
}

func TestALaunchOfTDXIsExplainedByRegister(t *testing.T) {
	t.Parallel()
	dir, firmware := built(t, "tdx")
	// Of a firmware of one page both ways to measure it give the same.
	large := ovmftest.Firmware()
	for at, v := range map[int]uint32{16: 0, 20: 8192, 24: 0xffffe000, 32: 8192, 56: 0xffffd000} { // first section, and where the second lies
		binary.LittleEndian.PutUint32(large[len(large)-ovmftest.TDXOffset+at:], v)
	}
	if err := os.WriteFile(firmware, large, 0o600); err != nil {
		t.Fatal(err)
	}
	launch := []string{"tdx", dir, "--firmware", firmware, "--edk2", "202411", "--qemu", "1100"}
	registers := map[string]string{}
	for _, name := range []string{"mr_td", "rtmr_1", "rtmr_2"} {
		registers[name] = valueOf(t, name, launch...)
	}
	base := []string{dir, "--firmware", firmware}
	says(t, "as built", true, tdxQuote(t, registers), base, "expected   mr_td", "expected   rtmr_1", "edk2 202411, qemu 11.0", "expected   rtmr_2", "shim rs", "expected   rtmr_3", "unchecked  rtmr_0")
	says(t, "without firmware", true, tdxQuote(t, registers), []string{dir}, "unchecked  mr_td", "? it is of the firmware")
	debug := tdxQuote(t, registers)
	debug[48+120] = 1
	says(t, "debug", true, debug, base, "note: the trust domain can be debugged")
	iommu := lineOf(t, dir, "go", func(c *shim.Config) { c.IOMMU = true })
	for name, tc := range map[string]struct {
		register, value string
		want            []string
	}{
		"two passes":  {"mr_td", valueOf(t, "mr_td", append(launch, "--two-pass")...), []string{"changed    mr_td", "- measured as by stacks"}},
		"firmware":    {"mr_td", strings.Repeat("11", 48), []string{"unknown    mr_td", "? another firmware"}},
		"kernel":      {"rtmr_1", strings.Repeat("11", 48), []string{"unknown    rtmr_1", "? kernel of another image", "expected   rtmr_2"}},
		"option":      {"rtmr_2", valueOf(t, "rtmr_2", append(launch, "--cmdline", iommu)...), []string{"changed    rtmr_2", "- shim configured with enable_iommu", "expected   rtmr_1"}},
		"line":        {"rtmr_2", strings.Repeat("11", 48), []string{"unknown    rtmr_2", "? a command line with words"}},
		"agent's log": {"rtmr_3", strings.Repeat("11", 48), []string{"unchecked  rtmr_3", "--eventlog"}},
		"initdata":    {"mr_config_id", strings.Repeat("11", 48), []string{"unchecked  mr_config_id", "--initdata"}},
	} {
		changed := maps.Clone(registers)
		changed[tc.register] = tc.value
		says(t, name, slices.ContainsFunc(tc.want, func(w string) bool { return strings.HasPrefix(w, "unchecked") }), tdxQuote(t, changed), base, tc.want...)
	}
}

func TestTheRegistersOfAMachineAreExplained(t *testing.T) {
	t.Parallel()
	dir, _ := built(t, "podvm")
	registers := map[int]string{}
	for _, pcr := range []int{4, 9, 11} {
		registers[pcr] = valueOf(t, fmt.Sprintf("tpm_pcr%02d", pcr), "vtpm", dir)
	}
	says(t, "as built", true, tpmEvidence(t, registers), []string{dir}, "expected   pcr04", "expected   pcr09", "expected   pcr11", "expected   pcr12", "expected   pcr08", "stub 252")
	says(t, "its manifest", true, tpmEvidence(t, registers), []string{dir + "/manifest.json"}, "expected   pcr04")
	for name, tc := range map[string]struct {
		pcr   int
		value string
		want  []string
	}{
		"program":     {4, strings.Repeat("11", 32), []string{"unknown    pcr04", "a program that the firmware started before it"}},
		"credentials": {12, strings.Repeat("11", 32), []string{"unknown    pcr12", "? a command line or credentials that the host laid beside the image"}},
		"stub":        {9, valueOf(t, "tpm_pcr09", "vtpm", dir, "--stub", "257"), []string{"changed    pcr09", "- measured as by stub 257, which is not the image's"}},
	} {
		changed := maps.Clone(registers)
		changed[tc.pcr] = tc.value
		says(t, name, false, tpmEvidence(t, changed), []string{dir}, tc.want...)
	}
}

func TestAnAnswerIsForProgramsToo(t *testing.T) {
	t.Parallel()
	dir, firmware := built(t, "snp")
	evidence := saved(t, snpReport(t, strings.Repeat("11", 48), strings.Repeat("00", 32)))
	out, err := run(t, "explain", evidence, dir, "--firmware", firmware, "--vcpus", "1", "--format", "json")
	var a explain.Answer
	if !errors.Is(err, errDiffers) || json.Unmarshal([]byte(out), &a) != nil || a.TEE != "snp" || a.Tried < 1000 || a.Findings[0].Verdict != explain.Unknown || a.Fits() {
		t.Errorf("%v: %+v", err, a)
	}
}

func TestWhatCannotBeExplainedIsRefused(t *testing.T) {
	t.Parallel()
	dir, firmware := built(t, "snp")
	good := saved(t, snpReport(t, strings.Repeat("11", 48), strings.Repeat("00", 32)))
	quote := saved(t, tdxQuote(t, nil))
	for name, tc := range map[string]struct {
		args []string
		want string
	}{
		"no evidence":     {[]string{dir + "/absent", dir}, "absent"},
		"other file":      {[]string{dir + "/vmlinuz", dir}, "neither JSON"},
		"other JSON":      {[]string{dir + "/manifest.json", dir}, "of no kind that is known"},
		"no image":        {[]string{good, t.TempDir()}, "manifest.json"},
		"image of a TEE":  {[]string{quote, dir}, "not for \"tdx\""},
		"no firmware":     {[]string{good, dir}, "name it with --firmware"},
		"absent firmware": {[]string{good, dir, "--firmware", dir + "/absent"}, "absent"},
		"not firmware":    {[]string{good, dir, "--firmware", dir + "/vmlinuz"}, "no firmware that a guest"},
		"processors":      {[]string{good, dir, "--firmware", firmware, "--vcpus", "0"}, "0 processors"},
		"shim":            {[]string{good, dir, "--firmware", firmware, "--shim", "x"}, "want go or rs"},
		"agent":           {[]string{good, dir, "--firmware", firmware, "--agent", "x"}, "NAME=VALUE"},
		"initdata":        {[]string{good, dir, "--firmware", firmware, "--initdata", dir + "/manifest.json"}, "initdata"},
		"event log":       {[]string{good, dir, "--firmware", firmware, "--eventlog", dir + "/absent"}, "absent"},
		"format":          {[]string{good, dir, "--firmware", firmware, "--format", "html"}, "want table or json"},
	} {
		out, err := run(t, append([]string{"explain"}, tc.args...)...)
		if err == nil || errors.Is(err, errDiffers) || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v\n%s", name, err, out)
		}
	}
}
