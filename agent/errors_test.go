// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"unicode/utf8"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"cocoon/agent/copyfile"
	"cocoon/agent/runtime"
	"cocoon/agent/storage"
)

// The codes and texts that peers act upon.
func TestErrorsHaveTheCodesAndTextsThatPeersKnow(t *testing.T) {
	t.Parallel()
	unknown := &unknownContainer{id: "c1"}
	for _, tc := range []struct {
		method string
		err    error
		code   codes.Code
		text   string
	}{
		{"WaitProcess", unknown, codes.InvalidArgument, `Invalid container id: "c1"`},
		{"SignalProcess", unknown, codes.InvalidArgument, `Invalid container id: "c1"`},
		{"ReadStdout", unknown, codes.InvalidArgument, `Invalid container id: "c1"`},
		{"ReadStderr", unknown, codes.InvalidArgument, `Invalid container id: "c1"`},
		{"WriteStdin", unknown, codes.InvalidArgument, `Invalid container id: "c1"`},
		{"CloseStdin", unknown, codes.InvalidArgument, `Invalid container id: "c1"`},
		{"TtyWinResize", unknown, codes.InvalidArgument, `Invalid container id: "c1"`},
		{"StartContainer", unknown, codes.Internal, `Invalid container id: "c1"`},
		{"RemoveContainer", unknown, codes.Internal, `Invalid container id: "c1"`},
		{"ExecProcess", unknown, codes.Internal, `Invalid container id: "c1"`},
		{"UpdateContainer", unknown, codes.InvalidArgument, `invalid container id: "c1"`},
		{"StatsContainer", unknown, codes.InvalidArgument, `invalid container id: "c1"`},
		{"PauseContainer", unknown, codes.InvalidArgument, `invalid container id: "c1"`},
		{"ResumeContainer", unknown, codes.InvalidArgument, `invalid container id: "c1"`},
		{"WaitProcess", fmt.Errorf("c: %w", runtime.ErrInitGone), codes.NotFound, "c: init process missing"},
		{"WaitProcess", fmt.Errorf("c: %w", runtime.ErrNoProcess), codes.NotFound, "c: invalid exec id"},
		{"TtyWinResize", runtime.ErrNoTTY, codes.Unavailable, "no tty"},
		{"WriteStdin", runtime.ErrNoStdin, codes.Internal, "Cannot get writer"},
		{"ExecProcess", fmt.Errorf("exec_id 'e' %w", runtime.ErrExists), codes.Internal, "exec_id 'e' already exists"},
		{"GetOOMEvent", errNoMoreEvents, codes.Internal, ""},
		{"CreateContainer", errors.New("boom"), codes.Internal, "boom"},
		{"CreateContainer", fmt.Errorf("x: %w", ErrUnsupported), codes.Unimplemented, "x: not supported by this agent"},
		{"CreateContainer", fmt.Errorf("x: %w", ErrInvalid), codes.InvalidArgument, "x: invalid request"},
		{"CreateContainer", storage.ErrInvalid, codes.InvalidArgument, "invalid storage"},
		{"CreateContainer", storage.ErrUnknownDriver, codes.Internal, "unknown storage driver"},
		{"CopyFile", copyfile.ErrInvalid, codes.InvalidArgument, "invalid copy request"},
		{"RemoveContainer", errTimeout, codes.Internal, "ETIME: Timer expired: timer expired"},
		{"Any", fmt.Errorf("x: %w", context.DeadlineExceeded), codes.DeadlineExceeded, "x: context deadline exceeded"},
		{"Any", context.Canceled, codes.Canceled, "context canceled"},
		{"Any", status.Error(codes.PermissionDenied, "R is blocked by policy: p"), codes.PermissionDenied, "R is blocked by policy: p"},
	} {
		s := status.Convert(toStatus(tc.method, tc.err))
		if s.Code() != tc.code || s.Message() != tc.text {
			t.Errorf("%s, %v: %v %q, want %v %q", tc.method, tc.err, s.Code(), s.Message(), tc.code, tc.text)
		}
	}
	if err := toStatus("Any", nil); err != nil {
		t.Errorf("no error became %v", err)
	}
}

func TestAnErrorTextFitsAFrameAndIsUTF8(t *testing.T) {
	t.Parallel()
	for _, text := range []string{strings.Repeat("é", 8<<20), "\xff\xfe", strings.Repeat("x", maxErrorText)} {
		got := status.Convert(toStatus("Any", errors.New(text))).Message()
		if len(got) > maxErrorText || !utf8.ValidString(got) {
			t.Errorf("%d bytes, valid UTF-8: %t", len(got), utf8.ValidString(got))
		}
	}
}

func TestMethodsAreLoggedAsUpstreamNamesThem(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"/grpc.AgentService/CreateContainer":                "create_container",
		"/grpc.AgentService/GetOOMEvent":                    "get_oom_event",
		"/grpc.AgentService/OnlineCPUMem":                   "online_cpu_mem",
		"/grpc.AgentService/GetIPTables":                    "get_ip_tables",
		"/grpc.AgentService/AddARPNeighbors":                "add_arp_neighbors",
		"/grpc.AgentService/TtyWinResize":                   "tty_win_resize",
		"/grpc.AgentService/RemoveStaleVirtiofsShareMounts": "remove_stale_virtiofs_share_mounts",
		"/grpc.Health/Check":                                "check",
	} {
		if got := snake(in); got != want {
			t.Errorf("%s: %s, want %s", in, got, want)
		}
	}
}

func FuzzCheckContainerID(f *testing.F) {
	for _, id := range []string{"ab", "a", "", "..", "a/b", "-ab", "a\x00b", "image", strings.Repeat("a", 256), "A9_.-"} {
		f.Add(id)
	}
	f.Fuzz(func(t *testing.T, id string) {
		if checkContainerID(id) != nil {
			return
		}
		if len(id) < 2 || len(id) > maxID || strings.ContainsAny(id, "/\x00\n ") || strings.HasPrefix(id, ".") || strings.HasPrefix(id, "-") {
			t.Fatalf("accepted %q", id)
		}
	})
}

func FuzzResolvConf(f *testing.F) {
	f.Add("nameserver 10.0.0.1|search x")
	f.Add("a\nb")
	f.Fuzz(func(t *testing.T, text string) {
		entries := strings.Split(text, "|")
		out, err := resolvConf(entries)
		if err == nil && (len(out) > maxResolvConf || strings.Count(out, "\n") != len(entries)) {
			t.Fatalf("%q", out)
		}
	})
}
