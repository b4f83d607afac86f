// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package se

import (
	"bytes"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"math/big"
	"strings"
	"testing"
	"time"

	image "cocoon/measurements/se"
)

func TestHostKeysThatNobodyVouchesForAreRefused(t *testing.T) {
	t.Parallel()
	late, early := now().AddDate(0, 1, 0), now().AddDate(0, 0, -1)
	for name, tc := range map[string]struct {
		spoil func(*site)
		why   string
	}{
		"signed by another":  {func(s *site) { s.write(t, "hkds/HKD-1.crt", "CERTIFICATE", s.hostKey(t, &s.other, nil).cert.Raw) }, "verification failure"},
		"signed by itself":   {func(s *site) { s.write(t, "hkds/HKD-1.crt", "CERTIFICATE", s.hostKey(t, nil, nil).cert.Raw) }, "verification failure"},
		"signed by the root": {func(s *site) { s.write(t, "hkds/x.crt", "CERTIFICATE", s.hostKey(t, &s.root, nil).cert.Raw) }, "verification failure"},
		"expired": {func(s *site) {
			h := s.hostKey(t, &s.signer, func(c *x509.Certificate) { c.NotAfter = early })
			s.write(t, "hkds/x.crt", "CERTIFICATE", h.cert.Raw)
		}, "valid from"},
		"of tomorrow": {func(s *site) {
			h := s.hostKey(t, &s.signer, func(c *x509.Certificate) { c.NotBefore = late })
			s.write(t, "hkds/x.crt", "CERTIFICATE", h.cert.Raw)
		}, "valid from"},
		"of another curve": {func(s *site) {
			s.write(t, "hkds/x.crt", "CERTIFICATE", s.issue(t, &s.signer, ibmName(), elliptic.P384(), nil).cert.Raw)
		}, "not one of P-521"},
		"revoked": {func(s *site) {
			h := s.hostKey(t, &s.signer, nil)
			s.write(t, "hkds/x.crt", "CERTIFICATE", h.cert.Raw)
			s.list(t, "signer", s.signer, late, h.cert)
		}, "revoked on"},
		"revoked by a second list": {func(s *site) {
			h := s.hostKey(t, &s.signer, nil)
			s.write(t, "hkds/x.crt", "CERTIFICATE", h.cert.Raw)
			s.list(t, "second", s.signer, late, h.cert)
		}, "revoked on"},
		"signer revoked":     {func(s *site) { s.list(t, "between", s.between, late, s.signer.cert) }, "revoked on"},
		"authority revoked":  {func(s *site) { s.list(t, "root", s.root, late, s.between.cert) }, "revoked on"},
		"old list":           {func(s *site) { s.list(t, "signer", s.signer, early) }, "no revocation list"},
		"no list":            {func(s *site) { remove(t, s.path("crls/signer")) }, "no revocation list"},
		"no list of signer":  {func(s *site) { remove(t, s.path("crls/between")) }, "no revocation list"},
		"no list of a root":  {func(s *site) { remove(t, s.path("crls/root")) }, "no revocation list"},
		"list of a stranger": {func(s *site) { s.list(t, "signer", s.other, late) }, "no revocation list"},
		"no signer":          {func(s *site) { remove(t, s.path("certs/signer.der")) }, "no certificate of IBM's"},
		"two signers": {func(s *site) {
			s.write(t, "certs/x.crt", "", s.issue(t, &s.between, ibmName(), elliptic.P384(), nil).cert.Raw)
		}, "two certificates"},
		"signer by name": {func(s *site) {
			fake := s.issue(t, nil, ibmName(), elliptic.P384(), nil)
			s.write(t, "certs/signer.der", "", fake.cert.Raw)
			s.list(t, "signer", fake, late)
			s.write(t, "hkds/HKD-1.crt", "CERTIFICATE", s.hostKey(t, &fake, nil).cert.Raw)
		}, "unknown authority"},
		"signer as root": {func(s *site) { s.write(t, "root.crt", "CERTIFICATE", s.signer.cert.Raw) }, "no root of its own"},
		"authority expired": {func(s *site) {
			template := *s.between.cert
			template.NotAfter = early
			raw := must[[]byte](t)(x509.CreateCertificate(rand.Reader, &template, s.root.cert, &s.between.key.PublicKey, s.root.key))
			s.write(t, "certs/between.crt", "CERTIFICATE", raw)
		}, "expired"},
		"root expired": {func(s *site) {
			template := *s.root.cert
			template.NotAfter = early
			raw := must[[]byte](t)(x509.CreateCertificate(rand.Reader, &template, &template, &s.root.key.PublicKey, s.root.key))
			s.write(t, "root.crt", "CERTIFICATE", raw)
		}, "expired"},
		"list of tomorrow": {func(s *site) {
			s.signList(t, "signer", s.signer, &x509.RevocationList{Number: big.NewInt(1), ThisUpdate: late, NextUpdate: late.AddDate(0, 1, 0)})
		}, "no revocation list"},
		"list in another's name": {func(s *site) {
			a := authority{s.signer.key, s.other.cert}
			template := *s.other.cert
			template.SubjectKeyId = []byte{1}
			a.cert = must[*x509.Certificate](t)(x509.ParseCertificate(must[[]byte](t)(x509.CreateCertificate(rand.Reader, &template, s.between.cert, &a.key.PublicKey, s.between.key))))
			s.list(t, "signer", a, late)
		}, "no revocation list"},
		"a customer as signer": {func(s *site) { s.write(t, "certs/signer.der", "", s.other.cert.Raw) }, "no certificate of IBM's"},
		"signer expired": {func(s *site) {
			old := s.issue(t, &s.between, ibmName(), elliptic.P384(), func(c *x509.Certificate) { c.NotAfter = early })
			s.write(t, "certs/signer.der", "", old.cert.Raw)
		}, "expired"},
		"another root": {func(s *site) {
			s.write(t, "root.crt", "CERTIFICATE", s.issue(t, nil, pkix.Name{CommonName: "root"}, elliptic.P384(), ca).cert.Raw)
		}, "unknown authority"},
		"a root of text":   {func(s *site) { s.write(t, "root.crt", "", []byte("x")) }, "no certificate in"},
		"no root":          {func(s *site) { remove(t, s.path("root.crt")) }, "no such file"},
		"no host key":      {func(s *site) { remove(t, s.path("hkds/HKD-1.crt")) }, "0 host key documents"},
		"no folder":        {func(s *site) { remove(t, s.path("crls")) }, "no such file"},
		"garbage":          {func(s *site) { s.write(t, "hkds/x.crt", "", []byte("x")) }, "x.crt"},
		"empty file":       {func(s *site) { s.write(t, "hkds/x.crt", "", nil) }, "x.crt"},
		"garbage as list":  {func(s *site) { s.write(t, "crls/x", "", []byte("x")) }, "crls/x"},
		"no header":        {func(s *site) { remove(t, s.path("hdrs/app.bin")) }, "0 image headers"},
		"header of text":   {func(s *site) { s.write(t, "hdrs/x.bin", "", []byte("x")) }, "x.bin"},
		"header too large": {func(s *site) { s.write(t, "hdrs/x.bin", "", make([]byte, image.MaxHeader+1)) }, "x.bin"},
	} {
		s := newSite(t)
		v := must[*Verifier](t)(New(s.config()))
		tc.spoil(s)
		if _, err := New(s.config()); err == nil || !strings.Contains(err.Error(), tc.why) {
			t.Errorf("%s: %v", name, err)
		}
		if strings.Contains(name, "header") {
			continue // these are read once
		}
		if c, err := v.Challenge(t.Context(), ""); err == nil || !strings.Contains(err.Error(), tc.why) {
			t.Errorf("%s, while the broker runs: %q, %v", name, c, err)
		}
	}
}

func TestANewerRevocationListCountsWithinAMinute(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	cfg, at := s.config(), now()
	cfg.Now = func() time.Time { return at }
	v := must[*Verifier](t)(New(cfg))
	must[string](t)(v.Challenge(t.Context(), ""))
	s.list(t, "signer", s.signer, now().AddDate(0, 1, 0), must[[]*x509.Certificate](t)(readCerts(s.path("hkds")))[0])
	at = at.Add(hostsLife - 1)
	must[string](t)(v.Challenge(t.Context(), ""))
	at = at.Add(1)
	if _, err := v.Challenge(t.Context(), ""); !errors.Is(err, ErrHostKey) || !strings.Contains(err.Error(), "revoked") {
		t.Errorf("after a minute: %v", err)
	}
}

func TestAListOfSomeCertificatesSaysNothingOfOthers(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	late := now().AddDate(0, 1, 0)
	point := func(uris ...string) (names []byte) {
		for _, u := range uris {
			names = append(names, must[[]byte](t)(asn1.Marshal(asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: tagURI, Bytes: []byte(u)}))...)
		}
		for range 2 { // the name, in the point
			names = must[[]byte](t)(asn1.Marshal(asn1.RawValue{Class: asn1.ClassContextSpecific, IsCompound: true, Bytes: names}))
		}
		return names
	}
	flag := func(tag int) []byte {
		return must[[]byte](t)(asn1.Marshal(asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: tag, Bytes: []byte{0xff}}))
	}
	const ours, delta, distribution = "http://ibm.example/1.crl", 27, 28
	host := s.hostKey(t, &s.signer, func(c *x509.Certificate) { c.CRLDistributionPoints = []string{"http://ibm.example/0.crl", ours} })
	s.write(t, "hkds/HKD-1.crt", "CERTIFICATE", host.cert.Raw)
	for name, tc := range map[string]struct {
		id       int
		critical bool
		value    []byte
		good     bool
	}{
		"not critical":            {99, false, []byte{5, 0}, true},
		"unknown":                 {99, true, []byte{5, 0}, false},
		"delta":                   {delta, true, []byte{2, 1, 1}, false},
		"of this one's point":     {distribution, true, sequence(t, point("http://ibm.example/2.crl", ours)), true},
		"of another point":        {distribution, true, sequence(t, point("http://ibm.example/2.crl")), false},
		"of no point":             {distribution, true, sequence(t), false},
		"of users":                {distribution, true, sequence(t, point(ours), flag(1)), false},
		"of authorities":          {distribution, true, sequence(t, point(ours), flag(2)), false},
		"of some reasons":         {distribution, true, sequence(t, point(ours), []byte{0x83, 2, 1, 0x80}), false},
		"of others' certificates": {distribution, true, sequence(t, point(ours), flag(4)), false},
		"of attributes":           {distribution, true, sequence(t, point(ours), flag(5)), false},
		"of garbage":              {distribution, true, []byte{1, 2, 3}, false},
	} {
		l := &x509.RevocationList{Number: big.NewInt(1), ThisUpdate: now().AddDate(0, -1, 0), NextUpdate: late}
		l.ExtraExtensions = []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, tc.id}, Critical: tc.critical, Value: tc.value}}
		s.signList(t, "signer", s.signer, l)
		if _, err := New(s.config()); (err == nil) != tc.good || err != nil && !strings.Contains(err.Error(), "no revocation list") {
			t.Errorf("%s: %v", name, err)
		}
		l.RevokedCertificateEntries = []x509.RevocationListEntry{{SerialNumber: host.cert.SerialNumber, RevocationTime: l.ThisUpdate}}
		s.signList(t, "signer", s.signer, l)
		if _, err := New(s.config()); err == nil || !strings.Contains(err.Error(), "revoked on") {
			t.Errorf("%s, and revoked: %v", name, err)
		}
	}
}

func TestAListWithIBMsOtherNameCounts(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	moved := ibmName()
	moved.Locality = []string{armonk}
	for name, reordered := range map[string]pkix.Name{
		"armonk": moved,
		"order": {ExtraNames: []pkix.AttributeTypeAndValue{
			{Type: asn1.ObjectIdentifier{2, 5, 4, 3}, Value: ibm}, {Type: asn1.ObjectIdentifier{2, 5, 4, 8}, Value: "New York"},
			{Type: asn1.ObjectIdentifier{2, 5, 4, 7}, Value: poughkeepsie}, {Type: asn1.ObjectIdentifier{2, 5, 4, 11}, Value: "IBM Z Host Key Signing Service"},
			{Type: asn1.ObjectIdentifier{2, 5, 4, 10}, Value: ibm}, {Type: asn1.ObjectIdentifier{2, 5, 4, 6}, Value: "US"},
		}},
	} {
		template := *s.signer.cert
		template.Subject, template.RawSubject = reordered, nil
		raw := must[[]byte](t)(x509.CreateCertificate(rand.Reader, &template, s.between.cert, &s.signer.key.PublicKey, s.between.key))
		a := authority{s.signer.key, must[*x509.Certificate](t)(x509.ParseCertificate(raw))}
		if bytes.Equal(a.cert.RawSubject, s.signer.cert.RawSubject) {
			t.Fatalf("%s: the same name", name)
		}
		s.list(t, "signer", a, now().AddDate(0, 1, 0))
		must[*Verifier](t)(New(s.config()))
	}
}

func sequence(t *testing.T, members ...[]byte) []byte {
	t.Helper()
	return must[[]byte](t)(asn1.Marshal(asn1.RawValue{Tag: asn1.TagSequence, IsCompound: true, Bytes: bytes.Join(members, nil)}))
}

func TestOnlyIBMsNameSignsHostKeys(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		change func(*pkix.Name)
		good   bool
	}{
		"ibm":              {func(*pkix.Name) {}, true},
		"armonk":           {func(n *pkix.Name) { n.Locality = []string{"Armonk"} }, true},
		"another service":  {func(n *pkix.Name) { n.OrganizationalUnit = []string{"Next Key Signing Service"} }, true},
		"another place":    {func(n *pkix.Name) { n.Locality = []string{"Paris"} }, false},
		"no place":         {func(n *pkix.Name) { n.Locality = nil }, false},
		"another country":  {func(n *pkix.Name) { n.Country = []string{"DE"} }, false},
		"another state":    {func(n *pkix.Name) { n.Province = []string{"Texas"} }, false},
		"another company":  {func(n *pkix.Name) { n.Organization = []string{ibm + " Ltd"} }, false},
		"another name":     {func(n *pkix.Name) { n.CommonName = "x" }, false},
		"another unit":     {func(n *pkix.Name) { n.OrganizationalUnit = []string{"Key Signing Service Invalid"} }, false},
		"two units":        {func(n *pkix.Name) { n.OrganizationalUnit = append(n.OrganizationalUnit, "x") }, false},
		"one name further": {func(n *pkix.Name) { n.SerialNumber = "1" }, false},
	} {
		n := ibmName()
		tc.change(&n)
		s := site{}
		if c := s.issue(t, nil, n, elliptic.P256(), nil).cert; signsHostKeys(c) != tc.good {
			t.Errorf("%s: %s", name, c.Subject)
		}
	}
}
