// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package tdx

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/google/go-tdx-guest/pcs"
)

// Platform names the collateral of a platform.
type Platform struct {
	FMSPC string // of the PCK's extension, 12 hexadecimal digits in lower case
	CA    string // that issued the PCK: "platform" or "processor"
}

// Collateral is what Intel says of a kind of platform. All of it is signed.
type Collateral struct {
	TCBInfo    []byte // JSON with tcbInfo and signature
	QEIdentity []byte // JSON with enclaveIdentity and signature
	Chain      []byte // PEM: certificate of the key that signed both, then the root
	CRL        []byte // DER: revoked PCKs of the platform's CA
	RootCRL    []byte // DER: revoked CAs and signers of collateral
}

// Source finds collateral.
type Source interface {
	Collateral(ctx context.Context, p Platform) (*Collateral, error)
}

// tcbSigner is the name of the key with which Intel signs collateral.
const tcbSigner = "Intel SGX TCB Signing"

// ErrNoCollateral is returned by a source that has none for the platform.
var ErrNoCollateral = errors.New("collateral not found")

// opened is collateral whose signatures hold.
type opened struct {
	tcb     pcs.TcbInfo
	qe      pcs.EnclaveIdentity
	crl     *x509.RevocationList
	rootCRL *x509.RevocationList
	expired bool
}

// open checks the signatures of collateral, for a platform whose key has the
// chain pck.
func (c *Collateral) open(root [sha256.Size]byte, pck []*x509.Certificate, now time.Time) (*opened, error) {
	chain, err := parseChain(c.Chain)
	if err != nil {
		return nil, err
	}
	if err := checkChain(chain, root, now); err != nil {
		return nil, err
	}
	// Platforms have keys below the same root.
	if name := chain[0].Subject.CommonName; name != tcbSigner {
		return nil, fmt.Errorf("collateral is signed by %.64q, want %q", name, tcbSigner)
	}
	key, ok := chain[0].PublicKey.(*ecdsa.PublicKey)
	if !ok || key.Curve != elliptic.P256() {
		return nil, errors.New("the key that signs collateral is no P-256 key")
	}
	o := &opened{}
	if err := signedMember(c.TCBInfo, "tcbInfo", key, &o.tcb); err != nil {
		return nil, err
	}
	if err := signedMember(c.QEIdentity, "enclaveIdentity", key, &o.qe); err != nil {
		return nil, err
	}
	if o.tcb.ID != "TDX" || o.qe.ID != "TD_QE" {
		return nil, fmt.Errorf("collateral of %.32q and %.32q, want that of TDX", o.tcb.ID, o.qe.ID)
	}
	if o.crl, err = revoked(c.CRL, pck[1]); err != nil {
		return nil, fmt.Errorf("revoked PCKs: %w", err)
	}
	if o.rootCRL, err = revoked(c.RootCRL, chain[len(chain)-1]); err != nil {
		return nil, fmt.Errorf("revoked CAs: %w", err)
	}
	if err := o.checkCAs(append(slices.Clone(pck), chain...)); err != nil {
		return nil, err
	}
	o.expired = slices.ContainsFunc([]time.Time{o.tcb.NextUpdate, o.qe.NextUpdate, o.crl.NextUpdate, o.rootCRL.NextUpdate}, now.After)
	return o, nil
}

func revoked(der []byte, issuer *x509.Certificate) (*x509.RevocationList, error) {
	l, err := x509.ParseRevocationList(der)
	if err != nil {
		return nil, err
	}
	return l, l.CheckSignatureFrom(issuer)
}

// checkCAs refuses a certificate that the root has issued and revoked.
func (o *opened) checkCAs(all []*x509.Certificate) error {
	for _, c := range all {
		if !bytes.Equal(c.RawIssuer, o.rootCRL.RawIssuer) {
			continue
		}
		for _, e := range o.rootCRL.RevokedCertificateEntries {
			if e.SerialNumber.Cmp(c.SerialNumber) == 0 {
				return fmt.Errorf("the certificate of %q is revoked", c.Subject.CommonName)
			}
		}
	}
	return nil
}

// signedMember decodes a member of a JSON object, over whose exact text the
// member signature goes.
func signedMember(raw []byte, name string, key *ecdsa.PublicKey, to any) error {
	var object map[string]json.RawMessage
	if err := json.Unmarshal(raw, &object); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	var text string
	if err := json.Unmarshal(object["signature"], &text); err != nil {
		return fmt.Errorf("signature of %s: %w", name, err)
	}
	sig, err := hex.DecodeString(text)
	if err != nil || len(sig) != pointSize {
		return fmt.Errorf("signature of %s is no %d bytes in hexadecimal", name, pointSize)
	}
	if !verifyPoint(key, object[name], sig) {
		return fmt.Errorf("%s is not signed by Intel's key", name)
	}
	if err := json.Unmarshal(object[name], to); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}

// platformOf reads what a PCK says of its platform.
func platformOf(pck *x509.Certificate) (Platform, *pcs.PckExtensions, error) {
	ext, err := pcs.PckCertificateExtensions(pck)
	if err != nil {
		return Platform{}, nil, fmt.Errorf("extensions of the PCK: %w", err)
	}
	p := Platform{FMSPC: strings.ToLower(ext.FMSPC), CA: "platform"}
	if strings.Contains(pck.Issuer.CommonName, "Processor") {
		p.CA = "processor"
	}
	return p, ext, nil
}
