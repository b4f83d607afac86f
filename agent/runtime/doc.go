// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

// Package runtime turns an OCI specification into running processes, on runc's
// libcontainer.
//
// The specification was written by the untrusted host and has passed policy;
// the processes in the container are under the workload owner's control or an
// attacker's who broke into the workload. This package trusts neither: it
// brings the specification into a form whose isolation does not depend on what
// was left out (see normalise), and it holds no lock while it waits for a
// process, a pipe or a cgroup file, so that one stuck container delays no
// other.
//
// libcontainer starts the running executable again with the argument "init".
// A binary that uses this package must therefore import
// github.com/opencontainers/runc/libcontainer/nsenter and call
// libcontainer.Init in an init function when os.Args[1] is "init", before
// anything else happens; it must be built with cgo.
package runtime
