// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

// Package selftest checks the predictions of this program against those that
// other programs made of the same files: small ones that are part of it, a
// firmware, a kernel and a unified kernel image without any code in them.
//
// Whoever has the program can run it, without sources and without a network.
// Trust: nothing comes from outside. Where the values are from is told with each;
// package documentation of the predictors names what else they were held against.
package selftest

import (
	"embed"
	"encoding/json"
	"fmt"
)

//go:embed vectors
var files embed.FS

// Check is a vector and how it went.
type Check struct {
	// Name says what was predicted, and Origin by what else.
	Name, Origin string
	// Got and Want are hexadecimal. They are equal, or the prediction is wrong.
	Got, Want string
}

// OK tells that the prediction is right.
func (c Check) OK() bool { return c.Got == c.Want }

// group are vectors of one origin.
type group[V vector] struct {
	Origin  string `json:"origin"`
	Vectors []V    `json:"vectors"`
}

type vectors struct {
	SNP      group[snpVector]      `json:"snp"`
	TDX      group[tdxVector]      `json:"tdx"`
	VTPM     group[vtpmVector]     `json:"vtpm"`
	Verity   group[verityVector]   `json:"verity"`
	Initdata group[initdataVector] `json:"initdata"`
}

// vector predicts what it is about, in pairs of what came out and what should.
type vector interface {
	predict(in *inputs) ([]Check, error)
}

// Run predicts everything. A prediction that fails is an error; one that is
// wrong is a check that is not OK.
func Run() ([]Check, error) {
	raw, err := files.ReadFile("vectors/vectors.json")
	if err != nil {
		return nil, err
	}
	var v vectors
	if err := json.Unmarshal(raw, &v); err != nil {
		return nil, fmt.Errorf("vectors of the program: %w", err)
	}
	in, err := load()
	if err != nil {
		return nil, err
	}
	var all []Check
	for _, predict := range []func(*inputs) ([]Check, error){v.SNP.predict, v.TDX.predict, v.VTPM.predict, v.Verity.predict, v.Initdata.predict} {
		checks, err := predict(in)
		if err != nil {
			return nil, err
		}
		all = append(all, checks...)
	}
	return all, nil
}

func (g group[V]) predict(in *inputs) ([]Check, error) {
	var all []Check
	for _, v := range g.Vectors {
		checks, err := v.predict(in)
		if err != nil {
			return nil, fmt.Errorf("vector %+v: %w", v, err)
		}
		for _, c := range checks {
			c.Origin = g.Origin
			all = append(all, c)
		}
	}
	return all, nil
}
