// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

// Package podvm makes the guest a peer pod: a virtual machine of a cloud or of
// libvirt that cloud-api-adaptor drives over the network.
//
// It reads the user-data that the machine was created with, accepts the
// adaptor on TCP port 15150 with mutual TLS, adapts its requests, and connects
// the pod's network namespace to the worker node. The user-data, its keys and
// whoever connects are the host's: TLS keeps strangers out, not the host. What
// the host may do is decided by the policy, which judges requests after they
// were adapted here; whom the guest trusts with secrets is decided by initdata,
// whose digest the hardware binds.
package podvm
