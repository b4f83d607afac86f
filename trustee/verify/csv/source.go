// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package csv

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path/filepath"

	"cocoon/attest/tee/csv"
	"cocoon/trustee/verify/fetch"
)

// DefaultKDS is Hygon's service for certificates.
const DefaultKDS = "https://cert.hygon.cn"

const pairSize = csv.CASize + csv.CertSize

// ErrNoPair is returned by a source that does not have the certificates.
var ErrNoPair = errors.New("certificates HSK and CEK not found")

// Source finds the certificates HSK and CEK of a chip, one after the other in
// their binary form.
type Source interface {
	Pair(ctx context.Context, serial string) ([]byte, error)
}

// Folder is a Source on files: <dir>/<serial number>/hsk_cek.cert, as Hygon's
// tools leave them.
type Folder string

// Pair implements Source.
func (d Folder) Pair(_ context.Context, serial string) ([]byte, error) {
	b, err := os.ReadFile(filepath.Join(string(d), serial, "hsk_cek.cert"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: %w", ErrNoPair, err)
	}
	return b, err
}

// KDS is a Source that asks Hygon's service.
type KDS struct {
	URL    string // DefaultKDS
	Client *http.Client
}

// Pair implements Source.
func (s KDS) Pair(ctx context.Context, serial string) ([]byte, error) {
	b, _, err := fetch.Get(ctx, s.Client, s.URL+"/hsk_cek?snumber="+url.QueryEscape(serial), pairSize)
	if errors.Is(err, fetch.ErrNotFound) {
		err = fmt.Errorf("%w: %w", ErrNoPair, err)
	}
	return b, err
}

// parsePair reads both.
func parsePair(b []byte) (*csv.CA, *csv.Cert, error) {
	if len(b) != pairSize {
		return nil, nil, fmt.Errorf("HSK and CEK have %d bytes, want %d", len(b), pairSize)
	}
	hsk, err := csv.ParseCA(b[:csv.CASize])
	if err != nil {
		return nil, nil, err
	}
	cek, err := csv.ParseCert(b[csv.CASize:])
	return hsk, cek, err
}
