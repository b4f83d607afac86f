// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package se

import (
	"context"
	"encoding/json"
	"errors"
)

var (
	// ErrUnsupported is returned where there is no ultravisor that attests.
	ErrUnsupported = errors.New("there is no ultravisor for attestation")
	// ErrRefused is returned when the ultravisor does not take a request.
	ErrRefused = errors.New("the ultravisor refuses the request for attestation")
	// ErrAnswer is returned for an answer that is none, though it says success.
	ErrAnswer = errors.New("the answer of the ultravisor device makes no sense")
)

// Call is one call of the ultravisor.
type Call struct {
	// Block and UserData are handed over.
	Block, UserData []byte
	// Measurement and Additional have their sizes and are filled. Additional may
	// get shorter.
	Measurement, Additional []byte
	CUID                    [CUIDSize]byte
}

// Device has the ultravisor answer a call.
type Device interface {
	Attest(ctx context.Context, c *Call) error
}

// Attester makes the evidence of a guest. It is safe for concurrent use.
type Attester struct{ device Device }

// New returns an attester on this machine's device.
func New() *Attester { return NewWith(driver{path: uvDevice, call: attestCall}) }

// NewWith returns an attester on a device.
func NewWith(d Device) *Attester { return &Attester{device: d} }

// TEE returns "se".
func (a *Attester) TEE() string { return "se" }

// Evidence answers a Request in JSON, the digest of the session in it. A
// digest of less than 64 bytes is padded with zeros.
func (a *Attester) Evidence(ctx context.Context, request []byte) (json.RawMessage, error) {
	r, err := parseRequest(request)
	if err != nil {
		return nil, err
	}
	c := Call{
		Block: r.Block, UserData: make([]byte, DataSize),
		Measurement: make([]byte, r.MeasurementSize), Additional: make([]byte, r.AdditionalSize),
	}
	copy(c.UserData, r.Digest)
	if err := a.device.Attest(ctx, &c); err != nil {
		return nil, err
	}
	return json.Marshal(Evidence{
		Measurement: c.Measurement, Additional: c.Additional, UserData: c.UserData, CUID: c.CUID[:], Key: r.Key, Nonce: r.Nonce, Tags: r.Tags,
	})
}
