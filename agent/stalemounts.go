// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

	"google.golang.org/protobuf/types/known/emptypb"

	"cocoon/internal/wire/agentpb"
)

const (
	// staleLimit is how long one request waits for the answers of a host.
	staleLimit = 10 * time.Second

	// maxLooks bounds the looks that wait for an answer at once, each of which
	// keeps a thread.
	maxLooks = 64
)

// looks are those at shared mounts that have not come back yet. A host that
// never answers keeps one for each mount, however often it is asked to look.
type looks struct {
	slots chan struct{} // holds one token for each that is under way
	mu    sync.Mutex
	busy  map[string]*look // by mount point
}

func newLooks() *looks {
	return &looks{slots: make(chan struct{}, maxLooks), busy: make(map[string]*look)}
}

// look is one at a mount point.
type look struct {
	done chan struct{}
	err  error // valid after done
}

// at looks at a mount point, or joins whoever does already.
func (l *looks) at(ctx context.Context, point string) (*look, error) {
	if k := l.underWay(point); k != nil {
		return k, nil
	}
	select {
	case l.slots <- struct{}{}:
	case <-ctx.Done():
		return nil, fmt.Errorf("%d others have no answer: %w", maxLooks, context.Cause(ctx))
	}
	k := &look{done: make(chan struct{})}
	l.mu.Lock()
	if other := l.busy[point]; other != nil { // another request was faster
		l.mu.Unlock()
		<-l.slots
		return other, nil
	}
	l.busy[point] = k
	l.mu.Unlock()
	// It ends with the kernel's answer, which nothing can hurry.
	go func() {
		_, k.err = os.Stat(point)
		l.mu.Lock()
		delete(l.busy, point)
		l.mu.Unlock()
		close(k.done)
		<-l.slots
	}()
	return k, nil
}

// wait returns what a look found. One that has come back counts also after the
// end of ctx.
func (k *look) wait(ctx context.Context) (answered bool, err error) {
	select {
	case <-k.done:
	case <-ctx.Done():
		select {
		case <-k.done:
		default:
			return false, nil
		}
	}
	return true, k.err
}

func (l *looks) underWay(point string) *look {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.busy[point]
}

// RemoveStaleVirtiofsShareMounts looks at every mount in the shared directory,
// so that the kernel drops what the host has deleted. That one cannot be
// looked at is what the call is for, and only logged; that the host does not
// answer is an error, after all others were looked at.
func (s *service) RemoveStaleVirtiofsShareMounts(ctx context.Context, _ *agentpb.RemoveStaleVirtiofsShareMountsRequest) (*emptypb.Empty, error) {
	// Not of the process: its first thread may be one that libcontainer has left
	// in a container's mount namespace.
	table, err := os.ReadFile("/proc/thread-self/mountinfo")
	if err != nil {
		return nil, fmt.Errorf("list mounts: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, staleLimit)
	defer cancel()
	var errs []error
	waiting := make(map[string]*look)
	for _, point := range mountPoints(string(table), s.deps.Paths.Shared) {
		k, err := s.looks.at(ctx, point)
		if err != nil {
			errs = append(errs, fmt.Errorf("look at shared mount %q: %w", point, err))
			continue
		}
		waiting[point] = k
	}
	for point, k := range waiting {
		answered, err := k.wait(ctx)
		switch {
		case !answered:
			errs = append(errs, fmt.Errorf("look at shared mount %q: %w", point, context.Cause(ctx)))
		case err != nil:
			s.deps.Log.Warn("a shared mount is stale", "error", err)
		}
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return &emptypb.Empty{}, nil
}

// mountPoints returns those mount points of the kernel's table that are dir or
// lie below it.
func mountPoints(table, dir string) []string {
	var found []string
	for line := range strings.Lines(table) {
		fields := strings.Fields(line)
		if len(fields) < 5 {
			continue
		}
		if point := unescapeMount(fields[4]); point == dir || below(dir, point) {
			found = append(found, point)
		}
	}
	return found
}

// unescapeMount replaces what the kernel writes in its table for characters
// that divide its fields: a backslash and three octal digits.
func unescapeMount(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) && s[i+1] <= '3' && isOctal(s[i+1:i+4]) {
			b.WriteByte((s[i+1]-'0')<<6 | (s[i+2]-'0')<<3 | (s[i+3] - '0'))
			i += 3
			continue
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

func isOctal(s string) bool { return strings.Trim(s, "01234567") == "" }
