// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"cocoon/mkimage/image"
	"cocoon/mkimage/qemu"

	"cocoon/test/pki"
)

// readyMarker is what the guest role logs when its doors are open.
const readyMarker = `"msg":"ready"`

const bootLimit = 60 * time.Second

// guest is a machine that runs the image.
type guest struct {
	machine  *qemu.Machine
	name     string // in its certificate
	port     int    // on 127.0.0.1, leads to 15150
	accel    string
	console  string // file
	ready    time.Duration
	attached chan error
	out      *lockedBuffer
}

// startGuest boots the image with user-data of its own and waits until the
// agent can be reached.
func (s *story) startGuest(ctx context.Context, name string) (*guest, error) {
	m, err := image.Open(s.opt.image)
	if err != nil {
		return nil, err
	}
	pair, err := s.ca.Server(name)
	if err != nil {
		return nil, err
	}
	disk, err := s.writeUserData(ctx, name, pair)
	if err != nil {
		return nil, fmt.Errorf("write the user-data volume: %w", err)
	}
	g := &guest{name: name, console: filepath.Join(s.dir, name+".console"), out: &lockedBuffer{}}
	if g.port, err = freePort(ctx); err != nil {
		return nil, err
	}
	kernel := filepath.Join(s.opt.image, image.KernelFile)
	g.accel = qemu.Accel(ctx, kernel)
	log, err := os.Create(g.console)
	if err != nil {
		return nil, err
	}
	console := io.MultiWriter(log, g.out)
	if s.opt.console {
		console = io.MultiWriter(console, os.Stdout)
	}
	start := time.Now()
	g.machine, err = qemu.Start(ctx, qemu.Config{
		Kernel: kernel, Initrd: filepath.Join(s.opt.image, image.InitrdFile), Cmdline: m.Cmdline,
		MemoryMiB: m.MemoryMiB, Accel: g.accel,
		Disks:    []qemu.Disk{{File: disk, ReadOnly: true}},
		Forwards: []qemu.Forward{{HostPort: g.port, GuestPort: 15150}},
	}, console)
	if err != nil {
		return nil, errors.Join(err, log.Close())
	}
	_, err = g.out.waitFor(ctx, readyMarker, bootLimit, g.machine.Done())
	g.ready = time.Since(start)
	if err != nil {
		return g, fmt.Errorf("wait for the guest: %w; its last lines:\n%s", err, lastLines(g.out.String(), 15))
	}
	return g, nil
}

func freePort(ctx context.Context) (int, error) {
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return 0, fmt.Errorf("find a free port: %w", err)
	}
	return l.Addr().(*net.TCPAddr).Port, l.Close()
}

// clientTLS is the adaptor's side of the connection.
func (g *guest) clientTLS(ca *pki.Authority, pair pki.KeyPair) (*tls.Config, error) {
	cert, err := pair.TLS()
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	roots.AddCert(ca.Cert)
	return &tls.Config{RootCAs: roots, ServerName: g.name, Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12}, nil
}

// waitForPowerOff waits until the guest has powered itself off. QEMU's exit
// status does not tell that from a panic, so the console has to.
func (g *guest) waitForPowerOff(ctx context.Context) error {
	select {
	case <-g.machine.Done():
	case <-time.After(30 * time.Second):
		return fmt.Errorf("the guest did not power off within 30 s; its last lines:\n%s", lastLines(g.out.String(), 15))
	case <-ctx.Done():
		return ctx.Err()
	}
	text := g.out.String()
	if strings.Contains(text, "fatal:") || strings.Contains(text, "Kernel panic") || !strings.Contains(text, "init: power-off") {
		return fmt.Errorf("the guest did not end in order; its last lines:\n%s", lastLines(text, 15))
	}
	return g.machine.Wait()
}

func (g *guest) kill() {
	if g.machine != nil {
		g.machine.Kill()
	}
}

// timeline returns the steps of the boot with their milliseconds, in order.
func (g *guest) timeline() ([]string, error) {
	_, rest, ok := strings.Cut(g.out.String(), `"msg":"boot timeline"`)
	if !ok {
		return nil, errors.New("the console shows no boot timeline")
	}
	_, rest, _ = strings.Cut(rest, `"ms":`)
	dec := json.NewDecoder(strings.NewReader(rest))
	var lines []string
	for name := ""; ; {
		t, err := dec.Token()
		if err != nil {
			return nil, fmt.Errorf("decode the boot timeline: %w", err)
		}
		switch t := t.(type) {
		case string:
			name = t
		case float64:
			lines = append(lines, fmt.Sprintf("%8.1f ms  %s", t, name))
		case json.Delim:
			if t == '}' {
				return lines, nil
			}
		}
	}
}

func lastLines(s string, n int) string {
	lines := strings.Split(strings.TrimSpace(s), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}

// lockedBuffer collects output and can be waited on.
type lockedBuffer struct {
	mu      sync.Mutex // guards what follows
	b       bytes.Buffer
	changed chan struct{}
}

// Write appends p.
func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.changed != nil {
		close(b.changed)
		b.changed = nil
	}
	return b.b.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// next returns what was written and a channel that is closed by the next write.
func (b *lockedBuffer) next() (string, <-chan struct{}) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.changed == nil {
		b.changed = make(chan struct{})
	}
	return b.b.String(), b.changed
}

// waitFor returns what was written as soon as it holds text. It gives up after
// limit, or when one of ends is closed.
func (b *lockedBuffer) waitFor(ctx context.Context, text string, limit time.Duration, ends ...<-chan struct{}) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	var end <-chan struct{}
	if len(ends) > 0 {
		end = ends[0]
	}
	for {
		s, changed := b.next()
		if strings.Contains(s, text) {
			return s, nil
		}
		select {
		case <-changed:
		case <-end:
			return s, fmt.Errorf("it ended before %q was seen", text)
		case <-ctx.Done():
			return s, fmt.Errorf("%q was not seen within %v", text, limit)
		}
	}
}
