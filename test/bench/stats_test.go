// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"math"
	"slices"
	"testing"
	"time"
)

func TestTheMedianIsTheMiddleOrTheMeanOfTheMiddles(t *testing.T) {
	t.Parallel()
	same := func(v float64) float64 { return v }
	for _, c := range []struct {
		values []float64
		want   float64
	}{{[]float64{7}, 7}, {[]float64{9, 1, 5}, 5}, {[]float64{4, 1, 3, 2}, 2.5}, {[]float64{1000, 1, 1}, 1}} {
		before := slices.Clone(c.values)
		if got := median(c.values, same); got != c.want {
			t.Errorf("median of %v is %v, want %v", c.values, got, c.want)
		}
		if !slices.Equal(before, c.values) {
			t.Errorf("the values %v were reordered", before)
		}
	}
	if got := median(nil, same); !math.IsNaN(got) {
		t.Errorf("median of nothing is %v", got)
	}
}

func TestAPercentileIsOneOfTheValues(t *testing.T) {
	t.Parallel()
	var hundred []time.Duration
	for i := 100; i > 0; i-- {
		hundred = append(hundred, time.Duration(i))
	}
	for _, c := range []struct {
		values []time.Duration
		p      float64
		want   time.Duration
	}{
		{hundred, 50, 50}, {hundred, 99, 99}, {hundred, 100, 100}, {hundred, 0, 1}, {hundred, 200, 100},
		{[]time.Duration{3}, 1, 3}, {[]time.Duration{2, 1}, 50, 1}, {nil, 50, 0},
	} {
		if got := percentile(c.values, c.p); got != c.want {
			t.Errorf("percentile %v of %d values is %d, want %d", c.p, len(c.values), got, c.want)
		}
	}
}

func TestTheRateCountsOnlyTheTimeOfDecisions(t *testing.T) {
	t.Parallel()
	if got := rate([]time.Duration{time.Millisecond, 3 * time.Millisecond}); got != 500 {
		t.Errorf("rate is %v, want 500", got)
	}
	if got := rate(nil); got != 0 {
		t.Errorf("rate of nothing is %v", got)
	}
}
