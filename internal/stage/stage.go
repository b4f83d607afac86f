// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

// Package stage names the part of a long operation that failed.
//
// Pulling an encrypted image crosses DNS, TLS, attestation, a resource policy,
// decryption and unpacking. The owner of a pod sees one error; its stage says
// where to look first. Stages are a closed set, so that tools can match them.
package stage

import (
	"errors"
	"fmt"
)

// Stage is one part of the way from a request to a running container.
type Stage string

// The stages, in the order in which a pod meets them.
const (
	UserData       Stage = "user-data"       // fetching or parsing what the peer-pod host handed over
	Initdata       Stage = "initdata"        // digest or content of the initdata document
	Config         Stage = "config"          // a configuration file or parameter
	Policy         Stage = "policy"          // the agent policy refused, or does not compile
	DNS            Stage = "dns"             // a host name did not resolve
	Connect        Stage = "connect"         // no TCP connection
	TLS            Stage = "tls"             // certificate or handshake
	KBS            Stage = "kbs"             // the key broker answered out of protocol
	Evidence       Stage = "evidence"        // the TEE gave no evidence
	AttestDenied   Stage = "attest-denied"   // the verifier refused the evidence
	ResourcePolicy Stage = "resource-policy" // attested, but the resource policy says no
	NotFound       Stage = "not-found"       // the resource or image does not exist
	Registry       Stage = "registry"        // the registry answered out of protocol
	Unauthorized   Stage = "unauthorized"    // the registry wants other credentials
	Digest         Stage = "digest"          // content does not match its digest
	ImagePolicy    Stage = "image-policy"    // the signature policy refused the image
	Decrypt        Stage = "decrypt"         // key unwrap or layer cipher
	Unpack         Stage = "unpack"          // layer content refused or not writable
	Mount          Stage = "mount"           // a storage could not be mounted
	Container      Stage = "container"       // the container itself did not start
)

// Error is an error with the stage at which it happened.
type Error struct {
	Stage Stage
	Err   error
}

// Error returns "stage: cause".
func (e *Error) Error() string { return string(e.Stage) + ": " + e.Err.Error() }

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// Wrap marks err with s. An error that already carries a stage keeps it, since
// the innermost stage is the one that failed. A nil error stays nil.
func Wrap(s Stage, err error) error {
	if err == nil {
		return nil
	}
	if Of(err) != "" {
		return err
	}
	return &Error{Stage: s, Err: err}
}

// Errorf is Wrap of fmt.Errorf.
func Errorf(s Stage, format string, args ...any) error {
	return Wrap(s, fmt.Errorf(format, args...))
}

// Of returns the stage that err carries, or "" if it carries none.
func Of(err error) Stage {
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Stage
	}
	return ""
}
