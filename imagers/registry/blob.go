// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"context"
	"errors"
	"fmt"
	"hash"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"cocoon/internal/bounded"
	"cocoon/internal/stage"
)

var (
	// errProtocol is an answer that no repetition makes right.
	errProtocol = errors.New("registry broke the protocol")

	// errIdle is the cause of an attempt that was given up because no bytes
	// came.
	errIdle = errors.New("registry sent nothing for too long")

	// errSlow ends an attempt in which bytes came below minRate.
	errSlow = errors.New("registry sent too slowly")
)

// Blob opens the blob d. Reading it yields exactly d.Size bytes and io.EOF
// only if their digest is d.Digest; otherwise the last Read returns an error
// with stage Digest or Registry. What was read before that is not to be
// believed. A connection that breaks is resumed where it broke.
func (r *Repository) Blob(ctx context.Context, d v1.Descriptor) (io.ReadCloser, error) {
	if err := checkDigest(d.Digest); err != nil {
		return nil, stage.Wrap(stage.Digest, err)
	}
	if d.Size < 0 {
		return nil, stage.Errorf(stage.Digest, "blob %s: size is %d", d.Digest, d.Size)
	}
	return &blob{ctx: ctx, repo: r, desc: d, sum: d.Digest.Algorithm().Hash()}, nil
}

// document reads a small blob whole.
func (r *Repository) document(ctx context.Context, d v1.Descriptor, limit int64) ([]byte, error) {
	if d.Size > limit {
		return nil, stage.Errorf(stage.Registry, "blob %s: %d bytes: %w", d.Digest, d.Size, bounded.ErrTooLarge)
	}
	b, err := r.Blob(ctx, d)
	if err != nil {
		return nil, err
	}
	data, err := bounded.ReadAll(b, limit)
	if err := errors.Join(err, b.Close()); err != nil {
		return nil, fmt.Errorf("blob %s: %w", d.Digest, err)
	}
	return data, nil
}

// blob is a verifying, resuming reader of one blob.
type blob struct {
	ctx  context.Context // of the whole transfer, as in http.Request
	repo *Repository
	desc v1.Descriptor
	sum  hash.Hash
	off  int64
	err  error // final

	body     io.ReadCloser   // of the request under way, or nil
	attempt  context.Context // of the request under way, with cancel
	cancel   context.CancelCauseFunc
	idle     *time.Timer
	pace     pace
	attempts int // since the last byte
	total    int
}

// Read implements io.Reader.
func (b *blob) Read(p []byte) (int, error) {
	if b.err != nil {
		return 0, b.err
	}
	if len(p) == 0 {
		return 0, nil
	}
	for {
		n, err := b.readOnce(p)
		if n > 0 {
			b.attempts = 0
			return n, nil
		}
		if err != nil {
			b.err = b.final(err)
			return 0, b.err
		}
	}
}

func (b *blob) final(err error) error {
	if errors.Is(err, io.EOF) {
		return io.EOF
	}
	return classify(fmt.Errorf("fetch: %w", err))
}

// readOnce reads from the request under way, or starts one. It returns 0, nil
// when the caller should try again.
func (b *blob) readOnce(p []byte) (int, error) {
	if b.body == nil {
		if b.off == b.desc.Size {
			return 0, b.verdict()
		}
		if err := b.open(); err != nil {
			return 0, b.failed(err)
		}
	}
	left := b.desc.Size - b.off
	if left == 0 {
		return 0, b.end()
	}
	n, err := b.take(p[:min(left, int64(len(p)))])
	if n > 0 {
		// A hash never returns an error.
		_, _ = b.sum.Write(p[:n])
		b.off += int64(n)
		return n, nil
	}
	if err == nil {
		return 0, nil
	}
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return 0, b.failed(err)
}

// take reads from the request under way, but does not wait for a registry that
// is silent or slow.
func (b *blob) take(p []byte) (int, error) {
	if b.pace.slow(b.repo.client.idle) {
		return 0, errSlow
	}
	b.idle.Reset(b.repo.client.idle)
	began := time.Now()
	n, err := b.body.Read(p)
	b.pace.add(n, time.Since(began))
	b.idle.Stop() // a slow consumer is not a slow registry
	return n, err
}

// end looks whether more is sent than the descriptor says, and gives the
// verdict.
func (b *blob) end() error {
	var one [1]byte
	b.idle.Reset(b.repo.client.idle)
	// All bytes are here: how the connection ends does not matter.
	n, _ := b.body.Read(one[:])
	b.drop()
	if n > 0 {
		return stage.Errorf(stage.Digest, "more than the %d bytes of the descriptor", b.desc.Size)
	}
	return b.verdict()
}

func (b *blob) verdict() error {
	if got := digest.NewDigest(b.desc.Digest.Algorithm(), b.sum); got != b.desc.Digest {
		return stage.Errorf(stage.Digest, "content has digest %s, want %s", got, b.desc.Digest)
	}
	return io.EOF
}

// failed ends the request under way and waits before the next one, or returns
// the error that ends the transfer.
func (b *blob) failed(err error) error {
	// The transport reports its end in several ways.
	if b.cancel != nil && errors.Is(context.Cause(b.attempt), errIdle) {
		err = errIdle
	}
	b.drop()
	if cerr := b.ctx.Err(); cerr != nil {
		return cerr
	}
	b.attempts++
	b.total++
	retry := b.repo.client.retry
	if b.attempts >= retry.Attempts || b.total >= retry.Total || !worthRetrying(b.ctx, err) {
		return err
	}
	b.repo.client.log.Debug("blob transfer resumes", "digest", b.desc.Digest, "offset", b.off, "error", err)
	var after time.Duration
	if s, ok := errors.AsType[*statusError](err); ok {
		after = s.after
	}
	return retry.wait(b.ctx, b.attempts, after)
}

// open requests the bytes from the present offset on.
func (b *blob) open() error {
	ctx, cancel := context.WithCancelCause(b.ctx)
	b.attempt, b.cancel, b.pace = ctx, cancel, pace{}
	b.idle = time.AfterFunc(b.repo.client.idle, func() { cancel(errIdle) })
	header := http.Header{}
	if b.off > 0 {
		header.Set("Range", "bytes="+strconv.FormatInt(b.off, 10)+"-")
	}
	//nolint:bodyclose // close does it
	resp, err := b.repo.get(ctx, b.repo.url("blobs", b.desc.Digest.String()), header, http.StatusOK, http.StatusPartialContent)
	if err != nil {
		if cause := context.Cause(ctx); errors.Is(cause, errIdle) {
			err = cause
		}
		return err
	}
	b.body = resp.Body
	switch {
	case resp.StatusCode == http.StatusOK:
		return b.skip()
	case b.off == 0 || !startsAt(resp.Header.Get("Content-Range"), b.off):
		return fmt.Errorf("content range %q, asked from byte %d: %w", resp.Header.Get("Content-Range"), b.off, errProtocol)
	}
	return nil
}

// skip passes over the bytes that were read before, when the registry does
// not do ranges. They are not hashed twice: what is used is what was hashed.
func (b *blob) skip() error {
	buf := make([]byte, 32<<10)
	for left := b.off; left > 0; {
		n, err := b.take(buf[:min(left, int64(len(buf)))])
		left -= int64(n)
		if err != nil && left > 0 {
			return err
		}
	}
	return nil
}

// startsAt reports whether a Content-Range starts at off.
func startsAt(contentRange string, off int64) bool {
	rest, ok := strings.CutPrefix(contentRange, "bytes ")
	first, _, dash := strings.Cut(rest, "-")
	n, err := strconv.ParseInt(first, 10, 64)
	return ok && dash && err == nil && n == off
}

// drop ends the request under way.
func (b *blob) drop() {
	if b.idle != nil {
		b.idle.Stop()
	}
	if b.body != nil {
		// Nothing was written; an error of closing cannot matter.
		_ = b.body.Close()
		b.body = nil
	}
	if b.cancel != nil {
		b.cancel(nil)
		b.cancel = nil
	}
}

// Close ends the transfer.
func (b *blob) Close() error {
	b.drop()
	if b.err == nil {
		b.err = errors.New("read of a closed blob")
	}
	return nil
}

// checkDigest accepts the digests that the image specification requires.
func checkDigest(d digest.Digest) error {
	if err := d.Validate(); err != nil {
		return fmt.Errorf("digest %q: %w", d, err)
	}
	if alg := d.Algorithm(); alg != digest.SHA256 && alg != digest.SHA512 {
		return fmt.Errorf("digest %q: unsupported algorithm", d)
	}
	return nil
}
