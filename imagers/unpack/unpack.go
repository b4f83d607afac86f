// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

// Package unpack turns the bytes of an image layer into a directory tree that
// overlayfs can use as a lower directory.
//
// Whoever made the image feeds it, and while a layer is still arriving so does
// whoever stands between: digest and MAC are known only after the last byte.
// All input is therefore hostile. Every path is resolved by descriptor inside
// the layer's directory, all sizes and counts have limits, and the caller must
// throw the directory away unless Layer returned without error.
//
// Formats: the OCI image layer (tar, optionally gzip or zstd, with .wh.
// whiteouts), written out with the overlayfs meaning of whiteouts (character
// device 0:0, trusted.overlay.opaque).
package unpack

import (
	"archive/tar"
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/opencontainers/go-digest"

	"cocoon/internal/safepath"
)

var (
	// ErrCorrupt is returned when the stream is not a well-formed layer:
	// broken compression, broken tar, an end that comes too early.
	ErrCorrupt = errors.New("corrupt layer")

	// ErrRefused is returned for a well-formed entry that must not be
	// unpacked, such as one that names a path outside the layer.
	ErrRefused = errors.New("refused layer entry")

	// ErrLimit is returned when a layer exceeds one of its Limits.
	ErrLimit = errors.New("layer exceeds a limit")

	// ErrDiffID is returned when the uncompressed layer has another digest
	// than the image configuration says.
	ErrDiffID = errors.New("uncompressed layer does not match its diff id")
)

// Limits bounds one layer. A zero field means its default.
type Limits struct {
	Entries    int64  // tar entries; default 1048576
	Bytes      int64  // uncompressed bytes, and expanded bytes of files; default 64 GiB
	PathBytes  int    // bytes of one path or link target; default 4095, the kernel's own limit
	Depth      int    // components of one path; default 256
	XattrBytes int    // bytes of all extended attributes of one entry; default 128 KiB
	DirBytes   int64  // bytes of the names of all directory entries, which are kept until the end; default 16 MiB
	Ratio      int64  // uncompressed bytes per byte of the blob; default 250
	RatioFloor int64  // bytes below which Ratio is not looked at; default 256 MiB
	Window     uint64 // zstd window in bytes; default 32 MiB
}

func (l Limits) withDefaults() Limits {
	def := func(v *int64, d int64) {
		if *v == 0 {
			*v = d
		}
	}
	defInt := func(v *int, d int) {
		if *v == 0 {
			*v = d
		}
	}
	def(&l.Entries, 1<<20)
	def(&l.Bytes, 64<<30)
	def(&l.DirBytes, 16<<20)
	def(&l.Ratio, 250)
	def(&l.RatioFloor, 256<<20)
	defInt(&l.PathBytes, 4095)
	defInt(&l.Depth, 256)
	defInt(&l.XattrBytes, 128<<10)
	if l.Window == 0 {
		l.Window = 32 << 20
	}
	return l
}

// check fails when out uncompressed bytes are too many, in total or for a blob
// of which in bytes were read.
func (l *Limits) check(out, in int64) error {
	if out > l.Bytes {
		return fmt.Errorf("more than %d bytes uncompressed: %w", l.Bytes, ErrLimit)
	}
	if out > l.RatioFloor && out/l.Ratio > in {
		return fmt.Errorf("%d bytes uncompressed from %d: %w", out, in, ErrLimit)
	}
	return nil
}

// Options says how a layer is to be unpacked.
type Options struct {
	DiffID digest.Digest // of the uncompressed tar, sha256 or sha512; required
	Limits Limits
	// Decoders, if not nil, keeps decoders for the next layer.
	Decoders *Decoders
}

// Result describes an unpacked layer.
type Result struct {
	Entries int64 // tar entries that were applied
	Bytes   int64 // bytes of the uncompressed tar
	// Opaque says that the layer hides everything below it. overlayfs does
	// not honour the mark on the root of a layer, so that the caller has to
	// leave the lower layers out.
	Opaque bool
}

// Layer unpacks the layer blob, which may be compressed but must be
// decrypted, below root, which must be empty and not be visible to anybody
// else. It reads blob to its end in every case in which it returns nil, so
// that the verdict of a verifying reader below has been seen.
//
// Errors of blob are passed on; own errors wrap ErrCorrupt, ErrRefused,
// ErrLimit, ErrDiffID or the kernel's errno.
func Layer(ctx context.Context, root *safepath.Root, blob io.Reader, o Options) (res Result, err error) {
	lim := o.Limits.withDefaults()
	if err := checkDiffID(o.DiffID); err != nil {
		return Result{}, err
	}
	in := &counter{r: blob}
	raw := bufio.NewReaderSize(in, streamBuffer)
	if o.Decoders == nil {
		o.Decoders = &Decoders{}
	}
	plain, err := decompress(raw, lim, o.Decoders)
	if err != nil {
		return Result{}, in.cause(err)
	}
	defer func() {
		// A decoder repeats the error of its source when it is closed.
		if closed := plain.Close(); err == nil {
			err = closed
		}
	}()
	sum := o.DiffID.Algorithm().Hash()
	out := &plainReader{r: plain, sum: sum, in: in, lim: &lim}
	a := newApplier(root, &lim, in)
	defer a.close()
	if err := a.run(ctx, bufio.NewReaderSize(out, streamBuffer)); err != nil {
		return Result{}, in.cause(err)
	}
	if _, err := io.Copy(io.Discard, raw); err != nil {
		return Result{}, in.cause(err)
	}
	if got := digest.NewDigest(o.DiffID.Algorithm(), sum); got != o.DiffID {
		return Result{}, fmt.Errorf("got %s, want %s: %w", got, o.DiffID, ErrDiffID)
	}
	return Result{Entries: a.entries, Bytes: out.n, Opaque: a.opaqueRoot}, nil
}

func checkDiffID(d digest.Digest) error {
	if err := d.Validate(); err != nil {
		return fmt.Errorf("diff id %q: %w", d, err)
	}
	if alg := d.Algorithm(); alg != digest.SHA256 && alg != digest.SHA512 {
		return fmt.Errorf("diff id %q: unsupported algorithm", d)
	}
	return nil
}

// run applies all entries of the tar stream and reads it to its end.
func (a *applier) run(ctx context.Context, r *bufio.Reader) error {
	tr := tar.NewReader(r)
	for {
		hdr, err := tr.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return corrupt("read tar header", err)
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		if a.entries++; a.entries > a.lim.Entries {
			return fmt.Errorf("more than %d entries: %w", a.lim.Entries, ErrLimit)
		}
		if err := a.apply(ctx, hdr, tr); err != nil {
			return fmt.Errorf("entry %s: %w", shorten(hdr.Name), err)
		}
	}
	if _, err := io.Copy(io.Discard, r); err != nil {
		return corrupt("read the rest of the layer", err)
	}
	return a.finish()
}

// corrupt marks an error of the tar or compression format. Errors that come
// from limits keep their own kind.
func corrupt(doing string, err error) error {
	if errors.Is(err, ErrLimit) || errors.Is(err, ErrCorrupt) {
		return err
	}
	return fmt.Errorf("%s: %w: %w", doing, ErrCorrupt, err)
}

// shorten quotes a name for an error text.
func shorten(name string) string {
	const most = 200
	if len(name) > most {
		name = name[:most] + "..."
	}
	return fmt.Sprintf("%q", strings.ToValidUTF8(name, "?"))
}
