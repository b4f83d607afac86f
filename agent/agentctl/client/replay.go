// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package client

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"time"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	"cocoon/internal/wire/agentpb"
)

// maxRecordedLine bounds a line of a recording: a frame of 4 MiB in base64.
const maxRecordedLine = 8 << 20

// waiting are the methods that answer only when something else happens.
var waiting = []string{"WaitProcess", "GetOOMEvent", "ReadStdout", "ReadStderr"}

// Recorded is one request of a recording: a line of JSON.
type Recorded struct {
	Method string          `json:"method"` // "grpc.AgentService/CreateSandbox"
	Body   json.RawMessage `json:"body"`   // the request as protojson
}

// Answer is what the agent said to a recorded request.
type Answer struct {
	Number   int // from 1, in the order of the recording
	Method   string
	Response proto.Message // nil if Err is set
	Err      error
}

// ReadRecording parses a recording, one JSON object a line; empty lines are
// skipped. Unknown methods and bodies that do not fit are errors with the line.
func ReadRecording(r io.Reader) ([]Call, error) {
	sc := bufio.NewScanner(r)
	sc.Buffer(nil, maxRecordedLine)
	var calls []Call
	for line := 1; sc.Scan(); line++ {
		if len(sc.Bytes()) == 0 {
			continue
		}
		c, err := readCallLine(sc.Bytes())
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", line, err)
		}
		calls = append(calls, c)
	}
	if err := sc.Err(); err != nil {
		return nil, fmt.Errorf("read recording: %w", err)
	}
	return calls, nil
}

// Call is a recorded request, ready to be sent.
type Call struct {
	Service, Method string
	Request         proto.Message
	response        protoreflect.MessageType
}

func readCallLine(line []byte) (Call, error) {
	var rec Recorded
	if err := json.Unmarshal(line, &rec); err != nil {
		return Call{}, err
	}
	service, method, ok := strings.Cut(rec.Method, "/")
	if !ok {
		return Call{}, fmt.Errorf("method %q: want service/method", rec.Method)
	}
	d := findMethod(service, method)
	if d == nil {
		return Call{}, fmt.Errorf("method %q is unknown", rec.Method)
	}
	in, err := protoregistry.GlobalTypes.FindMessageByName(d.Input().FullName())
	if err != nil {
		return Call{}, err
	}
	out, err := protoregistry.GlobalTypes.FindMessageByName(d.Output().FullName())
	if err != nil {
		return Call{}, err
	}
	c := Call{Service: service, Method: method, Request: in.New().Interface(), response: out}
	if len(rec.Body) == 0 {
		return c, nil
	}
	if err := protojson.Unmarshal(rec.Body, c.Request); err != nil {
		return Call{}, fmt.Errorf("body of %s: %w", rec.Method, err)
	}
	return c, nil
}

func findMethod(service, method string) protoreflect.MethodDescriptor {
	for _, f := range []protoreflect.FileDescriptor{agentpb.File_agent_agent_proto, agentpb.File_agent_health_proto} {
		for i := range f.Services().Len() {
			if s := f.Services().Get(i); string(s.FullName()) == service {
				return s.Methods().ByName(protoreflect.Name(method))
			}
		}
	}
	return nil
}

// Replay sends calls in order. A call that waits for an event runs beside the
// ones after it; when all are sent the rest is given grace to be answered and
// is then abandoned. report gets each answer as it arrives, never two at once.
func (c *Client) Replay(ctx context.Context, calls []Call, grace time.Duration, report func(Answer)) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var mu sync.Mutex // serialises report
	send := func(i int, limit time.Duration) {
		a := c.replayOne(ctx, calls[i], limit)
		a.Number = i + 1
		mu.Lock()
		defer mu.Unlock()
		report(a)
	}
	var parked sync.WaitGroup
	for i, call := range calls {
		if slices.Contains(waiting, call.Method) {
			parked.Go(func() { send(i, 0) })
			continue
		}
		send(i, DefaultCreateLimit)
	}
	defer time.AfterFunc(grace, cancel).Stop()
	parked.Wait()
}

func (c *Client) replayOne(ctx context.Context, call Call, limit time.Duration) Answer {
	if limit > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, limit)
		defer cancel()
	}
	a := Answer{Method: call.Service + "/" + call.Method}
	resp := call.response.New().Interface()
	if err := c.rpc.Call(ctx, call.Service, call.Method, call.Request, resp); err != nil {
		a.Err = err
		return a
	}
	a.Response = resp
	return a
}
