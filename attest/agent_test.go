// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package attest

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/ttrpc"
	"go.uber.org/goleak"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"cocoon/attest/tee/sample"
	"cocoon/internal/stage"
	"cocoon/internal/wire/aapb"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// bindingTEE can hold an initdata digest and fails on demand.
type bindingTEE struct {
	sample.Attester
	err   error
	bound []byte
}

func (b *bindingTEE) Evidence(ctx context.Context, data []byte) (json.RawMessage, error) {
	if string(data) == "crash" {
		panic("driver bug")
	}
	if b.err != nil {
		return nil, b.err
	}
	return b.Attester.Evidence(ctx, data)
}

func (b *bindingTEE) BindInitData(_ context.Context, digest []byte) error {
	b.bound = digest
	return b.err
}

func newAgent(t *testing.T, cfg Config, deps Deps) *Agent {
	t.Helper()
	a, err := New(cfg, deps)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := a.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return a
}

// dial serves a on a socket and returns a client of it.
func dial(t *testing.T, a *Agent) aapb.AttestationAgentServiceService {
	t.Helper()
	path := filepath.Join(t.TempDir(), "deep", "aa.sock")
	l, err := Listen("unix://" + path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- a.Serve(ctx, l) }()
	conn, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	client := ttrpc.NewClient(conn)
	t.Cleanup(func() {
		if err := client.Close(); err != nil {
			t.Errorf("close client: %v", err)
		}
		cancel()
		if err := <-served; err != nil {
			t.Errorf("Serve: %v", err)
		}
		if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("socket is left behind: %v", err)
		}
	})
	return aapb.NewAttestationAgentServiceClient(client)
}

func wantStatus(t *testing.T, err error, code codes.Code, texts ...string) {
	t.Helper()
	s, ok := status.FromError(err)
	if !ok || s.Code() != code {
		t.Fatalf("error %v has code %v, want %v", err, s.Code(), code)
	}
	for _, text := range append(texts, "[ERROR:attestation-agent] ") {
		if !strings.Contains(s.Message(), text) {
			t.Errorf("message %q lacks %q", s.Message(), text)
		}
	}
}

func TestTheSocketAnswersForASampleGuest(t *testing.T) {
	t.Parallel()
	c := dial(t, newAgent(t, Config{}, Deps{Attester: sample.New(), Devices: []Attester{sample.NewDevice()}}))
	ctx := t.Context()
	ev, err := c.GetEvidence(ctx, &aapb.GetEvidenceRequest{RuntimeData: []byte{1, 2}})
	if err != nil || string(ev.GetEvidence()) != `{"svn":"1","report_data":"AQI="}` {
		t.Errorf("evidence is %s, %v", ev.GetEvidence(), err)
	}
	ev, err = c.GetAdditionalEvidence(ctx, &aapb.GetAdditionalEvidenceRequest{RuntimeData: []byte{1, 2}})
	if err != nil || string(ev.GetEvidence()) != `{"sampledevice":{"svn":"2","report_data":"AQI="}}` {
		t.Errorf("device evidence is %s, %v", ev.GetEvidence(), err)
	}
	tee, err := c.GetTeeType(ctx, &aapb.GetTeeTypeRequest{})
	if err != nil || tee.GetTee() != "sample" {
		t.Errorf("tee is %v, %v", tee, err)
	}
	tees, err := c.GetAdditionalTees(ctx, &aapb.GetAdditionalTeesRequest{})
	if err != nil || len(tees.GetAdditionalTees()) != 1 || tees.GetAdditionalTees()[0] != "sampledevice" {
		t.Errorf("additional tees are %v, %v", tees, err)
	}
	r, err := c.ExtendRuntimeMeasurement(ctx, &aapb.ExtendRuntimeMeasurementRequest{Domain: "d", Operation: "o", Content: "c"})
	if err != nil || r.GetResult() != aapb.RuntimeMeasurementResult_NOT_ENABLED {
		t.Errorf("measurement is %v, %v", r, err)
	}
	_, err = c.BindInitData(ctx, &aapb.BindInitDataRequest{Digest: make([]byte, 32)})
	wantStatus(t, err, codes.Unimplemented, "not supported by the TEE")
	_, err = c.GetToken(ctx, &aapb.GetTokenRequest{TokenType: "kbs"})
	wantStatus(t, err, codes.Internal, "AA-KBC get token failed", ErrNoKBS.Error())
	_, err = c.GetToken(ctx, &aapb.GetTokenRequest{TokenType: "coco_as"})
	wantStatus(t, err, codes.Internal, ErrNoAS.Error())
	_, err = c.GetToken(ctx, &aapb.GetTokenRequest{TokenType: "other"})
	wantStatus(t, err, codes.Internal, ErrTokenType.Error(), "other")
}

func TestNoDeviceMeansEmptyDeviceEvidence(t *testing.T) {
	t.Parallel()
	a := newAgent(t, Config{}, Deps{Attester: sample.New()})
	if b, err := a.AdditionalEvidence(t.Context(), []byte("x")); err != nil || len(b) != 0 {
		t.Errorf("got %s, %v", b, err)
	}
}

func TestAFailureKeepsItsCauseAndTheServerGoesOn(t *testing.T) {
	t.Parallel()
	tee := &bindingTEE{Attester: sample.New(), err: errors.New("ioctl: device busy")}
	c := dial(t, newAgent(t, Config{}, Deps{Attester: tee}))
	ctx := t.Context()
	_, err := c.GetEvidence(ctx, &aapb.GetEvidenceRequest{})
	wantStatus(t, err, codes.Internal, "AA-KBC get evidence failed", "evidence: ", "ioctl: device busy")
	_, err = c.BindInitData(ctx, &aapb.BindInitDataRequest{Digest: []byte("d")})
	wantStatus(t, err, codes.Internal, "ioctl: device busy")
	_, err = c.GetEvidence(ctx, &aapb.GetEvidenceRequest{RuntimeData: []byte("crash")})
	wantStatus(t, err, codes.Internal, "internal error")
	if _, err := c.GetTeeType(ctx, &aapb.GetTeeTypeRequest{}); err != nil {
		t.Errorf("after a crash of one method: %v", err)
	}
}

func TestInitdataIsBoundWhereTheTEECan(t *testing.T) {
	t.Parallel()
	tee := &bindingTEE{Attester: sample.New()}
	a := newAgent(t, Config{}, Deps{Attester: tee})
	if err := a.BindInitData(t.Context(), []byte("digest")); err != nil || string(tee.bound) != "digest" {
		t.Errorf("bound %q, %v", tee.bound, err)
	}
	tee.err = errors.New("digest differs")
	err := a.BindInitData(t.Context(), []byte("digest"))
	if stage.Of(err) != stage.Initdata || errors.Is(err, ErrUnsupported) {
		t.Errorf("mismatch: %v", err)
	}
}

func TestMeasurementsAreRefusedWhereTheyCannotBeMade(t *testing.T) {
	t.Parallel()
	a := newAgent(t, Config{EventLog: EventLog{Enabled: true}}, Deps{Attester: sample.New()})
	if m, err := a.ExtendRuntimeMeasurement(t.Context(), Event{Domain: "d", Operation: "o", Content: "a b"}); err != nil || m != NotSupported {
		t.Errorf("got %v, %v; want NotSupported", m, err)
	}
	for _, e := range []Event{{}, {Domain: "d"}, {Domain: "a b", Operation: "o"}, {Domain: "d", Operation: "a\nb"}, {Domain: "d", Operation: "o", Content: "a\nb"}} {
		if m, err := a.ExtendRuntimeMeasurement(t.Context(), e); err == nil {
			t.Errorf("%+v: got %v", e, m)
		}
	}
}

func TestATokenAndASecretComeFromTheBroker(t *testing.T) {
	t.Parallel()
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/kbs/v0/auth":
			http.SetCookie(w, &http.Cookie{Name: "kbs-session-id", Value: "1"})
			_, _ = w.Write([]byte(`{"nonce":"bm9uY2U=","extra-params":""}`))
		case "/kbs/v0/attest":
			// {"alg":"ES256"} . {"exp":4102444800}
			_, _ = w.Write([]byte(`{"token":"eyJhbGciOiJFUzI1NiJ9.eyJleHAiOjQxMDI0NDQ4MDB9.AA"}`))
		default:
			http.Error(w, "denied", http.StatusForbidden)
		}
	}))
	srv.Config.Handler = jsonType(srv.Config.Handler)
	t.Cleanup(srv.Close)
	a := newAgent(t, Config{Tokens: Tokens{KBS: &KBS{URL: srv.URL}}}, Deps{Attester: sample.New()})
	b, err := a.Token(t.Context(), "kbs")
	if err != nil {
		t.Fatal(err)
	}
	var got map[string]string
	if err := json.Unmarshal(b, &got); err != nil || len(got) != 2 ||
		!strings.HasPrefix(got["token"], "eyJ") || !strings.HasPrefix(got["tee_keypair"], "-----BEGIN PRIVATE KEY-----\n") {
		t.Errorf("token is %v, %v", got, err)
	}
	if _, err := a.Resource(t.Context(), "resource", "a/b/c", ""); stage.Of(err) != stage.ResourcePolicy {
		t.Errorf("denied secret: %v", err)
	}
	none := newAgent(t, Config{}, Deps{Attester: sample.New()})
	if _, err := none.Resource(t.Context(), "resource", "a/b/c", ""); !errors.Is(err, ErrNoKBS) || stage.Of(err) != stage.Config {
		t.Errorf("no broker: %v", err)
	}
}

func jsonType(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		h.ServeHTTP(w, r)
	})
}

func TestAnAgentThatCannotWorkIsNotMade(t *testing.T) {
	t.Parallel()
	if _, err := New(Config{}, Deps{}); stage.Of(err) != stage.Config {
		t.Errorf("no attester: %v", err)
	}
	for _, k := range []KBS{{URL: "x"}, {URL: "https://h", Cert: "no PEM"}, {URL: "https://h", TEEKeyAlgorithm: "x"}} {
		if _, err := New(Config{Tokens: Tokens{KBS: &k}}, Deps{Attester: sample.New()}); stage.Of(err) != stage.Config {
			t.Errorf("%+v: %v", k, err)
		}
	}
}

func TestServeEndsWhenItsContextDoes(t *testing.T) {
	t.Parallel()
	l, err := Listen("unix://" + filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	a := newAgent(t, Config{}, Deps{Attester: sample.New()})
	done := make(chan error, 1)
	go func() { done <- a.Serve(ctx, l) }()
	select {
	case err := <-done:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(30 * time.Second):
		t.Fatal("Serve did not end")
	}
	if _, err := l.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("listener is still open: %v", err)
	}
}

func TestARunningCallHasItsGraceAndIsThenCancelled(t *testing.T) {
	t.Parallel()
	tee := &slowTEE{Attester: sample.New(), entered: make(chan struct{}), left: make(chan error, 1)}
	a := newAgent(t, Config{}, Deps{Attester: tee})
	path := filepath.Join(t.TempDir(), "s")
	l, err := Listen("unix://" + path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() { served <- a.serve(ctx, l, 10*time.Millisecond) }()
	conn, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	client := ttrpc.NewClient(conn)
	answered := make(chan error, 1)
	go func() {
		_, err := aapb.NewAttestationAgentServiceClient(client).GetEvidence(context.WithoutCancel(ctx), &aapb.GetEvidenceRequest{})
		answered <- err
	}()
	<-tee.entered
	cancel()
	if err := <-served; err != nil {
		t.Errorf("serve: %v", err)
	}
	if err := <-tee.left; !errors.Is(err, context.Canceled) {
		t.Errorf("the call ended by %v, want its context", err)
	}
	if err := <-answered; err == nil {
		t.Error("the cancelled call was answered")
	}
	if err := client.Close(); err != nil {
		t.Error(err)
	}
}

// slowTEE makes evidence until its context ends.
type slowTEE struct {
	sample.Attester
	entered chan struct{}
	left    chan error
}

func (s *slowTEE) Evidence(ctx context.Context, _ []byte) (json.RawMessage, error) {
	close(s.entered)
	<-ctx.Done()
	s.left <- ctx.Err()
	return nil, ctx.Err()
}

func TestServeReportsAListenerThatFails(t *testing.T) {
	t.Parallel()
	l, err := Listen("unix://" + filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if err := newAgent(t, Config{}, Deps{Attester: sample.New()}).Serve(t.Context(), l); err == nil {
		t.Error("Serve on a closed listener returned nil")
	}
}

func TestTheSocketIsForItsOwnerOnlyAndReplacesAStaleOne(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "aa.sock")
	stale, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	stale.SetUnlinkOnClose(false)
	if err := stale.Close(); err != nil {
		t.Fatal(err)
	}
	l, err := Listen("unix://" + path)
	if err != nil {
		t.Fatal(err)
	}
	st, err := os.Lstat(path)
	if err != nil || st.Mode() != fs.ModeSocket|0o600 {
		t.Errorf("socket is %v, %v", st.Mode(), err)
	}
	if l.Addr().String() != path {
		t.Errorf("address is %v", l.Addr())
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 1 {
		t.Errorf("directory holds %v, %v", entries, err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if entries, err = os.ReadDir(dir); err != nil || len(entries) != 0 {
		t.Errorf("after Close the directory holds %v, %v", entries, err)
	}
}

func TestAnAddressThatIsNoSocketIsRefused(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, []byte("keep"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, addr := range []string{"", file, "unix://", "unix://relative", "tcp://127.0.0.1:1", "unix://" + file, "unix://" + file + "/below", "unix://" + dir, "unix:///" + strings.Repeat("x", 200)} {
		if l, err := Listen(addr); err == nil {
			t.Errorf("%q: listening on %v", addr, l.Addr())
		}
	}
	if b, err := os.ReadFile(file); err != nil || string(b) != "keep" {
		t.Errorf("the file in the way holds %q, %v", b, err)
	}
}
