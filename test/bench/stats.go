// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"math"
	"slices"
	"time"
)

// median is the middle of the values, or the mean of the two middle ones. It
// is NaN for none. The values are left as they are.
func median[T cmp.Ordered](values []T, toFloat func(T) float64) float64 {
	if len(values) == 0 {
		return math.NaN()
	}
	s := slices.Sorted(slices.Values(values))
	mid := len(s) / 2
	if len(s)%2 == 1 {
		return toFloat(s[mid])
	}
	return (toFloat(s[mid-1]) + toFloat(s[mid])) / 2
}

// percentile is the smallest value that at least p percent of the values do
// not exceed. It is 0 for none.
func percentile(values []time.Duration, p float64) time.Duration {
	if len(values) == 0 {
		return 0
	}
	s := slices.Sorted(slices.Values(values))
	rank := int(math.Ceil(p / 100 * float64(len(s))))
	return s[min(max(rank, 1), len(s))-1]
}

func millis(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

func micros(d time.Duration) float64 { return float64(d) / float64(time.Microsecond) }

func seconds(d time.Duration) float64 { return d.Seconds() }

func medianMillis(d []time.Duration) float64 { return median(d, millis) }
