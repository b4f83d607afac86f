// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package storage

import (
	"context"
	"maps"
	"slices"

	"cocoon/agent/device"
	"cocoon/internal/wire/agentpb"
)

// request is one storage to attach, with the container that asked for it ("" =
// the sandbox).
type request struct {
	owner string
	*agentpb.Storage
	layers []*agentpb.Storage // of the driver for layers
}

// releaseFunc undoes what a driver did. It may be called again after an error.
type releaseFunc func(context.Context) error

// driver attaches one storage. On error nothing of it is left behind.
type driver func(context.Context, request) (releaseFunc, error)

// Names of the drivers, as the shims send them.
const (
	driverEphemeral = "ephemeral"
	driverLocal     = "local"
	driverBind      = "bind"
	driverOverlay   = "overlayfs"
	driverVirtioFS  = "virtio-fs"

	// DriverImagePull names the driver whose presence makes the agent replace
	// a sandbox container's process by the built-in pause.
	DriverImagePull = "image_guest_pull"
)

// table lists the drivers of this guest. Every other name is refused.
func (m *Manager) table() map[string]driver {
	return map[string]driver{
		driverEphemeral: m.ephemeral,
		driverLocal:     m.local,
		driverBind:      m.bind,
		driverOverlay:   m.overlay,
		DriverImagePull: m.imagePull,
		driverVirtioFS:  m.virtioFS,
		DriverLayers:    m.multiLayer,
		driverWatch:     m.watch,

		device.DriverBlk:     m.block,
		device.DriverBlkCCW:  m.block,
		device.DriverSCSI:    m.block,
		device.DriverMMIOBlk: m.block,
		device.DriverNVDIMM:  m.block,
	}
}

// Drivers returns the names of all drivers, sorted, for GetGuestDetails.
func (m *Manager) Drivers() []string {
	return slices.Sorted(maps.Keys(m.drivers))
}
