// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"crypto/sha256"
	"crypto/sha512"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"cocoon/measurements/predict"
	"cocoon/measurements/report"
	"cocoon/mkimage/image"
	"cocoon/trustee/policy"
	"cocoon/trustee/rvps/corim"
	"cocoon/trustee/rvps/intoto"
)

// ownersDocument writes initdata whose digest has an algorithm.
func ownersDocument(t *testing.T, algorithm string) (file string, content []byte) {
	t.Helper()
	content = fmt.Appendf(nil, "algorithm = %q\nversion = \"0.1.0\"\n[data]\n", algorithm)
	file = filepath.Join(t.TempDir(), "initdata.toml")
	if err := os.WriteFile(file, content, 0o600); err != nil {
		t.Fatal(err)
	}
	return file, content
}

// listed runs a command for reference values.
func listed(t *testing.T, args ...string) map[string][]string {
	t.Helper()
	out, err := run(t, append(slices.Clone(args), "--format", "reference")...)
	if err != nil {
		t.Fatal(err)
	}
	var lists map[string][]string
	if err := json.Unmarshal([]byte(out), &lists); err != nil {
		t.Fatal(err)
	}
	return lists
}

// launched are commands that predict something for images of three profiles.
func launched(t *testing.T) map[string][]string {
	t.Helper()
	document, _ := ownersDocument(t, "sha256")
	snp, firmware := built(t, "snp")
	tdx, _ := built(t, "tdx")
	machine, _ := built(t, "podvm")
	return map[string][]string{
		"snp":  {"snp", snp, "--firmware", firmware, "--vcpus", "2", "--initdata", document},
		"tdx":  {"tdx", tdx, "--firmware", firmware, "--edk2", "202511", "--qemu", "1100", "--initdata", document},
		"vtpm": {"vtpm", machine, "--initdata", document},
	}
}

func TestTheOwnersDocumentIsConfirmedByTheHardware(t *testing.T) {
	t.Parallel()
	snp, firmware := built(t, "snp")
	tdx, _ := built(t, "tdx")
	for _, algorithm := range []string{"sha256", "sha384", "sha512"} {
		document, content := ownersDocument(t, algorithm)
		var digest []byte
		switch algorithm {
		case "sha256":
			d := sha256.Sum256(content)
			digest = append(d[:], make([]byte, 16)...)
		case "sha384":
			d := sha512.Sum384(content)
			digest = d[:]
		case "sha512":
			d := sha512.Sum512(content)
			digest = d[:48]
		}
		got := listed(t, "snp", snp, "--firmware", firmware, "--vcpus", "2", "--initdata", document)
		if want := []string{hex.EncodeToString(digest[:32])}; !slices.Equal(got["snp_host_data"], want) || len(got["snp_launch_measurement"]) != 4 {
			t.Errorf("%s: HOST_DATA %q, want %q", algorithm, got["snp_host_data"], want)
		}
		got = listed(t, "tdx", tdx, "--firmware", firmware, "--edk2", "202511", "--qemu", "1100", "--initdata", document)
		if want := []string{hex.EncodeToString(digest)}; !slices.Equal(got["mr_config_id"], want) {
			t.Errorf("%s: MRCONFIGID %q, want %q", algorithm, got["mr_config_id"], want)
		}
	}
}

func TestEveryFormatSaysWhatWasPredicted(t *testing.T) {
	t.Parallel()
	commands := launched(t)
	for name, check := range map[string]func(*testing.T, map[string][]string){
		"a statement is read by the broker":                       aStatementIsReadByTheBroker,
		"a CoRIM is read by the broker":                           aCoRIMIsReadByTheBroker,
		"a Rego snippet holds for the launches of the image only": aRegoSnippetHoldsForTheLaunchesOfTheImageOnly,
		"the page needs nothing beside it":                        thePageNeedsNothingBesideIt,
		"the page goes from a register to the file":               thePageGoesFromARegisterToTheFile,
		"outputs are the same each time":                          outputsAreTheSameEachTime,
	} {
		t.Run(name, func(t *testing.T) { t.Parallel(); check(t, commands) })
	}
}

func aStatementIsReadByTheBroker(t *testing.T, commands map[string][]string) {
	for name, args := range commands {
		out, err := run(t, append(slices.Clone(args), "--format", "statement")...)
		if err != nil {
			t.Fatal(err)
		}
		envelope, err := json.Marshal(map[string]any{"payloadType": intoto.PayloadType, "payload": base64.StdEncoding.EncodeToString([]byte(out)), "signatures": []any{}})
		if err != nil {
			t.Fatal(err)
		}
		s, err := intoto.Parse(envelope, nil)
		if err != nil {
			t.Fatalf("%s: %v\n%s", name, err, out)
		}
		for value, list := range listed(t, args...) {
			if got := fmt.Sprint(s.Values[value]); got != fmt.Sprint(list) {
				t.Errorf("%s: %s is %s, want %s", name, value, got, list)
			}
		}
		m, err := image.Open(args[1])
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range m.Outputs {
			if got := fmt.Sprint(s.Values[f.File]); got != fmt.Sprint([]string{f.SHA256, f.SHA384}) {
				t.Errorf("%s: subject %s is %s", name, f.File, got)
			}
		}
	}
}

func aCoRIMIsReadByTheBroker(t *testing.T, commands map[string][]string) {
	for name, args := range commands {
		out, err := run(t, append(slices.Clone(args), "--format", "corim")...)
		if err != nil {
			t.Fatal(err)
		}
		m, err := corim.Parse([]byte(out), nil)
		if err != nil {
			t.Fatalf("%s: %v\n%x", name, err, out)
		}
		want := map[string]any{}
		model := map[string]string{"snp": "snp", "tdx": "tdx", "vtpm": "podvm"}[name]
		for value, list := range listed(t, args...) {
			if value == "snp_host_data" || value == "mr_config_id" {
				want["Cocoon/"+model+"/"+value+"/raw_bytes"] = list[0]
				continue
			}
			want["Cocoon/"+model+"/"+value+"/digests"] = list
		}
		if fmt.Sprint(m.Values) != fmt.Sprint(want) { // maps print in the order of their keys
			t.Errorf("%s: got %v, want %v", name, m.Values, want)
		}
	}
}

// claims are the input of a policy for a guest that reports what was predicted.
func claims(name string, values map[string]string) map[string]any {
	body := map[string]any{}
	in := map[string]any{"snp": map[string]any{"snp": body}, "tdx": map[string]any{"tdx": map[string]any{"quote": map[string]any{"body": body}}},
		"vtpm": map[string]any{"az-snp-vtpm": map[string]any{"tpm": body}}}[name].(map[string]any)
	for value, text := range values {
		switch pcr, ok := strings.CutPrefix(value, "snp_pcr"); {
		case value == "snp_launch_measurement":
			body["measurement"] = text
		case value == "snp_host_data":
			in["init_data"] = text
		case ok:
			body["pcr"+pcr] = text
		default:
			body[value] = text
		}
	}
	return in
}

func aRegoSnippetHoldsForTheLaunchesOfTheImageOnly(t *testing.T, commands map[string][]string) {
	for name, args := range commands {
		out, err := run(t, append(slices.Clone(args), "--format", "rego")...)
		if err != nil {
			t.Fatal(err)
		}
		p, err := policy.Compile(out + "\nexecutables := 3 if cocoon_image\n")
		if err != nil {
			t.Fatalf("%s: %v\n%s", name, err, out)
		}
		trusted := func(values map[string]string) bool {
			v, ok, err := p.Value(t.Context(), "executables", policy.Eval{Input: claims(name, values)})
			if err != nil {
				t.Fatal(err)
			}
			return ok && fmt.Sprint(v) == "3"
		}
		for i, r := range predicted(t, args) {
			values := map[string]string{}
			for _, v := range r.Values {
				if name != "vtpm" || strings.HasPrefix(v.Name, "snp_") {
					values[v.Name] = v.Value
				}
			}
			if !trusted(values) {
				t.Errorf("%s: launch %d is not recognized", name, i)
			}
			for value := range values {
				other := maps.Clone(values)
				other[value] = strings.Repeat("11", len(other[value])/2)
				if trusted(other) {
					t.Errorf("%s: launch %d with another %s is", name, i, value)
				}
				if delete(other, value); trusted(other) {
					t.Errorf("%s: launch %d without %s is", name, i, value)
				}
			}
		}
		if trusted(nil) {
			t.Errorf("%s: a guest that reports nothing is recognized", name)
		}
	}
}

// predicted are the results of a command.
func predicted(t *testing.T, args []string) []predict.Result {
	t.Helper()
	out, err := run(t, append(slices.Clone(args), "--format", "json")...)
	if err != nil {
		t.Fatal(err)
	}
	var all []predict.Result
	if err := json.Unmarshal([]byte(out), &all); err != nil || len(all) == 0 {
		t.Fatalf("%d results, %v", len(all), err)
	}
	return all
}

func outputsAreTheSameEachTime(t *testing.T, commands map[string][]string) {
	for name, args := range commands {
		for format := range report.Formats() {
			first, err := run(t, append(slices.Clone(args), "--format", format)...)
			if err != nil {
				t.Fatal(err)
			}
			if second, err := run(t, append(slices.Clone(args), "--format", format)...); err != nil || second != first {
				t.Errorf("%s as %s differs from one run to the next (%v)", name, format, err)
			}
		}
	}
}
