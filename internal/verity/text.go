// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package verity

import (
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"
)

// maxText bounds the parameters as text; the longest salt makes them 800 bytes.
const maxText = 1024

// noSalt is how a salt of no bytes is written.
const noSalt = "-"

// ParseText reads parameters in the grammar of kata's kernel_verity_params:
// root_hash=…,salt=…,data_blocks=…,data_block_size=…,hash_block_size=…, in any
// order. The algorithm is sha256 and the tree begins at block 0. Other than
// kata, which ignores them, it refuses keys that it does not know or that come
// twice: two readers must not see two roots. Errors wrap ErrParams.
func ParseText(text string) (Params, error) {
	p := Params{Algorithm: "sha256"}
	if len(text) > maxText {
		return p, fmt.Errorf("text of %d bytes: %w", len(text), ErrParams)
	}
	values := map[string]string{"root_hash": "", "salt": "", "data_blocks": "", "data_block_size": "", "hash_block_size": ""}
	for entry := range strings.SplitSeq(text, ",") {
		k, v, _ := strings.Cut(entry, "=")
		if old, known := values[k]; !known || old != "" || v == "" {
			return p, fmt.Errorf("entry %.80q: %w", entry, ErrParams)
		}
		values[k] = v
	}
	for k, to := range map[string]*uint64{"data_blocks": &p.DataBlocks, "data_block_size": &p.DataBlock, "hash_block_size": &p.HashBlock} {
		n, err := strconv.ParseUint(values[k], 10, 64)
		if err != nil {
			return p, fmt.Errorf("%s=%.80q: %w", k, values[k], ErrParams)
		}
		*to = n
	}
	if values["salt"] == noSalt {
		values["salt"] = ""
	} else if values["salt"] == "" {
		return p, fmt.Errorf("there is no salt: %w", ErrParams)
	}
	for k, to := range map[string]*[]byte{"root_hash": &p.RootHash, "salt": &p.Salt} {
		b, err := hex.DecodeString(values[k])
		if err != nil {
			return p, fmt.Errorf("%s=%.80q: %w", k, values[k], ErrParams)
		}
		*to = b
	}
	return p, p.Check()
}

// Text is what ParseText reads. It has no place for the algorithm nor for
// where the tree begins.
func (p Params) Text() string {
	return fmt.Sprintf("root_hash=%x,salt=%s,data_blocks=%d,data_block_size=%d,hash_block_size=%d",
		p.RootHash, p.salt(), p.DataBlocks, p.DataBlock, p.HashBlock)
}

func (p Params) salt() string {
	if len(p.Salt) == 0 {
		return noSalt
	}
	return hex.EncodeToString(p.Salt)
}
