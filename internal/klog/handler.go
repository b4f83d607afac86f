// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package klog

import (
	"bytes"
	"context"
	"log/slog"
	"strconv"
	"strings"
	"sync"
)

// Handler is a slog.Handler that turns each record into one line of a Log:
// a prefix, the message and the attributes. Time and level are left out, since
// the kernel keeps both.
type Handler struct {
	out  *sink
	text slog.Handler
	min  slog.Leveler
}

// sink is shared by all handlers derived from one.
type sink struct {
	mu     sync.Mutex
	buf    bytes.Buffer
	log    *Log
	prefix string
}

// NewHandler returns a Handler that writes records of level least or above to
// log, each line starting with prefix (for example "cocoon: ").
func NewHandler(log *Log, prefix string, least slog.Leveler) *Handler {
	out := &sink{log: log, prefix: prefix}
	opts := &slog.HandlerOptions{Level: least, ReplaceAttr: attributesOnly}
	return &Handler{out: out, text: slog.NewTextHandler(&out.buf, opts), min: least}
}

// Enabled says whether records of level are written.
func (h *Handler) Enabled(_ context.Context, level slog.Level) bool {
	return level >= h.min.Level()
}

// Handle writes r.
func (h *Handler) Handle(ctx context.Context, r slog.Record) error {
	h.out.mu.Lock()
	defer h.out.mu.Unlock()
	h.out.buf.Reset()
	if err := h.text.Handle(ctx, r); err != nil {
		return err
	}
	line := h.out.prefix + oneLine(r.Message)
	if attrs := bytes.TrimSpace(h.out.buf.Bytes()); len(attrs) > 0 {
		line += " " + string(attrs)
	}
	return h.out.log.Record(priority(r.Level), line)
}

// WithAttrs returns a handler whose records carry attrs.
func (h *Handler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return &Handler{out: h.out, text: h.text.WithAttrs(attrs), min: h.min}
}

// WithGroup returns a handler whose attributes are qualified by name.
func (h *Handler) WithGroup(name string) slog.Handler {
	return &Handler{out: h.out, text: h.text.WithGroup(name), min: h.min}
}

func priority(level slog.Level) Priority {
	switch {
	case level >= slog.LevelError:
		return Error
	case level >= slog.LevelWarn:
		return Warning
	case level >= slog.LevelInfo:
		return Info
	default:
		return Debug
	}
}

// oneLine quotes a message that would not stay on one line.
func oneLine(message string) string {
	if strings.ContainsAny(message, "\r\n") {
		return strconv.Quote(message)
	}
	return message
}

// attributesOnly leaves out what the line shows in another way.
func attributesOnly(groups []string, a slog.Attr) slog.Attr {
	if len(groups) == 0 && (a.Key == slog.TimeKey || a.Key == slog.LevelKey || a.Key == slog.MessageKey) {
		return slog.Attr{}
	}
	return a
}
