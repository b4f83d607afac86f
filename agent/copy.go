// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/types/known/emptypb"

	"cocoon/agent/copyfile"
	"cocoon/internal/safepath"
	"cocoon/internal/wire/agentpb"
)

// CopyFile writes a chunk of a file, a directory or a symbolic link below the
// shared directory.
func (s *service) CopyFile(_ context.Context, r *agentpb.CopyFileRequest) (*emptypb.Empty, error) {
	err := s.sandbox.copier.Copy(copyfile.Request{
		Path: r.GetPath(), Size: r.GetFileSize(), Offset: r.GetOffset(),
		Mode: r.GetFileMode(), DirMode: r.GetDirMode(),
		UID: int(r.GetUid()), GID: int(r.GetGid()), Data: r.GetData(),
	})
	if err != nil {
		return nil, err
	}
	return &emptypb.Empty{}, nil
}

const (
	terminationLog     = "termination_log"
	terminationMessage = "io.kubernetes.container.terminationMessagePath"

	// maxTermination is how much of the file Kubernetes shows, in bytes.
	maxTermination = 4096
)

// GetDiagnosticData returns what a container wrote as its termination message.
func (s *service) GetDiagnosticData(_ context.Context, r *agentpb.GetDiagnosticDataRequest) (*agentpb.GetDiagnosticDataResponse, error) {
	if r.GetLogType() != terminationLog {
		return nil, fmt.Errorf("diagnostic data of type %q: %w", r.GetLogType(), ErrInvalid)
	}
	c, err := s.sandbox.container(r.GetContainerId())
	if err != nil {
		return nil, err
	}
	source, err := c.terminationSource()
	if err != nil {
		return nil, err
	}
	top := s.sandbox.confinement(source)
	if top == "" {
		return nil, fmt.Errorf("termination message at %q, outside %q: %w", source, s.deps.Paths.Run, ErrInvalid)
	}
	text, err := s.sandbox.readHead(top, source)
	if err != nil {
		return nil, fmt.Errorf("read termination message: %w", err)
	}
	return &agentpb.GetDiagnosticDataResponse{Data: text}, nil
}

// terminationSource returns the guest's path of the termination message.
func (c *container) terminationSource() (string, error) {
	at := c.notes[terminationMessage]
	if at == "" {
		return "", fmt.Errorf("container %q has no annotation %s", c.id, terminationMessage)
	}
	for _, m := range c.mounts {
		if m.destination == at {
			return m.source, nil
		}
	}
	return "", fmt.Errorf("container %q has no mount at %q", c.id, at)
}

// readHead reads the beginning of a regular file inside top as text. The
// workload may have put anything there, so a link leads nowhere else and a
// named pipe is not waited for. No file gives no text.
func (s *sandbox) readHead(top, file string) (_ string, err error) {
	root, err := safepath.OpenRoot(top)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, root.Close()) }()
	f, err := root.Open(strings.TrimPrefix(file, top+"/"), unix.O_RDONLY|unix.O_NONBLOCK, 0)
	if errors.Is(err, os.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	st, err := f.Stat()
	if err != nil {
		return "", err
	}
	if !st.Mode().IsRegular() {
		return "", fmt.Errorf("%q is not a regular file", file)
	}
	// The host names the file, by an annotation and a mount.
	secret, err := s.wasSealed(int(f.Fd()))
	if err != nil {
		return "", err
	}
	if secret {
		return "", fmt.Errorf("%q holds a secret that was sealed: %w", file, ErrInvalid)
	}
	b, err := io.ReadAll(io.LimitReader(f, maxTermination))
	if err != nil {
		return "", err
	}
	return strings.ToValidUTF8(string(b), "\ufffd"), nil
}
