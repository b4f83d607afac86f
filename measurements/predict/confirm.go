// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package predict

import (
	"encoding/hex"
	"fmt"

	"cocoon/internal/bounded"
	"cocoon/internal/initdata"
)

// Registers that a host fills with the digest of the owner's document: names of
// their reference values, and sizes in bytes.
const (
	HostData     = "snp_host_data"
	HostDataSize = 32
	ConfigID     = "mr_config_id"
	ConfigIDSize = 48
)

// Document reads an owner's document, which is nil if file is "".
func Document(file string) (*initdata.Document, error) {
	if file == "" {
		return nil, nil
	}
	raw, err := bounded.ReadFile(file, initdata.MaxDocument)
	if err != nil {
		return nil, err
	}
	d, err := initdata.Parse(raw, initdata.Options{AnyVersion: true})
	if err != nil {
		return nil, fmt.Errorf("initdata %q: %w", file, err)
	}
	return d, nil
}

// confirm adds the register of size bytes that holds the digest of d, if there
// is a document.
func (r *Result) confirm(d *initdata.Document, register string, size int) {
	if d == nil {
		return
	}
	r.Values = append(r.Values, Pair{register, hex.EncodeToString(initdata.Fit(d.Digest(), size))})
	r.Steps = append(r.Steps, Step{
		Of: register, Input: "initdata", What: "initdata, by its own algorithm " + d.Algorithm, Digest: hex.EncodeToString(d.Digest()),
	})
}
