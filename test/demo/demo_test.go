// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"cocoon/agent/podvm"
	"cocoon/agent/policy"
	"cocoon/attest"
	"cocoon/internal/config"

	"cocoon/test/pki"
)

func TestAReportFailsWhenAnyCheckDid(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		tell  func(*report)
		fails string
	}{
		"nothing checked": {func(*report) {}, "nothing was checked"},
		"all held":        {func(r *report) { r.check("a", true, "x") }, ""},
		"one did not":     {func(r *report) { r.check("a", true, "x"); r.check("b", false, "y") }, "1 of 2"},
		"a step failed":   {func(r *report) { _ = r.chapter("Do it", func() error { return errors.New("no") }) }, "1 of 1"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var out bytes.Buffer
			r := &report{out: &out}
			tc.tell(r)
			err := r.failed()
			if (err == nil) != (tc.fails == "") || err != nil && !strings.Contains(err.Error(), tc.fails) {
				t.Errorf("got %v, want %q", err, tc.fails)
			}
			r.table()
		})
	}
}

func TestALongLineKeepsItsEnd(t *testing.T) {
	t.Parallel()
	got := oneLine("begin " + strings.Repeat("x ", 200) + "the cause")
	if !strings.HasPrefix(got, "begin") || !strings.HasSuffix(got, "the cause") || len(got) > maxSeen+10 {
		t.Errorf("got %q", got)
	}
}

func TestTheBrokersAddressIsInItsFirstLine(t *testing.T) {
	t.Parallel()
	for line, want := range map[string]string{
		"listening on https://127.0.0.1:4242": "127.0.0.1:4242",
		"listening on https://[::1]:4242/":    "[::1]:4242",
		"listening":                           "",
		"listening on https://127.0.0.1:0":    "",
	} {
		lines := make(chan string, 1)
		lines <- line
		if got, err := listenAddress(t.Context(), lines); got != want || (err == nil) != (want != "") {
			t.Errorf("%q gives %q, %v; want %q", line, got, err, want)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := listenAddress(ctx, make(chan string)); !errors.Is(err, context.Canceled) {
		t.Errorf("after Ctrl-C: %v", err)
	}
}

func TestABufferIsWaitedOnUntilTextEndOrLimit(t *testing.T) {
	t.Parallel()
	b := &lockedBuffer{}
	go func() { fmt.Fprint(b, "hel"); fmt.Fprint(b, "lo") }()
	if s, err := b.waitFor(t.Context(), "hello", time.Minute); err != nil || s != "hello" {
		t.Errorf("got %q, %v", s, err)
	}
	ended := make(chan struct{})
	close(ended)
	if _, err := b.waitFor(t.Context(), "more", time.Minute, ended); err == nil {
		t.Error("the end of the source went unnoticed")
	}
	if _, err := b.waitFor(t.Context(), "more", time.Nanosecond); err == nil {
		t.Error("the limit went unnoticed")
	}
}

// testStory is a story with keys, far enough to make user-data.
func testStory(t *testing.T) *story {
	t.Helper()
	s := &story{dir: t.TempDir(), image: "10.0.2.2:5000/demo/busybox@sha256:" + strings.Repeat("a", 64)}
	if err := s.makeKeys(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.broker = &broker{dir: t.TempDir(), addr: "127.0.0.1:4242"}
	if err := os.WriteFile(filepath.Join(s.broker.dir, "ca.crt"), s.ca.PEM, 0o600); err != nil {
		t.Fatal(err)
	}
	return s
}

func TestTheGuestUnderstandsTheUserData(t *testing.T) {
	t.Parallel()
	s := testStory(t)
	pair, err := s.ca.Server("guest-1")
	if err != nil {
		t.Fatal(err)
	}
	disk, err := s.writeUserData(t.Context(), "guest-1", pair)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := os.Symlink(disk, filepath.Join(dir, "vda")); err != nil {
		t.Fatal(err)
	}
	data, _, err := podvm.Disks{Dir: dir, AnyFile: true}.UserData()
	if err != nil {
		t.Fatal(err)
	}
	p, err := podvm.Parse(data, podvm.Options{})
	if err != nil || !p.HasInitdata {
		t.Fatalf("parse: %v, initdata %v", err, p != nil && p.HasInitdata)
	}
	if _, err := podvm.ParseAPF(p.APF); err != nil {
		t.Error(err)
	}
	aa, err := attest.ParseConfig(p.AA)
	if err != nil || aa.Tokens.KBS == nil || aa.Tokens.KBS.URL != "https://10.0.2.2:4242" || len(aa.Unknown) > 0 {
		t.Errorf("aa.toml: %+v, %v", aa, err)
	}
	cfg, err := config.Load(config.Inputs{CDH: &config.File{Data: p.CDH, From: "initdata"}})
	if err != nil || len(cfg.Warnings) > 0 || len(cfg.CDH.Image.ExtraRoots) != 1 {
		t.Errorf("cdh.toml: %+v, %v", cfg, err)
	}
	if err := policy.New(policy.Config{}).Load(t.Context(), string(p.Policy)); err != nil {
		t.Error(err)
	}
}

func TestTheLayerIsEncrypted(t *testing.T) {
	t.Parallel()
	s := testStory(t)
	plain := bytes.Repeat([]byte("plain text of a layer"), 1000)
	l, err := encryptLayer(plain, s.key)
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(l.data, plain[:64]) || !strings.HasSuffix(l.desc.MediaType, "+encrypted") {
		t.Errorf("media type %q, plain text inside: %v", l.desc.MediaType, bytes.Contains(l.data, plain[:64]))
	}
	packet, err := base64.StdEncoding.DecodeString(l.desc.Annotations[keyProviderAnnotation])
	if err != nil || !bytes.Contains(packet, []byte(s.key.id)) || bytes.Contains(packet, []byte(base64.StdEncoding.EncodeToString(s.key.kek))) {
		t.Errorf("annotation %q, %v", packet, err)
	}
}

func TestTheClientCertificateIsItsOwnAnchorAndNoAuthority(t *testing.T) {
	t.Parallel()
	pair, err := pki.SelfSignedClient("adaptor")
	if err != nil {
		t.Fatal(err)
	}
	cert, err := tls.X509KeyPair(pair.Cert, pair.Key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(cert.Certificate[0])
	if err != nil || leaf.IsCA {
		t.Errorf("is a CA: %v, %v", leaf.IsCA, err)
	}
}
