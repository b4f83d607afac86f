// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package ext4

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// garbage fills a file with what is no metadata.
func garbage(t *testing.T, size int64) *os.File {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "disk"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
	// The beginning of each group is where metadata are; the rest stays a hole.
	for at := int64(0); at < size; at += blocksPerGroup * blockSize {
		n := min(size-at, 4<<20)
		if _, err := f.WriteAt(bytes.Repeat([]byte{0xa5}, int(n)), at); err != nil {
			t.Fatal(err)
		}
	}
	return f
}

func TestTheReferenceFindsNothingWrong(t *testing.T) {
	t.Parallel()
	tool, err := exec.LookPath("e2fsck")
	if err != nil {
		t.Fatalf("the package e2fsprogs is needed: %v", err)
	}
	const group = blocksPerGroup * blockSize
	for _, size := range []int64{
		minBlocks * blockSize, 1 << 20, 64 << 20, group - blockSize, group, group + blockSize, group + 16*blockSize, 3*group + 12345, 10 * group, 130 * group,
	} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			t.Parallel()
			f := garbage(t, size)
			if err := Make(f, uint64(size), [16]byte{1, 2, 3}); err != nil {
				t.Fatal(err)
			}
			if out, err := exec.CommandContext(t.Context(), tool, "-f", "-n", f.Name()).CombinedOutput(); err != nil {
				t.Errorf("e2fsck: %v\n%s", err, out)
			}
		})
	}
}

func TestTheSameSizeGivesTheSameBytes(t *testing.T) {
	t.Parallel()
	var all [2][]byte
	for i := range all {
		f := garbage(t, 1<<20)
		if err := Make(f, 1<<20, [16]byte{}); err != nil {
			t.Fatal(err)
		}
		b, err := os.ReadFile(f.Name())
		if err != nil {
			t.Fatal(err)
		}
		all[i] = b
	}
	if !bytes.Equal(all[0], all[1]) {
		t.Error("they differ")
	}
}

func TestADeviceOnWhichNothingFitsIsRefused(t *testing.T) {
	t.Parallel()
	for _, size := range []uint64{0, 1, blockSize, minBlocks*blockSize - 1, maxBlocks * blockSize} {
		if err := Make(nil, size, [16]byte{}); !errors.Is(err, ErrSize) {
			t.Errorf("%d bytes: %v", size, err)
		}
	}
}

// broken fails at the nth write.
type broken struct{ left int }

func (b *broken) WriteAt(p []byte, _ int64) (int, error) {
	if b.left--; b.left < 0 {
		return 0, os.ErrClosed
	}
	return len(p), nil
}

func TestAWriteThatFailsIsReported(t *testing.T) {
	t.Parallel()
	for n := range 9 {
		if err := Make(&broken{left: n}, 1<<20, [16]byte{}); !errors.Is(err, os.ErrClosed) {
			t.Errorf("after %d writes: %v", n, err)
		}
	}
}
