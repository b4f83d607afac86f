// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

// Package se makes the evidence of IBM Secure Execution guests: a measurement
// by the ultravisor, in answer to a request that a verifier has encrypted to
// the machine's host key.
//
// It follows the attestation agent of Confidential Containers, whose request
// and response these are, and the kernel's arch/s390/include/uapi/asm/uvdevice.h.
//
// Trust: the request is the broker's, by way of the network. The guest cannot
// read it; its sizes are bounded. The device node is the host's to present: a
// false one can only make evidence that no verifier believes.
package se

import (
	"encoding/json"
	"errors"
	"fmt"
)

const (
	// DataSize is the size of the digest of a session, in bytes.
	DataSize = 64
	// TagsSize is that of the digests and the tag of an image's header.
	TagsSize = 3*64 + 16
	// CUIDSize is that of a guest's configuration id.
	CUIDSize = 16

	// The kernel's limits.
	maxRequest     = 1 << 20
	maxMeasurement = 0x8000
	maxAdditional  = 0x8000
)

// ErrRequest is returned for what is no request for attestation.
var ErrRequest = errors.New("no request for attestation by the ultravisor")

// Request is what a verifier asks. Members are standard base64 in JSON.
type Request struct {
	// Block is the attestation request control block, for the ultravisor.
	Block           []byte `json:"request_blob"`
	MeasurementSize uint32 `json:"measurement_size"`
	AdditionalSize  uint32 `json:"additional_size"`
	// The verifier gets these back as they are.
	Key   []byte `json:"encr_measurement_key"`
	Nonce []byte `json:"encr_request_nonce"`
	Tags  []byte `json:"image_hdr_tags"`
	// Digest is of the session; the guest adds it.
	Digest []byte `json:"runtime_data_digest,omitempty"`
}

// Evidence is the answer. Members are standard base64 in JSON.
type Evidence struct {
	Measurement []byte `json:"measurement"`
	Additional  []byte `json:"additional_data"`
	UserData    []byte `json:"user_data"`
	CUID        []byte `json:"cuid"`
	Key         []byte `json:"encr_measurement_key"`
	Nonce       []byte `json:"encr_request_nonce"`
	Tags        []byte `json:"image_hdr_tags"`
}

// parseRequest reads a request and bounds what the kernel is asked for.
func parseRequest(raw []byte) (*Request, error) {
	var r Request
	if err := json.Unmarshal(raw, &r); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrRequest, err)
	}
	switch {
	case len(r.Block) == 0 || len(r.Block) > maxRequest:
		return nil, fmt.Errorf("%w: block of %d bytes, want 1 to %d", ErrRequest, len(r.Block), maxRequest)
	case r.MeasurementSize == 0 || r.MeasurementSize > maxMeasurement:
		return nil, fmt.Errorf("%w: measurement of %d bytes, want 1 to %d", ErrRequest, r.MeasurementSize, maxMeasurement)
	case r.AdditionalSize > maxAdditional:
		return nil, fmt.Errorf("%w: additional data of %d bytes, at most %d", ErrRequest, r.AdditionalSize, maxAdditional)
	case len(r.Key) == 0 || len(r.Nonce) == 0 || len(r.Tags) != TagsSize:
		return nil, fmt.Errorf("%w: key of %d bytes, nonce of %d, tags of %d: want all, and tags of %d", ErrRequest, len(r.Key), len(r.Nonce), len(r.Tags), TagsSize)
	case len(r.Digest) == 0 || len(r.Digest) > DataSize:
		return nil, fmt.Errorf("%w: digest of %d bytes, want 1 to %d", ErrRequest, len(r.Digest), DataSize)
	}
	return &r, nil
}
