// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package selftest

import (
	"bytes"
	"encoding/hex"
	"fmt"

	"cocoon/internal/initdata"
	"cocoon/internal/verity"
	"cocoon/measurements/vtpm"
)

// Sizes of HOST_DATA and MRCONFIGID in bytes.
const (
	hostDataSize = 32
	configIDSize = 48
)

type verityVector struct {
	Blocks    int    `json:"blocks"`
	BlockSize int    `json:"block_size"`
	Algorithm string `json:"algorithm"`
	Salt      string `json:"salt"`
	Root      string `json:"root"`
}

func (v verityVector) predict(*inputs) ([]Check, error) {
	salt, err := hex.DecodeString(v.Salt)
	if err != nil {
		return nil, err
	}
	const period = 4096 // of the pattern, whatever the size of blocks
	data := make([]byte, v.Blocks*v.BlockSize)
	for at := range data {
		data[at] = byte(31*(at/period) + 7*(at%period))
	}
	p := verity.Params{
		Algorithm: v.Algorithm, Salt: salt, DataBlocks: uint64(v.Blocks), DataBlock: uint64(v.BlockSize), HashBlock: uint64(v.BlockSize),
	}
	if _, err := p.Build(bytes.NewReader(data)); err != nil {
		return nil, err
	}
	name := fmt.Sprintf("dm-verity root: %d blocks of %d, %s, salt of %d bytes", v.Blocks, v.BlockSize, v.Algorithm, len(salt))
	return []Check{{Name: name, Got: hex.EncodeToString(p.RootHash), Want: v.Root}}, nil
}

type initdataVector struct {
	Document string `json:"document"`
	HostData string `json:"snp_host_data"`
	ConfigID string `json:"mr_config_id"`
	PCR8     string `json:"pcr08"` // none: of an algorithm that a TPM does not take
}

func (v initdataVector) predict(*inputs) ([]Check, error) {
	d, err := initdata.Parse([]byte(v.Document), initdata.Options{})
	if err != nil {
		return nil, err
	}
	checks := []Check{
		{Name: "SNP HOST_DATA: initdata by " + d.Algorithm, Got: hex.EncodeToString(initdata.Fit(d.Digest(), hostDataSize)), Want: v.HostData},
		{Name: "TDX MRCONFIGID: initdata by " + d.Algorithm, Got: hex.EncodeToString(initdata.Fit(d.Digest(), configIDSize)), Want: v.ConfigID},
	}
	if v.PCR8 == "" {
		return checks, nil
	}
	got, _, err := vtpm.InitData(d.Digest())
	if err != nil {
		return nil, err
	}
	return append(checks, Check{Name: "TPM PCR 8: initdata by " + d.Algorithm, Got: hex.EncodeToString(got), Want: v.PCR8}), nil
}
