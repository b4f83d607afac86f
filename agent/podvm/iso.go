// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package podvm

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode/utf16"

	"cocoon/internal/bounded"
)

// Errors of reading a volume.
var (
	// ErrNotISO is returned for a device that holds no ISO 9660 volume.
	ErrNotISO = errors.New("not an ISO 9660 volume")
	// ErrISO is returned for an ISO 9660 volume that is malformed, or uses what
	// no tool for user-data makes (interleaving, several extents).
	ErrISO = errors.New("malformed ISO 9660 volume")
	// ErrNoFile is returned for a file that the volume does not hold.
	ErrNoFile = errors.New("no such file on the volume")
)

// Sizes and bounds of a volume.
const (
	sector         = 2048
	firstVolume    = 16      // sector of the first volume descriptor
	maxDescriptors = 32      // before the terminator
	maxDirectory   = 1 << 20 // bytes
	recordHead     = 33      // bytes of a directory record before its name
)

// volume is an ISO 9660 file system on an untrusted device. It is read here
// and not by the kernel, whose file system code is a larger target, and not by
// a general library, since those trust the sizes on the disk. Every size is
// checked against a limit before anything is allocated.
type volume struct {
	r       io.ReaderAt
	label   string
	primary record
	joliet  *record // root of the Joliet tree, if there is one
}

// record is one directory record.
type record struct {
	block, size uint32
	dir         bool
	name        string // primary or Joliet identifier
	rockRidge   string // alternate name, if there is one
}

// openVolume reads the volume descriptors.
func openVolume(r io.ReaderAt) (*volume, error) {
	v := &volume{r: r}
	found := false
	for n := range maxDescriptors {
		d := make([]byte, sector)
		if _, err := r.ReadAt(d, int64(firstVolume+n)*sector); err != nil {
			if found {
				return nil, fmt.Errorf("read volume descriptor %d: %w: %w", n, ErrISO, err)
			}
			return nil, fmt.Errorf("read volume descriptor: %w: %w", ErrNotISO, err)
		}
		if string(d[1:6]) != "CD001" {
			if found {
				return nil, fmt.Errorf("volume descriptor %d: %w", n, ErrISO)
			}
			return nil, ErrNotISO
		}
		if d[0] == 255 {
			break
		}
		isPrimary, err := v.descriptor(d)
		if err != nil {
			return nil, fmt.Errorf("volume descriptor %d: %w", n, err)
		}
		found = found || isPrimary
	}
	if !found {
		return nil, fmt.Errorf("no primary volume descriptor: %w", ErrISO)
	}
	return v, nil
}

// descriptor takes what one volume descriptor says.
func (v *volume) descriptor(d []byte) (isPrimary bool, err error) {
	escape := string(d[88:91])
	isPrimary = d[0] == 1
	isJoliet := d[0] == 2 && (escape == "%/@" || escape == "%/C" || escape == "%/E")
	if !isPrimary && !isJoliet {
		return false, nil
	}
	if binary.LittleEndian.Uint16(d[128:]) != sector {
		return false, fmt.Errorf("block size is not %d: %w", sector, ErrISO)
	}
	root, _, err := parseRecord(d[156:190])
	if err != nil || root == nil || !root.dir {
		return false, fmt.Errorf("root directory: %w", errors.Join(ErrISO, err))
	}
	if isPrimary {
		v.label, v.primary = strings.TrimRight(string(d[40:72]), " \x00"), *root
	} else {
		v.joliet = root
	}
	return isPrimary, nil
}

// parseRecord reads the directory record at the start of b and returns its
// length. The record is nil where the rest of the sector is unused.
func parseRecord(b []byte) (*record, int, error) {
	if len(b) == 0 || b[0] == 0 {
		return nil, 0, nil
	}
	n := int(b[0])
	if n < recordHead+1 || n > len(b) {
		return nil, 0, fmt.Errorf("directory record of %d bytes: %w", n, ErrISO)
	}
	nameLen := int(b[32])
	if nameLen == 0 || recordHead+nameLen > n {
		return nil, 0, fmt.Errorf("name of %d bytes: %w", nameLen, ErrISO)
	}
	flags := b[25]
	if flags&0x80 != 0 || b[26] != 0 || b[27] != 0 {
		return nil, 0, fmt.Errorf("file in several extents: %w", ErrISO)
	}
	r := &record{
		block: binary.LittleEndian.Uint32(b[2:]) + uint32(b[1]), // behind the extended attributes
		size:  binary.LittleEndian.Uint32(b[10:]),
		dir:   flags&2 != 0,
		name:  string(b[recordHead : recordHead+nameLen]),
	}
	use := recordHead + nameLen
	if nameLen%2 == 0 {
		use++
	}
	r.rockRidge = alternateName(b[min(use, n):n])
	return r, n, nil
}

// alternateName returns the Rock Ridge name in a record's system use area, or
// "". Names that continue in another sector are not followed; the ones that
// are looked for here are short.
func alternateName(b []byte) string {
	var name strings.Builder
	for len(b) >= 5 {
		n := int(b[2])
		if n < 5 || n > len(b) {
			break
		}
		// Flag bits other than "continues" mean the directory itself or its
		// parent.
		if b[0] == 'N' && b[1] == 'M' && b[4]&^1 == 0 {
			name.Write(b[5:n])
		}
		b = b[n:]
	}
	return name.String()
}

// readExtent returns the content of r, at most limit bytes.
func (v *volume) readExtent(r record, limit uint32) ([]byte, error) {
	if r.size > limit {
		return nil, fmt.Errorf("extent of %d bytes: %w", r.size, bounded.ErrTooLarge)
	}
	b := make([]byte, r.size)
	if _, err := v.r.ReadAt(b, int64(r.block)*sector); err != nil && len(b) > 0 {
		return nil, fmt.Errorf("read extent at block %d: %w: %w", r.block, ErrISO, err)
	}
	return b, nil
}

// entries lists a directory. Records do not cross sectors.
func (v *volume) entries(dir record) ([]record, error) {
	b, err := v.readExtent(dir, maxDirectory)
	if err != nil {
		return nil, err
	}
	var list []record
	for off := 0; off < len(b); {
		end := min(len(b), (off/sector+1)*sector)
		r, n, err := parseRecord(b[off:end])
		if err != nil {
			return nil, err
		}
		if r == nil {
			off = end
			continue
		}
		if r.name != "\x00" && r.name != "\x01" {
			list = append(list, *r)
		}
		off += n
	}
	return list, nil
}

// readFile returns the content of the file at path, at most limit bytes. Names
// are compared without case: by Rock Ridge, then by Joliet, then by their
// primary identifiers.
func (v *volume) readFile(path string, limit uint32) ([]byte, error) {
	type tree struct {
		root  record
		match func(r record, want string) bool
	}
	trees := []tree{{v.primary, func(r record, want string) bool { return strings.EqualFold(r.rockRidge, want) }}}
	if v.joliet != nil {
		trees = append(trees, tree{*v.joliet, func(r record, want string) bool { return strings.EqualFold(plain(ucs2(r.name)), want) }})
	}
	trees = append(trees, tree{v.primary, matchPrimary})
	for _, t := range trees {
		r, err := v.walk(t.root, path, t.match)
		if errors.Is(err, ErrNoFile) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("look up %q: %w", path, err)
		}
		return v.readExtent(*r, limit)
	}
	return nil, fmt.Errorf("look up %q: %w", path, ErrNoFile)
}

// walk follows path from root; the last component is a file.
func (v *volume) walk(root record, path string, match func(record, string) bool) (*record, error) {
	at := root
	parts := strings.Split(path, "/")
	for i, want := range parts {
		list, err := v.entries(at)
		if err != nil {
			return nil, err
		}
		found := false
		for _, r := range list {
			if match(r, want) && r.dir == (i < len(parts)-1) {
				at, found = r, true
				break
			}
		}
		if !found {
			return nil, ErrNoFile
		}
	}
	return &at, nil
}

func matchPrimary(r record, want string) bool {
	name := plain(r.name)
	return strings.EqualFold(name, want) || strings.EqualFold(name, short(want))
}

// plain strips the version and the dot of an empty extension.
func plain(name string) string {
	name, _, _ = strings.Cut(name, ";")
	return strings.TrimSuffix(name, ".")
}

// short returns the identifier of at most eight characters that level 1 of the
// standard allows for a name without extension.
func short(name string) string {
	s := strings.Map(func(r rune) rune {
		if r < 0x80 && (r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9') {
			return r
		}
		return '_'
	}, name)
	return s[:min(8, len(s))]
}

// ucs2 decodes a Joliet identifier.
func ucs2(s string) string {
	u := make([]uint16, 0, len(s)/2)
	for i := 0; i+1 < len(s); i += 2 {
		u = append(u, binary.BigEndian.Uint16([]byte(s[i:])))
	}
	return string(utf16.Decode(u))
}
