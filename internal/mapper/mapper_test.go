// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package mapper

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// kernel notes what it is asked and fails at one command.
type kernel struct {
	asked []uint
	sent  [][]byte
	fail  uint
}

func (k *kernel) ask(request uint, buf []byte) error {
	k.asked = append(k.asked, request&0xff)
	k.sent = append(k.sent, append([]byte(nil), buf...))
	if request&0xff == k.fail {
		return unix.EINVAL
	}
	if request&0xff == cmdSuspend {
		binary.NativeEndian.PutUint64(buf[40:], unix.Mkdev(253, 7))
	}
	return nil
}

func newMapper(t *testing.T, fail uint) (*kernel, Mapper) {
	t.Helper()
	dev := t.TempDir()
	if err := os.WriteFile(filepath.Join(dev, "dm-7"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	k := &kernel{fail: fail}
	return k, Mapper{Ask: k.ask, Dev: dev}
}

var target = Target{Type: "verity", Sectors: 80, Params: []byte("1 254:1 254:1 4096 4096 10 11 sha256 ab -")}

func TestADeviceIsMadeInThreeSteps(t *testing.T) {
	t.Parallel()
	k, m := newMapper(t, 0)
	node, err := m.ReadOnly(t.Context(), "layer", target)
	if err != nil || filepath.Base(node) != "dm-7" {
		t.Fatalf("%q (%v)", node, err)
	}
	if len(k.asked) != 3 || k.asked[0] != cmdCreate || k.asked[1] != cmdLoad || k.asked[2] != cmdSuspend {
		t.Errorf("asked %v", k.asked)
	}
}

// The bytes of struct dm_ioctl and struct dm_target_spec on a little-endian
// machine of 64 bits.
func TestARequestHasTheKernelsForm(t *testing.T) {
	t.Parallel()
	if binary.NativeEndian.Uint16([]byte{1, 0}) != 1 {
		t.Skip("the bytes are those of a little-endian machine")
	}
	b := table("layer", Target{Type: "verity", Sectors: 80, Params: []byte("abc")}, flagReadOnly)
	want := "040000000000000000000000" + "68010000" + "38010000" + "01000000" + "00000000" + "01000000" +
		strings.Repeat("00", 16) + hex.EncodeToString([]byte("layer")) + strings.Repeat("00", 128-5+129+7) +
		"0000000000000000" + "5000000000000000" + "00000000" + "30000000" + hex.EncodeToString([]byte("verity")) + strings.Repeat("00", 10) +
		hex.EncodeToString([]byte("abc")) + strings.Repeat("00", 5)
	if got := hex.EncodeToString(b); got != want {
		t.Errorf("\n got %s\nwant %s", got, want)
	}
	if ioctlBase|cmdCreate != 0xc138fd03 {
		t.Errorf("request %#x", ioctlBase|cmdCreate)
	}
}

func TestADeviceThatCannotBeMadeIsRemoved(t *testing.T) {
	t.Parallel()
	for _, fail := range []uint{cmdLoad, cmdSuspend} {
		k, m := newMapper(t, fail)
		if node, err := m.ReadOnly(t.Context(), "layer", target); !errors.Is(err, unix.EINVAL) {
			t.Errorf("%d: %q (%v)", fail, node, err)
		}
		if k.asked[len(k.asked)-1] != cmdRemove {
			t.Errorf("%d: asked %v", fail, k.asked)
		}
	}
	k, m := newMapper(t, cmdCreate)
	if _, err := m.ReadOnly(t.Context(), "layer", target); !errors.Is(err, unix.EINVAL) || len(k.asked) != 1 {
		t.Errorf("%v, asked %v", err, k.asked)
	}
	k, m = newMapper(t, 0)
	m.Dev = t.TempDir()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := m.ReadOnly(ctx, "layer", target); !errors.Is(err, context.Canceled) || k.asked[len(k.asked)-1] != cmdRemove {
		t.Errorf("a node that never comes: %v, asked %v", err, k.asked)
	}
}

func TestANameOrATableThatTheKernelHasNoRoomForIsRefused(t *testing.T) {
	t.Parallel()
	k, m := newMapper(t, 0)
	for _, name := range []string{"", ".", "..", "a/b", "a b", "a\x00", strings.Repeat("n", nameSize)} {
		if _, err := m.ReadOnly(t.Context(), name, target); !errors.Is(err, ErrInvalid) {
			t.Errorf("name %q: %v", name, err)
		}
	}
	for _, bad := range []Target{
		{Sectors: 1}, {Type: "verity"}, {Type: strings.Repeat("t", typeSize), Sectors: 1}, {Type: "verity", Sectors: 1, Params: []byte("a\x00b")},
		{Type: "verity", Sectors: 1, Params: []byte("a\nb")}, {Type: "verity", Sectors: 1, Params: make([]byte, maxParams+1)},
	} {
		if _, err := m.ReadOnly(t.Context(), "layer", bad); !errors.Is(err, ErrInvalid) {
			t.Errorf("%+v: %v", bad, err)
		}
	}
	if len(k.asked) > 0 {
		t.Errorf("asked %v", k.asked)
	}
}

func TestRemovingADeviceThatIsGoneIsNoError(t *testing.T) {
	t.Parallel()
	m := Mapper{Ask: func(uint, []byte) error { return unix.ENXIO }}
	if err := m.Remove("layer"); err != nil {
		t.Error(err)
	}
	m.Ask = func(uint, []byte) error { return unix.EPERM }
	if err := m.Remove("layer"); !errors.Is(err, unix.EPERM) {
		t.Error(err)
	}
}
