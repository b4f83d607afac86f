// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"

	"cocoon/internal/wire/agentpb"
)

// GetMetrics tells how the agent and the guest are doing, in Prometheus' text
// format.
func (s *service) GetMetrics(ctx context.Context, _ *agentpb.GetMetricsRequest) (*agentpb.Metrics, error) {
	text, err := s.metrics.Text(ctx)
	if err != nil {
		return nil, err
	}
	return &agentpb.Metrics{Metrics: text}, nil
}
