// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"

	jsonpatch "github.com/evanphx/json-patch/v5"
	"github.com/open-policy-agent/opa/v1/storage"
	"github.com/open-policy-agent/opa/v1/storage/inmem"
)

const (
	emptyState = `{"pstate":{}}`

	// Bounds on the state. A policy adds a few short members per container.
	maxOps        = 1024
	maxStateBytes = 4 << 20
)

// document is one version of the policy's data document, which the rules read
// as data.pstate. It is immutable.
type document struct {
	raw   []byte
	store storage.Store
}

func newDocument(raw []byte) (document, error) {
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.UseNumber() // 64-bit numbers do not survive as floats
	var data map[string]any
	if err := dec.Decode(&data); err != nil || data == nil {
		return document{}, fmt.Errorf("%w: the document is no object any more", errBadPatch)
	}
	if _, ok := data[policyPackage]; ok {
		return document{}, fmt.Errorf("%w: member %q would hide the policy", errBadPatch, policyPackage)
	}
	store := inmem.NewFromObjectWithOpts(data, inmem.OptRoundTripOnWrite(false), inmem.OptReturnASTValuesOnRead(true))
	return document{raw: raw, store: store}, nil
}

// apply returns d changed by ops, all or none of them, as RFC 6902 says.
// Errors wrap errBadPatch.
func (d document) apply(ops jsonpatch.Patch) (document, error) {
	if len(ops) == 0 {
		return d, nil
	}
	opt := jsonpatch.NewApplyOptions()
	opt.SupportNegativeIndices = false // an extension of the library
	opt.AccumulatedCopySizeLimit = maxStateBytes
	opt.EscapeHTML = false
	raw, err := ops.ApplyWithOptions(d.raw, opt)
	if err != nil {
		return document{}, fmt.Errorf("%w: %w", errBadPatch, err)
	}
	if len(raw) > maxStateBytes {
		return document{}, fmt.Errorf("%w: the state would have %d bytes, more than %d", errBadPatch, len(raw), maxStateBytes)
	}
	return newDocument(raw)
}

// parseOps reads a JSON array of RFC 6902 operations and checks the members
// that each needs. Errors wrap errBadPatch.
func parseOps(raw []byte) (jsonpatch.Patch, error) {
	var ops jsonpatch.Patch
	if err := json.Unmarshal(raw, &ops); err != nil {
		return nil, fmt.Errorf("%w: %w", errBadPatch, err)
	}
	if len(ops) > maxOps {
		return nil, fmt.Errorf("%w: %d operations, more than %d", errBadPatch, len(ops), maxOps)
	}
	for i, op := range ops {
		if err := checkOp(op); err != nil {
			return nil, fmt.Errorf("%w: operation %d: %w", errBadPatch, i, err)
		}
	}
	return ops, nil
}

func checkOp(op jsonpatch.Operation) error {
	kind, err := member(op, "op")
	if err != nil {
		return err
	}
	if err := checkPointer(op, "path"); err != nil {
		return err
	}
	switch kind {
	case "add", "replace", "test":
		// A null value decodes to a nil message that is present in the map.
		if _, ok := op["value"]; !ok {
			return fmt.Errorf("%s without value", kind)
		}
		return nil
	case "move", "copy":
		return checkPointer(op, "from")
	case "remove":
		return nil
	default:
		return fmt.Errorf("unknown operation %q", kind)
	}
}

// checkPointer wants an RFC 6901 pointer in the named member.
func checkPointer(op jsonpatch.Operation, name string) error {
	p, err := member(op, name)
	if err != nil {
		return err
	}
	if p != "" && !strings.HasPrefix(p, "/") {
		return fmt.Errorf("%s %q is no JSON pointer", name, p)
	}
	return nil
}

func member(op jsonpatch.Operation, name string) (string, error) {
	raw := op[name]
	if raw == nil {
		return "", fmt.Errorf("no %s", name)
	}
	var s string
	if err := json.Unmarshal(*raw, &s); err != nil {
		return "", fmt.Errorf("%s is no string", name)
	}
	return s, nil
}
