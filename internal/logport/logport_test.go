// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package logport

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// served returns a log that is served and how to connect to it.
func served(t *testing.T) (*Log, func() net.Conn, func()) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "log")
	listener, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	l := New()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- l.Serve(ctx, listener) }()
	stop := func() {
		cancel()
		if err, ok := <-done; ok && err != nil {
			t.Error(err)
		}
	}
	t.Cleanup(cancel)
	return l, func() net.Conn {
		t.Helper()
		c, err := net.Dial("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		if err := c.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
			t.Fatal(err)
		}
		return c
	}, stop
}

func say(t *testing.T, w io.Writer, line string) {
	t.Helper()
	if n, err := io.WriteString(w, line+"\n"); err != nil || n != len(line)+1 {
		t.Fatalf("%d (%v)", n, err)
	}
}

func TestAReaderGetsWhatWasLoggedBeforeItCame(t *testing.T) {
	t.Parallel()
	l, dial, stop := served(t)
	say(t, l, "one")
	say(t, l, "two")
	c := dial()
	defer c.Close()
	r := bufio.NewScanner(c)
	for _, want := range []string{"one", "two"} {
		if !r.Scan() || r.Text() != want {
			t.Fatalf("%q (%v), want %q", r.Text(), r.Err(), want)
		}
	}
	say(t, l, "three")
	if !r.Scan() || r.Text() != "three" {
		t.Errorf("%q (%v)", r.Text(), r.Err())
	}
	stop()
	if r.Scan() {
		t.Errorf("after the end: %q", r.Text())
	}
}

func TestTheNextReaderIsServedWhenTheFirstHasGone(t *testing.T) {
	t.Parallel()
	l, dial, stop := served(t)
	defer stop()
	say(t, l, "for the first")
	first := dial()
	if _, err := bufio.NewReader(first).ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	second := dial()
	defer second.Close()
	got := make(chan string, 1)
	go func() {
		line, err := bufio.NewReader(second).ReadString('\n')
		if err != nil {
			line = err.Error()
		}
		got <- line
	}()
	// Lines that the first reader's connection still takes are lost with it.
	for i := 0; ; i++ {
		say(t, l, fmt.Sprint("line ", i))
		select {
		case line := <-got:
			if !strings.HasPrefix(line, "line ") {
				t.Errorf("%q", line)
			}
			return
		case <-time.After(time.Millisecond):
		}
	}
}

func TestWithoutAReaderTheOldestLinesAreDroppedAndCounted(t *testing.T) {
	t.Parallel()
	l := New()
	line := strings.Repeat("x", 1023)
	for range maxPending/1024 + 10 {
		say(t, l, line)
	}
	out := string(l.take())
	first, rest, _ := strings.Cut(out, "\n")
	var note struct{ Msg, Level, Count string }
	if err := json.Unmarshal([]byte(first), &note); err != nil || note.Count != "10" || note.Level != "WARN" {
		t.Errorf("%q (%v)", first, err)
	}
	if len(rest) != maxPending {
		t.Errorf("%d bytes are kept", len(rest))
	}
	if out := l.take(); len(out) != 0 {
		t.Errorf("twice: %q", out)
	}
}

func TestALogThatNobodyWillReadKeepsNothing(t *testing.T) {
	t.Parallel()
	l := New()
	say(t, l, "before")
	l.Close()
	say(t, l, "after")
	if out := l.take(); len(out) != 0 {
		t.Errorf("%q", out)
	}
}

func TestAReaderThatHangsHoldsUpNeitherLoggingNorTheEnd(t *testing.T) {
	t.Parallel()
	l, dial, stop := served(t)
	c := dial()
	defer c.Close()
	line := strings.Repeat("x", 1023)
	began := time.Now()
	for range 16 * maxPending / 1024 { // more than the socket and the log hold
		say(t, l, line)
	}
	stop()
	if took := time.Since(began); took > writeLimit/2 {
		t.Errorf("it took %v", took)
	}
}

func TestAListenerThatFailsIsAnError(t *testing.T) {
	t.Parallel()
	listener, err := net.Listen("unix", filepath.Join(t.TempDir(), "log"))
	if err != nil {
		t.Fatal(err)
	}
	if err := listener.Close(); err != nil {
		t.Fatal(err)
	}
	if err := New().Serve(t.Context(), listener); err == nil || !strings.Contains(err.Error(), "reader of the log") {
		t.Errorf("got %v", err)
	}
}
