// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"

	"golang.org/x/sync/errgroup"

	"cocoon/trustee/token"
)

const (
	idleTimeout  = time.Minute
	shutdownTime = 10 * time.Second
	maxHead      = 2 * token.MaxSize

	// maxStreams is how many requests a connection of gRPC carries at a time.
	maxStreams = 8
)

// Listeners are where a Server answers. What is nil is not served.
type Listeners struct {
	// Broker is for guests and the operator.
	Broker net.Listener
	// REST and GRPC are for other relying parties.
	REST, GRPC net.Listener
}

// door is one listener with what stands behind it.
type door struct {
	listener net.Listener
	handler  http.Handler
	// streams is how many requests a connection carries at a time. Connections
	// times streams bounds the memory that strangers can hold.
	streams int
}

// Handler returns the broker's interface without TLS, to be served by others.
func (s *Server) Handler() http.Handler { return s.handler }

// Serve answers as a broker on l by TLS until ctx ends; see ServeAll.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	return s.ServeAll(ctx, Listeners{Broker: l})
}

// ServeAll answers by TLS until ctx ends or one of the listeners fails; requests
// in progress then have ten seconds to finish. It closes the listeners.
func (s *Server) ServeAll(ctx context.Context, l Listeners) error {
	rpc := s.api.GRPC()
	defer rpc.Close()
	group, ctx := errgroup.WithContext(ctx)
	for _, d := range []door{{l.Broker, s.handler, 1}, {l.REST, s.api.REST(), 1}, {l.GRPC, rpc, maxStreams}} {
		if d.listener != nil {
			group.Go(func() error { return s.serve(ctx, d) })
		}
	}
	return group.Wait()
}

func (s *Server) serve(ctx context.Context, d door) error {
	srv := s.httpServer(d)
	served := make(chan error, 1)
	conns := max(s.cfg.MaxConns/d.streams, 1)
	go func() { served <- srv.ServeTLS(limit(d.listener, conns), "", "") }()
	select {
	case err := <-served:
		return fmt.Errorf("serve: %w", err)
	case <-ctx.Done():
	}
	end, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownTime)
	defer cancel()
	err := srv.Shutdown(end)
	if err != nil {
		err = errors.Join(fmt.Errorf("shut down: %w", err), srv.Close())
	}
	if end := <-served; !errors.Is(end, http.ErrServerClosed) {
		err = errors.Join(err, fmt.Errorf("serve: %w", end))
	}
	return err
}

func (s *Server) httpServer(d door) *http.Server {
	var protocols http.Protocols
	protocols.SetHTTP1(true)
	protocols.SetHTTP2(d.streams > 1)
	return &http.Server{
		Handler:   d.handler,
		Protocols: &protocols,
		HTTP2:     &http.HTTP2Config{MaxConcurrentStreams: d.streams},
		TLSConfig: &tls.Config{
			Certificates: []tls.Certificate{s.cert},
			MinVersion:   tls.VersionTLS12,
		},
		ReadHeaderTimeout: s.cfg.ReadTimeout,
		ReadTimeout:       s.cfg.ReadTimeout,
		WriteTimeout:      2 * s.cfg.ReadTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHead,
		ErrorLog:          slog.NewLogLogger(s.cfg.Log.Handler(), slog.LevelDebug),
	}
}
