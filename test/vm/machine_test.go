// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package vm_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"cocoon/measurements/explain"
	"cocoon/measurements/predict"
	"cocoon/measurements/vtpm"
	"cocoon/mkimage/format/esp"
	"cocoon/mkimage/format/gpt"
	"cocoon/mkimage/image"
	"cocoon/mkimage/lock"
	"cocoon/mkimage/manifest"
	"cocoon/mkimage/profile"
	"cocoon/test/vm"
)

// firmware is that of Debian's package ovmf.
const firmware = "/usr/share/OVMF/OVMF_CODE_4M.fd"

// TestAMachineThatBootsItself starts the disk of a pod VM by real firmware.
func TestAMachineThatBootsItself(t *testing.T) {
	t.Parallel()
	needMachine(t)
	if _, err := os.Stat(firmware); err != nil {
		t.Fatalf("the package ovmf is needed: %v", err)
	}
	p := named(t, "podvm")
	p.Kernel, p.OptionalModules, p.FirstOptionalModules = lock.Kernel, nil, nil // as in TestRootOnADisk
	p.Cmdline = append(p.Cmdline, "cocoon.console=7", "testguest.mode=tpm")
	p.Disks = []profile.Format{profile.Raw}
	dir := build(t, p, compile(t, "./internal/testguest"), compile(t, "cocoon/rootfs/first"))
	for name, test := range map[string]func(*testing.T, string){
		"its quote is what follows from the image": quotesPrediction,
		"a host's command line stops it":           hostsCommandLine,
		"a changed byte of the root stops it":      changedRoot,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, dir)
		})
	}
}

// quotesPrediction compares the guest's own quote with the image.
func quotesPrediction(t *testing.T, dir string) {
	g, err := vm.Start(t.Context(), dir, vm.Options{Firmware: firmware, Extra: softwareTPM(t, "tpm-crb")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(g.Close)
	expect(t, g, "attestation by the TPM")
	powersOff(t, g)
	console := g.Console()
	if !strings.Contains(console, "PASS attestation by the TPM") {
		t.Fatalf("no evidence:\n%s", console)
	}
	quoted := map[int]string{}
	for _, m := range regexp.MustCompile(`PCR (\d+) ([0-9a-f]{64})\b`).FindAllStringSubmatch(console, -1) {
		n, err := strconv.Atoi(m[1])
		if err != nil {
			t.Fatal(err)
		}
		quoted[n] = m[2]
	}
	for pcr, want := range predicted(t, dir) {
		if got := quoted[pcr]; got != want {
			t.Errorf("PCR %d is %s in the quote, predicted is %s", pcr, got, want)
		}
	}
	explained(t, dir, quoted)
}

// explained has the registers recognized as those of the image.
func explained(t *testing.T, dir string, quoted map[int]string) {
	t.Helper()
	pcrs := make([]string, 24)
	for n := range pcrs {
		pcrs[n] = quoted[n]
	}
	raw, err := json.Marshal(map[string]any{"ak_public": "", "tpm_quote": map[string]any{"pcrs": pcrs}})
	if err != nil {
		t.Fatal(err)
	}
	reported, err := explain.Decode(raw)
	if err != nil {
		t.Fatal(err)
	}
	g, err := predict.Open(dir, "vtpm")
	if err != nil {
		t.Fatal(err)
	}
	a, err := explain.Explain(reported, explain.Inputs{Images: []*predict.Guest{g}, Names: []string{"image"}, VCPUs: 1})
	if err != nil || !a.Fits() || len(a.Findings) != 6 {
		t.Errorf("the quote is explained by %+v (%v)", a, err)
	}
}

// hostsCommandLine has the firmware's shell start the program with another
// command line, which the stub takes without Secure Boot.
func hostsCommandLine(t *testing.T, dir string) {
	m, disk, table := rawDisk(t, dir)
	program, err := os.ReadFile(filepath.Join(dir, image.UKIFile))
	if err != nil {
		t.Fatal(err)
	}
	system, size, err := esp.New(1, []esp.File{
		{Path: "COCOON.EFI", Data: program}, {Path: "STARTUP.NSH", Data: []byte("fs0:\r\nCOCOON.EFI " + m.Cmdline + " agent.log=debug\r\n")},
	})
	if err != nil {
		t.Fatal(err)
	}
	parts := []gpt.Source{{Partition: table.Partitions[0], Content: system}}
	parts[0].Size = size
	for _, p := range table.Partitions[1:] {
		parts = append(parts, gpt.Source{Partition: p, Content: io.NewSectionReader(disk, p.Offset, p.Size)})
	}
	name := filepath.Join(t.TempDir(), "other.raw")
	other, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	_, err = gpt.Write(other, table.ID, parts, gpt.MiB)
	if err := errors.Join(err, other.Close()); err != nil {
		t.Fatal(err)
	}
	stopsAt(t, dir, name, "the command line is not that of the image")
}

// changedRoot changes a byte of the guest binary on the disk.
func changedRoot(t *testing.T, dir string) {
	_, disk, table := rawDisk(t, dir)
	root := table.Partitions[1]
	content := make([]byte, root.Size)
	if _, err := disk.ReadAt(content, root.Offset); err != nil {
		t.Fatal(err)
	}
	at := bytes.Index(content, []byte("\x7fELF")) + 1
	if _, err := disk.WriteAt([]byte{content[at] ^ 1}, root.Offset+int64(at)); at == 0 || err != nil {
		t.Fatalf("at %d: %v", at, err)
	}
	stopsAt(t, dir, disk.Name(), "root found", "Kernel panic")
}

// rawDisk returns a copy of the disk of an image, to be changed.
func rawDisk(t *testing.T, dir string) (*manifest.Manifest, *os.File, *gpt.Table) {
	t.Helper()
	m, err := image.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	disk, err := os.Create(filepath.Join(t.TempDir(), "disk.raw"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := disk.Close(); err != nil {
			t.Error(err)
		}
	})
	if err := image.RawDisk(dir, m, disk); err != nil {
		t.Fatal(err)
	}
	size, err := disk.Seek(0, io.SeekEnd)
	if err != nil {
		t.Fatal(err)
	}
	table, err := gpt.Read(disk, size)
	if err != nil {
		t.Fatal(err)
	}
	return m, disk, table
}

// stopsAt boots another disk, and wants to see what stops the guest.
func stopsAt(t *testing.T, dir, disk string, want ...string) {
	t.Helper()
	g, err := vm.Start(t.Context(), dir, vm.Options{Firmware: firmware, Root: disk})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(g.Close)
	expect(t, g, want...)
	stopped(t, g)
}

// predicted are the registers that an image decides.
func predicted(t *testing.T, dir string) map[int]string {
	t.Helper()
	program, err := os.ReadFile(filepath.Join(dir, image.UKIFile))
	if err != nil {
		t.Fatal(err)
	}
	release, err := vtpm.StubRelease(program)
	if err != nil {
		t.Fatal(err)
	}
	values, _, err := vtpm.Predict(sha256.New, program, release)
	if err != nil {
		t.Fatal(err)
	}
	document := sha256.Sum256([]byte("document"))
	if values[8], _, err = vtpm.InitData(document[:]); err != nil {
		t.Fatal(err)
	}
	if len(values) != 6 {
		t.Fatalf("predicted are %d registers", len(values))
	}
	all := map[int]string{}
	for pcr, v := range values {
		all[pcr] = hex.EncodeToString(v)
	}
	return all
}
