// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

// Package policy decides which requests of the host the agent carries out.
//
// The host drives the agent over ttrpc and is the attacker; the policy is a
// Rego text of the workload's owner, measured with the image or bound to the
// hardware by initdata. Between both stands Engine.Intercept, the only place
// that decides: it sees the decoded request that the handler will see, asks the
// rule named after the request message and lets the handler run only when the
// rule says so.
//
// The door is closed until a policy is loaded. A policy can do no I/O and read
// no clock, its evaluation has a time limit, and requests are encoded with a
// limit on their size. Decisions may carry changes of the policy's state; they
// take effect at once, so that concurrent requests see them, and vanish when
// the handler fails (see ledger).
//
// Requests are shown to policies in the JSON form that genpolicy's rules
// expect: field names of the .proto files, every field present.
package policy
