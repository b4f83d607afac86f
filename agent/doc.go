// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

// Package agent is the Kata agent: the ttrpc services grpc.AgentService and
// grpc.Health by which the host runs a pod inside the guest.
//
// Trust boundary. Every request comes from the untrusted host. It passes a
// chain of interceptors (recover, deadline, log, error mapping, policy) before
// a handler sees it, and the policy sees the very message that the handler
// gets. A handler validates on top of that what no policy can judge: ids, and
// paths, which are resolved by descriptor below the run directory so that
// symbolic links which the host copied into the guest lead nowhere else.
//
// Handlers are thin: they convert, call the sandbox, and convert back. The
// sandbox holds containers, each with its own turn, and no lock is held while
// a process, a mount or the network is waited for: a container that is stuck
// delays no other. What a step does is undone when a later step fails.
//
// The package runs in a guest and, as an ordinary process of root, on a
// development host; Paths says where its files are.
package agent
