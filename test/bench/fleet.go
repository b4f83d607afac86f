// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
)

// fleet is how many guests attest at once; evaluations is how often other
// relying parties, as many as evaluators, ask the attestation service.
const (
	fleet       = 200
	evaluations = 2000
	evaluators  = 8
)

// measureFleet times many at once against the broker: guests that start
// together, and relying parties that use the attestation service alone.
func (b *bench) measureFleet(ctx context.Context, t *trustee) error {
	took, whole, err := atOnce(ctx, fleet, fleet, t.attest)
	if err != nil {
		return fmt.Errorf("fleet of guests: %w", err)
	}
	b.addCrowd(fmt.Sprintf("%d guests at once attest and fetch a secret", fleet), "guests/s", took, whole)
	party, err := newRelyingParty(t)
	if err != nil {
		return err
	}
	defer party.http.CloseIdleConnections()
	took, whole, err = atOnce(ctx, evaluations, evaluators, party.evaluate)
	if err != nil {
		return fmt.Errorf("attestation service: %w", err)
	}
	b.addCrowd(fmt.Sprintf("POST /attestation by %d relying parties", evaluators), "requests/s", took, whole)
	return nil
}

// addCrowd adds what one of many had to wait, and what all of them got through.
func (b *bench) addCrowd(name, unit string, took []time.Duration, whole time.Duration) {
	b.add(row{Group: "attestation", Name: name + ", p50", Unit: "ms", Ours: millis(percentile(took, 50))})
	b.add(row{Group: "attestation", Name: name + ", p99", Unit: "ms", Ours: millis(percentile(took, 99))})
	b.add(row{Group: "attestation", Name: name, Unit: unit, Ours: float64(len(took)) / whole.Seconds()})
}

// atOnce does something times, many of them side by side, and returns how long
// each and all of it took.
func atOnce(ctx context.Context, times, many int, do func(context.Context) (time.Duration, error)) ([]time.Duration, time.Duration, error) {
	took := make([]time.Duration, times)
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(many)
	start := time.Now()
	for i := range took {
		group.Go(func() (err error) {
			took[i], err = do(ctx)
			return err
		})
	}
	err := group.Wait()
	return took, time.Since(start), err
}

// relyingParty asks the attestation service about sample evidence.
type relyingParty struct {
	url, body string
	http      *http.Client
}

func newRelyingParty(t *trustee) (*relyingParty, error) {
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(t.config.RootCertsPEM) {
		return nil, errors.New("no CA of the broker")
	}
	const evidence = `{"svn":"1","report_data":"bm9uY2U="}` // that is: nonce
	encode := base64.RawURLEncoding.EncodeToString
	return &relyingParty{
		url: t.rest + "/attestation",
		body: fmt.Sprintf(`{"verification_requests":[{"tee":"sample","evidence":%q,"runtime_data":{"raw":%q}}],"policy_ids":[]}`,
			encode([]byte(evidence)), encode([]byte("nonce"))),
		http: &http.Client{
			Timeout:   time.Minute,
			Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}, MaxIdleConnsPerHost: evaluators},
		},
	}, nil
}

// evaluate is one request on a connection that is open already.
func (p *relyingParty) evaluate(ctx context.Context) (time.Duration, error) {
	start := time.Now()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, p.url, strings.NewReader(p.body))
	if err != nil {
		return 0, err
	}
	res, err := p.http.Do(req)
	if err != nil {
		return 0, err
	}
	text, err := io.ReadAll(res.Body)
	if err := errors.Join(err, res.Body.Close()); err != nil {
		return 0, err
	}
	if res.StatusCode != http.StatusOK {
		return 0, fmt.Errorf("status %d: %s", res.StatusCode, text)
	}
	return time.Since(start), nil
}
