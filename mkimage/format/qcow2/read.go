// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package qcow2

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// ErrFormat is wrapped by errors about a file that Write has not made.
var ErrFormat = errors.New("not a disk as it is written here")

// headerSize is the size of what header returns.
const headerSize = 104

// Disk is a disk in a file that Write has made. It implements io.ReaderAt.
type Disk struct {
	file     io.ReaderAt
	clusters uint64 // of the file
	size     int64
	level1   []byte
}

// Open returns the disk in a file of size bytes. The file may be anybody's; what
// is not exactly as Write makes it is refused, here or when it is read.
func Open(file io.ReaderAt, size int64) (*Disk, error) {
	head := make([]byte, headerSize)
	if _, err := file.ReadAt(head, 0); err != nil {
		return nil, fmt.Errorf("read the header: %w: %w", ErrFormat, err)
	}
	d := &Disk{file: file, clusters: uint64(size) / cluster, size: int64(binary.BigEndian.Uint64(head[24:]))}
	if d.size <= 0 || d.size > maxSize || d.size%512 != 0 || size%cluster != 0 {
		return nil, fmt.Errorf("disk of %d bytes in %d: %w", d.size, size, ErrFormat)
	}
	at := binary.BigEndian.Uint64(head[40:]) >> clusterBits
	if at < 3 || at >= d.clusters || !bytes.Equal(head, header(d.size, int(at)-2)) {
		return nil, fmt.Errorf("header: %w", ErrFormat)
	}
	d.level1 = make([]byte, cluster)
	if _, err := file.ReadAt(d.level1, int64(at)<<clusterBits); err != nil {
		return nil, fmt.Errorf("read the first table: %w: %w", ErrFormat, err)
	}
	return d, nil
}

// Size is that of the disk in bytes.
func (d *Disk) Size() int64 { return d.size }

// ReadAt implements io.ReaderAt.
func (d *Disk) ReadAt(p []byte, off int64) (n int, err error) {
	if off < 0 {
		return 0, fmt.Errorf("read at %d: %w", off, ErrFormat)
	}
	for n < len(p) {
		at := off + int64(n)
		if at >= d.size {
			return n, io.EOF
		}
		part := p[n:min(int64(len(p)), int64(n)+cluster-at%cluster, int64(n)+d.size-at)]
		if err := d.readCluster(part, at); err != nil {
			return n, fmt.Errorf("read the disk at %d: %w", at, err)
		}
		n += len(part)
	}
	return n, nil
}

// readCluster reads what lies in one cluster.
func (d *Disk) readCluster(p []byte, at int64) error {
	n := uint64(at) / cluster
	table, err := d.entry(d.level1[8*(n/perTable):])
	if err != nil {
		return err
	}
	content := uint64(0)
	if table != 0 {
		var e [8]byte
		if _, err := d.file.ReadAt(e[:], int64(table<<clusterBits+8*(n%perTable))); err != nil {
			return err
		}
		if content, err = d.entry(e[:]); err != nil {
			return err
		}
	}
	if content == 0 {
		clear(p)
		return nil
	}
	_, err = d.file.ReadAt(p, int64(content<<clusterBits)+at%cluster)
	return err
}

// entry is the cluster that an entry of a table names, 0 if none.
func (d *Disk) entry(b []byte) (uint64, error) {
	e := binary.BigEndian.Uint64(b)
	n := (e &^ once) >> clusterBits
	switch {
	case e == 0:
		return 0, nil
	case e != n<<clusterBits|once || n == 0 || n >= d.clusters:
		return 0, fmt.Errorf("entry %#x of a table: %w", e, ErrFormat)
	}
	return n, nil
}
