// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"encoding/binary"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/containerd/ttrpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"cocoon/internal/wire/agentpb"
)

// frame returns a request frame of the ttrpc protocol that announces a payload
// of the given length, whatever follows it.
func frame(announced uint32, payload []byte) []byte {
	b := binary.BigEndian.AppendUint32(nil, announced)
	b = binary.BigEndian.AppendUint32(b, 1) // stream
	return append(append(b, 1, 0), payload...)
}

// call returns the payload of a request frame.
func call(t *testing.T, method string, body []byte) []byte {
	t.Helper()
	b, err := proto.Marshal(&ttrpc.Request{Service: "grpc.AgentService", Method: method, Payload: body, TimeoutNano: int64(20 * time.Second)})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// nested returns a message whose field is a group, in a group, and so on.
func nested(depth int) []byte {
	var b []byte
	for range depth {
		b = protowire.AppendTag(b, 100, protowire.StartGroupType)
	}
	for range depth {
		b = protowire.AppendTag(b, 100, protowire.EndGroupType)
	}
	return b
}

// matryoshka returns a CreateContainer request that holds its own kind of
// length-delimited field in itself.
func matryoshka(depth int) []byte {
	var b []byte
	for range depth {
		b = append(protowire.AppendTag(nil, 3, protowire.BytesType), protowire.AppendBytes(nil, b)...)
	}
	return b
}

// exchange sends bytes on a connection of its own, ends its side, and returns
// what comes back before the agent ends the other.
func (g *guest) exchange(t *testing.T, b []byte) []byte {
	t.Helper()
	conn, err := net.Dial("unix", g.socket)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Write(b); err != nil {
		t.Fatal(err)
	}
	if err := conn.(*net.UnixConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	answer, err := io.ReadAll(conn)
	if err != nil && !errors.Is(err, net.ErrClosed) && !strings.Contains(err.Error(), "reset") {
		t.Fatalf("the connection is not ended: %v", err)
	}
	return answer
}

func TestFramesThatLieAndMessagesThatNestAreRefused(t *testing.T) {
	t.Parallel()
	g := newGuest(t, guestOptions{})
	valid := call(t, "CreateContainer", nil)
	deep := call(t, "CreateContainer", nested(100_000))
	// A client refuses to encode this id, so it has to be put together by hand.
	noText := call(t, "ExecProcess", protowire.AppendBytes(protowire.AppendTag(nil, 2, protowire.BytesType), []byte("a\xffb")))
	dolls := call(t, "CreateContainer", matryoshka(5_000))
	for name, b := range map[string][]byte{
		"longer than what comes":  frame(uint32(len(valid)+1000), valid),
		"shorter than what comes": frame(uint32(len(valid)-5), valid),
		"empty":                   frame(0, nil),
		"half a header":           {0, 0, 0},
		"an unknown kind":         {0, 0, 0, 0, 0, 0, 0, 1, 9, 0},
		"an even stream":          {0, 0, 0, 0, 0, 0, 0, 2, 1, 0},
		"random":                  frame(64, []byte(strings.Repeat("\xff\x00", 32))),
		"groups in groups":        frame(uint32(len(deep)), deep),
		"messages in messages":    frame(uint32(len(dolls)), dolls),
		"an id that is no text":   frame(uint32(len(noText)), noText),
		"a request of nothing":    frame(uint32(len(valid)), valid),
	} {
		answer := g.exchange(t, b)
		if len(answer) >= 10 {
			var r ttrpc.Response
			if err := proto.Unmarshal(answer[10:10+binary.BigEndian.Uint32(answer)], &r); err != nil || r.GetStatus().GetCode() == 0 {
				t.Errorf("%s: answered with %v (%v)", name, &r, err)
			}
		}
		if n := g.puller.mounted(); n != 0 {
			t.Fatalf("%s: %d images were pulled", name, n)
		}
	}
	if _, err := g.CreateSandbox(limited(t), &agentpb.CreateSandboxRequest{}); err != nil {
		t.Errorf("after all that: %v", err)
	}
	g.started(t, "afterwards", "true")
}

func TestOddExecIDsAreRefused(t *testing.T) {
	t.Parallel()
	g := newGuest(t, guestOptions{})
	// Before its own program the container's first process has threads, which
	// the kernel counts.
	g.started(t, "c1", "sh", "-c", "echo up; exec sleep 1000")
	g.readUntil(t, "c1", "", "up")
	for _, id := range []string{"", "..", "a/b", "-x", "a b", "a\nb", "a\x00b", "ä1", strings.Repeat("a", 256)} {
		_, err := g.ExecProcess(limited(t), &agentpb.ExecProcessRequest{ContainerId: "c1", ExecId: id, Process: &agentpb.Process{
			Args: []string{"true"}, Env: []string{"PATH=/bin"}, Cwd: "/", User: &agentpb.User{},
		}})
		if c := status.Code(err); c != codes.InvalidArgument && c != codes.Internal {
			t.Errorf("%q: %v", id, err)
		}
	}
	s, err := g.StatsContainer(limited(t), &agentpb.StatsContainerRequest{ContainerId: "c1"})
	if n := s.GetCgroupStats().GetPidsStats().GetCurrent(); err != nil || n != 1 {
		t.Errorf("%d processes run (%v)", n, err)
	}
}
