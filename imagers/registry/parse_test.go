// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

const someDigest = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"

func TestTheLongestMatchingCredentialIsUsed(t *testing.T) {
	t.Parallel()
	c, err := ParseCredentials([]byte(`{"auths":{
		"r.example.com":{"auth":"aG9zdDpw"}, "r.example.com/org":{"auth":"b3JnOnA="}, "r.example.com/org/app":{"username":"app","password":"p"},
		"https://old.example.com/v1/":{"auth":"b2xkOnA="}, "https://` + name.DefaultRegistry + `/v1/":{"auth":"aHViOnA="}, "helper.example.com":{}}}`))
	if err != nil {
		t.Fatal(err)
	}
	for image, want := range map[string]string{
		"r.example.com/x": "host", "r.example.com/org/x": "org", "r.example.com/org/app": "app", "r.example.com/org/app2": "org",
		"r.example.com/organ/x": "host", "old.example.com/x/y": "old", "busybox": "hub", "helper.example.com/x": "", "other.example.com/x": "",
		"evil-r.example.com/x": "", "r.example.com.evil.example/x": "", "r.example.com:444/x": "",
	} {
		ref, err := ParseReference(image)
		if err != nil {
			t.Fatal(err)
		}
		got, err := authn.Authorization(t.Context(), c.For(ref.Context()))
		if err != nil || got.Username != want {
			t.Errorf("%s: user %q, want %q (%v)", image, got.Username, want, err)
		}
	}
}

func TestCredentialFilesThatAreNoneAreRefusedWithoutQuotingThem(t *testing.T) {
	t.Parallel()
	for _, s := range []string{"", "{}", "[]", `{"auths":[]}`, `{"auths":{"a":{"auth":"hunter2!"}}}`, `{"auths":{"a":{"auth":"aHVudGVyMg=="}}}`, `{"auths":{"a":{"auth":hunter2}}}`} {
		if _, err := ParseCredentials([]byte(s)); err == nil || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%q: %v", s, err)
		}
	}
	if c, err := ParseCredentials([]byte(`{"auths":{}}`)); err != nil || c.For(name.Repository{}) != authn.Anonymous {
		t.Errorf("the empty file: %v", err)
	}
}

func TestReferences(t *testing.T) {
	t.Parallel()
	for s, want := range map[string]string{
		"busybox": name.DefaultRegistry + "/library/busybox:latest", "r.example.com:5000/a/b": "r.example.com:5000/a/b:latest",
		"r.example.com/a:t@" + someDigest: "r.example.com/a@" + someDigest,
	} {
		if ref, err := ParseReference(s); err != nil || ref.Name() != want {
			t.Errorf("%q: %v, %v", s, ref, err)
		}
	}
	for _, s := range []string{"", "A/b", "r.example.com/a:", "r.example.com/a@sha256:12", "a b", "a\"b", "a\\b", "a\nb", "r.example.com/" + strings.Repeat("a", 2000), "http://r.example.com/a"} {
		if ref, err := ParseReference(s); err == nil {
			t.Errorf("%q was accepted as %v", s, ref)
		}
	}
}

const manifest = `{"schemaVersion":2,"mediaType":"` + v1.MediaTypeImageManifest + `","config":{"mediaType":"` + v1.MediaTypeImageConfig + `","digest":"` + someDigest +
	`","size":2},"layers":[{"mediaType":"` + v1.MediaTypeImageLayerGzip + `","digest":"` + someDigest + `","size":0}]}`

func TestManifestsThatAreAmbiguousOrOldAreRefused(t *testing.T) {
	t.Parallel()
	if doc, err := parseDocument([]byte(manifest), "text/plain"); err != nil || doc.manifest == nil {
		t.Fatalf("the good one: %v", err)
	}
	for _, s := range []string{
		"", "null", "[]", `{"schemaVersion":1}`, strings.Replace(manifest, `"layers"`, `"manifests":[],"layers"`, 1), strings.Replace(manifest, `"size":0`, `"size":-1`, 1),
		strings.Replace(manifest, someDigest, "sha256:../../x", 1), strings.Replace(manifest, v1.MediaTypeImageConfig, "application/json", 1),
		strings.Replace(manifest, `"size":0`, `"size":1e30`, 1), manifest + "x",
	} {
		if _, err := parseDocument([]byte(s), v1.MediaTypeImageManifest); err == nil {
			t.Errorf("%q was accepted", s)
		}
	}
}

func TestLayerTypes(t *testing.T) {
	t.Parallel()
	for s, want := range map[string]bool{
		"application/vnd.oci.image.layer.v1.tar+zstd+encrypted": true, "application/vnd.docker.image.rootfs.diff.tar.gzip+encrypted": true, "application/vnd.docker.image.rootfs.diff.tar.gzip": false,
	} {
		if got, err := layerType(s); err != nil || got != want {
			t.Errorf("%s: %v, %v", s, got, err)
		}
	}
	for _, s := range []string{"", "application/vnd.oci.image.layer.v1.tar+gzip+encrypted+encrypted", "application/vnd.oci.image.layer.v1.tar+bzip2", "+encrypted"} {
		if _, err := layerType(s); err == nil {
			t.Errorf("%q was accepted", s)
		}
	}
}

func FuzzManifest(f *testing.F) {
	f.Add([]byte(manifest), "")
	f.Add([]byte(`{"schemaVersion":2,"manifests":[{"digest":"`+someDigest+`","platform":{"os":"linux","architecture":"amd64"}}]}`), v1.MediaTypeImageIndex)
	f.Fuzz(func(t *testing.T, data []byte, mediaType string) {
		doc, err := parseDocument(data, mediaType)
		if err != nil {
			return
		}
		if (doc.manifest == nil) == (doc.index == nil) {
			t.Fatal("neither or both")
		}
		if doc.index != nil {
			if d, err := choose(doc.index, v1.Platform{OS: "linux", Architecture: "amd64"}); err == nil && d.Digest.Validate() != nil {
				t.Errorf("digest %q", d.Digest)
			}
			return
		}
		if n := len(doc.manifest.Layers); n == 0 || n > maxLayers {
			t.Errorf("%d layers", n)
		}
	})
}

func FuzzConfig(f *testing.F) {
	f.Add([]byte(`{"os":"linux","architecture":"amd64","rootfs":{"type":"layers","diff_ids":["` + someDigest + `"]},"config":{"Env":["a=b"]}}`))
	doc, err := parseDocument([]byte(manifest), "")
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		if _, layers, err := parseConfig(data, doc.manifest); err == nil && (len(layers) != 1 || layers[0].DiffID.Validate() != nil) {
			t.Errorf("layers %+v", layers)
		}
	})
}

func FuzzCredentials(f *testing.F) {
	f.Add([]byte(`{"auths":{"r.example.com/org":{"auth":"dTpw"},"https://x/v1/":{"identitytoken":"t"}}}`), "r.example.com/org/app")
	f.Fuzz(func(t *testing.T, data []byte, image string) {
		c, err := ParseCredentials(data)
		if err != nil {
			return
		}
		ref, err := ParseReference(image)
		if err != nil {
			return
		}
		if c.For(ref.Context()) == nil {
			t.Error("no authenticator")
		}
	})
}

func FuzzReference(f *testing.F) {
	for _, s := range []string{"busybox", "r.example.com:5000/a/b:t@" + someDigest, "[::1]:5000/a", "a\"b"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		ref, err := ParseReference(s)
		if err == nil && strings.ContainsAny(ref.Name(), "\"\\\n\x00 ") {
			t.Errorf("%q became %q", s, ref.Name())
		}
	})
}
