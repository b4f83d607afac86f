// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package se

import (
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"cocoon/internal/bounded"
)

const (
	maxFiles    = 1024
	maxDocument = 1 << 20

	ibm        = "International Business Machines Corporation"
	signerUnit = "Key Signing Service"

	// Where IBM is in its names.
	armonk       = "Armonk"
	poughkeepsie = "Poughkeepsie"
)

// ErrHostKey is returned for a host key document that cannot be trusted.
var ErrHostKey = errors.New("the host key document cannot be trusted")

// trust is all that host keys are checked with, as it lies in folders.
type trust struct {
	signer *x509.Certificate // IBM's key that signs host keys
	above  []*x509.Certificate
	roots  *x509.CertPool
	lists  []*x509.RevocationList
}

// hostKeys reads and checks the host key documents, and all that this takes.
func (c Config) hostKeys(now time.Time) ([]*ecdh.PublicKey, error) {
	t, err := c.trust()
	if err != nil {
		return nil, err
	}
	if err := t.checkSigner(now); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrHostKey, err)
	}
	documents, err := readCerts(c.HostKeys)
	if err != nil {
		return nil, err
	}
	if len(documents) == 0 || len(documents) > maxHostKeys {
		return nil, fmt.Errorf("%d host key documents in %q, want 1 to %d", len(documents), c.HostKeys, maxHostKeys)
	}
	var keys []*ecdh.PublicKey
	for _, d := range documents {
		k, err := t.check(d, now)
		if err != nil {
			return nil, fmt.Errorf("%w: serial number %x: %w", ErrHostKey, d.SerialNumber, err)
		}
		keys = append(keys, k)
	}
	return keys, nil
}

// trust reads certificates and revocation lists.
func (c Config) trust() (*trust, error) {
	certs, err := readCerts(c.Certs)
	if err != nil {
		return nil, err
	}
	t := &trust{roots: x509.NewCertPool()}
	for _, cert := range certs {
		if !signsHostKeys(cert) {
			t.above = append(t.above, cert)
			continue
		}
		if t.signer != nil {
			return nil, fmt.Errorf("two certificates of IBM's signing service in %q", c.Certs)
		}
		t.signer = cert
	}
	if t.signer == nil {
		return nil, fmt.Errorf("no certificate of IBM's signing service in %q", c.Certs)
	}
	root, err := bounded.ReadFile(c.RootCA, maxDocument)
	if err != nil {
		return nil, fmt.Errorf("root of the host keys: %w", err)
	}
	if !t.roots.AppendCertsFromPEM(root) {
		return nil, fmt.Errorf("no certificate in %q", c.RootCA)
	}
	return t, t.readLists(c.CRLs)
}

// signsHostKeys goes by the names that IBM has in the certificate, and that
// s390-tools wants, these six and no other: under the same root there are many
// companies' certificates.
func signsHostKeys(c *x509.Certificate) bool {
	n := c.Subject
	return len(n.Names) == 6 && n.CommonName == ibm && slices.Equal(n.Organization, []string{ibm}) &&
		slices.Equal(n.Country, []string{"US"}) && slices.Equal(n.Province, []string{"New York"}) &&
		len(n.Locality) == 1 && (n.Locality[0] == poughkeepsie || n.Locality[0] == armonk) &&
		len(n.OrganizationalUnit) == 1 && strings.HasSuffix(n.OrganizationalUnit[0], signerUnit)
}

// checkSigner follows the chain from the signing key to the root. None of it
// may be revoked, and each authority's list has to be there.
func (t *trust) checkSigner(now time.Time) error {
	between := x509.NewCertPool()
	for _, c := range t.above {
		between.AddCert(c)
	}
	chains, err := t.signer.Verify(x509.VerifyOptions{Roots: t.roots, Intermediates: between, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}})
	if err != nil {
		return fmt.Errorf("certificate of IBM's signing service: %w", err)
	}
	var errs []error
	for _, chain := range chains {
		err := t.unrevoked(chain, now)
		if err == nil {
			return nil
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

func (t *trust) unrevoked(chain []*x509.Certificate, now time.Time) error {
	if len(chain) < 2 {
		return errors.New("the signing service is no root of its own: nobody could revoke it")
	}
	for i, c := range chain[:len(chain)-1] {
		if err := t.revoked(c, chain[i+1], now); err != nil {
			return fmt.Errorf("certificate of %q: %w", c.Subject, err)
		}
	}
	return nil
}

// check takes the key out of a host key document. Its issuer is known by the
// signature alone: the place in the names differs between IBM's certificates.
func (t *trust) check(d *x509.Certificate, now time.Time) (*ecdh.PublicKey, error) {
	if err := t.signer.CheckSignature(d.SignatureAlgorithm, d.RawTBSCertificate, d.Signature); err != nil {
		return nil, err
	}
	if now.Before(d.NotBefore) || now.After(d.NotAfter) {
		return nil, fmt.Errorf("it is valid from %s to %s", d.NotBefore, d.NotAfter)
	}
	if err := t.revoked(d, t.signer, now); err != nil {
		return nil, err
	}
	key, ok := d.PublicKey.(*ecdsa.PublicKey)
	if !ok || key.Curve != elliptic.P521() {
		return nil, errors.New("its key is not one of P-521")
	}
	return key.ECDH()
}

// readCerts reads every certificate of a folder, in PEM or DER.
func readCerts(folder string) ([]*x509.Certificate, error) {
	var all []*x509.Certificate
	err := eachFile(folder, maxDocument, func(raw []byte) error {
		certs, err := x509.ParseCertificates(der(raw, "CERTIFICATE"))
		if err == nil && len(certs) == 0 {
			err = errors.New("it holds no certificate")
		}
		all = append(all, certs...)
		return err
	})
	return all, err
}

// der returns the bytes of all blocks of a kind, or raw if it has none.
func der(raw []byte, kind string) []byte {
	var all []byte
	for rest := raw; ; {
		var b *pem.Block
		if b, rest = pem.Decode(rest); b == nil {
			break
		}
		if b.Type == kind {
			all = append(all, b.Bytes...)
		}
	}
	if all == nil {
		return raw
	}
	return all
}

// eachFile hands every regular file of a folder to use.
func eachFile(folder string, limit int64, use func([]byte) error) error {
	entries, err := os.ReadDir(folder)
	if err != nil {
		return fmt.Errorf("read folder: %w", err)
	}
	if len(entries) > maxFiles {
		return fmt.Errorf("%d files in %q, at most %d", len(entries), folder, maxFiles)
	}
	for _, e := range entries {
		if !e.Type().IsRegular() && e.Type()&os.ModeSymlink == 0 {
			continue
		}
		name := filepath.Join(folder, e.Name())
		raw, err := bounded.ReadFile(name, limit)
		if err != nil {
			return err
		}
		if err := use(raw); err != nil {
			return fmt.Errorf("read %q: %w", name, err)
		}
	}
	return nil
}
