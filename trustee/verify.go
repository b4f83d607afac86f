// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"cocoon/internal/bounded"
	"cocoon/trustee/as"
	"cocoon/trustee/verify"
	"cocoon/trustee/verify/snp"
	"cocoon/trustee/verify/tdx"
)

// maxEvidence bounds a file of evidence, in bytes.
const maxEvidence = 8 << 20

// reference names the reference value that the default policy compares a claim
// with, and in which form: one of a list, or a single value.
type reference struct {
	claim, value string
	single       bool
}

// references are those of a TEE.
func references(tee string) []reference {
	return map[string][]reference{
		"snp": {
			{"measurement", "snp_launch_measurement", false}, {"reported_tcb_bootloader", "snp_bootloader", false},
			{"reported_tcb_microcode", "snp_microcode", false}, {"reported_tcb_snp", "snp_snp_svn", false}, {"reported_tcb_tee", "snp_tee_svn", false},
			{"platform_smt_enabled", "snp_smt_enabled", true}, {"platform_tsme_enabled", "snp_tsme_enabled", true}, {"policy_abi_major", "snp_guest_abi_major", true},
			{"policy_abi_minor", "snp_guest_abi_minor", true}, {"policy_single_socket", "snp_single_socket", true}, {"policy_smt_allowed", "snp_smt_allowed", true},
		},
		"tdx": {
			{"quote.body.mr_td", "mr_td", false}, {"quote.body.rtmr_1", "rtmr_1", false}, {"quote.body.rtmr_2", "rtmr_2", false}, {"quote.body.xfam", "xfam", false},
		},
		"az-snp-vtpm": {
			{"measurement", "measurement", false}, {"tpm.pcr11", "snp_pcr11", false}, {"reported_tcb_bootloader", "tcb_bootloader", false},
			{"reported_tcb_microcode", "tcb_microcode", false}, {"reported_tcb_snp", "tcb_snp", false}, {"reported_tcb_tee", "tcb_tee", false},
			{"platform_smt_enabled", "smt_enabled", false}, {"platform_tsme_enabled", "tsme_enabled", false}, {"policy_abi_major", "abi_major", false},
			{"policy_abi_minor", "abi_minor", false}, {"policy_single_socket", "single_socket", false}, {"policy_smt_allowed", "smt_allowed", false},
		},
		"az-tdx-vtpm": {{"quote.body.mr_td", "mr_td", false}, {"quote.body.xfam", "xfam", false}, {"tpm.pcr11", "tdx_pcr11", false}},
		"csv":         {{"measure", "csv_measure", false}},
		"tpm":         {{"pcr11", "tpm_pcr11", false}, {"ak_public", "trusted_aks", false}},
		"cca": {
			{"realm.cca-realm-initial-measurement", "cca_realm_initial_measurement", false},
			{"platform.cca-platform-config", "cca_platform_config", false},
		},
	}[tee]
}

// verifyOptions are the flags of verify.
type verifyOptions struct {
	tee, values, reportData, at string
	sources                     verify.Config
}

func (a *app) verifyCommand() *cobra.Command {
	var o verifyOptions
	c := &cobra.Command{
		Use:   "verify EVIDENCE",
		Short: "Check a file of evidence and compare its claims with reference values",
		Args:  cobra.ExactArgs(1),
		RunE:  a.do(func(ctx context.Context, args []string) error { return a.verify(ctx, o, args[0]) }),
	}
	f := c.Flags()
	f.StringVar(&o.tee, "tee", "", "kind of the TEE: snp, tdx, az-snp-vtpm, az-tdx-vtpm, csv, tpm or cca (default: what the evidence looks like)")
	f.StringVar(&o.values, "reference", "", "JSON file of reference values, an object of name to value")
	f.StringVar(&o.reportData, "report-data", "", "digest in hexadecimal that the evidence must contain; without it nothing tells whom it is about")
	f.StringVar(&o.at, "at", "", "time at which certificates must be valid, as 2006-01-02T15:04:05Z (default now)")
	f.StringVar(&o.sources.SNPCerts, "snp-certs", "", "folder of AMD processors' certificates")
	f.StringVar(&o.sources.SNPKeyService, "snp-kds", "", "AMD's key service, such as "+snp.DefaultKDS+"; empty works offline")
	f.StringVar(&o.sources.TDXCollateral, "tdx-collateral", "", "folder of Intel's collateral")
	f.StringVar(&o.sources.CSVCerts, "csv-certs", "", "folder of Hygon's certificates, <serial number>/hsk_cek.cert, looked at before --csv-kds")
	f.StringVar(&o.sources.CSVService, "csv-kds", "", "Hygon's service for certificates, such as https://cert.hygon.cn; empty asks nobody")
	f.StringVar(&o.sources.TPMKeys, "tpm-keys", "", "folder of the attestation keys (*.pub) of plain TPMs that are trusted; none are without")
	f.StringVar(&o.sources.CCAAnchors, "cca-anchors", "", "JSON file of the platforms of Arm CCA that are trusted; none are without")
	f.StringVar(&o.sources.TDXService, "tdx-pcs", "", "Intel's certification service, such as "+tdx.DefaultPCS+"; empty works offline")
	return c
}

func (a *app) verify(ctx context.Context, o verifyOptions, file string) error {
	raw, err := readBounded(file)
	if err != nil {
		return fmt.Errorf("read evidence: %w", err)
	}
	b := as.Binding{Unbound: o.reportData == ""}
	if b.ReportData, err = hex.DecodeString(o.reportData); err != nil {
		return fmt.Errorf("report data: %w", err)
	}
	if o.at != "" {
		at, err := time.Parse(time.RFC3339, o.at)
		if err != nil {
			return fmt.Errorf("time of verification: %w", err)
		}
		o.sources.Now = func() time.Time { return at }
	}
	values := map[string]any{}
	if o.values != "" {
		text, err := readBounded(o.values)
		if err == nil {
			err = json.Unmarshal(text, &values)
		}
		if err != nil {
			return fmt.Errorf("read reference values: %w", err)
		}
	}
	if o.tee == "" {
		o.tee = teeOf(raw)
	}
	all, err := verify.New(o.sources)
	if err != nil {
		return err
	}
	v, ok := all[o.tee]
	if !ok {
		return fmt.Errorf("no verifier for TEE %q: --tee is one of %s", o.tee, strings.Join(slices.Sorted(maps.Keys(all)), ", "))
	}
	claims, err := v.Verify(ctx, raw, b)
	if err != nil {
		return fmt.Errorf("verify %q: %w", file, err)
	}
	return a.printClaims(o.tee, claims, b, values)
}

// teeOf tells what evidence looks like.
func teeOf(raw []byte) string {
	var e map[string]json.RawMessage
	if json.Unmarshal(raw, &e) != nil {
		return ""
	}
	// The first that fits: some evidence has the members of others and more.
	for _, kind := range [][2]string{
		{"token", "cca"}, {"serial_number", "csv"}, {"ak_public", "tpm"}, {"td_quote", "az-tdx-vtpm"}, {"vcek", "az-snp-vtpm"}, {"attestation_report", "snp"}, {"quote", "tdx"},
	} {
		if _, ok := e[kind[0]]; ok {
			return kind[1]
		}
	}
	return ""
}

func readBounded(file string) ([]byte, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close() // opened to read; its error says nothing
	return bounded.ReadAll(f, maxEvidence)
}

// printClaims prints one claim a line, and whether it is a reference value. It
// returns an error if one that has a reference value is another.
func (a *app) printClaims(tee string, c *as.Claims, b as.Binding, values map[string]any) error {
	w := tabwriter.NewWriter(a.out, 0, 0, 2, ' ', 0)
	bound := "as wanted"
	if b.Unbound {
		bound = "not compared: --report-data is not given"
	}
	fmt.Fprintf(w, "signature\tholds\nreport_data\t%s\t%s\n", c.ReportData, bound)
	if c.InitData != nil {
		fmt.Fprintf(w, "init_data\t%s\n", *c.InitData)
	}
	flat := map[string]any{}
	flatten(flat, "", c.Values)
	list := references(tee)
	var wrong []string
	for _, path := range slices.Sorted(maps.Keys(flat)) {
		verdict := ""
		if i := slices.IndexFunc(list, func(r reference) bool { return r.claim == path }); i >= 0 {
			var fits bool
			if verdict, fits = list[i].compare(flat[path], values); !fits {
				wrong = append(wrong, path)
			}
		}
		fmt.Fprintf(w, "%s\t%v\t%s\n", path, flat[path], verdict)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	if len(wrong) > 0 && len(values) > 0 {
		return fmt.Errorf("differs from its reference value or has none: %s", strings.Join(wrong, ", "))
	}
	return nil
}

// compare says whether a claim is what its reference value wants, by the rules of
// the default policy: a number is no text, and a list no single value.
func (r reference) compare(claim any, values map[string]any) (verdict string, fits bool) {
	want, ok := values[r.value]
	if !ok {
		return r.value + " is missing", false
	}
	list, isList := want.([]any)
	switch {
	case r.single && isList:
		return r.value + ": differs, a list where a single value is wanted", false
	case r.single:
		list = []any{want}
	case !isList:
		return r.value + ": differs, a single value where a list is wanted", false
	}
	if slices.ContainsFunc(list, func(v any) bool { return sameJSON(v, claim) }) {
		return r.value + ": ok", true
	}
	return fmt.Sprintf("%s: differs, wanted %v", r.value, want), false
}

func sameJSON(a, b any) bool {
	x, errX := json.Marshal(a)
	y, errY := json.Marshal(b)
	return errX == nil && errY == nil && bytes.Equal(x, y)
}

// flatten gives each claim the path by which it is reached. Lists stay whole,
// and event logs are counted only.
func flatten(to map[string]any, prefix string, m map[string]any) {
	for name, v := range m {
		switch v := v.(type) {
		case map[string]any:
			flatten(to, prefix+name+".", v)
		case []any:
			to[prefix+name] = fmt.Sprintf("%d entries", len(v))
		default:
			to[prefix+name] = v
		}
	}
}
