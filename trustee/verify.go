// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"cocoon/trustee/as"
	"cocoon/trustee/verify"
	"cocoon/trustee/verify/snp"
	"cocoon/trustee/verify/tdx"
)

// maxEvidence bounds a file of evidence, in bytes.
const maxEvidence = 8 << 20

// claimsUnder are the reference values that the default policy compares claims
// with, by the claim's path.
func claimsUnder(tee string) map[string]string {
	return map[string]map[string]string{
		"snp": {
			"measurement": "snp_launch_measurement", "reported_tcb_bootloader": "snp_bootloader", "reported_tcb_microcode": "snp_microcode",
			"reported_tcb_snp": "snp_snp_svn", "reported_tcb_tee": "snp_tee_svn", "platform_smt_enabled": "snp_smt_enabled",
			"platform_tsme_enabled": "snp_tsme_enabled", "policy_abi_major": "snp_guest_abi_major", "policy_abi_minor": "snp_guest_abi_minor",
			"policy_single_socket": "snp_single_socket", "policy_smt_allowed": "snp_smt_allowed",
		},
		"tdx": {
			"quote.body.mr_td": "mr_td", "quote.body.rtmr_1": "rtmr_1", "quote.body.rtmr_2": "rtmr_2", "quote.body.xfam": "xfam",
		},
		"az-snp-vtpm": {
			"measurement": "measurement", "tpm.pcr11": "snp_pcr11", "reported_tcb_bootloader": "tcb_bootloader", "reported_tcb_microcode": "tcb_microcode",
			"reported_tcb_snp": "tcb_snp", "reported_tcb_tee": "tcb_tee",
		},
		"az-tdx-vtpm": {"quote.body.mr_td": "mr_td", "quote.body.xfam": "xfam", "tpm.pcr11": "tdx_pcr11"},
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
	f.StringVar(&o.tee, "tee", "", "kind of the TEE: snp, tdx, az-snp-vtpm or az-tdx-vtpm (default: what the evidence looks like)")
	f.StringVar(&o.values, "reference", "", "JSON file of reference values, an object of name to value")
	f.StringVar(&o.reportData, "report-data", "", "digest in hexadecimal that the evidence must contain; without it nothing tells whom it is about")
	f.StringVar(&o.at, "at", "", "time at which certificates must be valid, as 2006-01-02T15:04:05Z (default now)")
	f.StringVar(&o.sources.SNPCerts, "snp-certs", "", "folder of AMD processors' certificates")
	f.StringVar(&o.sources.SNPKeyService, "snp-kds", "", "AMD's key service, such as "+snp.DefaultKDS+"; empty works offline")
	f.StringVar(&o.sources.TDXCollateral, "tdx-collateral", "", "folder of Intel's collateral")
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
	for member, tee := range map[string]string{"attestation_report": "snp", "quote": "tdx", "vcek": "az-snp-vtpm", "td_quote": "az-tdx-vtpm"} {
		if _, ok := e[member]; ok {
			return tee
		}
	}
	return ""
}

func readBounded(file string) (_ []byte, err error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close() // opened to read; its error says nothing
	b, err := io.ReadAll(io.LimitReader(f, maxEvidence+1))
	if err == nil && len(b) > maxEvidence {
		err = fmt.Errorf("%q has more than %d bytes", file, maxEvidence)
	}
	return b, err
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
	names := claimsUnder(tee)
	var wrong []string
	for _, path := range slices.Sorted(maps.Keys(flat)) {
		verdict := ""
		if name, ok := names[path]; ok {
			var fits bool
			if verdict, fits = compare(name, flat[path], values); !fits {
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

// compare says whether a claim is the reference value of a name, or one of its
// list.
func compare(name string, claim any, values map[string]any) (verdict string, fits bool) {
	want, ok := values[name]
	if !ok {
		return name + " is missing", false
	}
	list, isList := want.([]any)
	if !isList {
		list = []any{want}
	}
	for _, v := range list {
		if fmt.Sprint(v) == fmt.Sprint(claim) {
			return name + ": ok", true
		}
	}
	return fmt.Sprintf("%s: differs, wanted %v", name, want), false
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
