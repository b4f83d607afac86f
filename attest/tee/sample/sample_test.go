// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package sample_test

import (
	"context"
	"errors"
	"testing"

	"cocoon/attest/tee/sample"
)

func TestEvidenceHoldsTheDataUnpadded(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		a    sample.Attester
		data []byte
		want string
	}{
		"tee":     {sample.New(), []byte{0xfb, 0xff, 0, 1}, `{"svn":"1","report_data":"+/8AAQ=="}`},
		"device":  {sample.NewDevice(), []byte("data"), `{"svn":"2","report_data":"ZGF0YQ=="}`},
		"no data": {sample.New(), nil, `{"svn":"1","report_data":""}`},
	} {
		if got, err := tc.a.Evidence(t.Context(), tc.data); err != nil || string(got) != tc.want {
			t.Errorf("%s: got %s, %v; want %s", name, got, err, tc.want)
		}
	}
	if sample.New().TEE() != "sample" || sample.NewDevice().TEE() != "sampledevice" {
		t.Error("names on the wire are wrong")
	}
}

func TestACancelledCallGivesNoEvidence(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if got, err := sample.New().Evidence(ctx, nil); !errors.Is(err, context.Canceled) || got != nil {
		t.Errorf("got %s, %v", got, err)
	}
}
