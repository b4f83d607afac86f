// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

// Package explain says which launch of an image a report of hardware is about, or
// which part of it is most likely another one.
//
// It predicts what the hardware would report for every way of launching the image
// that is known, and for every other image and firmware that it is given, and
// looks for the reported values among them. Whatever fits with the fewest changes
// is the explanation.
//
// Trust: nothing is verified here. Evidence, images and firmware may be anybody's;
// the answer tells what fits what, and a verifier tells whether the evidence is
// real.
package explain

import (
	"errors"
	"fmt"
	"iter"
	"strings"

	"cocoon/internal/initdata"
	"cocoon/measurements/predict"
)

// Limits on what is tried.
const (
	MaxFirmware = 64
	MaxImages   = 16
	MaxVCPUs    = 1024
)

// ErrInputs is wrapped by errors about inputs that do not fit the evidence.
var ErrInputs = errors.New("cannot explain the evidence")

// Inputs are what a guest may have been launched with.
type Inputs struct {
	// Images are those that may run, the one that should comes first, by their names.
	Images []*predict.Guest
	Names  []string
	// Firmware is likewise.
	Firmware []Firmware
	// Launch is how the shims are configured.
	Launch predict.Launch
	// VCPUs is the largest number of processors that is tried, and Expected the
	// largest that is no surprise.
	VCPUs, Expected int
	// Memory are sizes in MiB that the guest may have had, for releases of QEMU that
	// change the kernel by it.
	Memory []uint64
	// Document is the owner's, nil if it is not known.
	Document *initdata.Document
	// Log is the firmware's event log, if it is not part of the evidence.
	Log []byte
}

// Verdict is how a register compares.
type Verdict string

// The verdicts.
const (
	// Expected is the value of the image under a launch that is no surprise.
	Expected Verdict = "expected"
	// Changed is the value of a launch that differs in what Because says.
	Changed Verdict = "changed"
	// Unknown is no value that was tried; Suspects are what may be another one.
	Unknown Verdict = "unknown"
	// Unchecked is a register of which nothing can be said; Suspects say what lacks.
	Unchecked Verdict = "unchecked"
)

// Finding is about one register.
type Finding struct {
	Register string         `json:"register"`
	Value    string         `json:"value"`
	Verdict  Verdict        `json:"verdict"`
	With     []predict.Pair `json:"with,omitempty"`
	Because  []string       `json:"because,omitempty"`
	Suspects []string       `json:"suspects,omitempty"`
}

// Answer is everything that was found out.
type Answer struct {
	TEE      string    `json:"tee"`
	Notes    []string  `json:"notes,omitempty"`
	Findings []Finding `json:"findings"`
	// Tried is how many values were compared.
	Tried int `json:"tried"`
}

// Fits tells that every register that was checked has an expected value.
func (a *Answer) Fits() bool {
	for _, f := range a.Findings {
		if f.Verdict == Changed || f.Verdict == Unknown {
			return false
		}
	}
	return true
}

// Explain looks for what the hardware reported.
func Explain(r *Reported, in Inputs) (*Answer, error) {
	if err := in.check(r); err != nil {
		return nil, err
	}
	if len(in.Log) > 0 {
		r = &Reported{TEE: r.TEE, Registers: r.Registers, Notes: r.Notes, Log: in.Log}
	}
	a := &Answer{TEE: r.TEE, Notes: r.Notes}
	var err error
	switch r.TEE {
	case "snp":
		err = a.snp(r, &in)
	case "tdx":
		err = a.tdx(r, &in)
	case "vtpm":
		err = a.vtpm(r, &in)
	default:
		err = fmt.Errorf("%w: of TEE %q", ErrInputs, r.TEE)
	}
	if err != nil {
		return nil, err
	}
	return a, nil
}

func (in *Inputs) check(r *Reported) error {
	switch {
	case len(in.Images) == 0 || len(in.Images) > MaxImages || len(in.Names) != len(in.Images):
		return fmt.Errorf("%w: %d images with %d names, want 1 to %d", ErrInputs, len(in.Images), len(in.Names), MaxImages)
	case len(in.Firmware) > MaxFirmware:
		return fmt.Errorf("%w: %d firmwares, at most %d", ErrInputs, len(in.Firmware), MaxFirmware)
	case in.VCPUs < 1 || in.VCPUs > MaxVCPUs:
		return fmt.Errorf("%w: %d processors, want 1 to %d", ErrInputs, in.VCPUs, MaxVCPUs)
	case r.TEE == "snp" && len(in.Firmware) == 0:
		return fmt.Errorf("%w: SEV-SNP measures the firmware with the rest: name it with --firmware", ErrInputs)
	}
	return nil
}

// candidate is a value that the hardware would report, for what launch, and in
// what that differs from the image as it should be launched.
type candidate struct {
	value   string
	with    []predict.Pair
	because []string
}

// find looks for the value of a register, and takes what changes least.
func (a *Answer) find(r *Reported, register string, all iter.Seq2[candidate, error], suspects ...string) error {
	f := Finding{Register: register, Value: r.Registers[register], Verdict: Unknown, Suspects: suspects}
	if f.Value == "" {
		return fmt.Errorf("%w: it has no register %s", ErrEvidence, register)
	}
	for c, err := range all {
		if err != nil {
			return err
		}
		a.Tried++
		if c.value != f.Value || f.Verdict != Unknown && len(c.because) >= len(f.Because) {
			continue
		}
		f.With, f.Because, f.Suspects, f.Verdict = c.with, c.because, nil, Expected
		if len(c.because) > 0 {
			f.Verdict = Changed
		}
	}
	a.Findings = append(a.Findings, f)
	return nil
}

// confirm compares the register that confirms the owner's document with it, where
// fit is its digest as the register holds it.
func (a *Answer) confirm(r *Reported, register string, in *Inputs, fit func(*initdata.Document) (string, error)) error {
	f := Finding{Register: register, Value: r.Registers[register], Verdict: Unchecked}
	none := strings.Trim(f.Value, "0") == ""
	a.Tried++
	switch {
	case in.Document == nil && none:
		f.Verdict = Expected
		f.With = []predict.Pair{{Name: "initdata", Value: "none"}}
	case in.Document == nil:
		f.Suspects = []string{"the guest was started with initdata: name the document with --initdata"}
	default:
		want, err := fit(in.Document)
		if err != nil {
			return fmt.Errorf("%w: initdata: %w", ErrInputs, err)
		}
		switch {
		case want == f.Value:
			f.Verdict, f.With = Expected, []predict.Pair{{Name: "initdata", Value: "the document"}}
		case none:
			f.Verdict, f.Because = Changed, []string{"the host handed over no initdata"}
		default:
			f.Verdict, f.Suspects = Unknown, []string{"the host handed over another initdata than the document"}
		}
	}
	a.Findings = append(a.Findings, f)
	return nil
}

// instead tells that number n of a list is used in the place of the first.
func instead(what string, n int, name, first string) []string {
	if n == 0 {
		return nil
	}
	return []string{fmt.Sprintf("%s %s instead of %s", what, name, first)}
}

// join puts reasons together without changing any of the lists.
func join(lists ...[]string) []string {
	var all []string
	for _, l := range lists {
		all = append(all, l...)
	}
	return all
}
