// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package guest_test

import (
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"os"
	"testing"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"cocoon/imagers/imagetest"
)

const (
	keyPath    = "default/key/layer"
	keyID      = "kbs:///" + keyPath
	secretPath = "default/text/greeting"
)

// site is everything that a guest reaches over the network.
type site struct {
	broker   *broker
	registry *imagetest.Registry
	kek      []byte // wraps layer keys; held by the broker as keyPath
	secret   string // held by the broker as secretPath
}

func newSite(t *testing.T) *site {
	t.Helper()
	return newSiteWith(t, startBroker(t, nil))
}

func newSiteWith(t *testing.T, b *broker) *site {
	t.Helper()
	needRoot(t)
	s := &site{broker: b, registry: imagetest.Serve(t), kek: make([]byte, 32), secret: "the owner's secret " + rand.Text()}
	if _, err := rand.Read(s.kek); err != nil {
		t.Fatal(err)
	}
	b.hold(t, keyPath, s.kek)
	b.hold(t, secretPath, []byte(s.secret))
	return s
}

// secrets are texts that must be seen nowhere.
func (s *site) secrets() []string {
	return []string{
		s.secret, string(s.kek), hex.EncodeToString(s.kek),
		base64.StdEncoding.EncodeToString(s.kek), base64.RawURLEncoding.EncodeToString(s.kek),
	}
}

func (s *site) ref(name string) string { return s.registry.Host + "/" + name }

// plain stores an image of busybox and returns its reference.
func (s *site) plain(t *testing.T, repo string, more ...imagetest.Entry) string {
	t.Helper()
	s.image(t, repo, imagetest.GzipLayer(t, busyboxTar(t, more...)))
	return s.ref(repo + ":1")
}

// encrypted stores an encrypted image of busybox and returns its reference and
// its layer.
func (s *site) encrypted(t *testing.T, repo string) (string, imagetest.Layer) {
	t.Helper()
	l := imagetest.Encrypt(t, imagetest.GzipLayer(t, busyboxTar(t)), s.kek, keyID)
	s.image(t, repo, l)
	return s.ref(repo + ":1"), l
}

func (s *site) image(t *testing.T, repo string, layers ...imagetest.Layer) v1.Descriptor {
	t.Helper()
	return s.registry.Image(t, repo, "1", layers, nil)
}

// busyboxTar is a root file system with a static busybox and its usual links.
func busyboxTar(t *testing.T, more ...imagetest.Entry) []byte {
	t.Helper()
	program, err := os.ReadFile("/bin/busybox")
	if err != nil {
		t.Skipf("a static busybox is needed (Debian: busybox-static): %v", err)
	}
	file := imagetest.File("bin/busybox", string(program))
	file.Mode = 0o755
	entries := []imagetest.Entry{imagetest.Dir("bin/"), imagetest.Dir("etc/"), file}
	for _, name := range []string{"sh", "cat", "wget", "sleep", "echo", "true"} {
		entries = append(entries, imagetest.Symlink("bin/"+name, "busybox"))
	}
	return imagetest.Tar(t, append(entries, more...)...)
}

func needRoot(t *testing.T) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("root is needed to run containers")
	}
}
