// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package snp

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"cocoon/attest/tee/snp"
	"cocoon/trustee/verify/fetch"
)

// DefaultKDS is AMD's key distribution service.
const DefaultKDS = "https://kdsintf.amd.com"

const (
	maxCert   = 64 << 10
	kdsTries  = 3
	kdsWait   = 2 * time.Second
	kdsAnswer = 20 * time.Second
)

// ErrNoVCEK is returned by a source that does not have the certificate.
var ErrNoVCEK = errors.New("VCEK not found")

// Key names a processor's key: a processor has one for each level of its
// firmware.
type Key struct {
	Product snp.Product
	HWID    []byte
	TCB     snp.TCB
}

func (k Key) masked() bool {
	for _, b := range k.HWID {
		if b != 0 {
			return false
		}
	}
	return true
}

// query is the part of the service's address that names the level.
func (k Key) query() string {
	q := ""
	if k.TCB.FMC != nil {
		q = fmt.Sprintf("fmcSPL=%02d&", *k.TCB.FMC)
	}
	return q + fmt.Sprintf("blSPL=%02d&teeSPL=%02d&snpSPL=%02d&ucodeSPL=%02d", k.TCB.Bootloader, k.TCB.TEE, k.TCB.SNP, k.TCB.Microcode)
}

// Folder is a Source on files: <dir>/<hwid>/<level>.der, as a Verifier
// keeps them, or <dir>/<hwid>/vcek.der put there by hand.
type Folder string

func (d Folder) path(k Key) string {
	level := strings.NewReplacer("SPL=", "", "&", "-").Replace(k.query())
	return filepath.Join(string(d), hex.EncodeToString(k.HWID), level+".der")
}

// VCEK implements Source.
func (d Folder) VCEK(_ context.Context, k Key) ([]byte, error) {
	file := d.path(k)
	for _, name := range []string{file, filepath.Join(filepath.Dir(file), "vcek.der")} {
		b, err := os.ReadFile(name)
		if !errors.Is(err, fs.ErrNotExist) {
			return b, err
		}
	}
	return nil, fmt.Errorf("%w in %q", ErrNoVCEK, filepath.Dir(file))
}

// keep stores a certificate. A reader never sees half of it.
func (d Folder) keep(k Key, der []byte) error {
	file := d.path(k)
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(file), ".new-")
	if err != nil {
		return err
	}
	_, err = f.Write(der)
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), file)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return nil
}

// KDS is a Source that asks AMD's service, which turns busy clients away.
type KDS struct {
	URL    string // DefaultKDS, or a mirror
	Client *http.Client
	Wait   time.Duration // before the service is asked again; 0 means 2 s
}

// VCEK implements Source.
func (s KDS) VCEK(ctx context.Context, k Key) ([]byte, error) {
	address, err := url.JoinPath(s.URL, "vcek/v1", string(k.Product), hex.EncodeToString(k.HWID))
	if err != nil {
		return nil, fmt.Errorf("address of the key service: %w", err)
	}
	wait := s.Wait
	if wait == 0 {
		wait = kdsWait
	}
	for try := 1; ; try++ {
		der, err := s.fetch(ctx, address+"?"+k.query())
		if err == nil || !errors.Is(err, fetch.ErrLater) || try == kdsTries {
			return der, err
		}
		select {
		case <-ctx.Done():
			return nil, errors.Join(err, ctx.Err())
		case <-time.After(wait):
		}
	}
}

func (s KDS) fetch(ctx context.Context, address string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, kdsAnswer)
	defer cancel()
	der, _, err := fetch.Get(ctx, s.Client, address, maxCert)
	switch {
	case errors.Is(err, fetch.ErrNotFound):
		return nil, fmt.Errorf("%w: %w", ErrNoVCEK, err)
	case err != nil:
		return nil, fmt.Errorf("ask the key service: %w", err)
	}
	return der, nil
}
