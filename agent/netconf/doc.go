// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

// Package netconf configures the network of a guest as the host asks:
// interfaces, routes, neighbours and packet filter rules.
//
// Trust boundary. Every request comes from the untrusted host, after the
// policy has allowed it. Lists are bounded, and names, addresses, prefixes,
// hardware addresses and sizes are checked before anything reaches the kernel:
// a request that is not sound as a whole changes nothing. What a request may
// never do, whatever the policy says, is to touch the loopback interface, on
// which the guest's own services listen, or to name a program to run, which
// the rule language of iptables allows.
//
// What the kernel holds is read and changed through netlink in one network
// namespace, by one request at a time. Waiting for a device takes no turn.
package netconf
