// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

// Package se verifies the evidence of IBM Secure Execution guests.
//
// It follows Trustee's verifier of that name, and s390-tools (rust/pv) for what
// the ultravisor is sent and answers. A guest is asked first: the request holds
// a key, encrypted to the machines' host keys, by which the ultravisor signs
// what it measures. Two things are different from Trustee's: the guest gets that
// key back sealed so that nobody can make another, and the measurement has to be
// of an image that the operator listed, where there the guest names its image.
//
// Trust: evidence is a claim of whoever sends it. What counts is that only an
// ultravisor whose host key IBM signed can read the key of the request. Host
// keys, certificates, lists and headers are the operator's files.
package se

import (
	"context"
	"crypto/ecdh"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"golang.org/x/sync/singleflight"

	"cocoon/attest/tee/se"
	"cocoon/trustee/as"
)

const (
	measurementSize = sha512.Size
	additionalSize  = 64 // the digests of two host keys
	maxUserData     = 256
	maxAdditional   = 0x8000
)

// Config says where the operator keeps what requests are made with.
type Config struct {
	// HostKeys is a folder of host key documents, one certificate each.
	HostKeys string
	// Certs is a folder with the certificate of IBM's signing service and what
	// is between it and RootCA, a file.
	Certs, RootCA string
	// CRLs is a folder of revocation lists, one of each authority.
	CRLs string
	// Headers is a folder of the headers (*.bin) of the images that may run.
	Headers string
	// Now tells the time; nil means time.Now.
	Now func() time.Time
}

// Verifier verifies evidence of type se. It is safe for concurrent use.
type Verifier struct {
	cfg  Config
	tags [][]byte
	seal sealer

	hosts  atomic.Pointer[hosts]
	flight singleflight.Group
}

// hosts are host keys that were checked, and until when that counts.
type hosts struct {
	keys  []*ecdh.PublicKey
	id    [32]byte // of these keys together
	until time.Time
}

func newHosts(keys []*ecdh.PublicKey, until time.Time) *hosts {
	var names []byte
	for _, k := range keys {
		name := hostKeyHash(k)
		names = append(names, name[:]...)
	}
	return &hosts{keys: keys, id: sha256.Sum256(names), until: until}
}

// hostsLife is how long they are not read again: anybody can have a request
// made, and revocation lists are long.
const hostsLife = time.Minute

var (
	_ as.Verifier   = (*Verifier)(nil)
	_ as.Challenger = (*Verifier)(nil)
)

// New reads the headers, and checks that requests can be made.
func New(cfg Config) (*Verifier, error) {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	v := &Verifier{cfg: cfg}
	var err error
	if v.tags, err = readHeaders(cfg.Headers); err != nil {
		return nil, err
	}
	if v.seal, err = newSealer(); err != nil {
		return nil, err
	}
	if _, err := cfg.hostKeys(cfg.Now()); err != nil {
		return nil, err
	}
	return v, nil
}

// Challenge implements as.Challenger: a request for the guest's ultravisor. It
// takes no parameters.
func (v *Verifier) Challenge(_ context.Context, _ string) (string, error) {
	h, err := v.hostKeys()
	if err != nil {
		return "", err
	}
	r, err := newRandom(rand.Reader)
	if err != nil {
		return "", err
	}
	block, err := r.block(h.keys)
	if err != nil {
		return "", err
	}
	key, nonce, err := v.seal.seal(&r.secret, h.id)
	if err != nil {
		return "", err
	}
	raw, err := json.Marshal(se.Request{
		Block: block, MeasurementSize: measurementSize, AdditionalSize: additionalSize, Key: key, Nonce: nonce, Tags: v.tags[0],
	})
	return string(raw), err
}

// hostKeys returns those of the last minute, or reads them.
func (v *Verifier) hostKeys() (*hosts, error) {
	if h := v.hosts.Load(); h != nil && v.cfg.Now().Before(h.until) {
		return h, nil
	}
	_, err, _ := v.flight.Do("", func() (any, error) {
		at := v.cfg.Now()
		keys, err := v.cfg.hostKeys(at)
		if err == nil {
			v.hosts.Store(newHosts(keys, at.Add(hostsLife)))
		}
		return nil, err
	})
	if err != nil {
		return nil, err
	}
	return v.hosts.Load(), nil
}

// Verify implements as.Verifier.
func (v *Verifier) Verify(_ context.Context, evidence json.RawMessage, b as.Binding) (*as.Claims, error) {
	var e se.Evidence
	if err := json.Unmarshal(evidence, &e); err != nil {
		return nil, fmt.Errorf("%w: %w", as.ErrEvidence, err)
	}
	// Whoever has a host key could read what was asked of it. So the keys have to
	// be trusted still.
	h, err := v.hostKeys()
	if err != nil {
		return nil, fmt.Errorf("host keys of the request: %w", err)
	}
	tags, err := v.check(&e, h)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", as.ErrEvidence, err)
	}
	digest := e.UserData[:se.DataSize]
	if err := b.CheckReportData(digest); err != nil {
		return nil, err
	}
	if b.InitData != nil {
		return nil, fmt.Errorf("Secure Execution confirms no init data: %w", as.ErrEvidence) //nolint:staticcheck // a name
	}
	return &as.Claims{Class: "cpu", ReportData: hex.EncodeToString(digest), Values: map[string]any{
		"cuid": hex.EncodeToString(e.CUID), "user_data": hex.EncodeToString(e.UserData), "report_data": hex.EncodeToString(digest), "version": requestVersion, "tag": hex.EncodeToString(tags[3*64:]),
		"image_phkh": hex.EncodeToString(e.Additional[:32]), "attestation_phkh": hex.EncodeToString(e.Additional[32:64]),
	}}, nil
}

// check compares the measurement with that of each image that may run, and
// returns the digests and the tag of the one that does.
func (v *Verifier) check(e *se.Evidence, h *hosts) ([]byte, error) {
	switch {
	case len(e.CUID) != se.CUIDSize:
		return nil, fmt.Errorf("configuration id of %d bytes, not %d", len(e.CUID), se.CUIDSize)
	case len(e.UserData) < se.DataSize || len(e.UserData) > maxUserData:
		return nil, fmt.Errorf("user data of %d bytes, want %d to %d", len(e.UserData), se.DataSize, maxUserData)
	case len(e.Additional) < additionalSize || len(e.Additional) > maxAdditional:
		return nil, fmt.Errorf("additional data of %d bytes, want %d to %d", len(e.Additional), additionalSize, maxAdditional)
	}
	s, err := v.seal.open(e.Key, e.Nonce, h.id)
	if err != nil {
		return nil, err
	}
	for _, tags := range v.tags {
		if hmac.Equal(measure(s, tags, e), e.Measurement) {
			return tags, nil
		}
	}
	return nil, errors.New("the measurement is of no image that may run")
}

// measure is what the ultravisor signs.
func measure(s *secret, tags []byte, e *se.Evidence) []byte {
	items := append([]byte(nil), tags...)
	items = append(items, e.CUID...)
	items = binary.BigEndian.AppendUint16(items, uint16(len(e.UserData)))
	items = binary.BigEndian.AppendUint16(items, 0)
	items = binary.BigEndian.AppendUint32(items, uint32(len(e.Additional)))
	items = append(items, e.UserData...)
	items = append(items, s.nonce[:]...)
	items = append(items, e.Additional...)
	mac := hmac.New(sha512.New, s.key[:])
	mac.Write(items) //nolint:errcheck // a hash does not fail
	return mac.Sum(nil)
}
