// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package tee

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"cocoon/attest/tee/azvtpm"
	"cocoon/attest/tee/cca"
	"cocoon/attest/tee/csv"
	"cocoon/attest/tee/sample"
	"cocoon/attest/tee/se"
	"cocoon/attest/tee/snp"
	"cocoon/attest/tee/tdx"
	"cocoon/attest/tee/tpm"
)

// ErrNoAttester is returned for a platform that this build cannot attest on.
var ErrNoAttester = errors.New("this build has no attester for the TEE")

// Attester makes evidence.
type Attester interface {
	// TEE is the platform's name on the wire.
	TEE() string
	// Evidence returns evidence with reportData bound into it. How the data is
	// padded is the platform's matter.
	Evidence(ctx context.Context, reportData []byte) (json.RawMessage, error)
}

// New returns the attester of kind, or an error that wraps ErrNoAttester. No
// kind but Sample gets the sample attester. agentLog is the file with the
// entries of the attestation agent, for the TEEs whose evidence carries them.
func New(kind Kind, agentLog string) (Attester, error) {
	switch kind {
	case Sample:
		return sample.New(), nil
	case SNP:
		return snp.New(), nil
	case TDX:
		return tdx.New(agentLog), nil
	case AzSNPVTPM:
		return azvtpm.New(azvtpm.SNP, machineTPM(), agentLog), nil
	case AzTDXVTPM:
		return azvtpm.New(azvtpm.TDX, machineTPM(), agentLog), nil
	case CSV:
		return csv.New(), nil
	case TPM:
		return tpm.NewAttester(machineTPM(), tpm.AK, agentLog), nil
	case CCA:
		return cca.New(), nil
	case SE:
		return se.New(), nil
	}
	return nil, fmt.Errorf("%w %q", ErrNoAttester, kind)
}

func machineTPM() *tpm.TPM { return tpm.New(tpm.Device(tpm.Devices()...)) }

// hclTimeout bounds the look for a paravisor.
const hclTimeout = 30 * time.Second

// HCLType reads the hardware type of Azure's paravisor for Platform.HCLType.
func HCLType(ctx context.Context) (uint32, error) {
	ctx, cancel := context.WithTimeout(ctx, hclTimeout)
	defer cancel()
	return azvtpm.HardwareType(ctx, machineTPM())
}
