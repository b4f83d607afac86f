// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package guest_test

import (
	"bytes"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"cocoon/imagers/imagetest"
	"cocoon/internal/stage"
)

// replaceBlob serves other bytes for one blob.
func (s *site) replaceBlob(d digest.Digest, serve func(w http.ResponseWriter, r *http.Request)) {
	s.registry.SetIntercept(func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method != http.MethodGet || !strings.HasSuffix(r.URL.Path, "/blobs/"+d.String()) {
			return false
		}
		serve(w, r)
		return true
	})
}

func TestALayerThatWasChangedIsReported(t *testing.T) {
	t.Parallel()
	for name, at := range map[string]int{"at the start": 0, "in the middle": 2, "at the end": 1} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSite(t)
			l := imagetest.GzipLayer(t, busyboxTar(t))
			d := s.image(t, "app", l)
			changed := slices.Clone(l.Blob)
			i := 20
			if at > 0 {
				i = len(changed)/at - 10
			}
			changed[i] ^= 0x40
			sum := digest.FromBytes(l.Blob)
			s.replaceBlob(sum, func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(changed) })
			bad := s.ref("app@" + d.Digest.String())
			refusal{
				image: bad, good: s.plain(t, "good", imagetest.File("etc/good", "")), stage: stage.Digest, names: []string{bad, sum.String()},
			}.check(t, s, start(t, s.settings()))
		})
	}
}

func TestAnEncryptedLayerThatWasCutIsReported(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	content := busyboxTar(t)
	whole := imagetest.Encrypt(t, imagetest.Layer{MediaType: v1.MediaTypeImageLayer, Blob: content, DiffID: digest.FromBytes(content)}, s.kek, keyID)
	whole.Blob = whole.Blob[:len(whole.Blob)/2]
	s.image(t, "app", whole) // under the digest of what is left
	refusal{
		image: s.ref("app:1"), good: s.plain(t, "good"), stage: stage.Decrypt,
		names: []string{s.ref("app:1"), digest.FromBytes(whole.Blob).String()},
	}.check(t, s, start(t, s.settings()))
}

func TestAnEncryptedLayerWhoseTransferEndsEarlyIsReported(t *testing.T) {
	t.Parallel()
	for name, answer := range map[string]http.HandlerFunc{
		"short answer": func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusOK) },
		"cut connection": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", strconv.Itoa(1<<20))
			w.WriteHeader(http.StatusOK)
			_ = http.NewResponseController(w).Flush()
			panic(http.ErrAbortHandler) //nolint:forbidigo // net/http's way to cut a connection
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSite(t)
			bad, l := s.encrypted(t, "app")
			sum := digest.FromBytes(l.Blob)
			s.replaceBlob(sum, answer)
			refusal{
				image: bad, good: s.plain(t, "good"), stage: stage.Registry, names: []string{bad, sum.String()},
			}.check(t, s, start(t, s.settings()))
		})
	}
}

func TestAFullImageStoreIsReported(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	large := imagetest.File("large", string(bytes.Repeat([]byte{0}, 12<<20)))
	bad := s.plain(t, "app", large)
	o := s.settings()
	o.storeSize = "8m"
	refusal{image: bad, good: s.plain(t, "good"), stage: stage.Unpack, names: []string{bad, "full"}}.check(t, s, start(t, o))
}
