// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

// Package tpmtest starts a software TPM for tests: swtpm, a program of its own,
// which answers as hardware does. It makes in it what a manufacturer or a cloud
// makes in theirs.
package tpmtest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
	"golang.org/x/sys/unix"
)

const (
	program = "swtpm"
	begin   = 20 * time.Second
	look    = 10 * time.Millisecond
)

// TPM is a running software TPM.
type TPM struct {
	// Socket takes commands, as a stream, from one client at a time.
	Socket string
}

// Start runs a new TPM until the test ends. A machine without the program skips
// the test.
func Start(t *testing.T) TPM {
	t.Helper()
	dir := folder(t)
	s := TPM{Socket: filepath.Join(dir, "tpm")}
	run(t, dir, "--server", "type=unixio,path="+s.Socket, "--flags", "not-need-init,startup-clear")
	await(t, s.Socket)
	return s
}

// StartControlled runs a new TPM until the test ends, and returns the socket
// over which an emulator of machines takes it over.
func StartControlled(t *testing.T) string {
	t.Helper()
	dir := folder(t)
	socket := filepath.Join(dir, "control")
	run(t, dir, "--ctrl", "type=unixio,path="+socket)
	await(t, socket)
	return socket
}

// Open connects to the TPM.
func (s TPM) Open(ctx context.Context) (io.ReadWriteCloser, error) {
	var d net.Dialer
	c, err := d.DialContext(ctx, "unix", s.Socket)
	if err != nil {
		return nil, fmt.Errorf("connect to the software TPM: %w", err)
	}
	return c, nil
}

// folder has a short name, as sockets need.
func folder(t *testing.T) string {
	t.Helper()
	if _, err := exec.LookPath(program); err != nil {
		t.Skipf("%s is not installed", program)
	}
	dir, err := os.MkdirTemp("", "tpm") //nolint:usetesting // sockets below it need a short path
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

func run(t *testing.T, dir string, args ...string) {
	t.Helper()
	var output bytes.Buffer
	cmd := exec.Command(program, append([]string{"socket", "--tpm2", "--tpmstate", "dir=" + dir}, args...)...) //nolint:noctx // it ends with the test
	cmd.Stdout, cmd.Stderr = &output, &output
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := cmd.Process.Signal(unix.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
			t.Error(err)
		}
		var exit *exec.ExitError
		if err := cmd.Wait(); err != nil && !errors.As(err, &exit) {
			t.Error(err)
		}
		if t.Failed() {
			t.Logf("%s: %s", program, &output)
		}
	})
}

// await returns when the socket takes connections.
func await(t *testing.T, socket string) {
	t.Helper()
	tick := time.NewTicker(look)
	defer tick.Stop()
	end := time.After(begin)
	for {
		if c, err := net.Dial("unix", socket); err == nil { //nolint:noctx // it does not wait
			if err := c.Close(); err != nil {
				t.Error(err)
			}
			return
		}
		select {
		case <-tick.C:
		case <-end:
			t.Fatalf("%s takes no connection within %s", program, begin)
		}
	}
}

// Talk has f use the TPM.
func (s TPM) Talk(t *testing.T, f func(transport.TPM) error) {
	t.Helper()
	c, err := s.Open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	}()
	if err := f(transport.FromReadWriter(c)); err != nil {
		t.Fatal(err)
	}
}

// AK is the template of an attestation key: restricted, to sign with RSASSA and
// SHA-256.
func AK() tpm2.TPMTPublic {
	return tpm2.TPMTPublic{
		Type: tpm2.TPMAlgRSA, NameAlg: tpm2.TPMAlgSHA256,
		ObjectAttributes: tpm2.TPMAObject{
			FixedTPM: true, FixedParent: true, SensitiveDataOrigin: true, UserWithAuth: true, Restricted: true, SignEncrypt: true,
		},
		Parameters: tpm2.NewTPMUPublicParms(tpm2.TPMAlgRSA, &tpm2.TPMSRSAParms{
			Scheme: tpm2.TPMTRSAScheme{
				Scheme: tpm2.TPMAlgRSASSA, Details: tpm2.NewTPMUAsymScheme(tpm2.TPMAlgRSASSA, &tpm2.TPMSSigSchemeRSASSA{HashAlg: tpm2.TPMAlgSHA256}),
			},
			KeyBits: 2048,
		}),
	}
}

// Keep makes a key of a template, keeps it at a handle and returns its public
// part.
func Keep(c transport.TPM, handle uint32, template tpm2.TPMTPublic) (*tpm2.TPMTPublic, error) {
	key, err := tpm2.CreatePrimary{PrimaryHandle: Owner(), InPublic: tpm2.New2B(template)}.Execute(c)
	if err != nil {
		return nil, fmt.Errorf("make a key: %w", err)
	}
	_, err = tpm2.EvictControl{
		Auth: Owner(), ObjectHandle: tpm2.NamedHandle{Handle: key.ObjectHandle, Name: key.Name}, PersistentHandle: tpm2.TPMHandle(handle),
	}.Execute(c)
	if err != nil {
		return nil, fmt.Errorf("keep the key: %w", err)
	}
	if _, err = (tpm2.FlushContext{FlushHandle: key.ObjectHandle}).Execute(c); err != nil {
		return nil, fmt.Errorf("forget the key's copy: %w", err)
	}
	return key.OutPublic.Contents()
}

// Owner is the owner's hierarchy, which has no password.
func Owner() tpm2.AuthHandle {
	return tpm2.AuthHandle{Handle: tpm2.TPMRHOwner, Name: tpm2.HandleName(tpm2.TPMRHOwner), Auth: tpm2.PasswordAuth(nil)}
}
