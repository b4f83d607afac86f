// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package report

import (
	"crypto/sha256"
	"crypto/sha512"
	"encoding/hex"
	"fmt"
	"io"
	"maps"
	"slices"

	"github.com/fxamacker/cbor/v2"

	"cocoon/measurements/predict"
)

// Tags and numbers of draft-ietf-rats-corim, and digest algorithms of the IANA
// registry of named information.
const (
	tagCoRIM = 501
	tagCoMID = 506
	tagBytes = 560

	algSHA256 = 1
	algSHA384 = 7

	corimVendor = "Cocoon"
)

type corimMap struct {
	ID   string     `cbor:"0,keyasint"`
	Tags []cbor.Tag `cbor:"1,keyasint"`
}

type comidMap struct {
	Identity struct {
		ID string `cbor:"0,keyasint"`
	} `cbor:"1,keyasint"`
	Triples struct {
		Reference []triple `cbor:"0,keyasint"`
	} `cbor:"4,keyasint"`
}

type triple struct {
	_            struct{} `cbor:",toarray"`
	Environment  environment
	Measurements []measurement
}

type environment struct {
	Class struct {
		Vendor string `cbor:"1,keyasint"`
		Model  string `cbor:"2,keyasint"`
	} `cbor:"0,keyasint"`
}

type measurement struct {
	Key    string `cbor:"0,keyasint"`
	Values struct {
		Digests []namedDigest `cbor:"2,keyasint,omitempty"`
		Raw     *cbor.Tag     `cbor:"4,keyasint,omitempty"`
	} `cbor:"1,keyasint"`
}

type namedDigest struct {
	_         struct{} `cbor:",toarray"`
	Algorithm int
	Value     []byte
}

// writeCoRIM writes an unsigned concise reference integrity manifest with one
// triple: the class is the image's profile, a measurement's key the name of a
// reference value. A reference value service flattens that to names such as
// Cocoon/snp/snp_launch_measurement/digests.
func writeCoRIM(w io.Writer, r *Report) error {
	var c comidMap
	c.Identity.ID = "cocoon:" + r.Image.Profile + ":" + r.Image.Tree
	var t triple
	t.Environment.Class.Vendor, t.Environment.Class.Model = corimVendor, r.Image.Profile
	lists := r.references()
	for _, name := range slices.Sorted(maps.Keys(lists)) {
		m, err := measured(name, lists[name])
		if err != nil {
			return err
		}
		t.Measurements = append(t.Measurements, m)
	}
	c.Triples.Reference = []triple{t}
	mode, err := cbor.CoreDetEncOptions().EncMode()
	if err != nil {
		return fmt.Errorf("set up CBOR: %w", err)
	}
	inner, err := mode.Marshal(c)
	if err != nil {
		return fmt.Errorf("encode the CoMID: %w", err)
	}
	outer, err := mode.Marshal(cbor.Tag{Number: tagCoRIM, Content: corimMap{ID: c.Identity.ID, Tags: []cbor.Tag{{Number: tagCoMID, Content: inner}}}})
	if err != nil {
		return fmt.Errorf("encode the CoRIM: %w", err)
	}
	_, err = w.Write(outer)
	return err
}

// measured is a measurement that has any of the values. What confirms the
// owner's document is a digest of any algorithm, cut or padded: bytes.
func measured(name string, values []string) (measurement, error) {
	m := measurement{Key: name}
	for _, text := range values {
		b, err := hex.DecodeString(text)
		if err != nil {
			return m, fmt.Errorf("value %q of %s: %w", text, name, err)
		}
		raw := name == predict.HostData || name == predict.ConfigID
		switch {
		case !raw && len(b) == sha256.Size:
			m.Values.Digests = append(m.Values.Digests, namedDigest{Algorithm: algSHA256, Value: b})
		case !raw && len(b) == sha512.Size384:
			m.Values.Digests = append(m.Values.Digests, namedDigest{Algorithm: algSHA384, Value: b})
		case m.Values.Raw != nil:
			return m, fmt.Errorf("%w: %s has several values that are no digests, which a CoRIM cannot say", predict.ErrOptions, name)
		default:
			m.Values.Raw = &cbor.Tag{Number: tagBytes, Content: b}
		}
	}
	return m, nil
}
