// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package octets

import (
	"bytes"
	"encoding/json"
	"errors"
	"testing"
)

func TestBytesAreAListOfNumbers(t *testing.T) {
	t.Parallel()
	for text, want := range map[string][]byte{"[]": {}, "[0,1,255]": {0, 1, 255}, "null": nil} {
		var o Octets
		if err := json.Unmarshal([]byte(text), &o); err != nil || !bytes.Equal(o, want) || (o == nil) != (want == nil) {
			t.Errorf("%s: %v, %v", text, o, err)
		}
		if again, err := json.Marshal(o); err != nil || text != "null" && string(again) != text {
			t.Errorf("%s became %s (%v)", text, again, err)
		}
	}
	for _, text := range []string{`"AA=="`, `{}`, `1`, `[256]`, `[-1]`, `[1.5]`, `[null]`, `[[1]]`, `["1"]`, `true`} {
		var o Octets
		if err := json.Unmarshal([]byte(text), &o); !errors.Is(err, ErrList) || o != nil {
			t.Errorf("%s: %v, %v", text, o, err)
		}
	}
}

func FuzzOctets(f *testing.F) {
	f.Add([]byte("[1,2,255]"))
	f.Add([]byte("[null]"))
	f.Fuzz(func(t *testing.T, text []byte) {
		var o, again Octets
		if json.Unmarshal(text, &o) != nil {
			return
		}
		raw, err := json.Marshal(o)
		if err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(raw, &again); err != nil || !bytes.Equal(o, again) {
			t.Errorf("%v became %v (%v)", o, again, err)
		}
	})
}
