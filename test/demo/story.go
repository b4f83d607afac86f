// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"cocoon/agent/agentctl/client"

	"cocoon/test/pki"
)

const (
	keyID     = "default/image-key/busybox"
	secretID  = "default/demo/secret"
	sandboxID = "demo-sandbox"
	workload  = "demo-workload"
)

// story is the state of one run.
type story struct {
	opt    options
	dir    string
	report *report

	ca       *pki.Authority // of everything that the guest talks to by TLS, but the broker
	client   pki.KeyPair    // the adaptor's
	broker   *broker
	registry *imageRegistry
	key      layerKey
	secret   string
	image    string // reference with digest
	guest    *guest
	conn     *client.Client
}

// tell does everything in order. The first step that fails ends it.
func (s *story) tell(ctx context.Context) error {
	for _, c := range []struct {
		name string
		do   func(context.Context) error
	}{
		{"Make keys and certificates of this run", s.makeKeys},
		{"Start trustee: key broker and verifier", s.startBroker},
		{"Start a registry and push an encrypted image", s.startRegistry},
		{"Boot the guest in QEMU", s.boot},
		{"Connect by mutual TLS, as cloud-api-adaptor does", s.connect},
		{"Run the pod: attest, get the key, decrypt, unpack, start", s.runPod},
		{"Run a second process, and one that the policy forbids", s.exec},
		{"Stop the pod and power the guest off", s.stopPod},
		{"Boot again under a wrong reference value", s.bootUntrusted},
	} {
		if err := s.report.chapter(c.name, func() error { return c.do(ctx) }); err != nil {
			return err
		}
	}
	return nil
}

// cleanUp ends what is still running, last first.
func (s *story) cleanUp() error {
	var errs []error
	if s.conn != nil {
		errs = append(errs, s.conn.Close())
	}
	if s.guest != nil {
		s.guest.kill()
	}
	if s.registry != nil {
		errs = append(errs, s.registry.stop())
	}
	if s.broker != nil {
		errs = append(errs, s.broker.stop())
	}
	return errors.Join(errs...)
}

func (s *story) makeKeys(context.Context) (err error) {
	if s.ca, err = pki.NewAuthority("demo authority"); err != nil {
		return err
	}
	if s.client, err = pki.SelfSignedClient("cloud-api-adaptor"); err != nil {
		return err
	}
	s.key = layerKey{id: "kbs:///" + keyID, kek: make([]byte, 32)}
	if _, err := rand.Read(s.key.kek); err != nil {
		return err
	}
	s.secret = "the owner's secret " + rand.Text()
	return nil
}

// startBroker sets the broker up as an operator would: secrets, reference
// values, and the built-in policies, under which only a guest whose evidence
// matches the reference values gets anything.
func (s *story) startBroker(ctx context.Context) (err error) {
	if s.broker, err = startBroker(ctx, filepath.Join(s.opt.bin, "trustee"), filepath.Join(s.dir, "broker")); err != nil {
		return err
	}
	s.report.say("listens on https://%s", s.broker.addr)
	for id, value := range map[string][]byte{keyID: s.key.kek, secretID: []byte(s.secret)} {
		if _, err := s.broker.admin(ctx, value, "resource", "set", id, "--file", "-"); err != nil {
			return err
		}
		s.report.say("holds %s", id)
	}
	return s.setReference(ctx, "abcde")
}

// setReference registers what the sample TEE is expected to report.
func (s *story) setReference(ctx context.Context, digest string) error {
	values := fmt.Sprintf(`{"launch_digest":[%q],"svn":["1"],"major_version":1,"minimum_minor_version":1}`, digest)
	_, err := s.broker.admin(ctx, []byte(values), "reference", "set", "--file", "-")
	return err
}

func (s *story) startRegistry(ctx context.Context) error {
	pair, err := s.ca.Server(guestHost, "127.0.0.1")
	if err != nil {
		return err
	}
	cert, err := pair.TLS()
	if err != nil {
		return err
	}
	if s.registry, err = startRegistry(ctx, cert); err != nil {
		return err
	}
	roots := x509.NewCertPool()
	roots.AddCert(s.ca.Cert)
	rt := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}}
	defer rt.CloseIdleConnections()
	d, err := pushEncrypted(ctx, rt, fmt.Sprintf("127.0.0.1:%d/demo/busybox:1", s.registry.port), s.key)
	if err != nil {
		return err
	}
	s.image = fmt.Sprintf("%s:%d/demo/busybox@%s", guestHost, s.registry.port, d)
	s.report.say("pushed %s", s.image)
	return nil
}

func (s *story) boot(ctx context.Context) error {
	g, err := s.startGuest(ctx, "guest-1")
	s.guest = g
	if err != nil {
		return err
	}
	s.report.say("QEMU runs with %s; the guest listens after %.1f s", g.accel, g.ready.Seconds())
	return nil
}

// connect dials the guest with its name and both certificates, and then as
// somebody without a certificate.
func (s *story) connect(ctx context.Context) (err error) {
	cfg, err := s.guest.clientTLS(s.ca, s.client)
	if err != nil {
		return err
	}
	addr, err := client.ParseAddress("tcp://" + net.JoinHostPort("127.0.0.1", strconv.Itoa(s.guest.port)))
	if err != nil {
		return err
	}
	if s.conn, err = client.Dial(ctx, addr, cfg); err != nil {
		return err
	}
	if err := s.conn.Check(ctx); err != nil {
		return err
	}
	api, agent, err := s.conn.Version(ctx)
	if err != nil {
		return err
	}
	s.report.check("mutual TLS to port 15150", true, fmt.Sprintf("agent %s, API %s", agent, api))
	stranger := cfg.Clone()
	stranger.Certificates = nil
	c, err := client.Dial(ctx, addr, stranger)
	if err == nil {
		err = errors.Join(c.Check(ctx), c.Close())
	}
	s.report.check("a client without certificate is refused", err != nil, fmt.Sprint(err))
	return nil
}

// runPod does what the shim does for a pod with one container.
func (s *story) runPod(ctx context.Context) error {
	if err := s.conn.CreateSandbox(ctx, sandboxID); err != nil {
		return err
	}
	pause := client.Container{ID: sandboxID, Image: "pause", Kind: client.PodSandbox, SandboxID: sandboxID}
	if err := s.conn.Create(ctx, pause, time.Minute); err != nil {
		return err
	}
	if err := s.conn.Start(ctx, sandboxID); err != nil {
		return err
	}
	s.report.say("the sandbox stands; now the container with the encrypted image")
	start := time.Now()
	if err := s.conn.Create(ctx, s.container(), time.Minute); err != nil {
		return err
	}
	s.report.check("attest, fetch key, pull, decrypt, create", true, fmt.Sprintf("%d ms under emulation", time.Since(start).Milliseconds()))
	if err := s.conn.Start(ctx, workload); err != nil {
		return err
	}
	var out, errOut lockedBuffer
	done := make(chan error, 1)
	go func() {
		_, err := s.conn.Attach(ctx, client.Process{ContainerID: workload, ExecID: workload}, client.Streams{Stdout: &out, Stderr: &errOut})
		done <- err
	}()
	s.guest.attached = done
	saw, err := out.waitFor(ctx, "ready\n", 30*time.Second)
	if err != nil {
		return fmt.Errorf("output of the container: %w; stderr: %q", err, errOut.String())
	}
	s.report.check("the container prints the secret it fetched by REST", strings.Contains(saw, s.secret+"\n"), strings.TrimSpace(strings.Replace(saw, "ready\n", "", 1)))
	return s.checkSecrecy(ctx)
}

// checkSecrecy looks for the plain layer key and secret where they must not be.
func (s *story) checkSecrecy(context.Context) error {
	console, err := os.ReadFile(s.guest.console)
	if err != nil {
		return err
	}
	clean := !bytes.Contains(console, []byte(s.secret)) &&
		!bytes.Contains(console, []byte(base64.StdEncoding.EncodeToString(s.key.kek)))
	s.report.check("no secret on the guest's console", clean, fmt.Sprintf("%d bytes searched", len(console)))
	return nil
}

func (s *story) container() client.Container {
	return client.Container{
		ID: workload, Image: s.image, Kind: client.PodContainer, Name: "demo", SandboxID: sandboxID,
		Args: []string{"/bin/sh", "-c", "wget -q -O - http://127.0.0.1:8006/cdh/resource/" + secretID + "; echo; echo ready; trap 'exit 7' TERM; while :; do sleep 1; done"},
		Env:  []string{"PATH=/bin"},
	}
}

func (s *story) exec(ctx context.Context) error {
	var out, errOut bytes.Buffer
	code, err := s.conn.Exec(ctx, client.Command{
		ContainerID: workload, ExecID: "exec-1", Args: []string{"/bin/sh", "-c", "echo second process of $(hostname); exit 3"}, Env: []string{"PATH=/bin"},
	}, client.Streams{Stdout: &out, Stderr: &errOut})
	if err != nil {
		return err
	}
	s.report.check("exec runs a second process", code == 3 && strings.HasPrefix(out.String(), "second process of"),
		fmt.Sprintf("exit code %d, %q", code, out.String()+errOut.String()))

	_, err = s.conn.Exec(ctx, client.Command{
		ContainerID: workload, ExecID: "exec-2", Args: []string{"/bin/cat", "/etc/passwd"},
	}, client.Streams{})
	s.refused("exec of another command is refused with the reason", err, "ExecProcessRequest is blocked by policy", "not on the list")

	other := s.container()
	other.ID, other.Image = "other", fmt.Sprintf("%s:%d/demo/other:1", guestHost, s.registry.port)
	s.refused("another image is refused with the reason", s.conn.Create(ctx, other, time.Minute), "CreateContainerRequest is blocked by policy", "image")

	s.refused("the host cannot replace the policy", s.conn.SetPolicy(ctx, "package agent_policy\ndefault SetPolicyRequest := true\n"), "SetPolicyRequest is blocked by policy")
	return nil
}

// refused checks that err is a refusal that says each of the texts.
func (s *story) refused(what string, err error, texts ...string) {
	ok := err != nil
	for _, t := range texts {
		ok = ok && strings.Contains(err.Error(), t)
	}
	s.report.check(what, ok, fmt.Sprint(err))
}

func (s *story) stopPod(ctx context.Context) error {
	if err := s.conn.Signal(ctx, client.Process{ContainerID: workload}, syscall.SIGTERM); err != nil {
		return err
	}
	select {
	case err := <-s.guest.attached:
		if err != nil {
			return fmt.Errorf("wait for the container: %w", err)
		}
	case <-ctx.Done():
		return ctx.Err()
	}
	for _, id := range []string{workload, sandboxID} {
		if err := s.conn.Remove(ctx, id); err != nil {
			return err
		}
	}
	if err := s.conn.DestroySandbox(ctx); err != nil {
		return err
	}
	if err := s.guest.waitForPowerOff(ctx); err != nil {
		return err
	}
	s.report.check("the guest powers itself off", true, "ACPI power-off after DestroySandbox")
	lines, err := s.guest.timeline()
	if err != nil {
		return err
	}
	s.report.say("boot timeline:")
	for _, l := range lines {
		s.report.say("  %s", l)
	}
	s.report.check("the boot timeline is complete", len(lines) > 20, fmt.Sprintf("%d steps", len(lines)))
	err = s.conn.Close()
	s.conn = nil
	return err
}

// bootUntrusted runs the same pod against a broker that expects another guest.
func (s *story) bootUntrusted(ctx context.Context) error {
	if err := s.setReference(ctx, "another-guest"); err != nil {
		return err
	}
	g, err := s.startGuest(ctx, "guest-2")
	s.guest = g
	if err != nil {
		return err
	}
	cfg, err := g.clientTLS(s.ca, s.client)
	if err != nil {
		return err
	}
	addr, err := client.ParseAddress("tcp://" + net.JoinHostPort("127.0.0.1", strconv.Itoa(g.port)))
	if err != nil {
		return err
	}
	if s.conn, err = client.Dial(ctx, addr, cfg); err != nil {
		return err
	}
	if err := s.conn.CreateSandbox(ctx, sandboxID); err != nil {
		return err
	}
	err = s.conn.Create(ctx, s.container(), time.Minute)
	s.refused("under a wrong reference value the pod fails and names the stage", err, "resource-policy:")
	if err := s.conn.Check(ctx); err != nil {
		return fmt.Errorf("the guest no longer serves: %w", err)
	}
	if err := s.conn.DestroySandbox(ctx); err != nil {
		return err
	}
	return g.waitForPowerOff(ctx)
}
