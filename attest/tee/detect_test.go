// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package tee

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

// tree makes files below a root; a name that ends in / is a directory.
func tree(t *testing.T, files map[string]string) string {
	t.Helper()
	root := t.TempDir()
	for name, text := range files {
		path := filepath.Join(root, name)
		if name[len(name)-1] == '/' {
			if err := os.MkdirAll(path, 0o755); err != nil {
				t.Fatal(err)
			}
			continue
		}
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

func hcl(hardware uint32) func() (uint32, error) {
	return func() (uint32, error) { return hardware, nil }
}

func tsm(provider string) func() (string, error) {
	return func() (string, error) { return provider, nil }
}

func env(name, value string) func(string) string {
	return func(n string) string {
		if n == name {
			return value
		}
		return ""
	}
}

func TestThePlatformIsRecognized(t *testing.T) {
	t.Parallel()
	const sev, tpm = "sys/devices/platform/sev-guest/", "dev/tpm0"
	for name, tc := range map[string]struct {
		files map[string]string
		p     Platform
		want  Kind
	}{
		"nothing":                       {nil, Platform{}, Sample},
		"tdx":                           {map[string]string{"dev/tdx_guest": ""}, Platform{}, TDX},
		"snp":                           {map[string]string{sev: ""}, Platform{}, SNP},
		"csv":                           {map[string]string{"dev/csv-guest": ""}, Platform{}, CSV},
		"se":                            {map[string]string{"sys/firmware/uv/prot_virt_guest": "1\n"}, Platform{}, SE},
		"uv host, no guest":             {map[string]string{"sys/firmware/uv/prot_virt_guest": "0\n"}, Platform{}, Sample},
		"sgx by library os":             {map[string]string{"dev/attestation/attestation_type": "dcap"}, Platform{}, SGX},
		"sgx by environment":            {nil, Platform{Getenv: env("OCCLUM", "yes")}, SGX},
		"other attestation type":        {map[string]string{"dev/attestation/attestation_type": "none"}, Platform{}, Sample},
		"tpm":                           {map[string]string{tpm: ""}, Platform{}, TPM},
		"third tpm":                     {map[string]string{"dev/tpm2": ""}, Platform{}, TPM},
		"tpm by environment":            {map[string]string{"dev/mytpm": ""}, Platform{Getenv: env("AA_TPM_DEVICE", "/dev/mytpm")}, TPM},
		"tpm named but absent":          {nil, Platform{Getenv: env("AA_TPM_DEVICE", "/dev/mytpm")}, Sample},
		"azure snp":                     {map[string]string{tpm: ""}, Platform{HCLType: hcl(2)}, AzSNPVTPM},
		"azure tdx":                     {map[string]string{tpm: ""}, Platform{HCLType: hcl(4)}, AzTDXVTPM},
		"azure other":                   {map[string]string{tpm: ""}, Platform{HCLType: hcl(0)}, TPM},
		"azure before snp":              {map[string]string{tpm: "", sev: ""}, Platform{HCLType: hcl(2)}, AzSNPVTPM},
		"tdx before azure":              {map[string]string{tpm: "", "dev/tdx_guest": ""}, Platform{HCLType: hcl(2)}, TDX},
		"hcl without tpm is not read":   {nil, Platform{HCLType: func() (uint32, error) { panic("read") }}, Sample},
		"tpm without hcl report":        {map[string]string{tpm: ""}, Platform{HCLType: func() (uint32, error) { return 0, fs.ErrNotExist }}, TPM},
		"snp before tpm":                {map[string]string{tpm: "", sev: ""}, Platform{}, SNP},
		"snp before csv":                {map[string]string{"dev/csv-guest": "", sev: ""}, Platform{}, SNP},
		"tsm without provider":          {map[string]string{"sys/kernel/config/tsm/report/": ""}, Platform{Arch: "arm64"}, Sample},
		"tdx by tsm":                    {nil, Platform{tsm: tsm("tdx_guest")}, TDX},
		"cca by tsm":                    {nil, Platform{Arch: "arm64", tsm: tsm("arm_cca_guest")}, CCA},
		"cca provider elsewhere":        {nil, Platform{Arch: "amd64", tsm: tsm("arm_cca_guest")}, Sample},
		"snp by device, not by tsm":     {nil, Platform{tsm: tsm("sev_guest")}, Sample},
		"override to sample":            {map[string]string{sev: "", tpm: ""}, Platform{Override: "sample"}, Sample},
		"override to what is not there": {nil, Platform{Override: "snp"}, SNP},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := tc.p
			p.Root = tree(t, tc.files)
			if got, err := Detect(p); err != nil || got != tc.want {
				t.Errorf("got %q, %v; want %q", got, err, tc.want)
			}
		})
	}
}

func TestTheTSMReportDirectoryIsRemovedAgain(t *testing.T) {
	t.Parallel()
	root := tree(t, map[string]string{"sys/kernel/config/tsm/report/": ""})
	if _, err := Detect(Platform{Root: root}); err != nil {
		t.Fatal(err)
	}
	left, err := os.ReadDir(filepath.Join(root, tsmReports))
	if err != nil || len(left) != 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

func TestAnEntryThatCannotBeReadIsNoAbsence(t *testing.T) {
	t.Parallel()
	if got, err := Detect(Platform{Root: tree(t, map[string]string{"dev/attestation/attestation_type/": ""})}); err == nil {
		t.Errorf("unreadable entry: got %q", got)
	}
	if got, err := Detect(Platform{Root: tree(t, map[string]string{"dev": ""})}); !errors.Is(err, syscall.ENOTDIR) {
		t.Errorf("dev is a file: got %q, %v", got, err)
	}
	mute := errors.New("configfs fails")
	if got, err := Detect(Platform{Root: t.TempDir(), tsm: func() (string, error) { return "", mute }}); !errors.Is(err, mute) {
		t.Errorf("TSM that fails: got %q, %v", got, err)
	}
	broken := errors.New("TPM is busy")
	p := Platform{Root: tree(t, map[string]string{"dev/tpm0": ""}), HCLType: func() (uint32, error) { return 0, broken }}
	if got, err := Detect(p); !errors.Is(err, broken) {
		t.Errorf("TPM that fails: got %q, %v", got, err)
	}
}

func TestAnOverrideMustNameAPlatform(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"azsnpvtpm", "SNP", "sample ", "none"} {
		if got, err := Detect(Platform{Root: t.TempDir(), Override: name}); !errors.Is(err, ErrUnknownKind) {
			t.Errorf("%q: got %q, %v", name, got, err)
		}
	}
}

func TestARealTEENeverGetsSampleEvidence(t *testing.T) {
	t.Parallel()
	for _, k := range []Kind{TDX, SGX, AzTDXVTPM, AzSNPVTPM, SNP, CSV, CCA, SE, TPM, "", "other"} {
		a, err := New(k, "")
		switch {
		case err != nil && (!errors.Is(err, ErrNoAttester) || a != nil):
			t.Errorf("%q: got %v, %v; want ErrNoAttester", k, a, err)
		case err == nil && a.TEE() != string(k):
			t.Errorf("%q: got the attester of %q", k, a.TEE())
		}
	}
	a, err := New(Sample, "")
	if err != nil || a.TEE() != "sample" {
		t.Errorf("sample: got %v, %v", a, err)
	}
}
