// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package config

import (
	"errors"
	"fmt"
	"math"
	"net/netip"
	"strconv"
	"strings"
)

// ErrAddress is returned for a listening address in no known form.
var ErrAddress = errors.New("not a listening address")

// Address is where the agent listens.
type Address struct {
	// Network is vsock, unix or tcp.
	Network string
	// Address is the socket path, or host:port for tcp. A leading @ of a path
	// stands for an abstract socket.
	Address string
	// CID and Port are set for vsock; CID is 0xffffffff for any.
	CID, Port uint32
}

// String writes the address as ParseAddress reads it.
func (a Address) String() string {
	switch {
	case a.Network != "vsock":
		return a.Network + "://" + a.Address
	case a.CID == math.MaxUint32:
		return fmt.Sprintf("vsock://-1:%d", a.Port)
	}
	return fmt.Sprintf("vsock://%d:%d", a.CID, a.Port)
}

// ParseAddress reads vsock://CID:PORT (CID -1 means any), unix:///PATH,
// unix://@NAME, or tcp://IP:PORT. The last form is for tests with real peers
// that have no vsock.
func ParseAddress(s string) (Address, error) {
	network, rest, ok := strings.Cut(s, "://")
	if !ok || rest == "" {
		return Address{}, fmt.Errorf("address %.100q: %w", s, ErrAddress)
	}
	switch network {
	case "vsock":
		return parseVsock(rest)
	case "unix":
		if rest[0] != '/' && (rest[0] != '@' || len(rest) == 1) {
			break
		}
		return Address{Network: "unix", Address: rest}, nil
	case "tcp":
		if _, err := netip.ParseAddrPort(rest); err != nil {
			break
		}
		return Address{Network: "tcp", Address: rest}, nil
	}
	return Address{}, fmt.Errorf("address %.100q: %w", s, ErrAddress)
}

func parseVsock(s string) (Address, error) {
	c, p, ok := strings.Cut(s, ":")
	cid, err := strconv.ParseUint(c, 10, 32)
	if c == "-1" {
		cid, err = math.MaxUint32, nil
	}
	port, perr := strconv.ParseUint(p, 10, 32)
	if !ok || err != nil || perr != nil || port == 0 {
		return Address{}, fmt.Errorf("vsock address %.100q: %w", s, ErrAddress)
	}
	return Address{Network: "vsock", CID: uint32(cid), Port: uint32(port)}, nil
}
