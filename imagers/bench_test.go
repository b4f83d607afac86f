// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package imagers_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"

	"cocoon/imagers"
	"cocoon/imagers/imagetest"
)

// tmpfs mounts a tmpfs of the given size, or skips without root.
func tmpfs(t testing.TB, size string) string {
	t.Helper()
	needRoot(t)
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size="+size); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir
}

func needRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: owners, devices, trusted.* attributes and overlay mounts")
	}
}

// usrLayers makes five tars of about 65 MB each of the files below /usr.
func usrLayers(b *testing.B) (layers []imagetest.Layer, total int64) {
	b.Helper()
	const perLayer = 65 << 20
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	flush := func() {
		if err := w.Close(); err != nil {
			b.Fatal(err)
		}
		total += int64(buf.Len())
		layers = append(layers, imagetest.GzipLayer(b, buf.Bytes()))
		buf = bytes.Buffer{}
		w = tar.NewWriter(&buf)
	}
	err := filepath.WalkDir("/usr", func(path string, d fs.DirEntry, err error) error {
		if err != nil || len(layers) == 5 {
			return errors.Join(err, filepath.SkipAll)
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		if !info.Mode().IsRegular() && !info.IsDir() || info.Size() > 24<<20 {
			return nil
		}
		hdr, err := tar.FileInfoHeader(info, "")
		if err != nil {
			return err
		}
		hdr.Name = path[1:]
		if err := w.WriteHeader(hdr); err != nil {
			return err
		}
		if info.Mode().IsRegular() {
			f, err := os.Open(path)
			if err != nil {
				return err
			}
			_, err = io.Copy(w, f)
			if err := errors.Join(err, f.Close()); err != nil {
				return err
			}
		}
		if buf.Len() > perLayer {
			flush()
		}
		return nil
	})
	if err != nil && !errors.Is(err, filepath.SkipAll) {
		b.Fatal(err)
	}
	if len(layers) < 5 {
		b.Skip("the machine has too few files below /usr")
	}
	return layers, total
}

// BenchmarkPull pulls an image of five layers, about 330 MB unpacked, from a
// registry on the loopback interface into a tmpfs. The puller is a process of
// its own, so that its memory can be told from the registry's: added-MiB is
// the growth of its peak resident memory over that before the pull.
func BenchmarkPull(b *testing.B) {
	dir := tmpfs(b, "2g")
	reg := imagetest.Serve(b)
	layers, total := usrLayers(b)
	for name, change := range map[string]func(*imagetest.Layer){
		"gzip":      func(*imagetest.Layer) {},
		"encrypted": func(l *imagetest.Layer) { *l = imagetest.Encrypt(b, *l, kek, kid) },
		"zstd": func(l *imagetest.Layer) {
			r, err := gzip.NewReader(bytes.NewReader(l.Blob))
			if err != nil {
				b.Fatal(err)
			}
			data, err := io.ReadAll(r)
			if err != nil {
				b.Fatal(err)
			}
			l.MediaType, l.Blob = v1.MediaTypeImageLayerZstd, imagetest.Zstd(b, data)
		},
	} {
		b.Run(name, func(b *testing.B) {
			ls := slices.Clone(layers)
			for i := range ls {
				change(&ls[i])
			}
			reg.Image(b, "bench", name, ls, nil)
			b.SetBytes(total)
			var spent time.Duration
			var added, peak int64
			for b.Loop() {
				m := pullInChild(b, pullJob{Dir: dir, CA: reg.CAPEM, Image: reg.Host + "/bench:" + name})
				spent += m.Wall
				added, peak = max(added, m.After-m.Before), max(peak, m.After)
			}
			b.ReportMetric(float64(spent.Milliseconds())/float64(b.N), "pull-ms")
			b.ReportMetric(float64(added)/1024, "added-MiB")
			b.ReportMetric(float64(peak)/1024, "peak-MiB")
		})
	}
}

// pullJob is what the child is to do, as JSON in the variable pullVariable.
type pullJob struct{ Dir, CA, Image string }

// pullMeasure is what it prints. Memory is in KiB.
type pullMeasure struct {
	Wall          time.Duration
	Before, After int64
}

const pullVariable = "COCOON_BENCH_PULL"

func pullInChild(b *testing.B, job pullJob) pullMeasure {
	b.Helper()
	text, err := json.Marshal(job)
	if err != nil {
		b.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		b.Fatal(err)
	}
	cmd := exec.CommandContext(b.Context(), self)
	cmd.Env = append(os.Environ(), pullVariable+"="+string(text))
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		b.Fatal(err)
	}
	var m pullMeasure
	if err := json.Unmarshal(out, &m); err != nil {
		b.Fatal(err)
	}
	return m
}

// benchChild is the child's main function.
func benchChild(text string) (err error) {
	var job pullJob
	if err := json.Unmarshal([]byte(text), &job); err != nil {
		return err
	}
	p, err := imagers.New(imagers.Config{
		WorkDir: filepath.Join(job.Dir, "work"), ExtraRootsPEM: []string{job.CA}, Log: slog.New(slog.DiscardHandler),
	}, imagers.Deps{Keys: imagetest.Keys{kid: kek}})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, p.Close()) }()
	var m pullMeasure
	if m.Before, err = peakMemory(); err != nil {
		return err
	}
	bundle := filepath.Join(job.Dir, "bundle")
	start := time.Now()
	if _, err := p.Pull(context.Background(), imagers.Request{Image: job.Image, Bundle: bundle}); err != nil {
		return err
	}
	m.Wall = time.Since(start)
	if m.After, err = peakMemory(); err != nil {
		return err
	}
	if err := errors.Join(p.Release(context.Background(), bundle), os.RemoveAll(bundle)); err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(m)
}

// peakMemory returns the peak of this process's resident memory in KiB.
func peakMemory() (int64, error) {
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0, err
	}
	_, rest, ok := strings.Cut(string(status), "VmHWM:")
	if !ok {
		return 0, errors.New("no VmHWM")
	}
	return strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
}
