// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

// Package replay is what an owner runs to write a policy: it puts recorded
// requests to a policy text and shows what the guest would say, and why.
//
// Trust boundary. It runs on the owner's machine, with the same engine as the
// guest; policy and requests are the owner's files. They are bounded all the
// same: a recording may come from a machine that nobody vouches for.
package replay
