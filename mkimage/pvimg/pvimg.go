// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

// Package pvimg has an image for IBM Secure Execution made by a tool of
// s390-tools: pvimg, or genprotimg where that is older. The stages before the
// kernel are the tool's, as is all encryption.
//
// Trust: the tool is the builder's. Host key documents name the machines that
// may run the image; whoever takes a forged one hands the image's keys to a
// stranger, so that the tool verifies them unless it is told otherwise by name.
// Keys are given to the tool as files, and are not read here.
package pvimg

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// Errors that callers may want to tell apart.
var (
	// ErrOptions is wrapped by errors about options that make no image.
	ErrOptions = errors.New("wrong options for an image for Secure Execution")
	// ErrNoTool means that neither tool is on this machine.
	ErrNoTool = errors.New("neither pvimg nor genprotimg of s390-tools is in PATH")
)

// Sizes of keys, in bytes.
const (
	commKeySize   = 32
	headerKeySize = 32
	imageKeySize  = 64
)

// Options say for whom an image is made. All are names of files but the last two.
type Options struct {
	// HostKeys are the host key documents of the machines that may run it.
	HostKeys []string
	// Certs lead from IBM's signing key to the root of all, RootCA; the system's
	// roots are taken if that is empty. CRLs revoke.
	Certs, CRLs []string
	RootCA      string
	// CommKey, HeaderKey and ImageKey are the owner's; the tool makes random ones
	// in place of those that are empty.
	CommKey, HeaderKey, ImageKey string
	// Offline takes no revocation list but CRLs.
	Offline bool
	// NoVerify takes host key documents that nobody vouches for.
	NoVerify bool
}

// Any tells whether an image is asked for at all.
func (o *Options) Any() bool {
	return len(o.HostKeys)+len(o.Certs)+len(o.CRLs) > 0 || o.RootCA+o.CommKey+o.HeaderKey+o.ImageKey != "" || o.Offline || o.NoVerify
}

// Check returns an error that wraps ErrOptions, or says which file is not there.
func (o *Options) Check() error {
	switch {
	case len(o.HostKeys) == 0:
		return fmt.Errorf("%w: there is no host key document, and without one no machine could run it", ErrOptions)
	case len(o.Certs) == 0 && !o.NoVerify:
		return fmt.Errorf("%w: host key documents are verified by certificates, of which there is none", ErrOptions)
	case o.NoVerify && (len(o.Certs)+len(o.CRLs) > 0 || o.RootCA != "" || o.Offline):
		return fmt.Errorf("%w: host key documents cannot both be verified and not be", ErrOptions)
	case o.Offline && len(o.CRLs) == 0:
		return fmt.Errorf("%w: without a network it takes revocation lists as files", ErrOptions)
	}
	for _, f := range o.files() {
		if err := f.check(); err != nil {
			return err
		}
	}
	return nil
}

type file struct {
	role, option, name string
	size               int64 // that it has to have, if it is not 0
}

func (f file) check() error {
	name, err := filepath.Abs(f.name)
	if err != nil {
		return fmt.Errorf("find %s %q: %w", f.role, f.name, err)
	}
	// The tool would take it for several names.
	if strings.Contains(name, ",") {
		return fmt.Errorf("%w: %s %q has a comma in its name", ErrOptions, f.role, name)
	}
	info, err := os.Stat(name)
	if err != nil {
		return fmt.Errorf("find the %s: %w", f.role, err)
	}
	if !info.Mode().IsRegular() {
		return fmt.Errorf("%w: %s %q is no file", ErrOptions, f.role, name)
	}
	if f.size > 0 && info.Size() != f.size {
		return fmt.Errorf("%w: %s %q has %d bytes, want %d", ErrOptions, f.role, name, info.Size(), f.size)
	}
	return nil
}

// files are all that the tool is to read, with the option for each.
func (o *Options) files() []file {
	var all []file
	add := func(role, option string, names []string) {
		for _, n := range names {
			all = append(all, file{role, option, n, 0})
		}
	}
	add("host key document", "--host-key-document", o.HostKeys)
	add("certificate", "--cert", o.Certs)
	add("revocation list", "--crl", o.CRLs)
	for _, f := range []file{
		{"root certificate", "--root-ca", o.RootCA, 0}, {"customer communication key", "--comm-key", o.CommKey, commKeySize},
		{"header key", "--hdr-key", o.HeaderKey, headerKeySize}, {"image key", "--image-key", o.ImageKey, imageKeySize},
	} {
		if f.name != "" {
			all = append(all, f)
		}
	}
	return all
}

// Parts are the files that become an image.
type Parts struct{ Kernel, Initrd, Cmdline string }

// Tool is a program that makes images.
type Tool struct {
	path string
	// create is the word that tells pvimg what to do.
	create []string
	// names are those that options have with an older tool.
	names map[string]string
}

// Find returns the tool of this machine. lookPath is exec.LookPath.
func Find(lookPath func(string) (string, error)) (*Tool, error) {
	path, err := lookPath("pvimg")
	if err == nil {
		return &Tool{path: path, create: []string{"create"}}, nil
	}
	if path, errOld := lookPath("genprotimg"); errOld == nil {
		return &Tool{path: path, names: map[string]string{"--hdr-key": "--x-header-key", "--image-key": "--x-comp-key"}}, nil
	}
	return nil, fmt.Errorf("%w: %w", ErrNoTool, err)
}

// Create makes an image of parts in the file out, which must not be there.
func (t *Tool) Create(ctx context.Context, o *Options, p Parts, out string) error {
	args, err := t.arguments(o, p, out)
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, t.path, args...)
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	if text, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("make the image by %s: %w: %s", t.path, err, bytes.TrimSpace(text))
	}
	return nil
}

// arguments are those of a run. A name cannot be taken for an option.
func (t *Tool) arguments(o *Options, p Parts, out string) ([]string, error) {
	args := t.create[:len(t.create):len(t.create)]
	if o.NoVerify {
		args = append(args, "--no-verify")
	}
	if o.Offline {
		args = append(args, "--offline")
	}
	// Older tools know the kernel as --image only, and newer ones as that too.
	parts := []file{{option: "--image", name: p.Kernel}, {option: "--ramdisk", name: p.Initrd}, {option: "--parmfile", name: p.Cmdline}, {option: "--output", name: out}}
	for _, f := range append(o.files(), parts...) {
		name, err := filepath.Abs(f.name)
		if err != nil {
			return nil, fmt.Errorf("find %q: %w", f.name, err)
		}
		option := f.option
		if old, ok := t.names[option]; ok {
			option = old
		}
		args = append(args, option+"="+name)
	}
	return args, nil
}
