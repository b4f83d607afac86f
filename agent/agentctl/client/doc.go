// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

// Package client drives the agent of a guest the way a Kata shim does.
//
// It runs on the host side, for tools and demonstrations. Dial connects over a
// Unix socket, TCP with or without mutual TLS, or vsock; Client then has the
// agent's calls as they are, and above them what a shim composes of them:
// Run, Exec, Copy, Replay. Container.Request shapes a CreateContainer request
// exactly like an unmodified shim with guest image pull, so that policies made
// for real pods judge it the same.
//
// The guest is trusted no more than any server: its answers are bounded by the
// transport's frame of 4 MiB and are only copied and printed.
package client
