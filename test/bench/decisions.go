// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/containerd/ttrpc"
	"google.golang.org/protobuf/proto"

	"cocoon/agent/agentctl/client"
	"cocoon/agent/policy"
	"cocoon/internal/wire/agentpb"
)

// decisionTime is how long each policy is asked, and maxDecisions how often at
// most.
const (
	decisionTime = 2 * time.Second
	maxDecisions = 20_000
)

// minPolicy is the least size of the large policy.
const minPolicy = 200_000

// measurePolicy asks the engine for decisions as the server does: through the
// interceptor, decoding of the request included.
func (b *bench) measurePolicy(ctx context.Context) error {
	req, err := client.Container{ID: "c1", Image: "registry.example/app:1", Args: []string{"/bin/app", "wanted"}}.Request()
	if err != nil {
		return err
	}
	raw, err := proto.Marshal(req)
	if err != nil {
		return fmt.Errorf("encode the request: %w", err)
	}
	large := largePolicy(minPolicy)
	for _, p := range []struct{ name, text string }{
		{"allow-all", policy.AllowAll()}, {fmt.Sprintf("%d KB", len(large)/1000), large},
	} {
		ours, err := timeDecisions(ctx, p.text, raw)
		if err != nil {
			return fmt.Errorf("policy %s: %w", p.name, err)
		}
		theirs, err := timeOPA(ctx, p.text, raw)
		if err != nil {
			return fmt.Errorf("policy %s: %w", p.name, err)
		}
		const peer = "opa rego"
		b.say("%s: %d decisions, %d by the peer", p.name, len(ours), len(theirs))
		b.add(row{Group: "policy", Name: "CreateContainer, " + p.name + ", p50", Unit: "µs", Ours: micros(percentile(ours, 50))}.
			beside(peer, micros(percentile(theirs, 50))))
		b.add(row{Group: "policy", Name: "CreateContainer, " + p.name + ", p99", Unit: "µs", Ours: micros(percentile(ours, 99))}.
			beside(peer, micros(percentile(theirs, 99))))
		b.add(row{Group: "policy", Name: "CreateContainer, " + p.name, Unit: "decisions/s", Ours: rate(ours)}.beside(peer, rate(theirs)))
	}
	return nil
}

// rate is how many a second one core does.
func rate(took []time.Duration) float64 {
	var sum time.Duration
	for _, d := range took {
		sum += d
	}
	if sum == 0 {
		return 0
	}
	return float64(len(took)) / sum.Seconds()
}

// timeDecisions asks our engine about the request again and again.
func timeDecisions(ctx context.Context, text string, raw []byte) ([]time.Duration, error) {
	engine := policy.New(policy.Config{})
	if err := engine.Load(ctx, text); err != nil {
		return nil, err
	}
	info := &ttrpc.UnaryServerInfo{FullMethod: "/grpc.AgentService/CreateContainer"}
	decode := func(into any) error {
		m, ok := into.(proto.Message)
		if !ok {
			return fmt.Errorf("decode into a %T", into)
		}
		return proto.Unmarshal(raw, m)
	}
	reached := 0
	handler := func(_ context.Context, decode func(any) error) (any, error) {
		var req agentpb.CreateContainerRequest
		if err := decode(&req); err != nil {
			return nil, err
		}
		reached++
		return &req, nil
	}
	took, err := repeat(func() error {
		_, err := engine.Intercept(ctx, decode, info, handler)
		return err
	})
	if err == nil && reached != len(took)+1 {
		err = errors.New("the policy did not let every request through")
	}
	return took, err
}

// repeat times do until decisionTime is over. The first time does not count.
func repeat(do func() error) ([]time.Duration, error) {
	var took []time.Duration
	for end := time.Now().Add(decisionTime); len(took) <= maxDecisions && time.Now().Before(end); {
		start := time.Now()
		if err := do(); err != nil {
			return nil, err
		}
		took = append(took, time.Since(start))
	}
	if len(took) < 2 {
		return nil, errors.New("too slow to be measured")
	}
	return took[1:], nil
}

// largePolicy is a policy of at least size bytes in the manner of generated
// ones: rules that keep a state, and data about many containers, of which the
// last is asked for.
func largePolicy(size int) string {
	var b strings.Builder
	b.WriteString(`package agent_policy

default CreateContainerRequest := false

CreateContainerRequest := {"allowed": true, "ops": [{"op": "add", "path": concat("/", ["", "pstate", input.container_id]), "value": index}]} if {
	some index, c in policy_data.containers
	c.args == input.OCI.Process.Args
	c.cwd == input.OCI.Process.Cwd
	every e in input.OCI.Process.Env { e in c.env }
	every s in input.storages { s.driver == "image_guest_pull"; s.source == c.image }
}

policy_data := {"containers": [
`)
	for i := 0; b.Len() < size; i++ {
		fmt.Fprintf(&b, `{"args": ["/bin/app", "%d"], "cwd": "/", "image": "registry.example/app:%[1]d", "env": [`, i)
		for v := range 12 {
			fmt.Fprintf(&b, `"VARIABLE_%d=%d", `, v, i*v)
		}
		b.WriteString("\"PATH=/bin\"]},\n")
	}
	b.WriteString(`{"args": ["/bin/app", "wanted"], "cwd": "/", "image": "registry.example/app:1", "env": [` +
		`"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"]}]}` + "\n")
	return b.String()
}
