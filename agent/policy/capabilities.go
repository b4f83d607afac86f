// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"slices"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"
)

// pureBuiltins are the built-ins a policy may call, one entry per name or, with
// a trailing dot, per family. They compute from their arguments alone. What is
// absent is so for a reason: I/O (http, net, opa.runtime), clocks and chance
// (time, rand, uuid), and families that the upstream engine is built without,
// so that a policy that loads here also loads there.
var pureBuiltins = []string{
	"assign", "eq", "equal", "neq", "lt", "lte", "gt", "gte",
	"internal.member_2", "internal.member_3", "internal.print", "internal.template_string", "print",
	"plus", "minus", "mul", "div", "rem", "abs", "ceil", "floor", "round", "numbers.",
	"count", "sum", "product", "max", "min", "sort",
	"and", "or", "intersection", "union",
	"array.", "object.", "bits.", "base64.", "base64url.", "regex.", "units.",
	"json.filter", "json.is_valid", "json.marshal", "json.marshal_with_options", "json.patch", "json.remove", "json.unmarshal",
	"concat", "contains", "endswith", "format_int", "indexof", "indexof_n", "lower", "replace", "split", "sprintf",
	"startswith", "substring", "trim", "trim_left", "trim_prefix", "trim_right", "trim_space", "trim_suffix", "upper",
	"strings.any_prefix_match", "strings.any_suffix_match", "strings.count", "strings.replace_n", "strings.reverse",
	"is_array", "is_boolean", "is_null", "is_number", "is_object", "is_set", "is_string", "type_name", "to_number",
	"walk",
}

// capabilities returns the language of this engine: all of Rego with the pure
// built-ins only. A call of any other is a compile error.
func capabilities() *ast.Capabilities {
	caps := ast.CapabilitiesForThisVersion()
	caps.Builtins = slices.DeleteFunc(caps.Builtins, func(b *ast.Builtin) bool { return !isPure(b.Name) })
	caps.AllowNet = []string{}
	return caps
}

func isPure(name string) bool {
	return slices.ContainsFunc(pureBuiltins, func(entry string) bool {
		return name == entry || strings.HasSuffix(entry, ".") && strings.HasPrefix(name, entry)
	})
}
