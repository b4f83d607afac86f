// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package predict

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"

	"cocoon/internal/initdata"
	"cocoon/measurements/vtpm"
	"cocoon/mkimage/image"
)

// VTPM says how a machine with a TPM boots.
type VTPM struct {
	// Verifiers are those whose names the values get: snp and tdx for Azure, tpm for
	// a plain TPM.
	Verifiers []string
	// Stub is the release of systemd's stub, 0 for what the image says of itself.
	Stub int
	// Document is the owner's, nil if there is none.
	Document *initdata.Document
}

// DefaultVerifiers are all that there are.
func DefaultVerifiers() []string { return []string{"snp", "tdx", "tpm"} }

// VTPM returns the registers of the bank of SHA-256 after the machine has booted.
func (g *Guest) VTPM(o VTPM) ([]Result, error) {
	program, err := g.Output(image.UKIName)
	if err != nil {
		return nil, err
	}
	if o.Stub == 0 {
		if o.Stub, err = vtpm.StubRelease(program); err != nil {
			return nil, fmt.Errorf("%w: name it with --stub", err)
		}
	}
	values, steps, err := vtpm.Predict(sha256.New, program, o.Stub)
	if err != nil {
		return nil, err
	}
	if o.Document != nil {
		value, more, err := vtpm.InitData(o.Document.Digest())
		if err != nil {
			return nil, fmt.Errorf("initdata: %w", err)
		}
		values[8], steps = value, append(steps, more...)
	}
	r := Result{Line: Line{Shim: "firmware", Cmdline: g.Image.Cmdline}, With: []Pair{{"stub", fmt.Sprint(o.Stub)}}}
	for _, verifier := range o.Verifiers {
		if !slices.Contains(DefaultVerifiers(), verifier) {
			return nil, fmt.Errorf("%w: --verifier %.20q, want snp, tdx or tpm", ErrOptions, verifier)
		}
		for _, pcr := range slices.Sorted(maps.Keys(values)) {
			r.Values = append(r.Values, Pair{fmt.Sprintf("%s_pcr%02d", verifier, pcr), hex.EncodeToString(values[pcr])})
		}
	}
	for _, s := range steps {
		r.Steps = append(r.Steps, Step{Of: fmt.Sprintf("pcr%02d", s.PCR), Input: s.Input, What: s.What, Digest: hex.EncodeToString(s.Digest)})
	}
	return []Result{r}, nil
}
