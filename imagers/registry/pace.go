// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package registry

import "time"

// minRate is what a registry has to deliver, in bytes per second of waiting
// for it. One that sends a byte now and then is never idle, and could hold a
// pull for ever.
const minRate = 4 << 10

// pace measures a transfer. Only waiting counts: a slow consumer is not a slow
// registry.
type pace struct {
	waited time.Duration
	got    int64
}

func (p *pace) add(n int, waited time.Duration) {
	p.got += int64(n)
	p.waited += waited
}

// slow reports whether less than minRate came, once a period has been waited
// for, and begins the next period.
func (p *pace) slow(period time.Duration) bool {
	if p.waited < period {
		return false
	}
	slow := float64(p.got) < minRate*p.waited.Seconds()
	*p = pace{}
	return slow
}
