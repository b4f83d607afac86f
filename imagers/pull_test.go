// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package imagers_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/opencontainers/runtime-spec/specs-go"
	"go.uber.org/goleak"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"cocoon/imagers"
	"cocoon/imagers/decrypt"
	"cocoon/imagers/imagetest"
	"cocoon/imagers/registry"
	"cocoon/imagers/store"
	"cocoon/imagers/unpack"
	"cocoon/imagers/verify"
	"cocoon/internal/stage"
)

func TestMain(m *testing.M) {
	if job := os.Getenv(pullVariable); job != "" {
		if err := benchChild(job); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	goleak.VerifyTestMain(m)
}

var kek = bytes.Repeat([]byte{7}, 32)

const kid = "kbs:///default/key/1"

// rig is a puller with its registry.
type rig struct {
	*imagers.Puller
	reg *imagetest.Registry
	dir string
}

func (r *rig) bundle() string { return filepath.Join(r.dir, "bundle") }

// newRig makes a puller that trusts a registry of its own.
func newRig(t testing.TB, edit func(*imagers.Config, *imagers.Deps)) *rig {
	t.Helper()
	needRoot(t)
	return rigIn(t, t.TempDir(), edit)
}

func rigIn(t testing.TB, dir string, edit func(*imagers.Config, *imagers.Deps)) *rig {
	t.Helper()
	reg := imagetest.Serve(t)
	c := imagers.Config{
		WorkDir: filepath.Join(dir, "work"), ExtraRootsPEM: []string{reg.CAPEM}, Platform: v1.Platform{Architecture: "amd64"},
		Retry: registry.Retry{First: time.Millisecond, Longest: 5 * time.Millisecond}, Log: slog.New(slog.DiscardHandler),
	}
	d := imagers.Deps{Keys: imagetest.Keys{kid: kek}}
	if edit != nil {
		edit(&c, &d)
	}
	p, err := imagers.New(c, d)
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{p, reg, dir}
	t.Cleanup(func() {
		if err := p.Release(context.Background(), r.bundle()); err != nil && !errors.Is(err, store.ErrNotMounted) {
			t.Error(err)
		}
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	})
	return r
}

func (r *rig) pull(t testing.TB, ref string) (imagers.Result, error) {
	t.Helper()
	return r.Pull(t.Context(), imagers.Request{Image: r.reg.Host + "/" + ref, Bundle: r.bundle()})
}

// nothingLeft fails if a failed pull left anything in the bundle or half a
// layer in the work directory.
func (r *rig) nothingLeft(t testing.TB) {
	t.Helper()
	if left, err := os.ReadDir(r.bundle()); err == nil && len(left) != 0 {
		t.Errorf("left in the bundle: %v", left)
	}
	for _, pattern := range []string{"work/layers/tmp-*", "work/overlay/*"} {
		if left, _ := filepath.Glob(filepath.Join(r.dir, pattern)); len(left) != 0 {
			t.Errorf("left in the work directory: %v", left)
		}
	}
}

func read(t testing.TB, name string) string {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Error(err)
	}
	return string(b)
}

// layers are three layers, one of each kind, of which the upper ones change
// and remove what the lower ones hold.
func layers(t testing.TB) []imagetest.Layer {
	base := imagetest.Tar(t, imagetest.Dir("etc/"), imagetest.File("etc/a", "base"), imagetest.File("etc/b", "base"),
		imagetest.Dir("old/"), imagetest.File("old/x", "x"), imagetest.Dir("bin/"), imagetest.File("bin/app", "app"))
	mid := imagetest.Tar(t, imagetest.File("etc/.wh.a", ""), imagetest.File("etc/b", "mid"), imagetest.Dir("old/"),
		imagetest.File("old/.wh..wh..opq", ""), imagetest.File("old/y", "y"))
	top := imagetest.Tar(t, imagetest.File("top", "top"), imagetest.Symlink("link", "/etc/b"))
	zst := imagetest.GzipLayer(t, mid)
	zst.MediaType, zst.Blob = v1.MediaTypeImageLayerZstd, imagetest.Zstd(t, mid)
	plain := imagetest.GzipLayer(t, top)
	plain.MediaType, plain.Blob = v1.MediaTypeImageLayer, top
	return []imagetest.Layer{imagetest.GzipLayer(t, base), zst, plain}
}

func checkTree(t testing.TB, root string) {
	t.Helper()
	for name, want := range map[string]string{"etc/b": "mid", "old/y": "y", "bin/app": "app", "top": "top"} {
		if got := read(t, filepath.Join(root, name)); got != want {
			t.Errorf("%s holds %q, want %q", name, got, want)
		}
	}
	for _, name := range []string{"etc/a", "old/x"} {
		if _, err := os.Lstat(filepath.Join(root, name)); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s was removed by a layer and is visible: %v", name, err)
		}
	}
}

func TestAnImageOfEveryKindOfLayerIsPulledByTagAndByDigest(t *testing.T) {
	t.Parallel()
	for _, encrypted := range []bool{false, true} {
		for _, byDigest := range []bool{false, true} {
			r := newRig(t, nil)
			ls := layers(t)
			if encrypted {
				for i := range ls {
					ls[i] = imagetest.Encrypt(t, ls[i], kek, kid)
				}
			}
			d := r.reg.Image(t, "org/app", "v1", ls, nil)
			ref := "org/app:v1"
			if byDigest {
				ref = "org/app:other@" + d.Digest.String()
			}
			res, err := r.pull(t, ref)
			if err != nil {
				t.Fatal(err)
			}
			if res.ManifestDigest != d.Digest || res.Config.Config.Cmd[0] != "serve" {
				t.Errorf("got %+v, want digest %s", res, d.Digest)
			}
			root := filepath.Join(r.bundle(), "rootfs")
			checkTree(t, root)
			if err := os.WriteFile(filepath.Join(root, "written"), []byte("x"), 0o600); err != nil {
				t.Errorf("the root is not writable: %v", err)
			}
			if err := r.Release(t.Context(), r.bundle()); err != nil {
				t.Error(err)
			}
			if left, err := os.ReadDir(root); err != nil || len(left) != 0 {
				t.Errorf("after release: %v, %v", left, err)
			}
		}
	}
}

func TestTheBundleHoldsTheRuntimeConfigurationOfTheImage(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	r.reg.Image(t, "app", "latest", layers(t), func(_ *v1.Manifest, c *v1.Image) {
		c.Config.Volumes = map[string]struct{}{"/data": {}}
		c.Config.WorkingDir = "/srv"
		c.Author = "someone"
	})
	if _, err := r.pull(t, "app"); err != nil {
		t.Fatal(err)
	}
	var spec specs.Spec
	if err := json.Unmarshal([]byte(read(t, filepath.Join(r.bundle(), "config.json"))), &spec); err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(spec.Process.Args, " "); got != "/bin/app serve" || spec.Process.Cwd != "/srv" || spec.Hostname != "image-rs" {
		t.Errorf("args %q, cwd %q, hostname %q", got, spec.Process.Cwd, spec.Hostname)
	}
	if spec.Mounts[0].Destination != "/data" || spec.Mounts[0].Type != "tmpfs" || spec.Mounts[1].Destination != "/proc" {
		t.Errorf("mounts start with %+v", spec.Mounts[:2])
	}
	if a := spec.Annotations; a["org.opencontainers.image.author"] != "someone" || a["l"] != "v" || a["org.opencontainers.image.os"] != "linux" {
		t.Errorf("annotations %v", a)
	}
}

func TestLayersAreFetchedOnceForImagesThatArePulledTogether(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	ls := layers(t)
	r.reg.Image(t, "a", "latest", ls, nil)
	r.reg.Image(t, "b", "latest", ls, nil)
	var group errgroup.Group
	before := r.reg.Requests.Load()
	for _, name := range []string{"a", "b", "a", "b"} {
		bundle := filepath.Join(t.TempDir(), "bundle")
		t.Cleanup(func() {
			if err := r.Release(context.Background(), bundle); err != nil {
				t.Error(err)
			}
		})
		group.Go(func() error {
			_, err := r.Pull(t.Context(), imagers.Request{Image: r.reg.Host + "/" + name, Bundle: bundle})
			return err
		})
	}
	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}
	// Per pull: ping, manifest, configuration; and each layer once.
	if got, want := r.reg.Requests.Load()-before, int64(4*3+3); got != want {
		t.Errorf("%d requests, want %d", got, want)
	}
}

// TestImagesThatMustNotRun lists what a registry or a host can get wrong or
// change on purpose. Every case must fail with its stage and leave nothing.
func TestImagesThatMustNotRun(t *testing.T) {
	t.Parallel()
	for name, tc := range badImages() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, tc.config)
			ls := layers(t)
			if tc.layers != nil {
				ls = tc.layers(t, ls)
			}
			r.reg.Image(t, "app", "latest", ls, tc.edit)
			ref := "app:latest"
			if tc.ref != "" {
				ref = tc.ref
			}
			if tc.intercept != nil {
				r.reg.SetIntercept(tc.intercept)
			}
			_, err := r.pull(t, ref)
			if err == nil {
				t.Fatal("the image was accepted")
			}
			if got := stage.Of(err); got != tc.stage {
				t.Errorf("stage is %q, want %q: %v", got, tc.stage, err)
			}
			if tc.is != nil && !errors.Is(err, tc.is) {
				t.Errorf("got %v, want %v", err, tc.is)
			}
			if !strings.HasPrefix(err.Error(), "Failed to pull image ") || !strings.Contains(err.Error(), tc.text) {
				t.Errorf("text is %q, want it to hold %q", err, tc.text)
			}
			r.nothingLeft(t)
		})
	}
}

type badImage struct {
	layers    func(testing.TB, []imagetest.Layer) []imagetest.Layer
	edit      func(*v1.Manifest, *v1.Image)
	config    func(*imagers.Config, *imagers.Deps)
	intercept func(http.ResponseWriter, *http.Request) bool
	ref       string
	stage     stage.Stage
	is        error
	text      string
}

// one replaces all layers by the changed first one.
func one(change func(testing.TB, *imagetest.Layer)) func(testing.TB, []imagetest.Layer) []imagetest.Layer {
	return func(t testing.TB, ls []imagetest.Layer) []imagetest.Layer {
		change(t, &ls[0])
		return ls[:1]
	}
}

// encrypted encrypts the first layer and changes the result.
func encrypted(change func(*imagetest.Layer)) func(testing.TB, []imagetest.Layer) []imagetest.Layer {
	return one(func(t testing.TB, l *imagetest.Layer) {
		*l = imagetest.Encrypt(t, *l, kek, kid)
		change(l)
	})
}

const decryptText = "Failed to decrypt the image layer, please ensure that the decryption key is placed and correct"

func badImages() map[string]badImage {
	cases := badDocuments()
	for _, more := range []map[string]badImage{badLayers(), badSurroundings(), badAnswers()} {
		maps.Copy(cases, more)
	}
	return cases
}

// badDocuments are images whose manifest or configuration is at fault.
func badDocuments() map[string]badImage {
	return map[string]badImage{
		"diff id of another layer": {edit: func(_ *v1.Manifest, c *v1.Image) { c.RootFS.DiffIDs[0] = c.RootFS.DiffIDs[1] },
			stage: stage.Digest, is: unpack.ErrDiffID},
		"fewer diff ids than layers": {edit: func(_ *v1.Manifest, c *v1.Image) { c.RootFS.DiffIDs = c.RootFS.DiffIDs[1:] }, stage: stage.Registry},
		"descriptor too short":       {edit: func(m *v1.Manifest, _ *v1.Image) { m.Layers[0].Size-- }, stage: stage.Digest},
		"descriptor too long":        {edit: func(m *v1.Manifest, _ *v1.Image) { m.Layers[0].Size++ }, stage: stage.Registry},
		"negative size":              {edit: func(m *v1.Manifest, _ *v1.Image) { m.Layers[0].Size = -1 }, stage: stage.Registry},
		"unknown layer type":         {edit: func(m *v1.Manifest, _ *v1.Image) { m.Layers[0].MediaType = "application/vnd.oci.empty.v1+json" }, stage: stage.Registry},
		"artifact":                   {edit: func(m *v1.Manifest, _ *v1.Image) { m.Config.MediaType = "application/vnd.example.thing" }, stage: stage.Registry},
		"unknown manifest type":      {edit: func(m *v1.Manifest, _ *v1.Image) { m.MediaType = "application/vnd.example" }, stage: stage.Registry},
		"other operating system":     {edit: func(_ *v1.Manifest, c *v1.Image) { c.OS = "windows" }, stage: stage.Registry},
		"no layers": {edit: func(m *v1.Manifest, c *v1.Image) { m.Layers = nil; c.RootFS.DiffIDs = nil },
			stage: stage.Registry},
	}
}

// badLayers are images with a layer at fault, or without its key.
func badLayers() map[string]badImage {
	return map[string]badImage{
		"truncated gzip": {layers: one(func(_ testing.TB, l *imagetest.Layer) { l.Blob = l.Blob[:len(l.Blob)-20] }),
			stage: stage.Unpack, is: unpack.ErrCorrupt},
		"gzip followed by garbage": {layers: one(func(_ testing.TB, l *imagetest.Layer) { l.Blob = append(l.Blob, "garbage"...) }),
			stage: stage.Unpack, is: unpack.ErrCorrupt},
		"truncated encrypted layer": {layers: encrypted(func(l *imagetest.Layer) { l.Blob = l.Blob[:len(l.Blob)-1] }),
			stage: stage.Decrypt, is: decrypt.ErrHMAC, text: decryptText},
		"ciphertext changed": {layers: encrypted(func(l *imagetest.Layer) { l.Blob[len(l.Blob)-1] ^= 1 }),
			stage: stage.Decrypt, is: decrypt.ErrHMAC, text: decryptText},
		"encrypted without annotations": {layers: encrypted(func(l *imagetest.Layer) { l.Annotations = nil }), stage: stage.Decrypt, text: decryptText},
		"encrypted but called plain": {layers: encrypted(func(l *imagetest.Layer) { l.MediaType = v1.MediaTypeImageLayerGzip }),
			stage: stage.Unpack, is: unpack.ErrCorrupt},
		"plain but called encrypted": {layers: func(t testing.TB, ls []imagetest.Layer) []imagetest.Layer {
			e := imagetest.Encrypt(t, ls[0], kek, kid)
			e.Blob = ls[0].Blob
			return []imagetest.Layer{e}
		}, stage: stage.Decrypt, is: decrypt.ErrHMAC, text: decryptText},
		"wrong key": {layers: encrypted(func(*imagetest.Layer) {}),
			config: func(_ *imagers.Config, d *imagers.Deps) { d.Keys = imagetest.Keys{kid: bytes.Repeat([]byte{8}, 32)} },
			stage:  stage.Decrypt, text: decryptText},
		"key missing": {layers: encrypted(func(*imagetest.Layer) {}),
			config: func(_ *imagers.Config, d *imagers.Deps) { d.Keys = imagetest.Keys{} }, stage: stage.Decrypt, text: decryptText},
		"no key unwrapper": {layers: encrypted(func(*imagetest.Layer) {}),
			config: func(_ *imagers.Config, d *imagers.Deps) { d.Keys = nil }, stage: stage.Decrypt, text: decryptText},
		"key refused by the broker": {layers: encrypted(func(*imagetest.Layer) {}),
			config: func(_ *imagers.Config, d *imagers.Deps) { d.Keys = denied{} }, stage: stage.AttestDenied, text: decryptText},
		"escape by dots": {layers: func(t testing.TB, _ []imagetest.Layer) []imagetest.Layer {
			return []imagetest.Layer{imagetest.GzipLayer(t, imagetest.Tar(t, imagetest.File("../x", "x")))}
		}, stage: stage.Unpack, is: unpack.ErrRefused},
	}
}

// badSurroundings are sound images that are named wrongly, or may not run here.
func badSurroundings() map[string]badImage {
	return map[string]badImage{
		"illegal reference": {ref: "UPPER/Case", stage: stage.Config, is: registry.ErrReference, text: "Illegal image reference"},
		"no such tag":       {ref: "app:other", stage: stage.NotFound},
		"wrong digest": {ref: "app@sha256:" + strings.Repeat("0", 64), stage: stage.Digest, intercept: func(w http.ResponseWriter, r *http.Request) bool {
			if strings.Contains(r.URL.Path, "/manifests/") {
				_, _ = w.Write([]byte(`{"schemaVersion":2}`))
				return true
			}
			return false
		}},
		"denied by policy": {config: func(c *imagers.Config, _ *imagers.Deps) { c.Policy = `{"default":[{"type":"reject"}]}` },
			stage: stage.ImagePolicy, is: verify.ErrDenied, text: "Image policy rejected: Denied by policy"},
		"policy that cannot be checked": {config: func(c *imagers.Config, _ *imagers.Deps) {
			c.Policy = `{"default":[{"type":"insecureAcceptAnything"},{"type":"sigstoreSigned"}]}`
		}, stage: stage.ImagePolicy, is: verify.ErrPolicy},
		"policy that cannot be fetched":      {config: func(c *imagers.Config, _ *imagers.Deps) { c.PolicyURI = "kbs:///a/b/c" }, stage: stage.Config},
		"credentials that cannot be fetched": {config: func(c *imagers.Config, _ *imagers.Deps) { c.AuthURI = "/does/not/exist" }, stage: stage.Config},
		"unknown certificate":                {config: func(c *imagers.Config, _ *imagers.Deps) { c.ExtraRootsPEM = nil }, stage: stage.TLS},
	}
}

// badAnswers are sound images of a registry that does not give their layers.
func badAnswers() map[string]badImage {
	cases := map[string]badImage{}
	for name, status := range map[string]int{"unauthorized": 401, "forbidden": 403, "server error": 500, "teapot": 418} {
		st := stage.Registry
		if status < 404 {
			st = stage.Unauthorized
		}
		cases[name] = badImage{stage: st, intercept: func(w http.ResponseWriter, r *http.Request) bool {
			if strings.Contains(r.URL.Path, "/blobs/") {
				w.WriteHeader(status)
				return true
			}
			return false
		}}
	}
	return cases
}

// denied is a key broker that refuses the guest.
type denied struct{}

func (denied) UnwrapKey(context.Context, []byte) ([]byte, error) {
	return nil, stage.Errorf(stage.AttestDenied, "evidence was refused")
}

func TestAnImageThatTheAnnotationDoesNotNameIsRefused(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	r.reg.Image(t, "app", "latest", layers(t), nil)
	_, err := r.Pull(t.Context(), imagers.Request{Image: r.reg.Host + "/app", Bundle: r.bundle(),
		Metadata: map[string]string{"io.kubernetes.cri.image-name": r.reg.Host + "/other"}})
	if stage.Of(err) != stage.Policy {
		t.Errorf("got %v", err)
	}
}

func TestAFullDiskIsReportedAndCleanedUp(t *testing.T) {
	t.Parallel()
	r := rigIn(t, tmpfs(t, "3m"), nil)
	big := imagetest.Tar(t, imagetest.File("a", strings.Repeat("a", 2<<20)), imagetest.File("b", strings.Repeat("b", 2<<20)))
	r.reg.Image(t, "big", "latest", []imagetest.Layer{imagetest.GzipLayer(t, big)}, nil)
	_, err := r.pull(t, "big")
	if stage.Of(err) != stage.Unpack || !errors.Is(err, unix.ENOSPC) || !strings.Contains(err.Error(), "storage is full") {
		t.Errorf("got %v", err)
	}
	r.nothingLeft(t)
	r.reg.Image(t, "small", "latest", layers(t), nil)
	if _, err := r.pull(t, "small"); err != nil {
		t.Errorf("a small image after the failure: %v", err)
	}
}

func TestUnusedLayersMakeRoomForTheNextImage(t *testing.T) {
	t.Parallel()
	r := rigIn(t, tmpfs(t, "3m"), nil)
	for _, name := range []string{"a", "b", "c"} {
		data := imagetest.Tar(t, imagetest.File(name, strings.Repeat(name, 2<<20)))
		r.reg.Image(t, name, "latest", []imagetest.Layer{imagetest.GzipLayer(t, data)}, nil)
		if _, err := r.pull(t, name); err != nil {
			t.Fatal(err)
		}
		if err := r.Release(t.Context(), r.bundle()); err != nil {
			t.Fatal(err)
		}
		if err := os.RemoveAll(r.bundle()); err != nil {
			t.Fatal(err)
		}
	}
}

func TestACancelledPullEndsAndLeavesNothing(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	r.reg.Image(t, "app", "latest", layers(t), nil)
	ctx, cancel := context.WithCancel(t.Context())
	r.reg.SetIntercept(func(w http.ResponseWriter, req *http.Request) bool {
		if !strings.Contains(req.URL.Path, "/blobs/") {
			return false
		}
		cancel()
		<-req.Context().Done()
		return true
	})
	_, err := r.Pull(ctx, imagers.Request{Image: r.reg.Host + "/app", Bundle: r.bundle()})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	r.nothingLeft(t)
}

func TestAnExistingConfigurationIsNotOverwritten(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	r.reg.Image(t, "app", "latest", layers(t), nil)
	if err := os.MkdirAll(r.bundle(), 0o755); err != nil {
		t.Fatal(err)
	}
	config := filepath.Join(r.bundle(), "config.json")
	if err := os.WriteFile(config, []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := r.pull(t, "app"); stage.Of(err) != stage.Mount || !errors.Is(err, os.ErrExist) {
		t.Errorf("got %v", err)
	}
	if got := read(t, config); got != "mine" {
		t.Errorf("configuration is %q", got)
	}
}

// resources are secrets of the owner.
type resources map[string]string

func (r resources) Resource(_ context.Context, uri string) ([]byte, error) {
	v, ok := r[uri]
	if !ok {
		return nil, stage.Errorf(stage.NotFound, "no resource %q", uri)
	}
	return []byte(v), nil
}

func TestCredentialsAndPolicyComeFromTheKeyBroker(t *testing.T) {
	t.Parallel()
	res := resources{"kbs:///default/security-policy/test": `{"default":[{"type":"insecureAcceptAnything"}],"transports":{}}`}
	r := newRig(t, func(c *imagers.Config, d *imagers.Deps) {
		c.AuthURI, c.PolicyURI = "kbs:///default/credential/test", "kbs:///default/security-policy/test"
		d.Resources = res
	})
	r.reg.Image(t, "app", "latest", layers(t), nil)
	r.reg.SetIntercept(func(w http.ResponseWriter, req *http.Request) bool {
		if user, password, _ := req.BasicAuth(); user == "u" && password == "p:w" {
			return false
		}
		w.Header().Set("WWW-Authenticate", `Basic realm="test"`)
		w.WriteHeader(http.StatusUnauthorized)
		return true
	})
	if _, err := r.pull(t, "app"); stage.Of(err) != stage.NotFound {
		t.Errorf("without the resource: %v", err)
	}
	res["kbs:///default/credential/test"] = `{"auths":{"` + r.reg.Host + `":{"auth":"dTpwOnc="}}}`
	if _, err := r.pull(t, "app"); err != nil {
		t.Errorf("with the resource: %v", err)
	}
}

func TestAWorkDirectoryIsUsedByOnePullerAndStartsEmpty(t *testing.T) {
	t.Parallel()
	needRoot(t)
	dir := t.TempDir()
	stale := filepath.Join(dir, "layers", "tmp-1", "deep")
	if err := os.MkdirAll(stale, 0o755); err != nil {
		t.Fatal(err)
	}
	p, err := imagers.New(imagers.Config{WorkDir: dir, Log: slog.New(slog.DiscardHandler)}, imagers.Deps{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	}()
	if left, err := os.ReadDir(filepath.Join(dir, "layers")); err != nil || len(left) != 0 {
		t.Errorf("stale layers: %v, %v", left, err)
	}
	if _, err := imagers.New(imagers.Config{WorkDir: dir}, imagers.Deps{}); !errors.Is(err, store.ErrInUse) {
		t.Errorf("a second puller: %v", err)
	}
}
