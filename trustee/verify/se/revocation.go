// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package se

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"fmt"
	"slices"
	"time"
)

// maxCRL has room for a large authority's list.
const maxCRL = 64 << 20

func (t *trust) readLists(folder string) error {
	return eachFile(folder, maxCRL, func(raw []byte) error {
		l, err := x509.ParseRevocationList(der(raw, "X509 CRL"))
		t.lists = append(t.lists, l)
		return err
	})
}

// revoked returns an error unless a list of the issuer that is in force, and
// would name the certificate, says nothing of it.
func (t *trust) revoked(c, issuer *x509.Certificate, now time.Time) error {
	complete := 0
	for _, l := range t.lists {
		// The signing key is no authority by its certificate, so that the library
		// would not take its list.
		if !sameName(l.Issuer, issuer.Subject) || issuer.CheckSignature(l.SignatureAlgorithm, l.RawTBSRevocationList, l.Signature) != nil ||
			now.Before(l.ThisUpdate) || !now.Before(l.NextUpdate) {
			continue
		}
		if covers(l, c) {
			complete++
		}
		for _, e := range l.RevokedCertificateEntries {
			if e.SerialNumber.Cmp(c.SerialNumber) == 0 {
				return fmt.Errorf("revoked on %s", e.RevocationTime)
			}
		}
	}
	if complete == 0 {
		return fmt.Errorf("no revocation list of %q is in force", issuer.Subject)
	}
	return nil
}

// sameName compares the parts of two names in any order, as IBM's lists and
// certificates differ in it. IBM's two places are one: lists of before its move
// have the old one.
func sameName(a, b pkix.Name) bool {
	parts := func(n pkix.Name) (all []string) {
		for _, p := range n.Names {
			value := fmt.Sprint(p.Value)
			if value == armonk && p.Type.Equal(asn1.ObjectIdentifier{2, 5, 4, 7}) {
				value = poughkeepsie
			}
			all = append(all, p.Type.String()+"="+value)
		}
		slices.Sort(all)
		return all
	}
	return slices.Equal(parts(a), parts(b))
}

// scope is the extension issuingDistributionPoint of RFC 5280, section 5.2.5.
type scope struct {
	Point struct {
		Names []asn1.RawValue `asn1:"optional,tag:0"`
	} `asn1:"optional,tag:0"`
	Users      bool           `asn1:"optional,tag:1"`
	CAs        bool           `asn1:"optional,tag:2"`
	Reasons    asn1.BitString `asn1:"optional,tag:3"`
	Indirect   bool           `asn1:"optional,tag:4"`
	Attributes bool           `asn1:"optional,tag:5"`
}

const tagURI = 6 // of a GeneralName

// covers tells whether a list would name the certificate if it was revoked. One
// that is a part of others says so in a critical extension.
func covers(l *x509.RevocationList, c *x509.Certificate) bool {
	for _, e := range l.Extensions {
		if !e.Critical {
			continue
		}
		var s scope
		if !e.Id.Equal(asn1.ObjectIdentifier{2, 5, 29, 28}) {
			return false
		}
		if rest, err := asn1.Unmarshal(e.Value, &s); err != nil || len(rest) > 0 ||
			s.Users || s.CAs || s.Indirect || s.Attributes || s.Reasons.BitLength > 0 {
			return false
		}
		if !slices.ContainsFunc(s.Point.Names, func(n asn1.RawValue) bool {
			return n.Class == asn1.ClassContextSpecific && n.Tag == tagURI && slices.Contains(c.CRLDistributionPoints, string(n.Bytes))
		}) {
			return false
		}
	}
	return true
}
