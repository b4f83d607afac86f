// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

// Package storage attaches the storages of a sandbox and of its containers:
// in-memory volumes, directories, overlays, and image root file systems.
//
// Trust boundary. Every field of a storage message comes from the untrusted
// host; a policy has approved the message, but the directories that it names
// may hold symbolic links that the host copied there. Therefore
//
//   - a mount point, and every path that a driver takes from the message, has
//     to lie below the run directory and is resolved there by descriptor, so
//     that no link leads out of it;
//   - options are parsed into flags and data by a pure function, and drivers
//     pass on only what they know;
//   - a driver that is not known is an error, never skipped.
//
// Mount points are reference counted. A list of storages is attached as a
// whole or not at all: when one fails, those before it are released again.
//
// Drivers are one file each; the table is in drivers.go.
package storage
