// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package shallow_test

import (
	"errors"
	"strings"
	"testing"

	"cocoon/internal/bounded"
	"cocoon/internal/config/shallow"
)

func TestAnUnreasonableDocumentIsRefusedBeforeItIsDecoded(t *testing.T) {
	t.Parallel()
	deep := strings.Repeat("[", 100000)
	for name, doc := range map[string]string{
		"array":                    "a = " + deep,
		"inline table":             "a = " + strings.Repeat("{b=", 50),
		"dotted key":               "a" + strings.Repeat(".a", 100000) + " = 1",
		"dotted header":            "[a" + strings.Repeat(".a", 1000) + "]",
		"dotted key with blanks":   "a" + strings.Repeat(" . a", 1000) + " = 1",
		"dotted quoted key":        "a" + strings.Repeat(`."a"`, 1000) + " = 1",
		"array of many elements":   "a = [" + strings.Repeat("1,", 20000) + "]",
		"many keys":                strings.Repeat("a=1\n", 20000),
		"after a comment":          "# \"\na = " + deep,
		"after a string":           `a = ["\"", ` + deep,
		"after a literal string":   `a = ['\', ` + deep,
		"after five quotes":        `a = ["""x""""", ` + deep,
		"after four single quotes": `a = ['''x'''', ` + deep,
		"after an empty string":    `a = ["", ` + deep,
		"over a broken string":     "a = \"x\nb = " + deep,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var v map[string]any
			if _, err := shallow.Decode([]byte(doc), 1<<20, &v); !errors.Is(err, shallow.ErrShape) {
				t.Fatalf("got %.100v, want %v", err, shallow.ErrShape)
			}
		})
	}
}

func TestPunctuationInsideStringsAndCommentsDoesNotCount(t *testing.T) {
	t.Parallel()
	b := strings.Repeat("[.", 1000)
	doc := "a = '''\n" + b + "'''\nb = \"\"\"\n" + b + "\\\"\"\"\"\n# " + b + "\nc = '" + b + "'\nd = \"" + b + "\"\n"
	var v map[string]string
	if _, err := shallow.Decode([]byte(doc), 1<<20, &v); err != nil {
		t.Fatal(err)
	}
	if v["a"] != b || v["b"] != b+`"` || v["c"] != b || v["d"] != b {
		t.Fatalf("strings came out changed: %q", v)
	}
}

func TestADocumentAboveTheLimitIsRefused(t *testing.T) {
	t.Parallel()
	var v map[string]any
	if _, err := shallow.Decode([]byte("a = 1"), 4, &v); !errors.Is(err, bounded.ErrTooLarge) {
		t.Fatalf("got %v, want %v", err, bounded.ErrTooLarge)
	}
}

func FuzzDecode(f *testing.F) {
	for _, s := range []string{"", "a = 1", "[a.b]\nc = '''x'''", `a = """x\""""`, "a = [[1],[{b=2}]]", "\"", "'''"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		var v map[string]any
		_, err := shallow.Decode(data, 1<<12, &v)
		if err == nil && depth(v) > 2*shallow.MaxDepth*shallow.MaxKeyParts {
			t.Fatalf("a value %d deep was accepted", depth(v))
		}
	})
}

func depth(v any) int {
	d := 0
	switch v := v.(type) {
	case map[string]any:
		for _, e := range v {
			d = max(d, depth(e))
		}
	case []any:
		for _, e := range v {
			d = max(d, depth(e))
		}
	default:
		return 0
	}
	return d + 1
}
