// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package replay

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	"cocoon/internal/wire/agentpb"
)

const (
	maxLine     = 16 << 20 // bytes of one request
	maxRequests = 100_000
)

// ErrBadRequest is returned for a line that is no request.
var ErrBadRequest = errors.New("no request")

// request is one line of a recording.
type request struct {
	line int
	// Either msg, or rule and input in the form that rules see.
	msg   proto.Message
	rule  string
	input []byte
	// want is "allow", "deny" or, where nothing is expected, "".
	want string
	// because has to be part of the reason of a denial.
	because string
}

// form is a line as it is written. Method and Body are a recording's, the body
// in protobuf's JSON form; Kind and Request those of upstream's policy log.
type form struct {
	Method  string          `json:"method"`
	Timeout string          `json:"timeout"`
	Body    json.RawMessage `json:"body"`
	Kind    string          `json:"kind"`
	Request json.RawMessage `json:"request"`
	Want    string          `json:"want"`
	Because string          `json:"because"`
}

// parse reads one request a line. Empty lines, lines that begin with "//" and
// requests of the health service, about which no policy is asked, are skipped.
func parse(r io.Reader) ([]request, error) {
	s := bufio.NewScanner(r)
	s.Buffer(nil, maxLine)
	var all []request
	n := 0
	for s.Scan() {
		n++
		line := bytes.TrimSpace(s.Bytes())
		if len(line) == 0 || bytes.HasPrefix(line, []byte("//")) {
			continue
		}
		q, skip, err := parseLine(line)
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", n, err)
		}
		if skip {
			continue
		}
		q.line = n
		if all = append(all, q); len(all) > maxRequests {
			return nil, fmt.Errorf("more than %d requests: %w", maxRequests, ErrBadRequest)
		}
	}
	if err := s.Err(); err != nil {
		return nil, fmt.Errorf("line %d: %w", n+1, err)
	}
	return all, nil
}

func parseLine(line []byte) (q request, skip bool, err error) {
	var f form
	dec := json.NewDecoder(bytes.NewReader(line))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&f); err != nil {
		return q, false, fmt.Errorf("%w: %w", ErrBadRequest, err)
	}
	if dec.More() {
		return q, false, fmt.Errorf("more than one value: %w", ErrBadRequest)
	}
	switch f.Want {
	case "", "allow", "deny":
	default:
		return q, false, fmt.Errorf("want is %q, not allow or deny: %w", f.Want, ErrBadRequest)
	}
	if f.Because != "" && f.Want != "deny" {
		return q, false, fmt.Errorf("because goes with a denial only: %w", ErrBadRequest)
	}
	q.want, q.because = f.Want, f.Because
	switch {
	case f.Method != "" && f.Kind != "":
		return q, false, fmt.Errorf("both method and kind: %w", ErrBadRequest)
	case f.Method != "" && f.Request != nil, f.Kind != "" && f.Body != nil:
		return q, false, fmt.Errorf("body goes with method, and request with kind: %w", ErrBadRequest)
	case f.Method != "":
		q.msg, skip, err = decodeBody(f.Method, f.Body)
		return q, skip, err
	case f.Kind != "" && len(f.Request) > 0:
		q.rule, q.input = f.Kind, f.Request
		return q, false, nil
	}
	return q, false, fmt.Errorf("neither method nor kind with request: %w", ErrBadRequest)
}

// decodeBody reads the request of a method, "grpc.AgentService/CreateContainer"
// or its last part only.
func decodeBody(method string, body json.RawMessage) (msg proto.Message, skip bool, err error) {
	service, name, both := strings.Cut(strings.TrimPrefix(method, "/"), "/")
	switch {
	case !both:
		name = service
	case service == "grpc.Health":
		return nil, true, nil
	case service != "grpc.AgentService":
		return nil, false, fmt.Errorf("service %.80q: %w", service, ErrBadRequest)
	}
	m := agentpb.File_agent_agent_proto.Services().ByName("AgentService").Methods().ByName(protoreflect.Name(name))
	if m == nil {
		return nil, false, fmt.Errorf("method %.80q: %w", method, ErrBadRequest)
	}
	t, err := protoregistry.GlobalTypes.FindMessageByName(m.Input().FullName())
	if err != nil {
		return nil, false, fmt.Errorf("method %q: %w", method, err)
	}
	msg = t.New().Interface()
	if len(body) == 0 {
		body = []byte("{}")
	}
	if err := protojson.Unmarshal(body, msg); err != nil {
		return nil, false, fmt.Errorf("body of %s: %w: %w", name, ErrBadRequest, err)
	}
	return msg, false, nil
}
