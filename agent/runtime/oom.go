// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package runtime

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// On cgroup v1 the kernel notifies before it kills, so the counter is read a
// few times more after each notification.
const (
	oomRecheckEvery = 50 * time.Millisecond
	oomRecheckTimes = 20
)

// OOM returns a channel that carries one value for every process of the
// container that the kernel killed for want of memory, counted from the first
// call on, and that is closed when the container is deleted. All calls return
// the same channel. If the kernel offers no memory controller the channel
// carries nothing until it is closed.
func (c *Container) OOM() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.oom != nil {
		return c.oom.events
	}
	w := &oomWatch{events: make(chan struct{}), quit: make(chan struct{})}
	c.oom = w
	if c.deleting {
		close(w.events)
		return w.events
	}
	c.work.Go(func() {
		defer close(w.events)
		if err := w.run(c.cg.Path("memory"), c.host.cgroupV2); err != nil {
			c.log.Warn("out-of-memory kills are not watched", "container", c.id, "error", err)
			<-w.quit
		}
	})
	return w.events
}

// oomWatch follows the OOM counter of one cgroup.
type oomWatch struct {
	events chan struct{}

	once sync.Once
	quit chan struct{}
}

func (w *oomWatch) stop() { w.once.Do(func() { close(w.quit) }) }

// run returns nil when it was stopped.
func (w *oomWatch) run(dir string, v2 bool) error {
	if dir == "" {
		return errors.New("no memory controller")
	}
	open, file := openOOMControl, "memory.oom_control"
	if v2 {
		open, file = openMemoryEvents, "memory.events"
	}
	counter := filepath.Join(dir, file)
	seen, err := oomKills(counter)
	if err != nil {
		return err
	}
	source, err := open(dir)
	if err != nil {
		return err
	}
	var waker sync.WaitGroup
	ended := make(chan struct{})
	waker.Go(func() {
		select {
		case <-w.quit:
			_ = source.SetReadDeadline(past) // fails only on a closed file, which wakes the reader too
		case <-ended:
		}
	})
	err = w.follow(source, counter, seen)
	close(ended)
	waker.Wait()
	return errors.Join(err, source.Close())
}

// follow emits the increases of the counter.
func (w *oomWatch) follow(source *os.File, counter string, seen uint64) error {
	buf := make([]byte, 4096)
	recheck := 0
	for {
		var deadline time.Time
		if recheck > 0 {
			recheck--
			deadline = time.Now().Add(oomRecheckEvery)
		}
		if err := source.SetReadDeadline(deadline); err != nil {
			return err
		}
		// Asked after the deadline was set, which may have undone stop's.
		if w.stopped() {
			return nil
		}
		_, err := source.Read(buf)
		switch {
		case w.stopped():
			return nil
		case err == nil:
			recheck = oomRecheckTimes
		case !errors.Is(err, os.ErrDeadlineExceeded):
			return fmt.Errorf("wait for OOM event: %w", err)
		}
		now, err := oomKills(counter)
		if err != nil {
			return err
		}
		for ; seen < now; seen++ {
			select {
			case w.events <- struct{}{}:
			case <-w.quit:
				return nil
			}
		}
	}
}

func (w *oomWatch) stopped() bool {
	select {
	case <-w.quit:
		return true
	default:
		return false
	}
}

// oomKills reads the counter of a memory.events or memory.oom_control file.
func oomKills(path string) (uint64, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return 0, fmt.Errorf("read OOM counter: %w", err)
	}
	return parseOOMKills(data)
}

func parseOOMKills(data []byte) (uint64, error) {
	for line := range bytes.Lines(data) {
		if v, ok := bytes.CutPrefix(line, []byte("oom_kill ")); ok {
			n, err := strconv.ParseUint(string(bytes.TrimSpace(v)), 10, 64)
			if err != nil {
				return 0, fmt.Errorf("read OOM counter: %w", err)
			}
			return n, nil
		}
	}
	return 0, errors.New("read OOM counter: no oom_kill line")
}

// openMemoryEvents gives a file that becomes readable when memory.events of a
// v2 group changes.
func openMemoryEvents(dir string) (*os.File, error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("create inotify: %w", err)
	}
	f := os.NewFile(uintptr(fd), "inotify")
	if _, err := unix.InotifyAddWatch(fd, filepath.Join(dir, "memory.events"), unix.IN_MODIFY); err != nil {
		return nil, errors.Join(fmt.Errorf("watch memory.events: %w", err), f.Close())
	}
	return f, nil
}

// openOOMControl gives an eventfd that is raised when a v1 group is out of
// memory.
func openOOMControl(dir string) (*os.File, error) {
	control, err := os.Open(filepath.Join(dir, "memory.oom_control"))
	if err != nil {
		return nil, fmt.Errorf("open OOM control: %w", err)
	}
	defer control.Close()
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("create eventfd: %w", err)
	}
	f := os.NewFile(uintptr(fd), "eventfd")
	// Opened without O_CREATE: the kernel makes this file or it is not there.
	register, err := os.OpenFile(filepath.Join(dir, "cgroup.event_control"), os.O_WRONLY, 0)
	if err == nil {
		_, err = fmt.Fprintf(register, "%d %d", fd, control.Fd())
		err = errors.Join(err, register.Close())
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("register OOM event: %w", err), f.Close())
	}
	return f, nil
}
