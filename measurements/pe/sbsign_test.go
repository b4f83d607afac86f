// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package pe_test

import (
	"bytes"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"cocoon/measurements/pe"
	"cocoon/mkimage/format/uki"
	"cocoon/mkimage/format/uki/ukitest"
)

// signer writes a test key and its certificate as sbsign takes them.
func signer(t *testing.T) (key, cert string) {
	t.Helper()
	private, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, c, c, private.Public(), private)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	key, cert = filepath.Join(dir, "key.pem"), filepath.Join(dir, "cert.pem")
	for file, b := range map[string]*pem.Block{key: {Type: "PRIVATE KEY", Bytes: pkcs8}, cert: {Type: "CERTIFICATE", Bytes: der}} {
		if err := os.WriteFile(file, pem.EncodeToMemory(b), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return key, cert
}

func TestTheDigestIsTheOneThatSbsignSigns(t *testing.T) {
	t.Parallel()
	sign, err := exec.LookPath("sbsign")
	if err != nil {
		t.Skip("no sbsign on this machine")
	}
	image, err := uki.Write(ukitest.Program("stub"), []uki.Section{{Name: ".osrel", Data: []byte("ID=x\n")}, {Name: ".linux", Data: ukitest.Program("kernel")}}, 0)
	if err != nil {
		t.Fatal(err)
	}
	key, cert := signer(t)
	file := filepath.Join(t.TempDir(), "image.efi")
	if err := os.WriteFile(file, image, 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.CommandContext(t.Context(), sign, "--key", key, "--cert", cert, "--output", file+".signed", file).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if out, err := exec.CommandContext(t.Context(), "sbverify", "--cert", cert, file+".signed").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	signed, err := os.ReadFile(file + ".signed")
	if err != nil {
		t.Fatal(err)
	}
	for name, program := range map[string][]byte{"before": image, "after": signed} {
		d, err := pe.Authenticode(sha256.New(), program)
		if err != nil || !bytes.Contains(signed[len(image):], d) {
			t.Errorf("%s it is signed: %x is not what the signature is over (%v)", name, d, err)
		}
	}
}
