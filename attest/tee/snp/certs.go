// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package snp

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
)

// The kinds of certificates that peers know.
const (
	ARK  = "ARK"
	ASK  = "ASK"
	VCEK = "VCEK"
	VLEK = "VLEK"
	CRL  = "CRL"
)

// kindsByGUID are those of the GHCB specification.
func kindsByGUID() map[string]string {
	return map[string]string{
		"c0b406a4a803495297433fb6014cd0ae": ARK,
		"4ab7b379bbac4fe4a02f05aef327c782": ASK,
		"63da758de6644564adc5f4b93be8accd": VCEK,
		"a8074bc2a25a483eaae639c045a0b8a1": VLEK,
		"92f81bc358114d3d97ffd19f88dc67ea": CRL,
	}
}

const (
	certEntrySize = 24
	maxCerts      = 32
)

// ErrCertTable is returned for a table of certificates that cannot be read.
var ErrCertTable = errors.New("invalid table of certificates")

// Cert is one certificate of the chain, in DER.
type Cert struct {
	Kind string `json:"cert_type"`
	Data Octets `json:"data"`
}

// parseCertTable reads the table that the host gives with a report. Entries of
// kinds that peers do not know are left out. A table without the certificate
// of the key that signs is of no use to a verifier: it gives nil.
func parseCertTable(b []byte) ([]Cert, error) {
	kinds := kindsByGUID()
	var certs []Cert
	signer := false
	for i := 0; ; i++ {
		if i == maxCerts || len(b) < (i+1)*certEntrySize {
			if len(b) == 0 {
				return nil, nil
			}
			return nil, fmt.Errorf("%w: it has no end", ErrCertTable)
		}
		entry := b[i*certEntrySize:][:certEntrySize]
		if allZero(entry) {
			break
		}
		off, size := uint64(binary.LittleEndian.Uint32(entry[16:])), uint64(binary.LittleEndian.Uint32(entry[20:]))
		if off+size > uint64(len(b)) {
			return nil, fmt.Errorf("%w: entry %d has %d bytes at %d, of %d", ErrCertTable, i, size, off, len(b))
		}
		guid := hex.EncodeToString(entry[:16])
		kind, known := kinds[guid]
		if !known || size == 0 {
			continue
		}
		signer = signer || kind == VCEK || kind == VLEK
		certs = append(certs, Cert{Kind: kind, Data: Octets(b[off : off+size])})
	}
	if !signer {
		return nil, nil
	}
	return certs, nil
}
