// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// maxValues bounds the values that one request may turn into. The largest
// legitimate request, a 1 MiB write to a process's stdin, stays below it; a
// frame full of bytes must not become gigabytes of terms.
const maxValues = 2 << 20

// encode turns a request into the form in which policies see it. CopyFile has
// a form of its own, without the file's content.
func encode(m proto.Message) (ast.Value, error) {
	if c, ok := asCopyFile(m); ok {
		return c.input()
	}
	return (&encoder{}).message(m.ProtoReflect())
}

// encodeRedacted is encode for logs. Payload bytes and environment values are
// replaced; secrets are the replaced environment entries as KEY=value.
func encodeRedacted(m proto.Message) (v ast.Value, secrets []string, err error) {
	if c, ok := asCopyFile(m); ok {
		v, err = c.input()
		return v, nil, err
	}
	e := &encoder{redact: true}
	v, err = e.message(m.ProtoReflect())
	return v, e.secrets, err
}

// encoder walks one message. Every field appears, with its name of the .proto
// file; what is unset is null if it is a message or has explicit presence, and
// the default value otherwise.
type encoder struct {
	values  int
	redact  bool
	secrets []string
}

func (e *encoder) count(n int) error {
	if e.values += n; e.values > maxValues {
		return errTooComplex
	}
	return nil
}

func (e *encoder) message(m protoreflect.Message) (ast.Value, error) {
	fields := m.Descriptor().Fields()
	if err := e.count(fields.Len() + 1); err != nil {
		return nil, err
	}
	items := make([][2]*ast.Term, 0, fields.Len())
	for i := range fields.Len() {
		fd := fields.Get(i)
		if o := fd.ContainingOneof(); o != nil && !o.IsSynthetic() {
			continue
		}
		v, err := e.field(m, fd)
		if err != nil {
			return nil, err
		}
		items = append(items, [2]*ast.Term{ast.StringTerm(fieldName(fd)), ast.NewTerm(v)})
	}
	oneofs := m.Descriptor().Oneofs()
	for i := range oneofs.Len() {
		o := oneofs.Get(i)
		if o.IsSynthetic() {
			continue
		}
		v, err := e.oneof(m, o)
		if err != nil {
			return nil, err
		}
		items = append(items, [2]*ast.Term{ast.StringTerm(string(o.Name())), ast.NewTerm(v)})
	}
	return ast.NewObject(items...), nil
}

// fieldName is the name of the .proto file, but for the one that is a keyword
// in the language whose serialisation defined the form.
func fieldName(fd protoreflect.FieldDescriptor) string {
	if fd.Name() == "type" {
		return "type_"
	}
	return string(fd.Name())
}

func (e *encoder) field(m protoreflect.Message, fd protoreflect.FieldDescriptor) (ast.Value, error) {
	switch {
	case fd.IsMap():
		return e.mapping(m.Get(fd).Map(), fd)
	case fd.IsList() && e.redact && fd.Name() == "Env" && fd.Kind() == protoreflect.StringKind:
		return e.hiddenEnv(m.Get(fd).List())
	case fd.IsList():
		return e.list(m.Get(fd).List(), fd)
	case fd.HasPresence() && !m.Has(fd):
		return ast.NullValue, nil
	case e.redact && fd.FullName() == "grpc.SetPolicyRequest.policy":
		return hidden(len(m.Get(fd).String())), nil
	default:
		return e.scalar(m.Get(fd), fd)
	}
}

// oneof is null, or an object whose one member is named after the variant of
// the field that is set.
func (e *encoder) oneof(m protoreflect.Message, o protoreflect.OneofDescriptor) (ast.Value, error) {
	fd := m.WhichOneof(o)
	if fd == nil {
		return ast.NullValue, nil
	}
	v, err := e.scalar(m.Get(fd), fd)
	if err != nil {
		return nil, err
	}
	name := string(fd.Name())
	variant := strings.ToUpper(name[:1]) + name[1:]
	return ast.NewObject([2]*ast.Term{ast.StringTerm(variant), ast.NewTerm(v)}), nil
}

func (e *encoder) mapping(m protoreflect.Map, fd protoreflect.FieldDescriptor) (ast.Value, error) {
	if err := e.count(2 * m.Len()); err != nil {
		return nil, err
	}
	items := make([][2]*ast.Term, 0, m.Len())
	var err error
	m.Range(func(k protoreflect.MapKey, mv protoreflect.Value) bool {
		var v ast.Value
		if v, err = e.scalar(mv, fd.MapValue()); err != nil {
			return false
		}
		items = append(items, [2]*ast.Term{ast.StringTerm(k.String()), ast.NewTerm(v)})
		return true
	})
	if err != nil {
		return nil, err
	}
	return ast.NewObject(items...), nil
}

func (e *encoder) list(l protoreflect.List, fd protoreflect.FieldDescriptor) (ast.Value, error) {
	if err := e.count(l.Len()); err != nil {
		return nil, err
	}
	terms := make([]*ast.Term, l.Len())
	for i := range terms {
		v, err := e.scalar(l.Get(i), fd)
		if err != nil {
			return nil, err
		}
		terms[i] = ast.NewTerm(v)
	}
	return ast.NewArray(terms...), nil
}

// scalar encodes one value that is set: a scalar, an enum or a message.
func (e *encoder) scalar(v protoreflect.Value, fd protoreflect.FieldDescriptor) (ast.Value, error) {
	switch fd.Kind() {
	case protoreflect.BoolKind:
		return ast.Boolean(v.Bool()), nil
	case protoreflect.StringKind:
		return ast.String(v.String()), nil
	case protoreflect.BytesKind:
		return e.bytes(v.Bytes())
	case protoreflect.EnumKind:
		return ast.Number(strconv.Itoa(int(v.Enum()))), nil
	case protoreflect.MessageKind, protoreflect.GroupKind:
		return e.message(v.Message())
	case protoreflect.Uint32Kind, protoreflect.Fixed32Kind, protoreflect.Uint64Kind, protoreflect.Fixed64Kind:
		return ast.Number(strconv.FormatUint(v.Uint(), 10)), nil
	case protoreflect.FloatKind, protoreflect.DoubleKind:
		f := v.Float()
		if math.IsNaN(f) || math.IsInf(f, 0) {
			return nil, fmt.Errorf("field %s is not a finite number", fd.FullName())
		}
		return ast.Number(strconv.FormatFloat(f, 'g', -1, 64)), nil
	default: // the signed integers
		return ast.Number(strconv.FormatInt(v.Int(), 10)), nil
	}
}

// bytes are an array of numbers.
func (e *encoder) bytes(b []byte) (ast.Value, error) {
	if e.redact {
		return hidden(len(b)), nil
	}
	if err := e.count(len(b)); err != nil {
		return nil, err
	}
	terms := make([]*ast.Term, len(b))
	for i, c := range b {
		terms[i] = ast.InternedTerm(int(c))
	}
	return ast.NewArray(terms...), nil
}

func (e *encoder) hiddenEnv(l protoreflect.List) (ast.Value, error) {
	if err := e.count(l.Len()); err != nil {
		return nil, err
	}
	terms := make([]*ast.Term, l.Len())
	for i := range terms {
		entry := l.Get(i).String()
		e.secrets = append(e.secrets, entry)
		terms[i] = ast.StringTerm(hideEnv(entry))
	}
	return ast.NewArray(terms...), nil
}

// hideEnv keeps the name of an environment entry. An entry without "=" may be
// a value that was cut off its name, so nothing of it is kept.
func hideEnv(entry string) string {
	if name, _, ok := strings.Cut(entry, "="); ok {
		return name + "=" + redacted
	}
	return redacted
}

const redacted = "<redacted>"

func hidden(n int) ast.Value { return ast.String("<" + strconv.Itoa(n) + " bytes>") }

// sortedByLength returns s, longest first, without repetition.
func sortedByLength(s []string) []string {
	s = slices.Clone(s)
	slices.SortFunc(s, func(a, b string) int {
		if len(a) != len(b) {
			return len(b) - len(a)
		}
		return strings.Compare(a, b)
	})
	return slices.Compact(s)
}
