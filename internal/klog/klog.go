// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

// Package klog writes to the kernel's log.
//
// The ring buffer behind /dev/kmsg is the only log that exists before any file
// system is mounted, and the one that survives until power-off. What of it
// reaches the serial console, which the host reads, is decided by the console
// log level and thus by the measured command line; the whole ring is readable
// only inside the guest.
//
// Text may come from a workload: it is split into lines, control characters
// are replaced so that a line cannot pose as another record, lines are cut into
// pieces that the kernel accepts, and a rate limit keeps a noisy sender from
// pushing everything else out of the ring. What the limit swallows is counted
// and reported.
package klog

import (
	"bytes"
	"fmt"
	"io"
	"sync"

	"golang.org/x/time/rate"
)

// Priority is a syslog severity as the kernel counts it: the smaller the
// number, the more urgent the record.
type Priority int

// The severities that are used here.
const (
	Emergency Priority = 0
	Error     Priority = 3
	Warning   Priority = 4
	Notice    Priority = 5
	Info      Priority = 6
	Debug     Priority = 7
)

// facilityUser marks a record as written by user space; the kernel replaces
// facility 0, which is its own, by this one anyway.
const facilityUser = 1

// MaxRecord is the longest text, in bytes, that goes into one record. The
// kernel refuses writes beyond its line buffer of 1024 bytes less a prefix.
const MaxRecord = 900

// MaxPieces is the number of records one line may fill; the rest of a longer
// line is cut, and the last record says so.
const MaxPieces = 8

// Log writes records to the kernel log. It may be used by several goroutines.
type Log struct {
	mu      sync.Mutex
	w       io.Writer
	limit   *rate.Limiter
	dropped int
}

// Limit bounds how many records a Log passes on. The zero value does not limit.
type Limit struct {
	PerSecond float64
	Burst     int
}

// New returns a Log that hands each record to w in one Write call, as
// /dev/kmsg demands. For tests w may be any writer.
func New(w io.Writer, limit Limit) *Log {
	l := &Log{w: w, limit: rate.NewLimiter(rate.Inf, 0)}
	if limit.PerSecond > 0 {
		l.limit = rate.NewLimiter(rate.Limit(limit.PerSecond), max(limit.Burst, 1))
	}
	return l
}

// Record writes text as one record for each of its lines. Emergency and Error
// pass the rate limit always: they are the reason why a guest ends. The error
// is that of the underlying writer.
func (l *Log) Record(p Priority, text string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	for line := range bytes.Lines([]byte(text)) {
		line = bytes.TrimRight(line, "\r\n")
		if len(line) == 0 {
			continue
		}
		if p > Error && !l.limit.Allow() {
			l.dropped++
			continue
		}
		if err := l.reportDropped(); err != nil {
			return err
		}
		if err := l.line(p, line); err != nil {
			return err
		}
	}
	return nil
}

// Dropped returns how many lines the rate limit has swallowed since the last
// record that reported some.
func (l *Log) Dropped() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.dropped
}

func (l *Log) reportDropped() error {
	if l.dropped == 0 {
		return nil
	}
	n := l.dropped
	l.dropped = 0
	return l.write(Warning, fmt.Appendf(nil, "klog: %d lines dropped by the rate limit", n))
}

func (l *Log) line(p Priority, line []byte) error {
	for piece := 1; len(line) > 0; piece++ {
		n := min(len(line), MaxRecord)
		if piece == MaxPieces && len(line) > n {
			rest := len(line) - n
			return l.write(p, fmt.Appendf(clean(line[:n]), " [%d bytes cut]", rest))
		}
		if err := l.write(p, clean(line[:n])); err != nil {
			return err
		}
		line = line[n:]
	}
	return nil
}

func (l *Log) write(p Priority, text []byte) error {
	rec := fmt.Appendf(make([]byte, 0, len(text)+8), "<%d>", facilityUser<<3|int(p&7))
	rec = append(rec, text...)
	rec = append(rec, '\n')
	if _, err := l.w.Write(rec); err != nil {
		return fmt.Errorf("write kernel log: %w", err)
	}
	return nil
}

// clean returns a copy of b in which nothing can start a new record or steer
// the terminal that shows the console.
func clean(b []byte) []byte {
	out := bytes.Clone(b)
	for i, c := range out {
		if c < 0x20 && c != '\t' || c == 0x7f {
			out[i] = '?'
		}
	}
	return out
}
