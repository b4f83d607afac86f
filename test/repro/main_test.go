// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"strings"
	"testing"
)

func TestCompareNamesEachFileThatDiffers(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		a, b map[string]string
		want string // part of the error, "" for none
	}{
		"same":         {map[string]string{"x": "1"}, map[string]string{"x": "1"}, ""},
		"other bytes":  {map[string]string{"x": "1", "y": "2"}, map[string]string{"x": "1", "y": "3"}, "not reproducible: y"},
		"only in one":  {map[string]string{"x": "1"}, map[string]string{"x": "1", "z": "3"}, "not reproducible: z"},
		"nothing made": {nil, nil, "no file"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var out bytes.Buffer
			err := compare(&out, tc.a, tc.b)
			switch {
			case tc.want == "" && err != nil:
				t.Errorf("got error %v", err)
			case tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want)):
				t.Errorf("got error %v, want one with %q", err, tc.want)
			}
		})
	}
}

func TestAMissingCacheFlagIsAnError(t *testing.T) {
	t.Parallel()
	if err := run(t.Context(), &bytes.Buffer{}, ""); err == nil {
		t.Error("run without a cache directory succeeded")
	}
}
