// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package azvtpm

import (
	"encoding/json"
	"encoding/pem"
	"errors"

	"cocoon/attest/tee/azvtpm"
	"cocoon/attest/tee/snp"
)

// oldQuote is a TPM quote in the first form of evidence, which has numbers in
// the place of text.
type oldQuote struct {
	Signature snp.Octets   `json:"signature"`
	Message   snp.Octets   `json:"message"`
	PCRs      []snp.Octets `json:"pcrs"`
}

func (q oldQuote) quote() azvtpm.Quote {
	out := azvtpm.Quote{Signature: azvtpm.Hex(q.Signature), Message: azvtpm.Hex(q.Message)}
	for _, v := range q.PCRs {
		out.PCRs = append(out.PCRs, azvtpm.Hex(v))
	}
	return out
}

// parseOld reads evidence of the first form, which has no version. Its members
// have other names on SNP.
func parseOld(raw json.RawMessage, kind uint32) (azvtpm.Evidence, error) {
	if kind == azvtpm.TDX {
		var e struct {
			Quote   oldQuote   `json:"tpm_quote"`
			HCL     snp.Octets `json:"hcl_report"`
			TDQuote snp.Octets `json:"td_quote"`
		}
		err := json.Unmarshal(raw, &e)
		return azvtpm.Evidence{Quote: e.Quote.quote(), HCL: azvtpm.Blob(e.HCL), TDQuote: azvtpm.Blob(e.TDQuote)}, err
	}
	var e struct {
		Quote oldQuote   `json:"quote"`
		HCL   snp.Octets `json:"report"`
		VCEK  string     `json:"vcek"`
	}
	if err := json.Unmarshal(raw, &e); err != nil {
		return azvtpm.Evidence{}, err
	}
	block, _ := pem.Decode([]byte(e.VCEK))
	if block == nil || block.Type != "CERTIFICATE" {
		return azvtpm.Evidence{}, errors.New("vcek is no certificate in PEM")
	}
	return azvtpm.Evidence{Quote: e.Quote.quote(), HCL: azvtpm.Blob(e.HCL), VCEK: block.Bytes}, nil
}
