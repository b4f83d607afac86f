// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package metadata

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"

	"cocoon/internal/bounded"
)

// Hosts of the services.
const (
	linkLocal  = "169.254.169.254" // everywhere but Alibaba
	alibaba    = "100.100.100.200"
	wireServer = "168.63.129.16" // of Azure
	googleName = "metadata.google.internal"
)

const (
	// MaxUserData bounds a user-data document, in bytes. Providers allow less.
	MaxUserData = 1 << 20

	maxBody      = MaxUserData/3*4 + 64<<10 // as base64 with line ends
	maxToken     = 4 << 10
	requestLimit = 30 * time.Second
	tokenLimit   = 5 * time.Second
	attempts     = 10
	pause        = 5 * time.Second
)

var (
	// ErrService is returned when the service does not answer as it should.
	ErrService = errors.New("metadata service")

	errRedirect = errors.New("the service redirects")
)

// Client talks to the metadata service of one machine.
type Client struct {
	http *http.Client
}

// New returns a Client. dial connects to the address of a service; nil means
// the network of the machine.
func New(dial func(ctx context.Context, network, address string) (net.Conn, error)) *Client {
	if dial == nil {
		dial = (&net.Dialer{Timeout: requestLimit}).DialContext
	}
	return &Client{http: &http.Client{
		Timeout: requestLimit,
		Transport: &http.Transport{
			DialContext: dial, DisableKeepAlives: true, DisableCompression: true, MaxResponseHeaderBytes: 64 << 10,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return errRedirect },
	}}
}

// UserData fetches the user-data of the machine. It tries ten times, five
// seconds apart, as long as ctx allows: the service, or the network, may come
// up after the guest. Errors wrap ErrService.
func (c *Client) UserData(ctx context.Context, p Provider) ([]byte, error) {
	var err error
	for try := range attempts {
		if try > 0 {
			select {
			case <-time.After(pause):
			case <-ctx.Done():
				return nil, errors.Join(err, context.Cause(ctx))
			}
		}
		var data []byte
		if data, err = c.once(ctx, p); err == nil {
			return data, nil
		}
	}
	return nil, fmt.Errorf("fetch user-data from %s: %w", p, err)
}

func (c *Client) once(ctx context.Context, p Provider) ([]byte, error) {
	switch p {
	case Azure:
		return c.encoded(ctx, request{
			url:    "http://" + linkLocal + "/metadata/instance/compute/userData?api-version=2021-01-01&format=text",
			header: map[string]string{"Metadata": "true"},
		})
	case AWS:
		return c.aws(ctx)
	case GCP:
		return c.encoded(ctx, request{
			url:    "http://" + linkLocal + "/computeMetadata/v1/instance/attributes/user-data",
			header: map[string]string{"Metadata-Flavor": "Google"}, host: googleName,
		})
	case Alibaba:
		return c.do(ctx, request{url: "http://" + alibaba + "/latest/user-data"})
	}
	return nil, fmt.Errorf("provider %q has no service: %w", p, ErrService)
}

// aws fetches with a token of version 2 of the service, or without one where
// there is none.
func (c *Client) aws(ctx context.Context) ([]byte, error) {
	limited, cancel := context.WithTimeout(ctx, tokenLimit)
	defer cancel()
	token, err := c.do(limited, request{
		method: http.MethodPut, url: "http://" + linkLocal + "/latest/api/token", limit: maxToken,
		header: map[string]string{"X-aws-ec2-metadata-token-ttl-seconds": "60"},
	})
	r := request{url: "http://" + linkLocal + "/latest/user-data"}
	if err == nil {
		r.header = map[string]string{"X-aws-ec2-metadata-token": string(token)}
	}
	data, second := c.do(ctx, r)
	if second != nil {
		return nil, errors.Join(second, err)
	}
	return data, nil
}

// encoded fetches a document in base64.
func (c *Client) encoded(ctx context.Context, r request) ([]byte, error) {
	body, err := c.do(ctx, r)
	if err != nil {
		return nil, err
	}
	data, err := base64.StdEncoding.DecodeString(strings.NewReplacer("\r", "", "\n", "").Replace(string(body)))
	if err != nil {
		return nil, fmt.Errorf("%w: user-data is no base64: %w", ErrService, err)
	}
	return checkSize(data)
}

func checkSize(data []byte) ([]byte, error) {
	if len(data) > MaxUserData {
		return nil, fmt.Errorf("%w: user-data of %d bytes: %w", ErrService, len(data), bounded.ErrTooLarge)
	}
	return data, nil
}

// request is one exchange with a service.
type request struct {
	method string // GET if empty
	url    string
	host   string // name in the request, where the service insists on one
	header map[string]string
	body   string
	limit  int64 // of the answer, in bytes; that of user-data if 0
	anyOK  bool  // every status 2xx will do, not only 200
}

func (c *Client) do(ctx context.Context, r request) (body []byte, err error) {
	if r.method == "" {
		r.method = http.MethodGet
	}
	if r.limit == 0 {
		r.limit = maxBody
	}
	req, err := http.NewRequestWithContext(ctx, r.method, r.url, strings.NewReader(r.body))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrService, err)
	}
	for name, value := range r.header {
		req.Header.Set(name, value)
	}
	if r.host != "" {
		req.Host = r.host
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrService, err)
	}
	defer func() { err = errors.Join(err, resp.Body.Close()) }()
	if resp.StatusCode != http.StatusOK && !(r.anyOK && resp.StatusCode/100 == 2) {
		return nil, fmt.Errorf("%w: %s %s: status %d", ErrService, r.method, r.url, resp.StatusCode)
	}
	body, err = bounded.ReadAll(io.Reader(resp.Body), r.limit)
	if err != nil {
		return nil, fmt.Errorf("%w: read the answer to %s %s: %w", ErrService, r.method, r.url, err)
	}
	return body, nil
}
