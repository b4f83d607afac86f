// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

// Package metadata asks a cloud's metadata service for the user-data of the
// machine, and tells Azure that the machine is ready.
//
// Trust boundary. The service is the host's. What it answers is bounded in size
// and time and judged by whoever reads the document; redirects are not
// followed, proxies not used, and no name is looked up: the service has a
// link-local address in every cloud.
package metadata
