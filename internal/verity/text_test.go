// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package verity

import (
	"bytes"
	"encoding/json"
	"errors"
	"reflect"
	"strings"
	"testing"

	"cocoon/internal/sharedtest"
)

const text = "root_hash=abababababababababababababababababababababababababababababababab,salt=0102,data_blocks=9,data_block_size=4096,hash_block_size=4096"

func TestTheShimsTextIsRead(t *testing.T) {
	t.Parallel()
	want := Params{Algorithm: "sha256", DataBlock: 4096, HashBlock: 4096, DataBlocks: 9, RootHash: bytes.Repeat([]byte{0xab}, 32), Salt: []byte{1, 2}}
	p, err := ParseText(text)
	if err != nil || !reflect.DeepEqual(p, want) || p.Text() != text {
		t.Errorf("%+v, %v, again %q", p, err, p.Text())
	}
	bare := strings.Replace(text, "salt=0102", "salt=-", 1)
	if p, err = ParseText(bare); err != nil || len(p.Salt) != 0 || p.Text() != bare {
		t.Errorf("without salt: %+v, %v, again %q", p, err, p.Text())
	}
}

// The vectors are veritysetup's own.
func TestTheVectorsTextIsRead(t *testing.T) {
	t.Parallel()
	raw := sharedtest.Read(t, "measure/verity/verity.json")
	var file struct {
		Vectors []struct {
			Root   string `json:"root_hash"`
			Params string `json:"kernel_verity_params"`
		} `json:"vectors"`
	}
	if err := json.Unmarshal(raw, &file); err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, v := range file.Vectors {
		if v.Params == "" || len(v.Root) != 64 {
			continue // this text has no place for another algorithm
		}
		n++
		if p, err := ParseText(v.Params); err != nil || p.Text() != v.Params || !strings.Contains(v.Params, v.Root) {
			t.Errorf("%q: %v, again %q", v.Params, err, p.Text())
		}
	}
	if n == 0 {
		t.Error("no vector has a text")
	}
}

func TestTextThatNamesNoRootIsRefused(t *testing.T) {
	t.Parallel()
	for name, bad := range map[string]string{
		"nothing":        "",
		"no root":        strings.Replace(text, "root_hash=", "root=", 1),
		"root not hex":   strings.Replace(text, "=abab", "=xyab", 1),
		"short root":     strings.Replace(text, "=abab", "=ab", 1),
		"empty root":     "root_hash=" + text[strings.Index(text, ",salt"):],
		"no salt":        strings.Replace(text, "salt=0102,", "", 1),
		"empty salt":     strings.Replace(text, "salt=0102", "salt=", 1),
		"salt not hex":   strings.Replace(text, "salt=0102", "salt=0", 1),
		"two roots":      text + ",root_hash=" + strings.Repeat("cd", 32),
		"the same twice": text + ",data_blocks=9",
		"unknown key":    text + ",hash_start=1",
		"no value":       text + ",x",
		"trailing comma": text + ",",
		"blank":          strings.Replace(text, ",", ", ", 1),
		"no blocks":      strings.Replace(text, "data_blocks=9", "data_blocks=0", 1),
		"minus":          strings.Replace(text, "data_blocks=9", "data_blocks=-9", 1),
		"odd block size": strings.Replace(text, "hash_block_size=4096", "hash_block_size=4095", 1),
		"quoted":         `"` + text + `"`,
		"too long":       text + strings.Repeat(",", maxText),
	} {
		if p, err := ParseText(bad); !errors.Is(err, ErrParams) {
			t.Errorf("%s: %+v, %v", name, p, err)
		}
	}
}

func TestOnlyTheTopOfTheTreeIsTheTop(t *testing.T) {
	t.Parallel()
	p := params(130)
	tree, err := p.Build(bytes.NewReader(data(130, 4096)))
	if err != nil {
		t.Fatal(err)
	}
	if !p.IsTop(tree[:4096]) || p.IsTop(tree[4096:8192]) || p.IsTop(tree[:4095]) || p.IsTop(nil) {
		t.Error("the top is not told from other blocks")
	}
	tree[4095] ^= 1
	if p.IsTop(tree[:4096]) {
		t.Error("a changed bit in the padding does not matter")
	}
}

func TestDataAndTreeMayLieOnTwoDevices(t *testing.T) {
	t.Parallel()
	p := params(10)
	p.RootHash = bytes.Repeat([]byte{0xab}, 32)
	want := "1 254:1 254:2 4096 4096 10 11 sha256 " + strings.Repeat("ab", 32) + " 30313233343536373839616263646566 1 panic_on_corruption"
	if got := p.TableOn("254:1", "254:2", "panic_on_corruption"); got != want {
		t.Errorf("%q", got)
	}
}

func FuzzText(f *testing.F) {
	f.Add(text)
	f.Add("root_hash=00,salt=-")
	f.Fuzz(func(t *testing.T, s string) {
		p, err := ParseText(s)
		if err != nil {
			return
		}
		if q, err := ParseText(p.Text()); err != nil || !reflect.DeepEqual(p, q) {
			t.Errorf("%q becomes %q: %v", s, p.Text(), err)
		}
	})
}
