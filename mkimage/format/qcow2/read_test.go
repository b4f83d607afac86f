// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package qcow2_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"testing"

	"cocoon/mkimage/format/qcow2"
)

func written(t testing.TB, disk sparse, size int64) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := qcow2.Write(&b, disk, size); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestWhatIsWrittenIsReadBack(t *testing.T) {
	t.Parallel()
	for size, disk := range map[int64]sparse{
		512:                 {511: 1},
		1 << 20:             nil,
		10*cluster + 1024:   {5: 1, cluster: 9, 10*cluster + 1023: 2},
		2*group + 2*cluster: {group - 1: 1, 2 * group: 2, 2*group + cluster: 3},
	} {
		raw := written(t, disk, size)
		d, err := qcow2.Open(bytes.NewReader(raw), int64(len(raw)))
		if err != nil || d.Size() != size {
			t.Fatalf("disk of %d bytes: %v", size, err)
		}
		var again bytes.Buffer
		if err := qcow2.Write(&again, d, size); err != nil || !bytes.Equal(again.Bytes(), raw) {
			t.Errorf("disk of %d bytes is another one when it is written again: %v", size, err)
		}
		last := make([]byte, 2)
		if n, err := d.ReadAt(last, size-1); n != 1 || !errors.Is(err, io.EOF) {
			t.Errorf("at the end of %d bytes: %d, %v", size, n, err)
		}
	}
}

func TestAFileThatIsWrittenOtherwiseIsRefused(t *testing.T) {
	t.Parallel()
	good := written(t, sparse{5: 1}, 2*cluster)
	const level1, level2 = 3 * cluster, 4 * cluster
	for name, change := range map[string]func(b []byte) []byte{
		"empty":                      func([]byte) []byte { return nil },
		"cut":                        func(b []byte) []byte { return b[:len(b)-1] },
		"cut by a cluster":           func(b []byte) []byte { return b[:len(b)-cluster] },
		"a backing file":             func(b []byte) []byte { b[15] = 1; return b },
		"other clusters":             func(b []byte) []byte { b[23] = 9; return b },
		"no size":                    func(b []byte) []byte { clear(b[24:32]); return b },
		"a huge size":                func(b []byte) []byte { b[24] = 0x7f; return b },
		"encrypted":                  func(b []byte) []byte { b[35] = 1; return b },
		"first table outside":        func(b []byte) []byte { binary.BigEndian.PutUint64(b[40:], 99*cluster); return b },
		"a feature":                  func(b []byte) []byte { b[79] = 4; return b },
		"second table outside":       func(b []byte) []byte { binary.BigEndian.PutUint64(b[level1:], 99*cluster|1<<63); return b },
		"second table in the header": func(b []byte) []byte { binary.BigEndian.PutUint64(b[level1:], 1<<63); return b },
		"content outside":            func(b []byte) []byte { binary.BigEndian.PutUint64(b[level2:], 1<<62|1<<63); return b },
		"compressed content":         func(b []byte) []byte { b[level2] |= 0x40; return b },
		"shared content":             func(b []byte) []byte { b[level2] = 0; return b },
		"content of zeros":           func(b []byte) []byte { b[level2+7] |= 1; return b },
	} {
		raw := change(bytes.Clone(good))
		d, err := qcow2.Open(bytes.NewReader(raw), int64(len(raw)))
		if err == nil {
			_, err = d.ReadAt(make([]byte, 10), 0)
		}
		if !errors.Is(err, qcow2.ErrFormat) {
			t.Errorf("%s: %v", name, err)
		}
	}
	d, err := qcow2.Open(bytes.NewReader(good), int64(len(good)))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.ReadAt(make([]byte, 1), -1); !errors.Is(err, qcow2.ErrFormat) {
		t.Errorf("before the start: %v", err)
	}
}

func FuzzOpen(f *testing.F) {
	f.Add(written(f, sparse{5: 1}, 2*cluster))
	f.Add(written(f, nil, 512))
	f.Fuzz(func(t *testing.T, raw []byte) {
		d, err := qcow2.Open(bytes.NewReader(raw), int64(len(raw)))
		if err != nil {
			if !errors.Is(err, qcow2.ErrFormat) {
				t.Errorf("error %v is not ErrFormat", err)
			}
			return
		}
		b := make([]byte, min(d.Size(), 4*cluster))
		if n, err := d.ReadAt(b, 0); err == nil && n != len(b) {
			t.Errorf("%d of %d bytes without an error", n, len(b))
		}
	})
}
