// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"cocoon/trustee/pki"
	"cocoon/trustee/rvps/intoto"
	"cocoon/trustee/store/vault/vaulttest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// outcome is what a user sees of one command.
type outcome struct {
	code      int
	out, errs string
}

func trustee(t *testing.T, in string, args ...string) outcome {
	t.Helper()
	var out, errs bytes.Buffer
	a := &app{in: strings.NewReader(in), out: &out, errs: &errs}
	code := a.run(t.Context(), args)
	return outcome{code: code, out: out.String(), errs: errs.String()}
}

// want checks exit status and that a failure is told in one line.
func (o outcome) want(t *testing.T, code int, part string) {
	t.Helper()
	if o.code != code {
		t.Fatalf("exit status %d, want %d; %s", o.code, code, o.errs)
	}
	if code != 0 && (strings.Count(o.errs, "\n") != 1 || !strings.HasPrefix(o.errs, "trustee: ") || !strings.Contains(o.errs, part)) {
		t.Fatalf("errors %q, want one line with %q", o.errs, part)
	}
	if code == 0 && !strings.Contains(o.out, part) {
		t.Fatalf("output %q, want %q", o.out, part)
	}
}

// serving runs the broker by its command line and returns the flags of the
// administration commands, and how to end it.
func serving(t *testing.T, extra ...string) (flags []string, stop func() int) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "d")
	trustee(t, "", "init", dir, "--host", "127.0.0.1").want(t, 0, "made")
	ctx, cancel := context.WithCancel(context.Background())
	r, w := io.Pipe()
	done := make(chan int, 1)
	go func() {
		a := &app{in: strings.NewReader(""), out: w, errs: io.Discard}
		done <- a.run(ctx, append([]string{"serve", "--dir", dir, "--listen", "127.0.0.1:0"}, extra...))
		w.CloseWithError(io.EOF) //nolint:errcheck // it never fails
	}()
	line, err := bufio.NewReader(r).ReadString('\n')
	url, ok := strings.CutPrefix(strings.TrimSpace(line), "listening on ")
	if err != nil || !ok {
		t.Fatalf("first line %q, error %v", line, err)
	}
	stop = func() int { cancel(); return <-done }
	return []string{"--url", url, "--ca", filepath.Join(dir, pki.CACert), "--admin-key", filepath.Join(dir, pki.AdminKey)}, stop
}

func TestTheOperatorsCommands(t *testing.T) {
	t.Parallel()
	flags, stop := serving(t)
	do := func(in string, args ...string) outcome { return trustee(t, in, append(args, flags...)...) }
	do("s3cret", "resource", "set", "a/b/c", "--file", "-").want(t, 0, "")
	do("", "resource", "list").want(t, 0, "a/b/c\n")
	do("", "resource", "get", "a/b/c").want(t, 0, "s3cret")
	do("", "resource", "get", "a/b/none").want(t, 1, "not found")
	do("x", "resource", "set", "a/b", "--file", "-").want(t, 1, "segments")
	do("", "resource", "set", "a/b/c", "--file", filepath.Join(t.TempDir(), "none")).want(t, 1, "no such file")
	do("", "resource", "delete", "a/b/c").want(t, 0, "")
	do("", "resource", "delete", "a/b/c").want(t, 1, "not found")
	do("package policy\nallow := false", "policy", "set", "resource", "--file", "-").want(t, 0, "")
	do("", "policy", "get", "resource").want(t, 0, "allow := false")
	do("package policy\nallow := [\n", "policy", "set", "resource", "--file", "-").want(t, 1, "does not compile")
	do("package policy\ntrust_claims := {\"hardware\": 2}", "policy", "set", "attestation", "--id", "default_gpu", "--file", "-").want(t, 0, "")
	do("", "policy", "get", "attestation", "--id", "default_gpu").want(t, 0, "hardware")
	do("", "reference", "set", "svn", `["1"]`, "--life", "1h").want(t, 0, "")
	do(`{"n": 1.50, "b": true}`, "reference", "set", "--file", "-").want(t, 0, "")
	do("", "reference", "list").want(t, 0, `["1"]`)
	do("", "reference", "list").want(t, 0, "1.50")
	do("", "reference", "set", "svn", "text").want(t, 1, "no JSON")
	do("", "reference", "get", "svn").want(t, 0, "[\"1\"]\n")
	do("", "reference", "get", "none").want(t, 1, "missing or expired")
	do("", "reference", "get", "s*").want(t, 2, "wildcard")
	do("", "reference", "delete", "sv?").want(t, 2, "wildcard")
	do("", "reference", "set", "s*", "1").want(t, 1, "wildcard")
	do("\xd9\x01\xf5\xa1\x01\x80", "reference", "import", "-", "--type", "corim").want(t, 1, "no reference value")
	do("{}", "reference", "import", "-", "--type", "swid").want(t, 1, "want \"sample\"")
	do(unsigned(t, `{"values":{"imported":[1]}}`), "reference", "import", "-", "--type", "in-toto").want(t, 0, "registered")
	do("", "reference", "list").want(t, 0, "imported\t")
	do("", "reference", "delete", "svn").want(t, 0, "")
	do("", "reference", "delete", "svn").want(t, 1, "not found")
	do("", "admin-token", "--life", "1m").want(t, 2, "unknown flag")
	trustee(t, "", "admin-token", flags[4], flags[5]).want(t, 0, "eyJ")
	trustee(t, "", "admin-token", flags[4], flags[5], "--life", "-1m").want(t, 1, "not positive")
	if code := stop(); code != 0 {
		t.Fatalf("the interrupted broker ended with status %d", code)
	}
	do("", "resource", "list").want(t, 1, "connect")
}

// unsigned is an in-toto envelope that nobody signed.
func unsigned(t *testing.T, predicate string) string {
	t.Helper()
	body := fmt.Sprintf(`{"_type":%q,"predicateType":%q,"predicate":%s}`, intoto.StatementType, intoto.PredicateType, predicate)
	return fmt.Sprintf(`{"payloadType":%q,"payload":%q,"signatures":[]}`, intoto.PayloadType, base64.StdEncoding.EncodeToString([]byte(body)))
}

func TestABrokerWithSignersTakesWhatTheySigned(t *testing.T) {
	t.Parallel()
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		t.Fatal(err)
	}
	keys := t.TempDir()
	if err := os.WriteFile(filepath.Join(keys, "builder.pem"), pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	flags, stop := serving(t, "--reference-signers", keys)
	do := func(in string) outcome {
		return trustee(t, in, append([]string{"reference", "import", "-", "--type", "in-toto"}, flags...)...)
	}
	envelope := unsigned(t, `{"values":{"launch":["11"]},"expires":"2099-01-01T00:00:00Z"}`)
	do(envelope).want(t, 1, "no valid signature")
	var e struct{ PayloadType, Payload string }
	if err := json.Unmarshal([]byte(envelope), &e); err != nil {
		t.Fatal(err)
	}
	body, err := base64.StdEncoding.DecodeString(e.Payload)
	if err != nil {
		t.Fatal(err)
	}
	sig := ed25519.Sign(private, fmt.Appendf(nil, "DSSEv1 %d %s %d %s", len(e.PayloadType), e.PayloadType, len(body), body))
	signed := strings.Replace(envelope, `"signatures":[]`, fmt.Sprintf(`"signatures":[{"sig":%q}]`, base64.StdEncoding.EncodeToString(sig)), 1)
	do(signed).want(t, 0, "registered")
	trustee(t, "", append([]string{"reference", "list"}, flags...)...).want(t, 0, "2099-01-01")
	sig[0] ^= 1
	do(strings.Replace(envelope, `"signatures":[]`, fmt.Sprintf(`"signatures":[{"sig":%q}]`, base64.StdEncoding.EncodeToString(sig)), 1)).want(t, 1, "no valid signature")
	if code := stop(); code != 0 {
		t.Errorf("the interrupted broker ended with status %d", code)
	}
}

func TestABrokerWithBadSignersDoesNotStart(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "d")
	trustee(t, "", "init", dir, "--host", "127.0.0.1").want(t, 0, "made")
	trustee(t, "", "serve", "--dir", dir, "--listen", "127.0.0.1:0", "--reference-signers", t.TempDir()).want(t, 1, "0 keys")
	trustee(t, "", "serve", "--dir", dir, "--listen", "127.0.0.1:0", "--reference-signers", dir).want(t, 1, "read signer key")
}

func TestTheAttestationServiceIsServedWhenAsked(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "d")
	trustee(t, "", "init", dir, "--host", "127.0.0.1").want(t, 0, "made")
	trustee(t, "", "serve", "--dir", dir, "--listen", "").want(t, 1, "no address to listen on")
	trustee(t, "", "serve", "--dir", dir, "--listen", "127.0.0.1:0", "--as-grpc-listen", "nowhere").want(t, 1, "listen")
	ctx, cancel := context.WithCancel(context.Background())
	r, w := io.Pipe()
	done := make(chan int, 1)
	go func() {
		a := &app{in: strings.NewReader(""), out: w, errs: io.Discard}
		done <- a.run(ctx, []string{"serve", "--dir", dir, "--listen", "127.0.0.1:0", "--as-listen", "127.0.0.1:0", "--as-grpc-listen", "127.0.0.1:0"})
		w.CloseWithError(io.EOF) //nolint:errcheck // it never fails
	}()
	lines := bufio.NewReader(r)
	for _, want := range []string{"listening on https://", "attestation service listening on https://", "attestation service by gRPC listening on https://"} {
		line, err := lines.ReadString('\n')
		if err != nil || !strings.HasPrefix(line, want+"127.0.0.1:") {
			t.Errorf("line %q, error %v, want %q", line, err, want)
		}
	}
	cancel()
	if code := <-done; code != 0 {
		t.Errorf("the interrupted broker ended with status %d", code)
	}
}

func TestTheClientChecksTheBroker(t *testing.T) {
	t.Parallel()
	flags, stop := serving(t)
	other, stopOther := serving(t)
	trustee(t, "", "resource", "list", "--url", flags[1], "--ca", other[3], "--admin-key", flags[5]).want(t, 1, "certificate")
	trustee(t, "", "resource", "list", "--url", flags[1], "--ca", flags[3], "--admin-key", other[5]).want(t, 1, "admin token refused")
	trustee(t, "", "resource", "list", "--url", "http://127.0.0.1:1", "--ca", flags[3], "--admin-key", flags[5]).want(t, 1, "https")
	trustee(t, "", "resource", "list", "--ca", flags[3], "--admin-key", flags[3]).want(t, 1, "admin key")
	if a, b := stop(), stopOther(); a != 0 || b != 0 {
		t.Fatalf("exit status %d and %d", a, b)
	}
}

func TestWrongUsageHasItsOwnExitStatus(t *testing.T) {
	t.Parallel()
	for _, args := range [][]string{
		{}, {"bogus"}, {"resource"}, {"resource", "bogus"}, {"serve"}, {"serve", "--dir", "d", "extra"}, {"init"}, {"init", "a", "b"}, {"serve", "--bogus"},
		{"resource", "set", "a/b/c"}, {"policy", "get", "other", "--ca", "x", "--admin-key", "y"}, {"reference", "set", "name", "--ca", "x", "--admin-key", "y"},
		{"serve", "--dir", "d", "--cert", "x"}, {"admin-token"},
	} {
		if o := trustee(t, "", args...); o.code != 2 || strings.Count(o.errs, "\n") != 1 {
			t.Errorf("%q: exit status %d, errors %q", args, o.code, o.errs)
		}
	}
}

func TestABrokerThatCannotStartSaysWhy(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "d")
	trustee(t, "", "serve", "--dir", dir).want(t, 1, "no such file")
	trustee(t, "", "init", dir).want(t, 0, "made")
	trustee(t, "", "init", dir).want(t, 1, "refusing to overwrite")
	trustee(t, "", "serve", "--dir", dir, "--listen", "nowhere").want(t, 1, "listen")
	trustee(t, "", "serve", "--dir", dir, "--log-level", "loud").want(t, 1, "log level")
	broken := filepath.Join(dir, "policies", "resource", "resource-policy.rego")
	if err := os.WriteFile(broken, []byte("package policy\nallow :="), 0o600); err != nil {
		t.Fatal(err)
	}
	trustee(t, "", "serve", "--dir", dir).want(t, 1, "resource-policy.rego")
	if err := errors.Join(os.Remove(broken), os.Remove(filepath.Join(dir, pki.AdminPub))); err != nil {
		t.Fatal(err)
	}
	trustee(t, "", "serve", "--dir", dir).want(t, 1, "admin public key")
}

// vaultServer serves a fake Vault and returns the flags that lead to it.
func vaultServer(t *testing.T) (f *vaulttest.Server, flags []string, stop func()) {
	t.Helper()
	f = vaulttest.New(2, "test-token")
	s := httptest.NewTLSServer(f)
	t.Cleanup(s.Close)
	dir := t.TempDir()
	ca, token := filepath.Join(dir, "ca.pem"), filepath.Join(dir, "token")
	pemCert := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw})
	if err := errors.Join(os.WriteFile(ca, pemCert, 0o600), os.WriteFile(token, []byte("test-token"), 0o600)); err != nil {
		t.Fatal(err)
	}
	return f, []string{"--vault-addr", s.URL, "--vault-ca", ca, "--vault-token-file", token, "--vault-prefix", "broker"}, s.Close
}

func TestABrokerMayKeepItsSecretsInVault(t *testing.T) {
	t.Parallel()
	f, where, stopVault := vaultServer(t)
	flags, stop := serving(t, where...)
	do := func(in string, args ...string) outcome { return trustee(t, in, append(args, flags...)...) }
	do("s3", "resource", "set", "a/b/c", "--file", "-").want(t, 0, "")
	if got := f.Entry("broker/a/b/c"); got != `{"data":[115,51]}` {
		t.Errorf("Vault holds %q", got)
	}
	do("", "resource", "list").want(t, 0, "a/b/c\n")
	do("", "resource", "get", "a/b/c").want(t, 0, "s3")
	do("", "resource", "delete", "a/b/c").want(t, 0, "")
	do("", "resource", "get", "a/b/c").want(t, 1, "not found")
	stopVault()
	for _, args := range [][]string{{"resource", "get", "a/b/c"}, {"resource", "list"}, {"resource", "delete", "a/b/c"}} {
		do("", args...).want(t, 1, "the store of secrets does not serve the broker")
	}
	if code := stop(); code != 0 {
		t.Errorf("the broker ended with %d", code)
	}
}

func TestABrokerDoesNotStartWithAVaultThatIsNotThere(t *testing.T) {
	t.Parallel()
	_, where, _ := vaultServer(t)
	dir := filepath.Join(t.TempDir(), "d")
	trustee(t, "", "init", dir).want(t, 0, "made")
	serve := append([]string{"serve", "--dir", dir, "--listen", "127.0.0.1:0"}, where...)
	trustee(t, "", append(serve, "--vault-kv", "1")...).want(t, 1, "want kv, version 1")
	trustee(t, "", append(serve, "--vault-mount", "other")...).want(t, 1, "other")
	trustee(t, "", append(serve, "--vault-addr", "https://127.0.0.1:1")...).want(t, 1, "127.0.0.1:1")
	trustee(t, "", "serve", "--dir", dir, "--vault-addr", "https://127.0.0.1:1").want(t, 2, "vault-token-file")
}

func TestSecureExecutionNeedsAllItsFolders(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "d")
	trustee(t, "", "init", dir).want(t, 0, "made")
	serve := []string{"serve", "--dir", dir, "--listen", "127.0.0.1:0", "--se-host-keys", dir}
	trustee(t, "", serve...).want(t, 2, "se-crls")
	trustee(t, "", append(serve, "--se-certs", dir, "--se-root-ca", dir, "--se-crls", dir, "--se-headers", dir)...).want(t, 1, "0 image headers")
}
