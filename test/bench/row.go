// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import "fmt"

// row is one line of the report.
type row struct {
	Group string `json:"group"`
	Name  string `json:"name"`
	Unit  string `json:"unit"`
	// Ours and Peer are medians in Unit. Peer is absent where nothing
	// comparable exists.
	Ours     float64  `json:"ours"`
	Peer     *float64 `json:"peer,omitempty"`
	PeerName string   `json:"peer_name,omitempty"`
	// Ratio is Ours through Peer, or the inverse if the aim is one of speed.
	Ratio *float64 `json:"ratio,omitempty"`
	Aim   string   `json:"aim,omitempty"`
	Met   *bool    `json:"met,omitempty"`
}

// beside adds what a peer needed for the same work.
func (r row) beside(name string, value float64) row {
	r.PeerName, r.Peer = name, &value
	if value > 0 {
		r.Ratio = new(r.Ours / value)
	}
	return r
}

// atMost sets the aim that ours is no more than limit.
func (r row) atMost(limit float64) row {
	r.Aim, r.Met = fmt.Sprintf("<= %s %s", number(limit), r.Unit), new(r.Ours <= limit)
	return r
}

// atMostTimes sets the aim that ours is no more than factor times the peer's.
func (r row) atMostTimes(factor float64) row {
	r.Aim = fmt.Sprintf("<= %s x peer", number(factor))
	if r.Peer != nil {
		r.Met = new(r.Ours <= factor**r.Peer)
	}
	return r
}

// timesFaster sets the aim that the peer needs at least factor times as long.
func (r row) timesFaster(factor float64) row {
	r.Aim = fmt.Sprintf(">= %s x faster", number(factor))
	if r.Peer != nil && r.Ours > 0 {
		r.Ratio = new(*r.Peer / r.Ours)
		r.Met = new(*r.Ratio >= factor)
	}
	return r
}
