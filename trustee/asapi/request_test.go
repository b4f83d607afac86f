// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package asapi

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/http"
	"reflect"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"cocoon/internal/sharedtest"
	"cocoon/internal/wire/aspb"
	"cocoon/trustee/admin"
	"cocoon/trustee/as"
	"cocoon/trustee/store"
)

func TestARequestOfUpstreamIsUnderstood(t *testing.T) {
	t.Parallel()
	quote := sharedtest.Read(t, "evidence/sgx/occlum_quote.dat")
	q, err := parseRequest(sharedtest.Read(t, "evidence/sgx/coco-as-request.json"))
	if err != nil {
		t.Fatal(err)
	}
	all, err := q.submissions()
	if err != nil || len(all) != 1 {
		t.Fatalf("%d submissions, %v", len(all), err)
	}
	var e struct{ Quote []byte }
	if err := json.Unmarshal(all[0].Evidence, &e); err != nil || !bytes.Equal(e.Quote, quote) {
		t.Errorf("evidence of %d bytes, %v", len(e.Quote), err)
	}
	if id, err := q.policyID(); all[0].TEE != "sgx" || all[0].Runtime != nil || id != "default" || err != nil {
		t.Errorf("submission %+v, policy %q, %v", all[0], id, err)
	}
}

func TestBothInterfacesUnderstandTheSame(t *testing.T) {
	t.Parallel()
	evidence := base64.RawURLEncoding.EncodeToString([]byte(`{"a":"?>"}`))
	rest, err := parseRequest(fmt.Appendf(nil, `{"verification_requests":[{"tee":"snp","evidence":%q,"runtime_data":{"structured":{"n":1}},"runtime_data_hash_algorithm":"sha512",
		"init_data":{"init_data_digest":"AAEC"}},{"tee":"tdx","evidence":%q,"runtime_data":{"raw":"_-8"},"init_data":{"init_data_toml":"x"}}],"policy_ids":["p"]}`, evidence, evidence))
	if err != nil {
		t.Fatal(err)
	}
	rpc := requestOf(&aspb.AttestationRequest{PolicyIds: []string{"p"}, VerificationRequests: []*aspb.IndividualAttestationRequest{
		{
			Tee: "snp", Evidence: evidence, RuntimeDataHashAlgorithm: "sha512",
			RuntimeData: &aspb.IndividualAttestationRequest_StructuredRuntimeData{StructuredRuntimeData: `{"n":1}`},
			InitData:    &aspb.IndividualAttestationRequest_InitDataDigest{InitDataDigest: "AAEC"},
		},
		{
			Tee: "tdx", Evidence: evidence,
			RuntimeData: &aspb.IndividualAttestationRequest_RawRuntimeData{RawRuntimeData: "_-8"},
			InitData:    &aspb.IndividualAttestationRequest_InitDataToml{InitDataToml: "x"},
		},
	}})
	var both [][]as.Submission
	for _, q := range []request{rest, rpc} {
		all, err := q.submissions()
		if err != nil || len(all) != 2 || !bytes.Equal(all[0].InitDigest, []byte{0, 1, 2}) || all[1].InitData != "x" || all[0].Runtime == nil || all[1].Runtime == nil {
			t.Fatalf("%+v, %v", all, err)
		}
		both = append(both, all)
	}
	if !reflect.DeepEqual(both[0], both[1]) {
		t.Errorf("REST %+v, gRPC %+v", both[0], both[1])
	}
}

func TestErrorsHaveAnAnswerEach(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		err    error
		status int
		code   codes.Code
		text   string
	}{
		{fmt.Errorf("x: %w", fail(malformed, errors.New("y"))), http.StatusBadRequest, codes.Aborted, "y"},
		{problemOf(fmt.Errorf("x: %w", fail(busy, errors.New("y"))), internal), http.StatusServiceUnavailable, codes.Unavailable, "x: y"},
		{problemOf(fmt.Errorf("a: %w", admin.ErrDenied), internal), http.StatusUnauthorized, codes.Unauthenticated, "a: admin token refused"},
		{problemOf(fmt.Errorf("a: %w", store.ErrNotFound), internal), http.StatusNotFound, codes.Aborted, "a: not found"},
		{problemOf(fmt.Errorf("a\nb: %w", as.ErrEvidence), refused), http.StatusUnprocessableEntity, codes.Aborted, "a b: evidence refused"},
		{problemOf(&fs.PathError{Op: "open", Path: "/secret", Err: fs.ErrPermission}, internal), http.StatusInternalServerError, codes.Internal, "internal error"},
		{errors.New("open /secret"), http.StatusInternalServerError, codes.Internal, "internal error"},
	} {
		if got := answerOf(tc.err); got != (answer{tc.status, tc.code, tc.text}) {
			t.Errorf("%v: %+v", tc.err, got)
		}
	}
	if problemOf(nil, internal) != nil {
		t.Error("no error became one")
	}
	long := answerOf(fail(malformed, errors.New(strings.Repeat("é", maxDetail)))).text
	if len(long) > maxDetail || strings.ToValidUTF8(long, "") != long {
		t.Errorf("%d bytes", len(long))
	}
}

func TestAPanicEndsTheCallAndNotTheBroker(t *testing.T) {
	t.Parallel()
	var log strings.Builder
	a := New(Deps{Log: slog.New(slog.NewTextHandler(&log, nil)), Now: time.Now})
	out, err := a.intercept(t.Context(), nil, &grpc.UnaryServerInfo{FullMethod: "/m"}, func(_ context.Context, req any) (any, error) {
		return req.(fmt.Stringer).String(), nil // there is none
	})
	if out != nil || status.Code(err) != codes.Internal || !strings.Contains(log.String(), "interface conversion") {
		t.Fatalf("%v, %v, log %s", out, err, &log)
	}
}

func TestEvaluationsWaitForAPlace(t *testing.T) {
	t.Parallel()
	a := New(Deps{})
	for range maxEvaluating {
		if err := a.enter(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if x := answerOf(a.enter(ctx)); x.status != http.StatusServiceUnavailable {
		t.Fatalf("answer %+v", x)
	}
}

func FuzzParseRequest(f *testing.F) {
	f.Add([]byte(`{"verification_requests":[{"tee":"snp","evidence":"e30","runtime_data":{"structured":{"n":1}}}],"policy_ids":["p"]}`))
	f.Add([]byte(`{"verification_requests":[{"tee":"snp","evidence":"e30","runtime_data":{"raw":"AA"},"init_data":{"init_data_digest":"AA"}}]}`))
	f.Add([]byte(`{"verification_requests":null}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		q, err := parseRequest(body)
		if err != nil {
			if answerOf(err).status != http.StatusBadRequest {
				t.Fatalf("error %v", err)
			}
			return
		}
		all, err := q.submissions()
		if err != nil {
			if x := answerOf(err); x.status != http.StatusBadRequest {
				t.Fatalf("error %v becomes %+v", err, x)
			}
			return
		}
		for _, s := range all {
			if s.TEE == "" || !json.Valid(s.Evidence) || s.InitDigest != nil && s.InitData != "" {
				t.Fatalf("submission %+v", s)
			}
		}
	})
}
