// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package azvtpm

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"testing"

	"cocoon/internal/sharedtest"
)

// made returns a report of a kind with the given variable data.
func made(kind uint32, data string) []byte {
	b := make([]byte, varDataOff)
	copy(b, "HCLA")
	for i, v := range []uint32{0, 1, kind, hashSHA256, uint32(len(data))} {
		binary.LittleEndian.PutUint32(b[runtimeOff+4*i:], v)
	}
	return append(append(b, data...), make([]byte, 64)...)
}

func key(id, n, e string) string {
	return fmt.Sprintf(`{"kid":%q,"kty":"RSA","n":%q,"e":%q}`, id, n, e)
}

// modulus has 2048 bits.
func modulus() string { return "_" + strings.Repeat("A", 341) }

func TestAReportOfTheParavisorIsRead(t *testing.T) {
	t.Parallel()
	data := `{"keys":[` + key("HCLEkPub", "AQ", "AQAB") + "," + key(akID, modulus(), "AQAB") + `],"user-data":"0A0B"}`
	h, err := ParseHCL(made(SNP, data))
	if err != nil {
		t.Fatal(err)
	}
	if h.Kind != SNP || string(h.VarData) != data || h.AK.E != 65537 || string(h.UserData) != "\n\v" || len(h.Hardware) != 1184 {
		t.Errorf("%+v", h)
	}
	for name, kind := range map[string]uint32{"az-snp-vtpm/hcl-report.bin": SNP, "az-tdx-vtpm/hcl-report.bin": TDX, "az-cvm-vtpm/hcl-report-snp.bin": SNP, "az-cvm-vtpm/hcl-report-tdx.bin": TDX} {
		if h, err := ParseHCL(sharedtest.Read(t, "evidence/"+name)); err != nil || h.Kind != kind {
			t.Errorf("%s: %+v, %v", name, h, err)
		}
	}
}

func TestWhatIsNoReportOfTheParavisorIsRefused(t *testing.T) {
	t.Parallel()
	ak := key(akID, modulus(), "AQAB")
	hash := made(SNP, `{"keys":[`+ak+`]}`)
	hash[runtimeOff+12] = 2
	long := made(SNP, `{"keys":[`+ak+`]}`)
	binary.LittleEndian.PutUint32(long[runtimeOff+16:], 1<<31)
	for name, b := range map[string][]byte{
		"nothing": nil, "no mark": make([]byte, 2600), "too long": append([]byte("HCLA"), make([]byte, maxHCL)...), "another kind": made(3, `{"keys":[`+ak+`]}`),
		"another hash": hash, "cut data": long, "no JSON": made(SNP, "x"), "no key": made(SNP, `{"keys":[]}`), "two keys": made(SNP, `{"keys":[`+ak+","+ak+`]}`),
		"a short key": made(SNP, `{"keys":[`+key(akID, "AQ", "AQAB")+`]}`), "no modulus": made(SNP, `{"keys":[`+key(akID, "%", "AQAB")+`]}`),
		"exponent 1": made(SNP, `{"keys":[`+key(akID, modulus(), "AQ")+`]}`), "no exponent": made(SNP, `{"keys":[`+key(akID, modulus(), "")+`]}`),
		"odd user data": made(SNP, `{"keys":[`+ak+`],"user-data":"x"}`), "another type": made(SNP, `{"keys":[`+strings.Replace(ak, "RSA", "EC", 1)+`]}`),
	} {
		if h, err := ParseHCL(b); !errors.Is(err, ErrHCL) {
			t.Errorf("%s: %+v, %v", name, h, err)
		}
	}
}

func FuzzParseHCL(f *testing.F) {
	f.Add(made(SNP, `{"keys":[`+key(akID, modulus(), "AQAB")+`],"user-data":"00"}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		if h, err := ParseHCL(b); err == nil && (h.AK == nil || len(h.Hardware) != reportSize) {
			t.Errorf("%+v", h)
		}
	})
}
