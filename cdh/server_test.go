// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package cdh

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/ttrpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"cocoon/cdh/seal"
	"cocoon/internal/stage"
	"cocoon/internal/wire/cdhpb"
	"cocoon/internal/wire/keyproviderpb"
)

// dial serves s on a real socket and returns a client of it.
func dial(t *testing.T, s *Server) *ttrpc.Client {
	t.Helper()
	path := filepath.Join(t.TempDir(), "cdh.sock")
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "unix", path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, l) }()
	conn, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	c := ttrpc.NewClient(conn)
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Errorf("close client: %v", err)
		}
		if err := c.UserOnCloseWait(context.Background()); err != nil {
			t.Errorf("wait for client: %v", err)
		}
		cancel()
		if err := <-done; err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	return c
}

func TestClientsOfTheSocketGetTheirSecrets(t *testing.T) {
	t.Parallel()
	h := New(Config{SkipSealedSecretVerification: true}, Deps{Broker: table{
		"kbs:///default/key/1": testKEK, "kbs:///one/2/trois": []byte("pass"),
	}})
	c := dial(t, &Server{Hub: h, Pull: func(_ context.Context, image, bundle string) (string, error) {
		if image != "127.0.0.1:5000/a:b" || bundle != "/run/b" {
			return "", errors.New("other arguments")
		}
		return "sha256:00", nil
	}})
	res, err := cdhpb.NewGetResourceServiceClient(c).GetResource(t.Context(), &cdhpb.GetResourceRequest{ResourcePath: "kbs:///one/2/trois"})
	if err != nil || string(res.GetResource()) != "pass" {
		t.Errorf("resource %q, %v", res.GetResource(), err)
	}
	secret := sealed(t, nil, `{"alg":"none"}`, vault)
	sec, err := cdhpb.NewSealedSecretServiceClient(c).UnsealSecret(t.Context(), &cdhpb.UnsealSecretInput{Secret: []byte(secret)})
	if err != nil || string(sec.GetPlaintext()) != "pass" {
		t.Errorf("secret %q, %v", sec.GetPlaintext(), err)
	}
	pull, err := cdhpb.NewImagePullServiceClient(c).PullImage(t.Context(), &cdhpb.ImagePullRequest{ImageUrl: "127.0.0.1:5000/a:b", BundlePath: "/run/b"})
	if err != nil || pull.GetManifestDigest() != "sha256:00" {
		t.Errorf("pull %q, %v", pull.GetManifestDigest(), err)
	}
	req := `{"op":"keyunwrap","keywrapparams":{"ec":null,"optsdata":null},"keyunwrapparams":{"dc":null,"annotation":"` +
		base64.StdEncoding.EncodeToString(annotation(t, nil)) + `"}}`
	key, err := keyproviderpb.NewKeyProviderServiceClient(c).UnWrapKey(t.Context(),
		&keyproviderpb.KeyProviderKeyWrapProtocolInput{KeyProviderKeyWrapProtocolInput: []byte(req)})
	var out struct {
		R struct{ OptsData []int } `json:"keyunwrapresults"`
	}
	if err != nil || json.Unmarshal(key.GetKeyProviderKeyWrapProtocolOutput(), &out) != nil || len(out.R.OptsData) != len(testOpts) {
		t.Errorf("key %q, %v", key.GetKeyProviderKeyWrapProtocolOutput(), err)
	}
}

func TestFailuresCarryThePrefixAndTheCause(t *testing.T) {
	t.Parallel()
	h := New(Config{}, Deps{Broker: table{}})
	c := dial(t, &Server{Hub: h, Pull: func(context.Context, string, string) (string, error) {
		return "", errors.New("Image policy rejected: Denied by policy")
	}})
	kp := keyproviderpb.NewKeyProviderServiceClient(c)
	unwrap := func(text string) error {
		_, err := kp.UnWrapKey(t.Context(), &keyproviderpb.KeyProviderKeyWrapProtocolInput{KeyProviderKeyWrapProtocolInput: []byte(text)})
		return err
	}
	_, resource := cdhpb.NewGetResourceServiceClient(c).GetResource(t.Context(), &cdhpb.GetResourceRequest{ResourcePath: "kbs:///a/b/c"})
	_, unseal := cdhpb.NewSealedSecretServiceClient(c).UnsealSecret(t.Context(), &cdhpb.UnsealSecretInput{Secret: []byte("sealed.x")})
	_, pull := cdhpb.NewImagePullServiceClient(c).PullImage(t.Context(), &cdhpb.ImagePullRequest{})
	for _, tc := range []struct {
		err         error
		begin, have string
	}{
		{resource, "[CDH] [ERROR]: Get Resource failed", "not-found"},
		{unseal, "[CDH] [ERROR]: Unseal Secret failed", "malformed sealed secret"},
		{pull, "[CDH] [ERROR]: Image Pull error: ", "Image policy rejected: Denied by policy"},
		{unwrap("{"), "[ERROR] UnwrapKey Parse request failed", "malformed"},
		{unwrap(`{"op":"","keywrapparams":{},"keyunwrapparams":{"annotation":"e30="}}`), "[CDH] [ERROR]: Decrypt Image (UnwrapKey) failed", "kid"},
	} {
		s := status.Convert(tc.err)
		if s.Code() != codes.Internal || !strings.HasPrefix(s.Message(), tc.begin) || !strings.Contains(s.Message(), tc.have) {
			t.Errorf("got %v %q, want %q … %q", s.Code(), s.Message(), tc.begin, tc.have)
		}
	}
}

func TestWhatTheHubLacksIsUnimplemented(t *testing.T) {
	t.Parallel()
	c := dial(t, &Server{Hub: New(Config{}, Deps{})})
	_, pull := cdhpb.NewImagePullServiceClient(c).PullImage(t.Context(), &cdhpb.ImagePullRequest{})
	_, mount := cdhpb.NewSecureMountServiceClient(c).SecureMount(t.Context(), &cdhpb.SecureMountRequest{})
	_, wrap := keyproviderpb.NewKeyProviderServiceClient(c).WrapKey(t.Context(), &keyproviderpb.KeyProviderKeyWrapProtocolInput{})
	for _, err := range []error{pull, mount, wrap} {
		if status.Code(err) != codes.Unimplemented {
			t.Errorf("got %v", err)
		}
	}
}

// stuck is a broker that never answers.
type stuck struct{}

func (stuck) Resource(ctx context.Context, _, _, _ string) ([]byte, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}

func TestACallEndsWhenTheBrokerHangs(t *testing.T) {
	t.Parallel()
	c := dial(t, &Server{Hub: New(Config{}, Deps{Broker: stuck{}}), Timeout: 20 * time.Millisecond})
	_, err := cdhpb.NewGetResourceServiceClient(c).GetResource(t.Context(), &cdhpb.GetResourceRequest{ResourcePath: "kbs:///a/b/c"})
	if status.Code(err) != codes.Internal || !strings.Contains(err.Error(), context.DeadlineExceeded.Error()) {
		t.Fatalf("got %v", err)
	}
}

func TestErrorTextForTheWireIsPrintableAndBounded(t *testing.T) {
	t.Parallel()
	if got := printable("a\x1b[31m\n" + strings.Repeat("ü", 4000)); len(got) > maxCause+3 || strings.ContainsAny(got, "\x1b\n") {
		t.Fatalf("got %d bytes: %.20q", len(got), got)
	}
}

const vault = `{"version":"0.1.0","type":"vault","name":"kbs:///one/2/trois","provider":"KBS","provider_settings":{},"annotations":{}}`

func b64(s string) string { return base64.RawURLEncoding.EncodeToString([]byte(s)) }

// sealed makes a sealed secret, signed with key if there is one.
func sealed(t testing.TB, key *ecdsa.PrivateKey, header, payload string) string {
	t.Helper()
	text := b64(header) + "." + b64(payload)
	sig := []byte("fakesignature")
	if key != nil {
		sum := sha256.Sum256([]byte(text))
		r, s, err := ecdsa.Sign(rand.Reader, key, sum[:])
		if err != nil {
			t.Fatal(err)
		}
		sig = append(r.FillBytes(make([]byte, 32)), s.FillBytes(make([]byte, 32))...)
	}
	return "sealed." + text + "." + b64(string(sig))
}

func newKey(t testing.TB) (*ecdsa.PrivateKey, []byte) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	point, err := key.PublicKey.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	jwk := `{"kty":"EC","crv":"P-256","alg":"ES256","use":"sig","x":"` + b64(string(point[1:33])) + `","y":"` + b64(string(point[33:])) + `"}`
	return key, []byte(jwk)
}

func TestASealedSecretIsOpenedOnlyWithItsOwnersSignature(t *testing.T) {
	t.Parallel()
	key, jwk := newKey(t)
	other, _ := newKey(t)
	dir := t.TempDir()
	for name, content := range map[string][]byte{"seal/owner": jwk, "outside": jwk} {
		p := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("../outside", filepath.Join(dir, "seal", "link")); err != nil {
		t.Fatal(err)
	}
	h := New(Config{SealDir: filepath.Join(dir, "seal")}, Deps{Broker: table{
		"kbs:///one/2/trois": []byte("pass"), "kbs:///keys/k/1": jwk, "kbs:///keys/k/bad": []byte("{}"),
	}})
	const header = `{"alg":"ES256","kid":"kbs:///keys/k/1"}`
	kid := func(s string) string { return sealed(t, key, `{"alg":"ES256","kid":"`+s+`"}`, vault) }
	good := sealed(t, key, header, vault)
	parts := strings.Split(good, ".")
	payload := func(from, to string) string { return sealed(t, key, header, strings.Replace(vault, from, to, 1)) }
	for name, tc := range map[string]struct {
		secret string
		want   error // nil: opens
	}{
		"key of the broker":    {good, nil},
		"line feed at the end": {good + "\r\n", nil},
		"key of the folder":    {kid("owner"), nil},
		"no settings":          {payload(`,"provider_settings":{},"annotations":{}`, ""), nil},
		"other signer":         {sealed(t, other, header, vault), seal.ErrSignature},
		"no signature":         {sealed(t, nil, header, vault), seal.ErrSignature},
		"empty signature":      {strings.Join(parts[:3], ".") + ".", seal.ErrSignature},
		"other payload":        {strings.Join([]string{parts[0], parts[1], b64(strings.Replace(vault, "trois", "quatre", 1)), parts[3]}, "."), seal.ErrSignature},
		"alg none":             {sealed(t, key, `{"alg":"none","kid":"kbs:///keys/k/1"}`, vault), seal.ErrSignature},
		"alg HS256":            {sealed(t, key, `{"alg":"HS256","kid":"kbs:///keys/k/1"}`, vault), seal.ErrSignature},
		"critical header":      {sealed(t, key, `{"alg":"ES256","kid":"kbs:///keys/k/1","crit":["b64"],"b64":false}`, vault), seal.ErrSignature},
		"no kid":               {sealed(t, key, `{"alg":"ES256"}`, vault), seal.ErrSignature},
		"not a key":            {kid("kbs:///keys/k/bad"), seal.ErrKey},
		"absent key":           {kid("kbs:///keys/k/absent"), errAny},
		"absent file":          {kid("absent"), os.ErrNotExist},
		"outside by dots":      {kid("../outside"), errAny},
		"outside by link":      {kid("link"), errAny},
		"absolute path":        {kid(filepath.Join(dir, "outside")), errAny},
		"folder itself":        {kid("."), errAny},
		"plain text":           {"password", seal.ErrFormat},
		"empty":                {"", seal.ErrFormat},
		"prefix twice":         {"sealed." + good, seal.ErrFormat},
		"three parts":          {"sealed.a.b", seal.ErrFormat},
		"padded base64":        {"sealed.e30=.e30=.e30=", seal.ErrFormat},
		"other version":        {payload("0.1.0", "0.2.0"), seal.ErrFormat},
		"other type":           {payload("vault", "safe"), seal.ErrFormat},
		"no name":              {payload("kbs:///one/2/trois", ""), seal.ErrFormat},
		"envelope":             {payload("vault", "envelope"), ErrUnseal},
		"other provider":       {payload("KBS", "aws"), ErrUnseal},
		"name outside":         {payload("kbs:///one/2/trois", "kbs:///../attest"), ErrURI},
		"absent secret":        {payload("trois", "quatre"), errAny},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := h.UnsealSecret(t.Context(), []byte(tc.secret))
			if tc.want == nil {
				if err != nil || string(got) != "pass" {
					t.Fatalf("got %q, %v", got, err)
				}
				return
			}
			if got != nil || err == nil || stage.Of(err) == "" || (!errors.Is(tc.want, errAny) && !errors.Is(err, tc.want)) {
				t.Fatalf("got %q, %v (stage %q), want %v", got, err, stage.Of(err), tc.want)
			}
		})
	}
}

var errAny = errors.New("any error")

func FuzzSealedSecret(f *testing.F) {
	key, jwk := newKey(f)
	f.Add([]byte(sealed(f, key, `{"alg":"ES256","kid":"kbs:///keys/k/1"}`, vault)))
	f.Add([]byte(sealed(f, nil, `{"alg":"none"}`, `{"version":"0.1.0","type":"envelope"}`)))
	f.Add([]byte("sealed...\n"))
	strict := New(Config{SealDir: f.TempDir()}, Deps{Broker: table{"kbs:///keys/k/1": jwk, "kbs:///one/2/trois": []byte("pass")}})
	lax := New(Config{SkipSealedSecretVerification: true}, Deps{Broker: table{"kbs:///one/2/trois": []byte("pass")}})
	f.Fuzz(func(t *testing.T, secret []byte) {
		if b, err := lax.UnsealSecret(t.Context(), secret); err == nil && bytes.Equal(b, secret) {
			t.Fatal("a sealed secret was handed through")
		}
		if b, err := strict.UnsealSecret(t.Context(), secret); err == nil && string(b) != "pass" {
			t.Fatalf("opened as %q", b)
		}
	})
}
