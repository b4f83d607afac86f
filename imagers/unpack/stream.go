// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package unpack

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"hash"
	"io"
	"sync"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

// streamBuffer is the size of the buffers before and after decompression. It
// holds a few network records; larger ones fall out of the second-level cache.
const streamBuffer = 64 << 10

// counter counts the bytes of the blob and remembers its error, which a
// decompressor may have replaced by one of its own.
type counter struct {
	r   io.Reader
	n   int64
	err error
}

func (c *counter) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += int64(n)
	if err != nil && !errors.Is(err, io.EOF) {
		c.err = err
	}
	return n, err
}

// cause returns the blob's own error if it had one, else err.
func (c *counter) cause(err error) error {
	if c.err != nil {
		return c.err
	}
	return err
}

// plainReader hashes and bounds the uncompressed stream.
type plainReader struct {
	r   io.Reader
	sum hash.Hash
	n   int64
	in  *counter
	lim *Limits
}

func (p *plainReader) Read(b []byte) (int, error) {
	n, err := p.r.Read(b)
	// A hash never returns an error.
	_, _ = p.sum.Write(b[:n])
	p.n += int64(n)
	if lerr := p.lim.check(p.n, p.in.n); lerr != nil {
		return 0, lerr
	}
	return n, err
}

// decompress looks at the first bytes of r and returns the uncompressed
// stream. The media type is not asked: registries are known to mislabel, and
// the diff id decides in the end.
func decompress(r *bufio.Reader, lim Limits, d *Decoders) (io.ReadCloser, error) {
	magic, err := r.Peek(4)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	switch {
	case bytes.HasPrefix(magic, []byte{0x1f, 0x8b}):
		z, err := gzip.NewReader(r)
		if err != nil {
			return nil, corrupt("read gzip header", err)
		}
		return z, nil
	case isZstd(magic):
		return d.open(r, lim.Window)
	default:
		return io.NopCloser(r), nil
	}
}

// Decoders lends zstd decoders from layer to layer: each has a window of many
// megabytes, which would be garbage after every layer otherwise. The zero
// value is ready; all layers that use one must have the same Limits.Window.
type Decoders struct{ pool sync.Pool }

// open returns the decompressed stream of r. Closing it gives its decoder
// back.
func (d *Decoders) open(r io.Reader, window uint64) (io.ReadCloser, error) {
	z, ok := d.pool.Get().(*zstd.Decoder)
	if !ok {
		var err error
		// One goroutine per layer: the layers run side by side already.
		z, err = zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(window))
		if err != nil {
			return nil, fmt.Errorf("make zstd decoder: %w", err)
		}
	}
	if err := z.Reset(r); err != nil {
		z.Close()
		return nil, corrupt("read zstd header", err)
	}
	return &lent{z, d}, nil
}

// lent is a decoder in use.
type lent struct {
	*zstd.Decoder
	from *Decoders
}

// Close gives the decoder back, without its source.
func (l *lent) Close() error {
	if err := l.Reset(nil); err != nil {
		return err
	}
	l.from.pool.Put(l.Decoder)
	return nil
}

// isZstd tells a zstd frame, or a skippable frame in front of one (RFC 8878).
func isZstd(b []byte) bool {
	if len(b) < 4 {
		return false
	}
	return bytes.Equal(b[:4], []byte{0x28, 0xb5, 0x2f, 0xfd}) ||
		b[0]&0xf0 == 0x50 && bytes.Equal(b[1:4], []byte{0x2a, 0x4d, 0x18})
}
