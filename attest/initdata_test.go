// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package attest

import (
	"bytes"
	"context"
	"errors"
	"testing"

	"cocoon/attest/tee/sample"
	"cocoon/internal/initdata"
	"cocoon/internal/stage"
)

// registerTEE reports what its host declared at launch.
type registerTEE struct {
	sample.Attester
	register []byte
	err      error
}

func (r registerTEE) InitDataRegister(context.Context) ([]byte, error) { return r.register, r.err }

var errDriver = errors.New("ioctl: device busy")

func TestInitdataHasToBeWhatTheHardwareWasStartedWith(t *testing.T) {
	t.Parallel()
	digest := bytes.Repeat([]byte{7}, 48)
	for name, tc := range map[string]struct {
		tee    registerTEE
		digest []byte
		want   error
	}{
		"of the register's length": {registerTEE{register: digest}, digest, nil},
		"cut to 32 bytes":          {registerTEE{register: digest[:32]}, digest, nil},
		"padded":                   {registerTEE{register: append(bytes.Clone(digest[:32]), make([]byte, 16)...)}, digest[:32], nil},
		"another":                  {registerTEE{register: bytes.Repeat([]byte{8}, 48)}, digest, initdata.ErrMismatch},
		"none was declared":        {registerTEE{register: make([]byte, 32)}, digest, initdata.ErrMismatch},
		"an empty register":        {registerTEE{}, digest, initdata.ErrMismatch},
		"no digest":                {registerTEE{register: make([]byte, 32)}, nil, ErrNoDigest},
		"an unreadable register":   {registerTEE{err: errDriver}, digest, errDriver},
	} {
		tc.tee.Attester = sample.New()
		err := BindInitData(t.Context(), tc.tee, tc.digest)
		if !errors.Is(err, tc.want) || (tc.want == nil) != (err == nil) || err != nil && stage.Of(err) != stage.Initdata {
			t.Errorf("%s: got %v, want %v", name, err, tc.want)
		}
	}
}

func TestInitdataThatTheHostKeepsBackIsMissed(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		tee  Attester
		want error
	}{
		"declared":               {registerTEE{Attester: sample.New(), register: append(make([]byte, 31), 1)}, initdata.ErrWithheld},
		"an empty register":      {registerTEE{Attester: sample.New()}, initdata.ErrWithheld},
		"an unreadable register": {registerTEE{Attester: sample.New(), err: errDriver}, errDriver},
		"not declared":           {registerTEE{Attester: sample.New(), register: make([]byte, 48)}, nil},
		"no register":            {sample.New(), nil},
	} {
		err := ConfirmNoInitData(t.Context(), tc.tee)
		if !errors.Is(err, tc.want) || (tc.want == nil) != (err == nil) || err != nil && stage.Of(err) != stage.Initdata {
			t.Errorf("%s: got %v, want %v", name, err, tc.want)
		}
	}
}
