// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"cocoon/agent/copyfile"
	"cocoon/agent/netconf"
	"cocoon/agent/runtime"
	"cocoon/agent/runtime/ocipb"
	"cocoon/agent/storage"
)

var (
	// ErrInvalid is returned for a request that cannot be carried out as it
	// stands.
	ErrInvalid = errors.New("invalid request")

	// ErrUnsupported is returned for what the protocol has and this agent does
	// not do. Nothing of the request has been carried out.
	ErrUnsupported = errors.New("not supported by this agent")

	// ErrExists is returned for an id that is in use, also while its container
	// is still being made or removed.
	ErrExists = errors.New("already exists")

	// ErrDestroyed is returned for everything that comes after DestroySandbox.
	ErrDestroyed = errors.New("the sandbox is destroyed")

	// ErrSealed is returned when a sealed secret cannot be opened. The
	// container does not start then: handing over the sealed text would look
	// like the secret to a program that does not check.
	ErrSealed = errors.New("sealed secret cannot be opened")

	// errNoMoreEvents ends GetOOMEvent when the sandbox goes. Its text on the
	// wire is empty.
	errNoMoreEvents = errors.New("no more events")

	// errTimeout is ETIME in the form that peers know.
	errTimeout = fmt.Errorf("ETIME: Timer expired: %w", unix.ETIME)
)

// unknownContainer is the error for an id that no container has. Code and
// spelling depend on the method.
type unknownContainer struct{ id string }

func (e *unknownContainer) Error() string { return fmt.Sprintf("Invalid container id: %q", e.id) }

// status is the error as the method's clients know it.
func (e *unknownContainer) status(method string) error {
	switch method {
	case "StartContainer", "RemoveContainer", "ExecProcess":
		return status.Error(codes.Internal, e.Error())
	case "UpdateContainer", "StatsContainer", "PauseContainer", "ResumeContainer":
		return status.Error(codes.InvalidArgument, "i"+e.Error()[1:])
	default:
		return status.Error(codes.InvalidArgument, e.Error())
	}
}

// maxErrorText bounds the text of an error on the wire, in bytes. A policy's
// denial may fill it; a frame has room for 4 MiB.
const maxErrorText = 64 << 10

// codeOf returns the status code of an error that is none yet. The first match
// counts.
func codeOf(err error) codes.Code {
	for _, c := range []struct {
		is   error
		code codes.Code
	}{
		{context.DeadlineExceeded, codes.DeadlineExceeded},
		{context.Canceled, codes.Canceled},
		{runtime.ErrInitGone, codes.NotFound},
		{runtime.ErrNoProcess, codes.NotFound},
		{runtime.ErrNoTTY, codes.Unavailable},
		{runtime.ErrInvalidID, codes.InvalidArgument},
		{ErrUnsupported, codes.Unimplemented},
		{ErrInvalid, codes.InvalidArgument},
		{storage.ErrUnchecked, codes.PermissionDenied},
		{storage.ErrInvalid, codes.InvalidArgument},
		{storage.ErrTooMany, codes.InvalidArgument},
		{copyfile.ErrInvalid, codes.InvalidArgument},
		{netconf.ErrInvalid, codes.InvalidArgument},
		{ocipb.ErrNoSpec, codes.InvalidArgument},
	} {
		if errors.Is(err, c.is) {
			return c.code
		}
	}
	return codes.Internal
}

// toStatus turns a handler's error into what goes over the wire. An error that
// is a status already, as the policy's are, stays what it is.
func toStatus(method string, err error) error {
	if err == nil {
		return nil
	}
	if s, ok := err.(interface{ GRPCStatus() *status.Status }); ok { //nolint:errorlint // a wrapped status would lose its context
		return s.GRPCStatus().Err()
	}
	if errors.Is(err, errNoMoreEvents) {
		return status.Error(codes.Internal, "")
	}
	if u, ok := errors.AsType[*unknownContainer](err); ok {
		return u.status(method)
	}
	return status.Error(codeOf(err), shorten(err.Error()))
}

// shorten cuts a text to what a status may hold and makes it valid UTF-8, as
// protobuf strings have to be.
func shorten(text string) string {
	const mark = " [cut]"
	if len(text) > maxErrorText {
		text = text[:maxErrorText-len(mark)] + mark
	}
	return strings.ToValidUTF8(text, "?")
}
