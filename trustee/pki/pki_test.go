// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package pki

import (
	"crypto/x509"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"
)

func certs(t *testing.T, dir, name string) []*x509.Certificate {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		t.Fatal(err)
	}
	c, err := ParseCerts(raw)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestTheServerCertificateServesExactlyItsHosts(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "a", "b")
	if err := Init(dir, Config{Hosts: []string{"kbs.example.com", "10.0.2.2", "::1"}, Now: time.Now}); err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(certs(t, dir, CACert)[0])
	leaf := certs(t, dir, ServerCert)[0]
	for host, good := range map[string]bool{"kbs.example.com": true, "10.0.2.2": true, "::1": true, "example.com": false, "10.0.2.3": false, "x.kbs.example.com": false} {
		if _, err := leaf.Verify(x509.VerifyOptions{Roots: roots, DNSName: host}); good != (err == nil) {
			t.Errorf("host %s: error %v", host, err)
		}
	}
	if _, err := certs(t, dir, TokenCert)[0].Verify(x509.VerifyOptions{Roots: roots, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}}); err == nil {
		t.Error("the token certificate hangs on the CA of the server")
	}
	if _, err := LoadToken(dir); err != nil {
		t.Error(err)
	}
	for _, name := range []string{CAKey, ServerKey, TokenKey, AdminKey, "."} {
		if info, err := os.Stat(filepath.Join(dir, name)); err != nil || info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s is readable by others or absent: %v", name, err)
		}
	}
}

func TestInitNeverOverwrites(t *testing.T) {
	t.Parallel()
	parent := t.TempDir()
	dir := filepath.Join(parent, "d")
	cfg := Config{Hosts: []string{"localhost"}, Now: time.Now}
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := Init(dir, cfg); err != nil {
		t.Fatalf("an empty folder: %v", err)
	}
	before := certs(t, dir, CACert)[0]
	if err := Init(dir, cfg); !errors.Is(err, ErrExists) {
		t.Fatalf("second time: %v", err)
	}
	if !before.Equal(certs(t, dir, CACert)[0]) {
		t.Fatal("the CA changed")
	}
	if entries, err := os.ReadDir(parent); err != nil || len(entries) != 1 {
		t.Fatalf("left behind: %v, error %v", entries, err)
	}
	file := filepath.Join(parent, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := Init(file, cfg); err == nil {
		t.Fatal("a file was replaced")
	}
}

func TestHostsAreChecked(t *testing.T) {
	t.Parallel()
	for _, hosts := range [][]string{nil, {""}, {"a b"}, {"a/b"}, {"ä"}, {"ok", "\n"}} {
		dir := filepath.Join(t.TempDir(), "d")
		if err := Init(dir, Config{Hosts: hosts, Now: time.Now}); err == nil {
			t.Errorf("hosts %q were accepted", hosts)
		}
		if _, err := os.Stat(dir); err == nil {
			t.Errorf("hosts %q left a folder", hosts)
		}
	}
}

func TestABrokenTokenKeyIsNotLoaded(t *testing.T) {
	t.Parallel()
	for _, name := range []string{TokenKey, TokenCert} {
		for _, text := range []string{"", "x", "-----BEGIN X-----\nAAAA\n-----END X-----\n"} {
			dir := filepath.Join(t.TempDir(), "d")
			if err := Init(dir, Config{Hosts: []string{"localhost"}, Now: time.Now}); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			if _, err := LoadToken(dir); err == nil {
				t.Errorf("%s with %q was loaded", name, text)
			}
		}
	}
}
