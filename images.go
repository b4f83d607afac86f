// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"cocoon/imagers"
)

// errStoreUsed is returned when the image store cannot be moved any more.
var errStoreUsed = errors.New("an image has been pulled to the store already")

// imageStore is the image puller, whose store can be moved to another disk as
// long as nothing was pulled. It is safe for concurrent use and holds no lock
// while it works.
type imageStore struct {
	dir  string
	open func() (*imagers.Puller, error)

	mu     sync.Mutex // guards what follows
	puller *imagers.Puller
	used   bool                        // pulled from, or being moved
	undo   func(context.Context) error // of the move
}

func openImages(dir string, open func() (*imagers.Puller, error)) (*imageStore, error) {
	p, err := open()
	if err != nil {
		return nil, err
	}
	return &imageStore{dir: dir, open: open, puller: p}, nil
}

// Pull pulls an image as imagers.Puller does.
func (s *imageStore) Pull(ctx context.Context, r imagers.Request) (imagers.Result, error) {
	s.mu.Lock()
	p := s.puller
	s.used = true
	s.mu.Unlock()
	if p == nil {
		return imagers.Result{}, errors.New("Failed to pull image: the image store is being moved") //nolint:staticcheck // peers match this text
	}
	return p.Pull(ctx, r)
}

// Release releases what Pull has made.
func (s *imageStore) Release(ctx context.Context, bundle string) error {
	s.mu.Lock()
	p := s.puller
	s.mu.Unlock()
	if p == nil {
		return nil // nothing was pulled
	}
	return p.Release(ctx, bundle)
}

// Move has mount put another disk on the store's directory. Once an image was
// pulled it is errStoreUsed. When mount fails the store stays where it is.
func (s *imageStore) Move(ctx context.Context, mount func(ctx context.Context, dir string) (func(context.Context) error, error)) error {
	s.mu.Lock()
	p := s.puller
	if s.used || p == nil {
		s.mu.Unlock()
		return errStoreUsed
	}
	s.puller, s.used = nil, true
	s.mu.Unlock()

	err := p.Close()
	var undo func(context.Context) error
	if err == nil {
		undo, err = mount(ctx, s.dir)
	}
	next, openErr := s.open()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.puller, s.undo = next, undo
	s.used = err == nil // a move that failed may be tried again
	if err = errors.Join(err, openErr); err != nil {
		return fmt.Errorf("move the image store: %w", err)
	}
	return nil
}

// Close gives up the store and the disk below it.
func (s *imageStore) Close(ctx context.Context) error {
	s.mu.Lock()
	p, undo := s.puller, s.undo
	s.puller, s.undo, s.used = nil, nil, true
	s.mu.Unlock()
	var err error
	if p != nil {
		err = p.Close()
	}
	if undo != nil {
		err = errors.Join(err, undo(ctx))
	}
	return err
}
