// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package as

import (
	"errors"
	"strings"
	"testing"
)

func TestInitDataThatWouldStallTheDecoderIsRefused(t *testing.T) {
	t.Parallel()
	const head = "version = \"0.1.0\"\nalgorithm = \"sha256\"\n"
	for name, text := range map[string]string{
		"dotted key":    strings.Repeat("a.", 50_000) + "b = 1\n",
		"dotted table":  "[" + strings.Repeat("a.", 50_000) + "b]\n",
		"nested arrays": "x = " + strings.Repeat("[", 50_000),
		"nested tables": "x = " + strings.Repeat("{a=", 50_000),
		"many keys":     strings.Repeat("[[a]]\n", 100_000),
	} {
		if _, err := parseInitData(head + text); !errors.Is(err, ErrBadInitData) {
			t.Errorf("%s: %v", name, err)
		}
		// In a file of the document the same text stays text.
		d, err := parseInitData(head + "[data]\n\"aa.toml\" = '''\n" + text + "'''\n")
		if err != nil {
			t.Errorf("%s in aa.toml: %v", name, err)
			continue
		}
		if got, ok := d.claims["aa.toml"].(string); !ok || got != text {
			t.Errorf("%s in aa.toml became a %T", name, d.claims["aa.toml"])
		}
	}
}
