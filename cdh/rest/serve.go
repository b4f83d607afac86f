// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package rest

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"time"
)

// ErrNotLoopback is returned for a listener that others could reach.
var ErrNotLoopback = errors.New("REST API must listen on a loopback address")

const stopTimeout = 5 * time.Second

// Serve serves the interface on l, which it closes, until ctx ends. In peer
// pods l lives in the network namespace of the pod.
func Serve(ctx context.Context, l net.Listener, cfg Config, dep Deps) error {
	if a, err := netip.ParseAddrPort(l.Addr().String()); err != nil || !a.Addr().Unmap().IsLoopback() {
		return errors.Join(fmt.Errorf("listen on %q: %w", l.Addr(), ErrNotLoopback), l.Close())
	}
	if dep.Log == nil {
		dep.Log = slog.New(slog.DiscardHandler)
	}
	h := NewHandler(cfg, dep).(*handler)
	srv := &http.Server{
		Handler:           h,
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       10 * time.Second,
		WriteTimeout:      h.cfg.Timeout + 10*time.Second,
		IdleTimeout:       time.Minute,
		MaxHeaderBytes:    maxHeader,
		ErrorLog:          slog.NewLogLogger(dep.Log.Handler(), slog.LevelDebug),
	}
	done := make(chan error, 1)
	go func() { done <- srv.Serve(&limited{Listener: l, slots: make(chan struct{}, maxConnections)}) }()
	select {
	case err := <-done:
		return fmt.Errorf("serve REST API: %w", err)
	case <-ctx.Done():
	}
	stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopTimeout)
	defer cancel()
	err := srv.Shutdown(stop)
	if err != nil {
		err = errors.Join(fmt.Errorf("stop REST API: %w", err), srv.Close())
	}
	if ended := <-done; !errors.Is(ended, http.ErrServerClosed) {
		err = errors.Join(err, ended)
	}
	return err
}

// limited closes connections beyond its slots at once, so that one process of
// the pod cannot use up the guest's descriptors.
type limited struct {
	net.Listener
	slots chan struct{}
}

// Accept returns the next connection that has a slot.
func (l *limited) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		select {
		case l.slots <- struct{}{}:
			return &slotted{Conn: c, release: sync.OnceFunc(func() { <-l.slots })}, nil
		default:
			// The peer learns of it by the close itself.
			_ = c.Close()
		}
	}
}

type slotted struct {
	net.Conn
	release func()
}

// Close closes the connection and gives its slot back.
func (c *slotted) Close() error {
	defer c.release()
	return c.Conn.Close()
}
