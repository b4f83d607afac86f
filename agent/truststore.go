// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/opencontainers/runtime-spec/specs-go"

	"cocoon/agent/device"
	"cocoon/internal/stage"
)

// trustedStore is the device by which a host offers disk space for images. It
// is encrypted before use; to use it as it is, or to ignore it and fill memory
// instead, would both be wrong.
const trustedStore = "/dev/trusted_store"

// storeState is what has become of the pod's trusted store.
type storeState struct {
	node  device.Node   // zero until one was offered
	ready chan struct{} // closed when it is in use, or is not going to be
	err   error         // valid after ready
}

// takeStore puts the image store on the disk that the specification offers for
// it, and takes the disk out of the container: whoever could write to it there
// could spoil every image of the pod. Containers that offer the same disk
// again share it; another one is an error.
func (s *sandbox) takeStore(ctx context.Context, spec *specs.Spec, nodes map[string]device.Node) error {
	entry := deviceEntry(spec.Linux.Devices, trustedStore)
	if entry == nil {
		return nil
	}
	node, found := nodes[trustedStore]
	switch {
	case !found:
		return fmt.Errorf("trusted image store: no device of the request is %s: %w", trustedStore, ErrInvalid)
	case s.trustStore == nil:
		return fmt.Errorf("trusted image store: %w", ErrUnsupported)
	}
	spec.Linux.Devices = slices.DeleteFunc(spec.Linux.Devices, func(d specs.LinuxDevice) bool { return d.Path == trustedStore })
	if r := spec.Linux.Resources; r != nil {
		r.Devices = slices.DeleteFunc(r.Devices, func(d specs.LinuxDeviceCgroup) bool {
			return d.Type == node.Type && d.Major != nil && *d.Major == node.Major && d.Minor != nil && *d.Minor == node.Minor
		})
	}
	if err := s.useStore(ctx, node); err != nil {
		return stage.Wrap(stage.Mount, fmt.Errorf("trusted image store: %w", err))
	}
	return nil
}

// useStore has the first that offers a disk put it to use, and others wait.
func (s *sandbox) useStore(ctx context.Context, node device.Node) error {
	s.mu.Lock()
	st := s.store
	first := st.ready == nil
	if first {
		st = storeState{node: node, ready: make(chan struct{})}
		s.store = st
	}
	s.mu.Unlock()
	if st.node != node {
		return fmt.Errorf("the pod has another disk for it: %w", ErrInvalid)
	}
	if first {
		err := s.trustStore(ctx, node.Path)
		s.mu.Lock()
		s.store.err = err
		if err != nil {
			s.store = storeState{} // another try may do
		}
		s.mu.Unlock()
		close(st.ready)
		return err
	}
	select {
	case <-st.ready:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.store.ready != st.ready {
		return errors.New("it could not be put to use for another container")
	}
	return s.store.err
}
