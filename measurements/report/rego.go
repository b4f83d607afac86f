// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package report

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"cocoon/measurements/predict"
)

// claim says where the verifiers put what a reference value is compared with.
type claim struct {
	tee, ref string
}

// claimOf finds the claim of the name of a reference value.
func claimOf(name string) (claim, error) {
	switch name {
	case "snp_launch_measurement":
		return claim{"snp", "input.snp.measurement"}, nil
	case predict.HostData:
		return claim{"snp", "input.init_data"}, nil
	case "tag":
		return claim{"se", "input.se.tag"}, nil
	case "mr_td", "rtmr_1", "rtmr_2", predict.ConfigID:
		return claim{"tdx", "input.tdx.quote.body." + name}, nil
	}
	prefix, pcr, ok := strings.Cut(name, "_")
	ref, known := map[string]claim{
		"snp": {"az-snp-vtpm", `input["az-snp-vtpm"].tpm.`},
		"tdx": {"az-tdx-vtpm", `input["az-tdx-vtpm"].tpm.`},
		"tpm": {"tpm", "input.tpm."},
	}[prefix]
	if !ok || !known || !strings.HasPrefix(pcr, "pcr") {
		return claim{}, fmt.Errorf("%w: no claim of a verifier is known for %s, which --format rego needs", predict.ErrOptions, name)
	}
	return claim{ref.tee, ref.ref + pcr}, nil
}

// launches are, by the name of the TEE, claims and the values that they have
// together. Lists of reference values do not say which go together.
type launches struct {
	refs map[string]map[string]string
	sets map[string][]map[string]string
}

func (r *Report) launches() (*launches, error) {
	l := &launches{refs: map[string]map[string]string{}, sets: map[string][]map[string]string{}}
	for _, res := range r.Results {
		of := map[string]map[string]string{}
		for _, v := range res.Values {
			c, err := claimOf(v.Name)
			if err != nil {
				return nil, err
			}
			if of[c.tee] == nil {
				of[c.tee] = map[string]string{}
			}
			if l.refs[c.tee] == nil {
				l.refs[c.tee] = map[string]string{}
			}
			of[c.tee][v.Name], l.refs[c.tee][v.Name] = v.Value, c.ref
		}
		for tee, set := range of {
			if !slices.ContainsFunc(l.sets[tee], func(m map[string]string) bool { return maps.Equal(m, set) }) {
				l.sets[tee] = append(l.sets[tee], set)
			}
		}
	}
	return l, nil
}

const regoHead = `# Launches of Cocoon's image of profile %q, whose root is the tree
# %q.
#
# A part of an attestation policy: the rule cocoon_image holds for a guest whose
# hardware reports one of these launches, all values of it together. Use it as in
#
#   executables := 3 if cocoon_image
package policy

import rego.v1

cocoon_image if {
	some tee, claims in cocoon_claims
	some launch in cocoon_launches[tee]
	every name, value in launch { claims[name] == value }
}
`

// writeRego writes a snippet for attestation policies of Trustee and Cocoon. Texts
// of the image are quoted, so that they cannot become rules. A claim that is absent leaves the rule undefined.
func writeRego(w io.Writer, r *Report) error {
	l, err := r.launches()
	if err != nil {
		return err
	}
	var b strings.Builder
	fmt.Fprintf(&b, regoHead, r.Image.Profile, r.Image.Tree)
	for _, tee := range slices.Sorted(maps.Keys(l.refs)) {
		fmt.Fprintf(&b, "\ncocoon_claims[%q] := {\n", tee)
		for _, name := range slices.Sorted(maps.Keys(l.refs[tee])) {
			fmt.Fprintf(&b, "\t%q: %s,\n", name, l.refs[tee][name])
		}
		fmt.Fprint(&b, "}\n")
	}
	fmt.Fprint(&b, "\ncocoon_launches := {\n")
	for _, tee := range slices.Sorted(maps.Keys(l.sets)) {
		fmt.Fprintf(&b, "\t%q: [\n", tee)
		for _, set := range l.sets[tee] {
			text, err := json.Marshal(set) // in the order of names
			if err != nil {
				return err
			}
			fmt.Fprintf(&b, "\t\t%s,\n", text)
		}
		fmt.Fprint(&b, "\t],\n")
	}
	fmt.Fprint(&b, "}\n")
	_, err = io.WriteString(w, b.String())
	return err
}
