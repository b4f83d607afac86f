// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package client

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/mdlayher/vsock"
)

// ErrBadAddress is wrapped by the errors of ParseAddress.
var ErrBadAddress = errors.New("bad address")

// Address is where an agent listens.
type Address struct {
	Network string // "unix", "tcp" or "vsock"
	Path    string // unix: absolute path of the socket
	Host    string // tcp: "host:port"
	CID     uint32 // vsock: context id of the guest
	Port    uint32 // vsock
}

// ParseAddress reads unix:///path, tcp://host:port or vsock://cid:port. Its
// errors wrap ErrBadAddress.
func ParseAddress(s string) (Address, error) {
	scheme, rest, ok := strings.Cut(s, "://")
	if !ok {
		return Address{}, fmt.Errorf("%w %q: want unix://, tcp:// or vsock://", ErrBadAddress, s)
	}
	switch scheme {
	case "unix":
		if !filepath.IsAbs(rest) || strings.ContainsRune(rest, 0) {
			return Address{}, fmt.Errorf("%w %q: want unix:// and an absolute path", ErrBadAddress, s)
		}
		return Address{Network: scheme, Path: rest}, nil
	case "tcp":
		return parseTCP(s, rest)
	case "vsock":
		return parseVsock(s, rest)
	default:
		return Address{}, fmt.Errorf("%w %q: unknown scheme %q", ErrBadAddress, s, scheme)
	}
}

func parseTCP(s, rest string) (Address, error) {
	host, port, err := net.SplitHostPort(rest)
	if err != nil {
		return Address{}, fmt.Errorf("%w %q: %w", ErrBadAddress, s, err)
	}
	if n, err := strconv.ParseUint(port, 10, 16); host == "" || err != nil || n == 0 {
		return Address{}, fmt.Errorf("%w %q: want a host and a port from 1 to 65535", ErrBadAddress, s)
	}
	return Address{Network: "tcp", Host: rest}, nil
}

func parseVsock(s, rest string) (Address, error) {
	cid, port, _ := strings.Cut(rest, ":")
	c, err := strconv.ParseUint(cid, 10, 32)
	if err != nil {
		return Address{}, fmt.Errorf("%w %q: context id: %w", ErrBadAddress, s, err)
	}
	p, err := strconv.ParseUint(port, 10, 32)
	if err != nil {
		return Address{}, fmt.Errorf("%w %q: port: %w", ErrBadAddress, s, err)
	}
	return Address{Network: "vsock", CID: uint32(c), Port: uint32(p)}, nil
}

func (a Address) dial(ctx context.Context) (net.Conn, error) {
	var d net.Dialer
	switch a.Network {
	case "unix":
		return d.DialContext(ctx, "unix", a.Path)
	case "tcp":
		return d.DialContext(ctx, "tcp", a.Host)
	case "vsock":
		// The kernel gives up by itself after two seconds.
		return vsock.Dial(a.CID, a.Port, nil)
	default:
		return nil, fmt.Errorf("%w: network %q", ErrBadAddress, a.Network)
	}
}

// TLSFiles names what a connection with mutual TLS needs.
type TLSFiles struct {
	Cert, Key  string // PEM files of the client; both or none
	CA         string // PEM file with the roots that the guest's certificate is checked against
	ServerName string // name in the guest's certificate; "" is the host of the address
}

// Config reads the files. It returns nil without error if no field is set, and
// an error if only some of what is needed is: there is no connection with TLS
// that does not check the guest's certificate.
func (f TLSFiles) Config() (*tls.Config, error) {
	if f == (TLSFiles{}) {
		return nil, nil
	}
	if f.CA == "" {
		return nil, errors.New("TLS needs the CA that signed the guest's certificate")
	}
	if (f.Cert == "") != (f.Key == "") {
		return nil, errors.New("a client certificate needs its key, and a key its certificate")
	}
	pem, err := os.ReadFile(f.CA)
	if err != nil {
		return nil, fmt.Errorf("read CA: %w", err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("CA file %q holds no certificate", f.CA)
	}
	cfg := &tls.Config{RootCAs: roots, ServerName: f.ServerName, MinVersion: tls.VersionTLS12}
	if f.Cert != "" {
		pair, err := tls.LoadX509KeyPair(f.Cert, f.Key)
		if err != nil {
			return nil, fmt.Errorf("read client certificate: %w", err)
		}
		cfg.Certificates = []tls.Certificate{pair}
	}
	return cfg, nil
}
