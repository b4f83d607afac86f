// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

// Package device finds the devices of a guest that the host names by their
// place on a bus: a PCI path, a CCW bus id, a SCSI address, an AP queue.
//
// Trust boundary. Addresses come from the untrusted host, after the policy has
// allowed the request; they are parsed into numbers before a path is made of
// them. What sysfs and the kernel's device events say is the guest's own
// kernel speaking, of hardware that the host makes up: that a device is there
// says nothing of what is on it.
//
// A device may be on its way when it is asked for. Every search looks in sysfs
// first, since a device that was there at boot sends no more events, and looks
// again with each event and every few milliseconds until a time-out.
package device
