// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package server_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"cocoon/internal/wire/aspb"
	"cocoon/trustee/asapi"
	"cocoon/trustee/rvps"
)

// dial connects as a broker of somebody else does.
func (b *broker) dial(t testing.TB) *grpc.ClientConn {
	t.Helper()
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(b.ca)
	conn := must[*grpc.ClientConn](t)(grpc.NewClient(b.grpc, grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12})),
		grpc.WithDefaultCallOptions(grpc.MaxCallSendMsgSize(64<<20))))
	t.Cleanup(func() { closed(t, conn) })
	return conn
}

func asOperator(ctx context.Context, token string) context.Context {
	return metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+token)
}

// wantCode checks a refusal.
func wantCode(t testing.TB, err error, code codes.Code, part string) {
	t.Helper()
	s, ok := status.FromError(err)
	if !ok || s.Code() != code || !strings.Contains(s.Message(), part) {
		t.Errorf("error %v, want %s with %q", err, code, part)
	}
}

func ask(items ...*aspb.IndividualAttestationRequest) *aspb.AttestationRequest {
	return &aspb.AttestationRequest{VerificationRequests: items}
}

func TestEvidenceIsEvaluatedByGRPC(t *testing.T) {
	t.Parallel()
	b := ready(t, nil)
	p, client := b.rp(t), aspb.NewAttestationServiceClient(b.dial(t))
	const canonical = `{"nonce":"N"}`
	sample := func(evidence string) *aspb.IndividualAttestationRequest {
		return &aspb.IndividualAttestationRequest{Tee: "sample", Evidence: evidence}
	}
	bound, raw, initial := sample(sampleOver(sha384(canonical))), sample(sampleOver([]byte("N"))), sample(sampleOver(nil))
	bound.RuntimeData = &aspb.IndividualAttestationRequest_StructuredRuntimeData{StructuredRuntimeData: "{ \"nonce\" : \"N\" }"}
	raw.RuntimeData = &aspb.IndividualAttestationRequest_RawRuntimeData{RawRuntimeData: enc64([]byte("N"))}
	initial.InitData = &aspb.IndividualAttestationRequest_InitDataToml{InitDataToml: "version = \"0.1.0\"\nalgorithm = \"sha256\"\n[data]\nx = \"y\"\n"}
	res, err := client.AttestationEvaluate(t.Context(), ask(bound, raw, initial))
	if err != nil {
		t.Fatal(err)
	}
	submods := p.payload(t, res.GetAttestationToken())["submods"].(map[string]any)
	if len(submods) != 3 || submods["cpu2"] == nil {
		t.Fatalf("submodules %v", submods)
	}
	raw.RuntimeData = &aspb.IndividualAttestationRequest_RawRuntimeData{RawRuntimeData: enc64([]byte("M"))}
	_, err = client.AttestationEvaluate(t.Context(), ask(raw))
	wantCode(t, err, codes.Aborted, "report_data is not the digest")
	bound.RuntimeData = &aspb.IndividualAttestationRequest_StructuredRuntimeData{}
	_, err = client.AttestationEvaluate(t.Context(), ask(bound))
	wantCode(t, err, codes.Aborted, "structured runtime data")
	initial.InitData = &aspb.IndividualAttestationRequest_InitDataDigest{}
	_, err = client.AttestationEvaluate(t.Context(), ask(initial))
	wantCode(t, err, codes.Aborted, "digest of the init data is empty")
	_, err = client.AttestationEvaluate(t.Context(), ask(sample("%")))
	wantCode(t, err, codes.Aborted, "illegal base64")
	_, err = client.AttestationEvaluate(t.Context(), ask(&aspb.IndividualAttestationRequest{Tee: "enigma", Evidence: "e30"}))
	wantCode(t, err, codes.Aborted, `"enigma": TEE is not supported`)
	_, err = client.AttestationEvaluate(t.Context(), ask())
	wantCode(t, err, codes.Aborted, "0 verification requests")
	_, err = client.AttestationEvaluate(t.Context(), ask(sample(strings.Repeat("x", asapi.MaxRequest+1))))
	wantCode(t, err, codes.ResourceExhausted, "larger than max")
}

func TestChallengesByGRPC(t *testing.T) {
	t.Parallel()
	client := aspb.NewAttestationServiceClient(start(t, nil).dial(t))
	res, err := client.GetAttestationChallenge(t.Context(), &aspb.ChallengeRequest{Inner: map[string]string{"tee": "sample", "tee_params": ""}})
	if err != nil || res.GetAttestationChallenge() != "" {
		t.Errorf("challenge %v, %v", res, err)
	}
	_, err = client.GetAttestationChallenge(t.Context(), &aspb.ChallengeRequest{Inner: map[string]string{"tee": "sample"}})
	wantCode(t, err, codes.Aborted, "tee_params is missing")
	_, err = client.GetAttestationChallenge(t.Context(), &aspb.ChallengeRequest{Inner: map[string]string{"tee": "enigma", "tee_params": ""}})
	wantCode(t, err, codes.Aborted, "not supported")
}

func TestOnlyTheOperatorAdministersByGRPC(t *testing.T) {
	t.Parallel()
	b := start(t, nil)
	conn := b.dial(t)
	policies, values := aspb.NewAttestationServiceClient(conn), aspb.NewReferenceValueProviderServiceClient(conn)
	policy := &aspb.SetPolicyRequest{PolicyId: "mine_cpu", Policy: enc64([]byte(openPolicy))}
	message := string(must[[]byte](t)(rvps.NewMessage(map[string]any{"n": []string{"x"}}, time.Time{})))
	all := func(ctx context.Context) []error {
		_, err1 := policies.SetAttestationPolicy(ctx, policy)
		_, err2 := values.RegisterReferenceValue(ctx, &aspb.ReferenceValueRegisterRequest{Message: message})
		_, err3 := values.QueryReferenceValue(ctx, &aspb.ReferenceValueQueryRequest{ReferenceValueId: "n"})
		return []error{err1, err2, err3}
	}
	for _, ctx := range []context.Context{t.Context(), asOperator(t.Context(), "x.y.z"), asOperator(t.Context(), b.adminToken(t, time.Hour))} {
		for _, err := range all(ctx) {
			wantCode(t, err, codes.Unauthenticated, "admin")
		}
	}
	ctx := asOperator(t.Context(), b.adminToken(t, 0))
	for _, err := range all(ctx) {
		if err != nil {
			t.Error(err)
		}
	}
	got, err := values.QueryReferenceValue(ctx, &aspb.ReferenceValueQueryRequest{ReferenceValueId: "n"})
	if err != nil || got.ReferenceValueResults == nil || got.GetReferenceValueResults() != `["x"]` {
		t.Errorf("value %v, %v", got, err)
	}
	got, err = values.QueryReferenceValue(ctx, &aspb.ReferenceValueQueryRequest{ReferenceValueId: "none"})
	if err != nil || got.ReferenceValueResults != nil {
		t.Errorf("value that is not there: %v, %v", got, err)
	}
	_, err = values.RegisterReferenceValue(ctx, &aspb.ReferenceValueRegisterRequest{Message: "{}"})
	wantCode(t, err, codes.Aborted, "version")
	policy.Policy = enc64([]byte("package other"))
	_, err = policies.SetAttestationPolicy(ctx, policy)
	wantCode(t, err, codes.Aborted, "does not compile")
}

func TestTheGRPCPortTellsHealthAndKeysByTLSOnly(t *testing.T) {
	t.Parallel()
	b := start(t, nil)
	res, err := grpc_health_v1.NewHealthClient(b.dial(t)).Check(t.Context(), &grpc_health_v1.HealthCheckRequest{})
	if err != nil || res.GetStatus() != grpc_health_v1.HealthCheckResponse_SERVING {
		t.Errorf("health %v, %v", res, err)
	}
	p := b.rp(t)
	p.url = "https://" + b.grpc
	p.send(t, http.MethodGet, "/.well-known/jwks.json", "", "").says(t, http.StatusOK, `"x5c":[`)
	if a := p.send(t, http.MethodPost, "/attestation", "{}", ""); a.status != http.StatusNotFound {
		t.Errorf("REST on the port of gRPC: %d", a.status)
	}
	plain := must[*grpc.ClientConn](t)(grpc.NewClient(b.grpc, grpc.WithTransportCredentials(insecure.NewCredentials())))
	defer closed(t, plain)
	if _, err := grpc_health_v1.NewHealthClient(plain).Check(t.Context(), &grpc_health_v1.HealthCheckRequest{}); err == nil {
		t.Error("answered without TLS")
	}
}

func TestManyCallsShareAConnection(t *testing.T) {
	t.Parallel()
	b := ready(t, nil)
	client := aspb.NewAttestationServiceClient(b.dial(t))
	const calls = 64
	failed := make(chan error, calls)
	for i := range calls {
		go func() {
			_, err := client.AttestationEvaluate(t.Context(), ask(&aspb.IndividualAttestationRequest{Tee: "sample", Evidence: sampleOver(fmt.Append(nil, i))}))
			failed <- err
		}()
	}
	for range calls {
		if err := <-failed; err != nil {
			t.Error(err)
		}
	}
}

// closed closes c and tells what fails.
func closed(t testing.TB, c io.Closer) {
	t.Helper()
	if err := c.Close(); err != nil {
		t.Error(err)
	}
}
