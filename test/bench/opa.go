// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/open-policy-agent/opa/v1/rego"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"cocoon/internal/wire/agentpb"
)

// timeOPA asks OPA's own Go interface about the same request under the same
// policy: a prepared query, and the request as protobuf's JSON.
func timeOPA(ctx context.Context, text string, raw []byte) ([]time.Duration, error) {
	query, err := rego.New(rego.Query("data.agent_policy.CreateContainerRequest"), rego.Module("policy.rego", text)).PrepareForEval(ctx)
	if err != nil {
		return nil, fmt.Errorf("prepare the policy: %w", err)
	}
	return repeat(func() error {
		input, err := opaInput(raw)
		if err != nil {
			return err
		}
		result, err := query.Eval(ctx, rego.EvalInput(input))
		if err != nil {
			return fmt.Errorf("evaluate the policy: %w", err)
		}
		if !allowed(result) {
			return errors.New("opa refuses the request")
		}
		return nil
	})
}

// allowed reads a verdict: true, or an object that says so. What the object
// changes in the state is not carried out on this side.
func allowed(result rego.ResultSet) bool {
	if len(result) != 1 || len(result[0].Expressions) != 1 {
		return false
	}
	switch v := result[0].Expressions[0].Value.(type) {
	case bool:
		return v
	case map[string]any:
		return v["allowed"] == true
	}
	return false
}

func opaInput(raw []byte) (any, error) {
	var req agentpb.CreateContainerRequest
	if err := proto.Unmarshal(raw, &req); err != nil {
		return nil, fmt.Errorf("decode the request: %w", err)
	}
	text, err := protojson.MarshalOptions{UseProtoNames: true, EmitUnpopulated: true}.Marshal(&req)
	if err != nil {
		return nil, fmt.Errorf("encode the request: %w", err)
	}
	var input any
	err = json.Unmarshal(text, &input)
	return input, err
}
