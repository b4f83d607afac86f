// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"cocoon/internal/hungfs"
	"cocoon/internal/wire/agentpb"
)

// looker is a service that can do nothing but look at mounts.
func looker(t *testing.T) (*service, *bytes.Buffer) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("mounts need root")
	}
	log := &bytes.Buffer{}
	shared := filepath.Join(t.TempDir(), "shared")
	if err := os.Mkdir(shared, 0o755); err != nil {
		t.Fatal(err)
	}
	return &service{deps: Deps{Paths: Paths{Shared: shared}, Log: slog.New(slog.NewTextHandler(log, nil))}, looks: newLooks()}, log
}

func lookAtMounts(ctx context.Context, s *service) error {
	_, err := s.RemoveStaleVirtiofsShareMounts(ctx, &agentpb.RemoveStaleVirtiofsShareMountsRequest{})
	return err
}

// mountEmpty mounts a file system on a directory of the shared one.
func mountEmpty(t *testing.T, s *service, name string) string {
	t.Helper()
	dir := filepath.Join(s.deps.Paths.Shared, name)
	if err := errors.Join(os.MkdirAll(dir, 0o755), unix.Mount("none", dir, "tmpfs", 0, "")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir
}

func TestASharedMountWhoseHostIsSilentEndsTheCallInTime(t *testing.T) {
	t.Parallel()
	s, log := looker(t)
	mountEmpty(t, s, "with a space")
	silent := mountEmpty(t, s, "silent")
	fs := hungfs.Mount(t, silent)
	if err := lookAtMounts(t.Context(), s); err != nil || log.Len() > 0 {
		t.Fatalf("with a host that answers: %v\n%s", err, log)
	}
	fs.Silence()
	for range 3 {
		ctx, cancel := context.WithCancelCause(t.Context())
		late := errors.New("it takes too long")
		go func() {
			<-fs.Asked()
			cancel(late)
		}()
		if err := lookAtMounts(ctx, s); !errors.Is(err, late) || !strings.Contains(err.Error(), `"`+silent+`"`) {
			t.Errorf("a silent host: %v", err)
		}
	}
	if k := s.looks.underWay(silent); k == nil {
		t.Error("nothing waits for the answer")
	}
	if n := len(s.looks.slots); n > 2 {
		t.Errorf("%d threads wait for two mounts", n)
	}
}

func TestALookThatFindsNoRoomIsGivenUp(t *testing.T) {
	t.Parallel()
	s, _ := looker(t)
	mountEmpty(t, s, "share")
	for range maxLooks {
		s.looks.slots <- struct{}{}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 0)
	defer cancel()
	if err := lookAtMounts(ctx, s); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v", err)
	}
	<-s.looks.slots
	if err := lookAtMounts(t.Context(), s); err != nil {
		t.Error(err)
	}
}

func TestMountPointsAreReadAsTheKernelWritesThem(t *testing.T) {
	t.Parallel()
	const table = `22 1 0:21 / / rw - ext4 /dev/vda rw
23 22 0:30 / /run/shared rw - virtiofs kataShared rw
24 23 0:31 / /run/shared/a\040b\011c\134d rw - tmpfs none rw
25 23 0:31 / /run/shared/\\040 rw - tmpfs none rw
26 23 0:31 / /run/shared/\04 rw - tmpfs none rw
27 23 0:31 / /run/shared/\477\089 rw - tmpfs none rw
28 22 0:31 / /run/shared-not/x rw - tmpfs none rw
29 22 0:31 / /run/other\057shared rw - tmpfs none rw
short line
`
	want := []string{"/run/shared", "/run/shared/a b\tc\\d", "/run/shared/\\ ", `/run/shared/\04`, `/run/shared/\477\089`}
	if got := mountPoints(table, "/run/shared"); !slices.Equal(got, want) {
		t.Errorf("\n got %q\nwant %q", got, want)
	}
}

func FuzzUnescapeMount(f *testing.F) {
	f.Add(`/a\040b`)
	f.Add(`\134\`)
	f.Fuzz(func(t *testing.T, s string) {
		got := unescapeMount(s)
		if len(got) > len(s) || !strings.Contains(s, `\`) && got != s {
			t.Errorf("%q became %q", s, got)
		}
	})
}
