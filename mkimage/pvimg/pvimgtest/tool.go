// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

// Package pvimgtest plays the tools of s390-tools for tests: the test's own
// program is linked under a tool's name, and acts as one when it is called by it.
package pvimgtest

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// Names of files beside the tool.
const (
	imageFile     = "image"
	complaintFile = "complaint"
	argumentsFile = "arguments"
)

// Main is called by a TestMain first, and does not return if the program was
// called as a tool.
func Main() {
	name := filepath.Base(os.Args[0])
	if name != "pvimg" && name != "genprotimg" {
		return
	}
	if err := act(name, filepath.Dir(os.Args[0]), os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "ERROR:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

// act does what a tool does as far as its caller can see: it reads all files, and
// writes the image that was installed.
func act(name, dir string, args []string) error {
	if err := os.WriteFile(filepath.Join(dir, argumentsFile), []byte(strings.Join(args, "\n")), 0o600); err != nil {
		return err
	}
	if text, err := os.ReadFile(filepath.Join(dir, complaintFile)); err == nil {
		return errors.New(string(text))
	}
	if name == "pvimg" {
		if len(args) == 0 || args[0] != "create" {
			return fmt.Errorf("unknown command in %q", args)
		}
		args = args[1:]
	}
	out := ""
	for _, a := range args {
		option, file, hasFile := strings.Cut(a, "=")
		switch {
		case !known(name, option, hasFile):
			return fmt.Errorf("unknown option %q", a)
		case option == "--output":
			out = file
		case hasFile:
			if _, err := os.ReadFile(file); err != nil {
				return err
			}
		}
	}
	image, err := os.ReadFile(filepath.Join(dir, imageFile))
	if err != nil {
		return err
	}
	f, err := os.OpenFile(out, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(image)
	return errors.Join(err, f.Close())
}

// known tells whether a tool has an option, by the manual pages of both.
func known(name, option string, hasFile bool) bool {
	flags := []string{"--no-verify", "--offline"}
	files := []string{"--image", "--ramdisk", "--parmfile", "--output", "--host-key-document", "--cert", "--crl", "--root-ca", "--comm-key"}
	if name == "pvimg" {
		files = append(files, "--kernel", "--cck", "--hdr-key", "--image-key")
	} else {
		files = append(files, "--x-header-key", "--x-comp-key")
	}
	if hasFile {
		return slices.Contains(files, option)
	}
	return slices.Contains(flags, option)
}

// Tool is a directory with a tool in it.
type Tool struct{ Dir string }

// Install makes a tool of a name that writes the given image.
func Install(t testing.TB, name string, image []byte) Tool {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	tool := Tool{t.TempDir()}
	if err := errors.Join(os.Symlink(self, filepath.Join(tool.Dir, name)), os.WriteFile(filepath.Join(tool.Dir, imageFile), image, 0o600)); err != nil {
		t.Fatal(err)
	}
	return tool
}

// Complain makes the tool fail with a text.
func (tool Tool) Complain(t testing.TB, text string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(tool.Dir, complaintFile), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// Arguments are those of the last run.
func (tool Tool) Arguments(t testing.TB) []string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(tool.Dir, argumentsFile))
	if err != nil {
		t.Fatal(err)
	}
	return strings.Split(string(b), "\n")
}

// LookPath finds the tool, and nothing else.
func (tool Tool) LookPath(name string) (string, error) {
	path := filepath.Join(tool.Dir, name)
	if _, err := os.Lstat(path); err != nil {
		return "", err
	}
	return path, nil
}
