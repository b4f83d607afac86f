// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package azvtpm

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"cocoon/internal/bounded"
)

const (
	// MetadataURL is where Azure's metadata service is.
	MetadataURL = "http://169.254.169.254"
	vcekPath    = "/metadata/THIM/amd/certification"
	quotePath   = "/acc/tdquote"

	maxMetadata     = 256 << 10
	metadataTimeout = 10 * time.Second
	metadataTries   = 4
	metadataWait    = time.Second
)

// Metadata asks Azure's metadata service, which is reached without encryption:
// what it says is signed by AMD or Intel, and checked by the verifier.
type Metadata struct {
	url    string
	client *http.Client
}

// NewMetadata returns the service at url, reached over a transport without a
// proxy. No redirect is followed, as the address is one of the machine's own
// link.
func NewMetadata(url string, transport http.RoundTripper) *Metadata {
	return &Metadata{url: url, client: &http.Client{
		Timeout:   metadataTimeout,
		Transport: transport,
		CheckRedirect: func(*http.Request, []*http.Request) error {
			return http.ErrUseLastResponse
		},
	}}
}

// VCEK returns the certificate of the key that signs this machine's reports, in
// DER.
func (m *Metadata) VCEK(ctx context.Context) ([]byte, error) {
	var answer struct {
		VCEK string `json:"vcekCert"`
	}
	if err := m.ask(ctx, http.MethodGet, vcekPath, nil, &answer); err != nil {
		return nil, fmt.Errorf("ask for the VCEK: %w", err)
	}
	block, _ := pem.Decode([]byte(answer.VCEK))
	if block == nil || block.Type != "CERTIFICATE" {
		return nil, errors.New("ask for the VCEK: the answer holds no certificate")
	}
	return block.Bytes, nil
}

// TDQuote returns the quote for a TDREPORT.
func (m *Metadata) TDQuote(ctx context.Context, report []byte) ([]byte, error) {
	body, err := json.Marshal(map[string]string{"report": base64.RawURLEncoding.EncodeToString(report)})
	if err != nil {
		return nil, fmt.Errorf("encode the report: %w", err)
	}
	var answer struct {
		Quote Blob `json:"quote"`
	}
	if err := m.ask(ctx, http.MethodPost, quotePath, body, &answer); err != nil {
		return nil, fmt.Errorf("ask for a TD quote: %w", err)
	}
	if len(answer.Quote) == 0 {
		return nil, errors.New("ask for a TD quote: the answer holds none")
	}
	return answer.Quote, nil
}

// refused is an answer that is no success.
type refused struct{ status int }

func (r refused) Error() string {
	return fmt.Sprintf("it answered %d %s", r.status, http.StatusText(r.status))
}

// passing tells whether another try may succeed.
func passing(err error) bool {
	var r refused
	if errors.As(err, &r) {
		return r.status == http.StatusTooManyRequests || r.status == http.StatusGone || r.status >= http.StatusInternalServerError
	}
	var f form
	return !errors.As(err, &f)
}

// form is an answer that cannot be read.
type form struct{ error }

func (m *Metadata) ask(ctx context.Context, method, path string, body []byte, answer any) error {
	for try := 1; ; try++ {
		err := m.once(ctx, method, path, body, answer)
		if err == nil || try == metadataTries || !passing(err) {
			return err
		}
		select {
		case <-ctx.Done():
			return errors.Join(err, context.Cause(ctx))
		case <-time.After(metadataWait):
		}
	}
}

func (m *Metadata) once(ctx context.Context, method, path string, body []byte, answer any) (err error) {
	r, err := http.NewRequestWithContext(ctx, method, m.url+path, bytes.NewReader(body))
	if err != nil {
		return form{err}
	}
	r.Header.Set("Metadata", "true")
	r.Header.Set("Accept", "application/json")
	if body != nil {
		r.Header.Set("Content-Type", "application/json")
	}
	resp, err := m.client.Do(r)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, closeBody(resp.Body)) }()
	if resp.StatusCode != http.StatusOK {
		return refused{resp.StatusCode}
	}
	raw, err := bounded.ReadAll(resp.Body, maxMetadata)
	if err != nil {
		return fmt.Errorf("read the answer: %w", err)
	}
	if err := json.Unmarshal(raw, answer); err != nil {
		return form{fmt.Errorf("parse the answer: %w", err)}
	}
	return nil
}

func closeBody(c io.Closer) error {
	if err := c.Close(); err != nil {
		return fmt.Errorf("close the answer: %w", err)
	}
	return nil
}
