// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package image

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"cocoon/internal/bounded"
	"cocoon/measurements/se"
	"cocoon/mkimage/manifest"
	"cocoon/mkimage/profile"
	"cocoon/mkimage/pvimg"
	"cocoon/mkimage/release"
)

// Names of the outputs of an image for Secure Execution: the command line as the
// tool takes it, the image, and its header, which verifiers want.
const (
	CmdlineName  = "cmdline"
	CmdlineFile  = "cmdline"
	SEName       = "se-image"
	SEFile       = "cocoon-se.img"
	SEHeaderName = "se-header"
	SEHeaderFile = "hdr.bin"
)

// ErrUnsealed means that the parts of an image for Secure Execution were not made
// into one.
var ErrUnsealed = errors.New("the parts are not made into an image: see " + release.SealFile)

// MaxSE bounds an image for Secure Execution, which is read as a whole.
const MaxSE = 512 << 20

// sePage is what an image is encrypted by.
const sePage = 4096

// debugConsole is what words begin with that open a shell to the host.
const debugConsole = "agent.debug_console"

// checkCmdline refuses what must not be inside of an image for Secure Execution,
// where no verifier could see it.
func checkCmdline(p profile.Profile, text string) error {
	if p.Layout == profile.SecureExecution && (strings.Contains(text, debugConsole) || strings.ContainsAny(text, "\n\x00")) {
		return fmt.Errorf("%w: command line %q, to be encrypted with the image, has %s or a line's end", ErrInput, text, debugConsole)
	}
	return nil
}

// Seal makes the image for Secure Execution of the parts in dir: create is told
// which they are, and writes the image into a new file. It replaces an image that
// was made before. Where it fails, dir is as it was, or has no manifest.
//
// That create made the image of these parts is its word: they are encrypted, and
// only their number of pages is looked at.
func Seal(ctx context.Context, dir string, create func(ctx context.Context, p pvimg.Parts, out string) error, progress Progress) (m *manifest.Manifest, err error) {
	if m, err = Open(dir); err != nil {
		return nil, err
	}
	if m.Layout != string(profile.SecureExecution) {
		return nil, fmt.Errorf("%w: profile %q is not for Secure Execution", ErrInput, m.Profile)
	}
	tmp, err := os.MkdirTemp(dir, ".se-")
	if err != nil {
		return nil, fmt.Errorf("make the image: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(tmp)) }()
	out := filepath.Join(tmp, SEFile)
	parts := pvimg.Parts{Kernel: filepath.Join(dir, KernelFile), Initrd: filepath.Join(dir, InitrdFile), Cmdline: filepath.Join(dir, CmdlineFile)}
	if err := create(ctx, parts, out); err != nil {
		return nil, err
	}
	h, err := headerOf(out, m)
	if err != nil {
		return nil, err
	}
	if h.AllowsDump() || h.Plain() {
		progress("the header lets the host dump the guest: %t; it leaves the parts unencrypted: %t", h.AllowsDump(), h.Plain())
	}
	return m, keepSealed(dir, m, out, h, progress)
}

// headerOf finds the header of the image in a file.
func headerOf(file string, m *manifest.Manifest) (*se.Header, error) {
	raw, err := bounded.ReadFile(file, MaxSE)
	if err != nil {
		return nil, fmt.Errorf("read the image: %w", err)
	}
	h, err := se.Find(raw)
	if err != nil {
		return nil, fmt.Errorf("image of %d bytes: %w", len(raw), err)
	}
	want := uint64(0)
	for _, name := range []string{KernelName, InitrdName, CmdlineName} {
		part, err := m.Output(name)
		if err != nil {
			return nil, err
		}
		want += uint64(part.Size+sePage-1) / sePage
	}
	if h.Pages < want {
		return nil, fmt.Errorf("%w: the header speaks of %d pages, the parts have %d", ErrInput, h.Pages, want)
	}
	return h, nil
}

// keepSealed moves the image in out to its place and describes it.
func keepSealed(dir string, m *manifest.Manifest, out string, h *se.Header, progress Progress) (err error) {
	f, err := os.Open(out)
	if err != nil {
		return fmt.Errorf("read the image: %w", err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	m.Outputs = slices.DeleteFunc(m.Outputs, func(o manifest.File) bool { return o.Name == SEName || o.Name == SEHeaderName })
	b := &builder{man: *m, progress: progress}
	err = b.prepare(dir)
	if err == nil {
		err = b.keep(dir, SEName, SEFile, f)
	}
	if err == nil {
		err = b.writeOutput(dir, output{SEHeaderName, SEHeaderFile, h.Raw})
	}
	if err == nil {
		err = b.finish(dir)
	}
	*m = b.man
	return err
}

// SEHeader is the header of the image for Secure Execution in dir. The error is
// ErrUnsealed if only its parts are there.
func SEHeader(dir string, m *manifest.Manifest) (*se.Header, error) {
	out, err := m.Output(SEHeaderName)
	if err != nil {
		return nil, ErrUnsealed
	}
	raw, err := bounded.ReadFile(filepath.Join(dir, out.File), se.MaxHeader)
	if err != nil {
		return nil, fmt.Errorf("read the header: %w", err)
	}
	h, err := se.Parse(raw)
	if err != nil {
		return nil, fmt.Errorf("read %q: %w", out.File, err)
	}
	return h, nil
}
