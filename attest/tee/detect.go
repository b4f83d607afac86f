// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

// Package tee finds out which trusted execution environment the guest runs in
// and gives out the attester for it.
//
// Trust: devices, ACPI tables and sysfs entries are what the host presents, so
// detection proves nothing. It only decides which kind of evidence is asked
// for; the verifier decides whether to believe it. A platform that is found but
// has no attester in this build is an error. It never turns into sample
// evidence, which anybody can make.
package tee

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// Kind is a platform's name on the wire.
type Kind string

// The platforms, in the order in which they are looked for.
const (
	TDX       Kind = "tdx"
	SGX       Kind = "sgx"
	AzTDXVTPM Kind = "az-tdx-vtpm"
	AzSNPVTPM Kind = "az-snp-vtpm"
	SNP       Kind = "snp"
	CSV       Kind = "csv"
	CCA       Kind = "cca"
	SE        Kind = "se"
	TPM       Kind = "tpm"
	Sample    Kind = "sample"
)

// ErrUnknownKind is returned for an override that names no platform.
var ErrUnknownKind = errors.New("unknown TEE")

// The hardware types of an Azure HCL report.
const (
	hclSNP = 2
	hclTDX = 4
)

const (
	tsmReports = "sys/kernel/config/tsm/report"
	maxProbe   = 256
)

// Platform is what detection looks at. Only Root is required.
type Platform struct {
	// Root is the directory below which /dev and /sys are looked for.
	Root string
	// Arch is the architecture as runtime.GOARCH names it.
	Arch string
	// Getenv reads the environment; nil means that it is empty.
	Getenv func(string) string
	// HCLType reads the hardware type of the Azure HCL report in TPM NV index
	// 0x01400001. It returns fs.ErrNotExist if there is none. It is called only
	// if a TPM device exists; nil means that Azure is not looked for.
	HCLType func() (uint32, error)
	// Override names the platform and skips detection. It must come from the
	// measured command line or configuration.
	Override string

	// tsm asks for the provider of TSM reports; nil means configfs below Root.
	// Only a kernel can fill a directory there, so tests put a provider here.
	tsm func() (string, error)
}

// Detect returns the first platform that is present, and Sample if none is. An
// entry that exists but cannot be read is an error, since it may belong to a
// real TEE.
func Detect(p Platform) (Kind, error) {
	if p.Override != "" {
		return ParseKind(p.Override)
	}
	for _, probe := range probes() {
		kind, err := probe(p)
		if err != nil {
			return "", fmt.Errorf("detect TEE: %w", err)
		}
		if kind != "" {
			return kind, nil
		}
	}
	return Sample, nil
}

// ParseKind returns the Kind that name stands for, or ErrUnknownKind.
func ParseKind(name string) (Kind, error) {
	switch k := Kind(name); k {
	case TDX, SGX, AzTDXVTPM, AzSNPVTPM, SNP, CSV, CCA, SE, TPM, Sample:
		return k, nil
	}
	return "", fmt.Errorf("%w %q", ErrUnknownKind, name)
}

// A probe returns "" if its platform is absent.
type probe func(Platform) (Kind, error)

func probes() []probe {
	return []probe{
		probeTDX, probeSGX, probeAzure,
		exists(SNP, "sys/devices/platform/sev-guest"),
		exists(CSV, "dev/csv-guest"),
		probeCCA, probeSE, probeTPM,
	}
}

func exists(kind Kind, name string) probe {
	return func(p Platform) (Kind, error) {
		ok, err := p.has(name)
		return pick(kind, ok), err
	}
}

func probeTDX(p Platform) (Kind, error) {
	provider, err := p.tsmProvider()
	if err != nil || provider == "tdx_guest" {
		return pick(TDX, err == nil), err
	}
	return exists(TDX, "dev/tdx_guest")(p)
}

func probeSGX(p Platform) (Kind, error) {
	if p.getenv("OCCLUM") != "" {
		return SGX, nil
	}
	text, err := p.read("dev/attestation/attestation_type")
	return pick(SGX, text == "dcap"), err
}

func probeAzure(p Platform) (Kind, error) {
	if p.HCLType == nil {
		return "", nil
	}
	if tpm, err := probeTPM(p); err != nil || tpm == "" {
		return "", err
	}
	hardware, err := p.HCLType()
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "", nil
	case err != nil:
		return "", fmt.Errorf("read HCL report: %w", err)
	case hardware == hclTDX:
		return AzTDXVTPM, nil
	}
	return pick(AzSNPVTPM, hardware == hclSNP), nil
}

func probeCCA(p Platform) (Kind, error) {
	if p.Arch != "arm64" {
		return "", nil
	}
	provider, err := p.tsmProvider()
	return pick(CCA, provider == "arm_cca_guest"), err
}

func probeSE(p Platform) (Kind, error) {
	text, err := p.read("sys/firmware/uv/prot_virt_guest")
	return pick(SE, text == "1"), err
}

func probeTPM(p Platform) (Kind, error) {
	names := []string{"dev/tpm0", "dev/tpm1", "dev/tpm2"}
	if dev := p.getenv("AA_TPM_DEVICE"); dev != "" {
		names = append([]string{dev}, names...)
	}
	for _, name := range names {
		if ok, err := p.has(name); ok || err != nil {
			return pick(TPM, ok), err
		}
	}
	return "", nil
}

func pick(kind Kind, ok bool) Kind {
	if ok {
		return kind
	}
	return ""
}

func (p Platform) getenv(name string) string {
	if p.Getenv == nil {
		return ""
	}
	return p.Getenv(name)
}

func (p Platform) has(name string) (bool, error) {
	_, err := os.Stat(filepath.Join(p.Root, name))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

// read returns the trimmed text of a small file, "" if it does not exist.
func (p Platform) read(name string) (string, error) {
	f, err := os.Open(filepath.Join(p.Root, name))
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	defer f.Close()
	b := make([]byte, maxProbe)
	// sysfs and configfs attributes come in one read.
	n, err := f.Read(b)
	if err != nil && !errors.Is(err, io.EOF) {
		return "", fmt.Errorf("read %q: %w", name, err)
	}
	return strings.TrimSpace(string(b[:n])), nil
}

// tsmProvider asks configfs for the provider of TSM reports, "" if there is
// none. The kernel fills a directory that is made there with attributes; it is
// removed again, since each one holds kernel memory.
func (p Platform) tsmProvider() (provider string, err error) {
	if p.tsm != nil {
		return p.tsm()
	}
	base := filepath.Join(p.Root, tsmReports)
	if ok, err := p.has(tsmReports); !ok {
		return "", err
	}
	dir, err := os.MkdirTemp(base, "cocoon-")
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENXIO) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("make TSM report: %w", err)
	}
	defer func() {
		if e := os.Remove(dir); e != nil && err == nil {
			err = fmt.Errorf("remove TSM report: %w", e)
		}
	}()
	return p.read(filepath.Join(tsmReports, filepath.Base(dir), "provider"))
}
