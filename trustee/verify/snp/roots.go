// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package snp

import (
	"bytes"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"

	"github.com/google/go-sev-guest/kds"
	"github.com/google/go-sev-guest/verify/trust"

	"cocoon/attest/tee/snp"
)

// Roots are the keys of AMD for one line of processors.
type Roots struct {
	ARK  *x509.Certificate // the root
	ASK  *x509.Certificate // signs processors' keys, VCEK
	ASVK *x509.Certificate // signs providers' keys, VLEK
}

// amdRoots returns those that AMD publishes, from the library's copy.
func amdRoots() (map[snp.Product]Roots, error) {
	all := map[snp.Product]Roots{}
	for p, pems := range map[snp.Product][2][]byte{
		snp.Milan: {trust.AskArkMilanVcekBytes, trust.AskArkMilanVlekBytes},
		snp.Genoa: {trust.AskArkGenoaVcekBytes, trust.AskArkGenoaVlekBytes},
		snp.Turin: {trust.AskArkTurinVcekBytes, trust.AskArkTurinVlekBytes},
	} {
		ask, ark, err := pair(pems[0])
		if err != nil {
			return nil, fmt.Errorf("AMD's keys for %s: %w", p, err)
		}
		asvk, _, err := pair(pems[1])
		if err != nil {
			return nil, fmt.Errorf("AMD's provider keys for %s: %w", p, err)
		}
		all[p] = Roots{ARK: ark, ASK: ask, ASVK: asvk}
	}
	return all, nil
}

func pair(pems []byte) (middle, root *x509.Certificate, err error) {
	m, r, err := kds.ParseProductCertChain(append(bytes.Clone(bytes.TrimSpace(pems)), '\n'))
	if err != nil {
		return nil, nil, err
	}
	if middle, err = x509.ParseCertificate(m); err != nil {
		return nil, nil, err
	}
	root, err = x509.ParseCertificate(r)
	return middle, root, err
}

// The extensions of AMD's certificates (document 57230).
func oid(last ...int) asn1.ObjectIdentifier {
	return append(asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 3704, 1}, last...)
}

// checkSigner checks that AMD vouches for the key as that of the processor, at
// the firmware level that the report is about.
func (v *Verifier) checkSigner(vek *x509.Certificate, r *snp.Report, product snp.Product) error {
	roots, ok := v.cfg.Roots[product]
	if !ok {
		return fmt.Errorf("no root of trust for %s", product)
	}
	middle, name := roots.ASK, "ASK"
	if r.SignedByVLEK() {
		middle, name = roots.ASVK, "ASVK"
	}
	if roots.ARK == nil || middle == nil {
		return fmt.Errorf("no %s for %s", name, product)
	}
	root, between := x509.NewCertPool(), x509.NewCertPool()
	root.AddCert(roots.ARK)
	between.AddCert(middle)
	_, err := vek.Verify(x509.VerifyOptions{Roots: root, Intermediates: between, CurrentTime: v.cfg.Now(), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}})
	if err != nil {
		return fmt.Errorf("certificate of the key that signed: %w", err)
	}
	if err := checkLevels(vek, r.ReportedTCB()); err != nil {
		return err
	}
	if r.SignedByVLEK() {
		return nil
	}
	return checkChip(vek, hwid(r.ChipID(), product))
}

// checkLevels compares the firmware levels that the key stands for. A key of
// another level would be one that AMD no longer vouches for, or not yet.
func checkLevels(vek *x509.Certificate, t snp.TCB) error {
	type level struct {
		name string
		oid  asn1.ObjectIdentifier
		want uint8
	}
	levels := []level{{"bootloader", oid(3, 1), t.Bootloader}, {"tee", oid(3, 2), t.TEE}, {"snp", oid(3, 3), t.SNP}, {"microcode", oid(3, 8), t.Microcode}}
	if t.FMC != nil {
		levels = append(levels, level{"fmc", oid(3, 9), *t.FMC})
	}
	for _, l := range levels {
		raw, err := extension(vek, l.oid)
		if err != nil {
			return fmt.Errorf("certificate's level of %s: %w", l.name, err)
		}
		var got int
		if rest, err := asn1.Unmarshal(raw, &got); err != nil || len(rest) > 0 {
			return fmt.Errorf("certificate's level of %s is no number", l.name)
		}
		if got != int(l.want) {
			return fmt.Errorf("the report's level of %s is %d, the certificate of its key is for %d", l.name, l.want, got)
		}
	}
	return nil
}

// checkChip compares the processor that the key belongs to. Older certificates
// have its id as it is, newer ones as an octet string.
func checkChip(vek *x509.Certificate, id []byte) error {
	raw, err := extension(vek, oid(4))
	if err != nil {
		return fmt.Errorf("certificate's chip id: %w", err)
	}
	var inner []byte
	if rest, err := asn1.Unmarshal(raw, &inner); err == nil && len(rest) == 0 {
		raw = inner
	}
	if !bytes.Equal(raw, id) {
		return errors.New("the certificate belongs to another processor than the report")
	}
	return nil
}

func extension(c *x509.Certificate, id asn1.ObjectIdentifier) ([]byte, error) {
	for _, e := range c.Extensions {
		if e.Id.Equal(id) {
			return e.Value, nil
		}
	}
	return nil, fmt.Errorf("there is no extension %s", id)
}

// hwid is the part of a chip id that names a processor of the product.
func hwid(chip []byte, p snp.Product) []byte {
	if p == snp.Turin {
		return chip[:8]
	}
	return chip
}
