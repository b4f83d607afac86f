// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package csv

import (
	"bytes"
	"crypto/ecdsa"
	"encoding/hex"
	"errors"
	"fmt"
	"math/big"
	"slices"

	"github.com/emmansun/gmsm/ecdh"
	"github.com/emmansun/gmsm/sm2"

	"cocoon/attest/tee/csv"
)

// coordinate is how many bytes of a number count; the rest is zero.
const coordinate = 32

// Root is Hygon's root key (HRK).
type Root struct {
	ID  [16]byte // that certificates name it by
	Key *ecdsa.PublicKey
	UID []byte // that goes into signatures
}

// hygonRoot is the key that Hygon publishes, from the certificate that Trustee
// has.
func hygonRoot() (*Root, error) {
	r := &Root{UID: []byte("HYGON-SSD-HRK")}
	id, err := hex.DecodeString("3ae86a9701355cce333a589de21583d7")
	if err != nil {
		return nil, fmt.Errorf("root key of Hygon: %w", err)
	}
	copy(r.ID[:], id)
	r.Key, err = keyOf("2df6c2921df2f52a501fcd85e73509c8753a5609db02d7f34cf1a4624de162be", "46b91eb4684d74384788beb9100c644a38954e16978b4f581570bb573a12ab3b")
	return r, err
}

func keyOf(x, y string) (*ecdsa.PublicKey, error) {
	var p csv.Point
	for to, text := range map[*[72]byte]string{&p.X: x, &p.Y: y} {
		b, err := hex.DecodeString(text)
		if err != nil {
			return nil, fmt.Errorf("root key of Hygon: %w", err)
		}
		copy(to[:], b)
	}
	return publicKey(p)
}

// publicKey makes a key of a point, which has to be on the curve.
func publicKey(p csv.Point) (*ecdsa.PublicKey, error) {
	x, err := bigEndian(p.X[:])
	if err != nil {
		return nil, err
	}
	y, err := bigEndian(p.Y[:])
	if err != nil {
		return nil, err
	}
	if _, err := ecdh.P256().NewPublicKey(slices.Concat([]byte{4}, x, y)); err != nil {
		return nil, fmt.Errorf("key of SM2: %w", err) // not on the curve
	}
	return &ecdsa.PublicKey{Curve: sm2.P256(), X: new(big.Int).SetBytes(x), Y: new(big.Int).SetBytes(y)}, nil //nolint:staticcheck // no other way makes a key of this curve
}

var errNumber = errors.New("a number of more than 32 bytes")

// bigEndian turns a number round.
func bigEndian(le []byte) ([]byte, error) {
	if len(bytes.Trim(le[coordinate:], "\x00")) > 0 {
		return nil, errNumber
	}
	be := bytes.Clone(le[:coordinate])
	slices.Reverse(be)
	return be, nil
}

// signer is a key with what goes into its signatures.
type signer struct {
	key *ecdsa.PublicKey
	uid []byte
}

func (s signer) check(signed, r, t []byte) error {
	x, err := bigEndian(r)
	if err != nil {
		return err
	}
	y, err := bigEndian(t)
	if err != nil {
		return err
	}
	if !sm2.VerifyWithSM2(s.key, s.uid, signed, new(big.Int).SetBytes(x), new(big.Int).SetBytes(y)) {
		return errors.New("the signature does not hold")
	}
	return nil
}

// signing checks that the root has signed the key that signs chips' keys.
func (r *Root) signing(hsk *csv.CA) (signer, error) {
	data := hsk.Body.Preamble.Data
	if data.Usage != csv.UsageSigning || data.SID != r.ID {
		return signer{}, fmt.Errorf("HSK: use %#x by key %x, want %#x by %x", data.Usage, data.SID, csv.UsageSigning, r.ID)
	}
	signed, err := hsk.Signed()
	if err != nil {
		return signer{}, err
	}
	if err := (signer{r.Key, r.UID}).check(signed, hsk.Signature.R[:], hsk.Signature.S[:]); err != nil {
		return signer{}, fmt.Errorf("HSK: %w", err)
	}
	key, err := keyIn(hsk.Body.PubKey.G, hsk.Body.PubKey.Point)
	if err != nil {
		return signer{}, fmt.Errorf("HSK: %w", err)
	}
	return signer{key, hsk.UID()}, nil
}

func keyIn(group uint32, p csv.Point) (*ecdsa.PublicKey, error) {
	if group != csv.Curve {
		return nil, fmt.Errorf("key of group %d, want %d", group, csv.Curve)
	}
	return publicKey(p)
}

// next checks that s, a key of one use, has signed a key of another.
func (s signer) next(c *csv.Cert, by, use uint32, name string) (signer, error) {
	pub := c.Body.Data.PubKey
	if pub.Usage != use || pub.Algo != csv.SM2 {
		return signer{}, fmt.Errorf("%s: use %#x with algorithm %d, want %#x with %d", name, pub.Usage, pub.Algo, use, csv.SM2)
	}
	signed, err := c.Signed()
	if err != nil {
		return signer{}, err
	}
	err = fmt.Errorf("%s: no signature by a key of use %#x", name, by)
	for _, sig := range c.Sigs {
		if sig.Usage != by || sig.Algo != csv.SM2 {
			continue
		}
		if err = s.check(signed, sig.Signature.R[:], sig.Signature.S[:]); err == nil {
			break
		}
		err = fmt.Errorf("%s: %w", name, err)
	}
	if err != nil {
		return signer{}, err
	}
	key, err := keyIn(pub.Key.G, pub.Key.Point)
	if err != nil {
		return signer{}, fmt.Errorf("%s: %w", name, err)
	}
	return signer{key, c.UID()}, nil
}

// checkReport checks that the platform's key has signed a report.
func (s signer) checkReport(r *csv.Report) error {
	if r.SigUsage() != csv.UsagePlatform || r.SigAlgo() != csv.SM2 {
		return fmt.Errorf("report: signed by a key of use %#x with algorithm %d, want %#x with %d", r.SigUsage(), r.SigAlgo(), csv.UsagePlatform, csv.SM2)
	}
	x, y := r.Signature()
	if err := s.check(r.Signed(), x, y); err != nil {
		return fmt.Errorf("report: %w", err)
	}
	return nil
}
