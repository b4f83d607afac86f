// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package sm3_test

import (
	"bytes"
	"encoding/hex"
	"strings"
	"testing"

	reference "github.com/emmansun/gmsm/sm3"

	"cocoon/internal/sm3"
)

// The examples of the standard's appendix A.
func TestTheStandardsExamples(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"abc":                      "66c7f0f462eeedd9d1f2d46bdc10e4e24167c4875cf2f7a2297da02b8f4ba8e0",
		strings.Repeat("abcd", 16): "debe9ff92275b8a138604889c18e5a4d6fdb70e5387e5765293dcba39c0c5732",
	} {
		if got := sm3.Sum([]byte(text)); hex.EncodeToString(got[:]) != want {
			t.Errorf("%q: %x, want %s", text, got, want)
		}
	}
}

func TestASumCanBeTakenInBetween(t *testing.T) {
	t.Parallel()
	h := sm3.New()
	var all []byte
	for n := range 200 {
		part := bytes.Repeat([]byte{byte(n)}, n)
		all = append(all, part...)
		if k, err := h.Write(part); k != n || err != nil {
			t.Fatal(k, err)
		}
		if want := sm3.Sum(all); !bytes.Equal(h.Sum(nil), want[:]) {
			t.Fatalf("after %d parts", n)
		}
	}
	h.Reset()
	empty := sm3.Sum(nil)
	if !bytes.Equal(h.Sum([]byte{1}), append([]byte{1}, empty[:]...)) || h.Size() != 32 || h.BlockSize() != 64 {
		t.Error("reset")
	}
}

func FuzzSum(f *testing.F) {
	for n := range 130 {
		f.Add(bytes.Repeat([]byte{7}, n))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if got, want := sm3.Sum(b), reference.Sum(b); got != want {
			t.Errorf("%x, want %x", got, want)
		}
	})
}
