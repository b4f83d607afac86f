// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

// Package sample makes evidence that proves nothing, for development and tests
// on machines without a trusted execution environment.
//
// Trust: anybody can make this evidence. A verifier must be told explicitly to
// accept it.
package sample

import (
	"context"
	"encoding/json"
	"fmt"
)

// Attester makes sample evidence. The zero value is not usable; see New and
// NewDevice.
type Attester struct {
	tee, svn string
}

type evidence struct {
	SVN        string `json:"svn"`
	ReportData []byte `json:"report_data"`
}

// New returns the attester that stands for a TEE.
func New() Attester { return Attester{tee: "sample", svn: "1"} }

// NewDevice returns the attester that stands for an attached device.
func NewDevice() Attester { return Attester{tee: "sampledevice", svn: "2"} }

// TEE returns "sample" or "sampledevice".
func (a Attester) TEE() string { return a.tee }

// Evidence returns an object with a version and reportData in standard base64,
// as it is, without padding to a size.
func (a Attester) Evidence(ctx context.Context, reportData []byte) (json.RawMessage, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("make %s evidence: %w", a.tee, err)
	}
	if reportData == nil {
		reportData = []byte{} // null would be no base64 text
	}
	return json.Marshal(evidence{SVN: a.svn, ReportData: reportData})
}
