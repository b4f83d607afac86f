// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

// Package tsm asks the kernel for attestation reports through configfs, the
// interface that TDX, SEV-SNP and CCA guests share (Linux,
// Documentation/ABI/testing/configfs-tsm).
//
// Trust: the kernel is the guest's own. What it passes on was made by the TEE
// or by a service of the host; only a verifier can tell.
package tsm

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"cocoon/internal/bounded"
)

// Dir is where the kernel offers reports.
const Dir = "/sys/kernel/config/tsm/report"

const (
	maxReport = 1 << 20
	// busyTries and busyWait bound how long a report that is being made for
	// somebody else is waited for.
	busyTries = 10
	busyWait  = 100 * time.Millisecond
)

// Errors that callers branch on.
var (
	// ErrUnsupported is returned where the kernel offers no reports, or
	// another kind of them.
	ErrUnsupported = errors.New("the kernel offers no such report")
	// ErrStale is returned if another request was answered in between.
	ErrStale = errors.New("the report belongs to another request")
)

// Report is what the kernel gives for one request.
type Report struct {
	Out []byte // the report or quote
	Aux []byte // what goes with it, such as certificates; often empty
}

// Reporter asks in a folder.
type Reporter struct {
	// Dir is Dir but in tests.
	Dir string
	// FS carries out what configfs gives a meaning of its own; nil means the
	// kernel's.
	FS Folder
}

// Folder makes and removes the folder of a request. In configfs both have
// effects, which a test has to play.
type Folder interface {
	Make(base string) (dir string, err error)
	Remove(dir string) error
}

// Get returns a report from the provider of the given name about data, which
// has 1 to 64 bytes.
func (r Reporter) Get(ctx context.Context, provider string, data []byte) (rep Report, err error) {
	folder := r.FS
	if folder == nil {
		folder = configfs{}
	}
	dir, err := folder.Make(r.Dir)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENXIO) {
		return rep, fmt.Errorf("%w: %w", ErrUnsupported, err)
	}
	if err != nil {
		return rep, fmt.Errorf("make a TSM request: %w", err)
	}
	defer func() {
		// Each folder holds kernel memory.
		if e := folder.Remove(dir); e != nil {
			err = errors.Join(err, fmt.Errorf("remove the TSM request: %w", e))
		}
	}()
	name, err := read(dir, "provider")
	if err != nil {
		return rep, err
	}
	if got := strings.TrimSpace(string(name)); got != provider {
		return rep, fmt.Errorf("%w: its provider is %.64q, not %q", ErrUnsupported, got, provider)
	}
	if err := patiently(ctx, func() error { return write(dir, "inblob", data) }); err != nil {
		return rep, err
	}
	err = patiently(ctx, func() error {
		rep.Out, err = read(dir, "outblob")
		return err
	})
	if err != nil {
		return rep, err
	}
	if len(rep.Out) == 0 {
		return rep, errors.New("the TSM report is empty")
	}
	if rep.Aux, err = read(dir, "auxblob"); err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.ENOENT) {
		return rep, err
	}
	return rep, once(dir)
}

// once makes sure that this request was the only one in its folder.
func once(dir string) error {
	text, err := read(dir, "generation")
	if err != nil {
		return err
	}
	n, err := strconv.ParseUint(strings.TrimSpace(string(text)), 10, 64)
	if err != nil {
		return fmt.Errorf("generation of the TSM report: %w", err)
	}
	if n > 1 {
		return fmt.Errorf("%w: generation %d", ErrStale, n)
	}
	return nil
}

// patiently repeats f while the kernel is busy with another report.
func patiently(ctx context.Context, f func() error) error {
	for try := 1; ; try++ {
		err := f()
		if !errors.Is(err, unix.EBUSY) && !errors.Is(err, unix.EINTR) && !errors.Is(err, unix.EAGAIN) || try == busyTries {
			return err
		}
		select {
		case <-ctx.Done():
			return errors.Join(err, ctx.Err())
		case <-time.After(busyWait):
		}
	}
}

func read(dir, name string) (_ []byte, err error) {
	f, err := os.Open(filepath.Join(dir, name))
	if err != nil {
		return nil, fmt.Errorf("TSM report: %w", err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	b, err := bounded.ReadAll(f, maxReport)
	if err != nil {
		return nil, fmt.Errorf("TSM report: %s: %w", name, err)
	}
	return b, nil
}

// write hands data over in one call, as the kernel wants it.
func write(dir, name string, data []byte) error {
	f, err := os.OpenFile(filepath.Join(dir, name), os.O_WRONLY, 0)
	if err != nil {
		return fmt.Errorf("TSM request: %w", err)
	}
	_, err = f.Write(data)
	if err := errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("TSM request: %w", err)
	}
	return nil
}

// configfs is the kernel's own.
type configfs struct{}

// Make implements Folder.
func (configfs) Make(base string) (string, error) { return os.MkdirTemp(base, "cocoon-") }

// Remove implements Folder. The attributes go with the folder.
func (configfs) Remove(dir string) error { return unix.Rmdir(dir) }
