// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package qcow2_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"testing/iotest"

	"cocoon/mkimage/format/qcow2"
)

// sparse is a disk that is zeros but for some bytes.
type sparse map[int64]byte

func (s sparse) ReadAt(b []byte, at int64) (int, error) {
	clear(b)
	for where, c := range s {
		if where >= at && where < at+int64(len(b)) {
			b[where-at] = c
		}
	}
	return len(b), nil
}

const (
	cluster = 1 << 16
	group   = cluster / 8 * cluster // what a table of the second level names
)

// qemu-img is the reference.
func TestTheReferenceReadsTheDiskAndFindsNoFault(t *testing.T) {
	t.Parallel()
	tool, err := exec.LookPath("qemu-img")
	if err != nil {
		t.Fatalf("the package qemu-utils is needed: %v", err)
	}
	for name, tc := range map[string]struct {
		disk sparse
		size int64
		want int64 // clusters
	}{
		"zeros":              {nil, 1 << 20, 4},
		"a sector":           {sparse{511: 1}, 512, 6},
		"a cluster":          {sparse{0: 1, cluster - 1: 2}, cluster, 6},
		"an odd end":         {sparse{5: 1, 10*cluster + 1023: 2}, 10*cluster + 1024, 7},
		"groups with a hole": {sparse{group - 1: 1, 2 * group: 2, 2*group + cluster: 3}, 2*group + 2*cluster, 9},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var b bytes.Buffer
			if err := qcow2.Write(&b, tc.disk, tc.size); err != nil {
				t.Fatal(err)
			}
			if size := binary.BigEndian.Uint64(b.Bytes()[24:]); int64(b.Len()) != tc.want*cluster || size != uint64(tc.size) {
				t.Errorf("%d bytes, not %d clusters, for a disk of %d", b.Len(), tc.want, size)
			}
			dir := t.TempDir()
			file, raw := filepath.Join(dir, "disk"), filepath.Join(dir, "raw")
			if err := errors.Join(os.WriteFile(file, b.Bytes(), 0o600), tc.disk.write(raw, tc.size)); err != nil {
				t.Fatal(err)
			}
			for _, args := range [][]string{{"check", "-f", "qcow2", file}, {"compare", "-f", "qcow2", "-F", "raw", file, raw}} {
				if out, err := exec.CommandContext(t.Context(), tool, args...).CombinedOutput(); err != nil {
					t.Errorf("%v: %v: %s", args, err, out)
				}
			}
		})
	}
}

// write makes a file with holes of the disk.
func (s sparse) write(name string, size int64) error {
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	err = f.Truncate(size)
	for at, c := range s {
		_, werr := f.WriteAt([]byte{c}, at)
		err = errors.Join(err, werr)
	}
	return errors.Join(err, f.Close())
}

func TestTheBytesDependOnTheDiskAlone(t *testing.T) {
	t.Parallel()
	disk := sparse{}
	for i := range int64(30) {
		disk[i*i*cluster+i] = byte(i)
	}
	const size, want = 30 * 30 * cluster, "f920281f68f0d23721477d33139ef5a34c5378144a2cb438c3e31ce6dc7135be"
	for range 2 {
		h := sha256.New()
		if err := qcow2.Write(h, disk, size); err != nil {
			t.Fatal(err)
		}
		if got := fmt.Sprintf("%x", h.Sum(nil)); got != want {
			t.Errorf("digest %s, not %s", got, want)
		}
	}
}

// More than one block of reference counts is needed above 2 GiB of content.
type filled struct{}

func (filled) ReadAt(b []byte, _ int64) (int, error) {
	b[0] = 1
	return len(b), nil
}

type head struct {
	b []byte
	n int64
}

func (h *head) Write(p []byte) (int, error) {
	h.b = append(h.b, p[:min(len(p), 8*cluster-len(h.b))]...)
	h.n += int64(len(p))
	return len(p), nil
}

func TestALargeDiskHasMoreBlocksOfReferenceCounts(t *testing.T) {
	t.Parallel()
	var h head
	const clusters = cluster / 2 // 2 GiB of content, which one block could count without the tables
	if err := qcow2.Write(&h, filled{}, clusters*cluster); err != nil {
		t.Fatal(err)
	}
	if want := int64(clusters + 3 + 2 + 4); h.n != want*cluster {
		t.Errorf("%d bytes, not %d clusters", h.n, want)
	}
	second := h.b[3*cluster : 4*cluster]
	if n := bytes.Count(second, []byte{0, 1}); n != 9 || len(bytes.TrimRight(second, "\x00")) != 18 {
		t.Errorf("the second block counts %d clusters", n)
	}
}

func TestWhatIsNoDiskIsRefused(t *testing.T) {
	t.Parallel()
	for _, size := range []int64{-512, 0, 1, 511, 513, 1<<40 + 512} {
		if err := qcow2.Write(io.Discard, sparse{}, size); !errors.Is(err, qcow2.ErrSize) {
			t.Errorf("%d bytes: %v", size, err)
		}
	}
	if err := qcow2.Write(io.Discard, bytes.NewReader(make([]byte, 511)), 512); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("a disk that is shorter: %v", err)
	}
	for _, room := range []int64{0, 2 * cluster, 5 * cluster} {
		if err := qcow2.Write(&limited{room}, sparse{1: 1}, 512); !errors.Is(err, iotest.ErrTimeout) {
			t.Errorf("room for %d bytes: %v", room, err)
		}
	}
}

// limited has room for so many bytes.
type limited struct{ room int64 }

func (l *limited) Write(b []byte) (int, error) {
	if l.room -= int64(len(b)); l.room < 0 {
		return 0, iotest.ErrTimeout
	}
	return len(b), nil
}

// changing gives a disk that becomes another when it is read again.
type changing struct{ first, then sparse }

func (c *changing) ReadAt(b []byte, at int64) (int, error) {
	n, err := c.first.ReadAt(b, at)
	c.first = c.then
	return n, err
}

func TestADiskThatChangesMeanwhileIsAnError(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]*changing{
		"more": {nil, sparse{1: 1}}, "elsewhere": {sparse{1: 1}, sparse{cluster + 1: 1}}, "less": {sparse{1: 1}, nil},
	} {
		if err := qcow2.Write(io.Discard, c, 2*cluster); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}
