// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
)

// caFile is where the registry leaves its certificate, below its directory.
const caFile = "certs/ca.crt"

// images are what the registry says on its first line.
type images struct {
	Host     string `json:"host"` // of the address
	Unpacked int64  `json:"unpacked"`
	Packed   int64  `json:"packed"`
	Files    int    `json:"files"`
}

// The repositories in the registry.
const (
	repoLarge = "large" // of Debian packages
	repoSmall = "small" // busybox
)

// imageRegistry is the child process that serves the images. It is a process
// of its own so that its memory is nobody's who is measured.
type imageRegistry struct {
	images
	dir string
	cmd *exec.Cmd
}

// startRegistry has the child make the images and waits until it serves.
func startRegistry(ctx context.Context, dir string) (*imageRegistry, error) {
	cmd := command(ctx, "/proc/self/exe", roleRegistry, dir)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start the registry: %w", err)
	}
	r := &imageRegistry{dir: dir, cmd: cmd}
	line, err := bufio.NewReader(out).ReadBytes('\n')
	if err == nil {
		err = json.Unmarshal(line, &r.images)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("registry: %w", err), r.stop())
	}
	return r, nil
}

func (r *imageRegistry) ca() string { return filepath.Join(r.dir, caFile) }

func (r *imageRegistry) ref(repo string) string { return r.Host + "/" + repo + ":latest" }

func (r *imageRegistry) stop() error { return stopChild(r.cmd) }

// stopChild kills a child that keeps nothing and waits for it.
func stopChild(cmd *exec.Cmd) error {
	if err := cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	if err := cmd.Wait(); err != nil {
		if _, ok := errors.AsType[*exec.ExitError](err); !ok {
			return err
		}
	}
	return nil
}

// serveRegistry is the child: it serves over TLS, pushes both images to itself
// and goes on until it is killed.
func serveRegistry(ctx context.Context, dir string) error {
	id, err := newIdentity("localhost", "127.0.0.1", guestGateway)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Join(dir, filepath.Dir(caFile)), 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, caFile), id.cert, 0o644); err != nil {
		return err
	}
	pair, err := id.pair()
	if err != nil {
		return err
	}
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return fmt.Errorf("listen for the registry: %w", err)
	}
	server := &http.Server{
		Handler:           registry.New(registry.Logger(log.New(io.Discard, "", 0))),
		TLSConfig:         &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12},
		ReadHeaderTimeout: 10 * time.Second,
		ErrorLog:          log.New(io.Discard, "", 0),
	}
	served := make(chan error, 1)
	go func() { served <- server.ServeTLS(l, "", "") }()
	if err := fill(ctx, l.Addr().String(), id); err != nil {
		return errors.Join(err, server.Close(), <-served)
	}
	return <-served
}

// fill pushes the images and says on standard output that they are there.
func fill(ctx context.Context, host string, id identity) error {
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(id.cert)
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}}
	defer transport.CloseIdleConnections()
	push := func(repo string, img v1.Image) error {
		ref, err := name.ParseReference(host + "/" + repo + ":latest")
		if err != nil {
			return err
		}
		if err := remote.Write(ref, img, remote.WithContext(ctx), remote.WithTransport(transport)); err != nil {
			return fmt.Errorf("push image %s: %w", repo, err)
		}
		return nil
	}
	large, err := buildImage(ctx)
	if err != nil {
		return err
	}
	small, err := busyboxImage()
	if err != nil {
		return err
	}
	if err := errors.Join(push(repoLarge, large.image), push(repoSmall, small)); err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(images{Host: host, Unpacked: large.unpacked, Packed: large.packed, Files: large.files})
}
