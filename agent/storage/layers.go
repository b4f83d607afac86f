// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package storage

import (
	"encoding/hex"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"

	"cocoon/agent/device"
	"cocoon/internal/verity"
	"cocoon/internal/wire/agentpb"
)

// DriverLayers names a container's root that is made of layers, each a file
// system on a disk of the host. A member may say so by an option as well.
const DriverLayers = "erofs.multi-layer"

// Words of a member's options. None of them reaches a mount.
const (
	kataWord       = "X-kata."
	wordMember     = "X-kata.multi-layer=true"
	wordUpper      = "X-kata.overlay-upper"
	wordLower      = "X-kata.overlay-lower"
	wordMkdir      = "X-kata.mkdir.path="
	wordGPT        = "X-kata.gpt-partitioned=true"
	wordPartition  = "X-kata.partition-number="
	wordVerity     = "X-kata.dmverity-enabled=true"
	wordVerityPart = "X-kata.dmverity."
)

const (
	maxGroup      = 128 // overlayfs takes 500; images have fewer
	maxPartition  = 128 // what a usual partition table has
	defaultBlock  = 4096
	verityHash    = "sha256"
	superblockMin = 512
)

// layer is one member of a group.
type layer struct {
	*agentpb.Storage
	options   []string // without those of the group
	partition int      // 0 means the whole disk
	encrypted bool     // made anew, with a key that only the kernel has
	verity    *verity.Params
}

// layers is a container's root before any device is looked for.
type layers struct {
	upper  *layer // nil means that changes stay in memory
	lowers []layer
	mkdirs []string // templates
	target string
}

// isLayer reports whether a storage is a member of the request's group.
func isLayer(s *agentpb.Storage) bool {
	return s.GetDriver() == DriverLayers || slices.Contains(words(s), wordMember)
}

// words are the options one by one.
func words(s *agentpb.Storage) []string {
	var all []string
	for _, o := range s.GetOptions() {
		all = append(all, strings.Split(o, ",")...)
	}
	return all
}

// parseLayers reads the members of a group.
func parseLayers(members []*agentpb.Storage) (layers, error) {
	var g layers
	if len(members) > maxGroup {
		return g, fmt.Errorf("%d layers: %w", len(members), ErrInvalid)
	}
	for _, s := range members {
		upper, l, mkdirs, err := parseLayer(s)
		if err != nil {
			return g, fmt.Errorf("layer %q: %w", s.GetSource(), err)
		}
		g.mkdirs = append(g.mkdirs, mkdirs...)
		switch {
		case upper && g.upper != nil:
			return g, fmt.Errorf("two upper layers: %w", ErrInvalid)
		case upper:
			g.upper = &l
		default:
			g.lowers = append(g.lowers, l)
		}
	}
	if len(g.lowers) == 0 {
		return g, fmt.Errorf("no lower layer: %w", ErrInvalid)
	}
	// The first partition lies on top.
	slices.SortStableFunc(g.lowers, func(a, b layer) int { return a.partition - b.partition })
	g.target = g.lowers[0].GetMountPoint()
	if g.upper != nil {
		g.target = g.upper.GetMountPoint()
	}
	return g, nil
}

// unchecked returns an error naming the first layer that the host can change
// unnoticed: a lower one without dm-verity, or an upper one that is not
// encrypted. Either may hold files that cover those of layers that are checked.
func (g layers) unchecked() error {
	if g.upper != nil && !g.upper.encrypted {
		return fmt.Errorf("upper layer %.80q without encryption: %w", g.upper.GetSource(), ErrUnchecked)
	}
	for _, l := range g.lowers {
		if l.verity == nil {
			return fmt.Errorf("layer %.80q without dm-verity: %w", l.GetSource(), ErrUnchecked)
		}
	}
	return nil
}

// parseLayer reads one member. A word of the group that is not known is an
// error: it may ask for protection.
func parseLayer(s *agentpb.Storage) (upper bool, l layer, mkdirs []string, err error) {
	l.Storage = s
	lower, gpt, checked := false, false, false
	settings := map[string]string{}
	for _, w := range words(s) {
		part, isPart := strings.CutPrefix(w, wordVerityPart)
		dir, isDir := strings.CutPrefix(w, wordMkdir)
		number, isNumber := strings.CutPrefix(w, wordPartition)
		switch {
		case w == wordMember:
		case w == wordUpper:
			upper = true
		case w == wordLower:
			lower = true
		case w == wordGPT:
			gpt = true
		case w == wordVerity:
			checked = true
		case isDir:
			mkdirs = append(mkdirs, strings.Split(dir, ":")...)
		case isNumber:
			if l.partition, err = strconv.Atoi(number); err != nil || l.partition < 1 || l.partition > maxPartition {
				return false, l, nil, fmt.Errorf("partition %.16q: %w", number, ErrInvalid)
			}
		case isPart:
			name, value, _ := strings.Cut(part, "=")
			settings[name] = value
		case strings.HasPrefix(w, kataWord):
			return false, l, nil, fmt.Errorf("option %.80q: %w", w, ErrInvalid)
		default:
			l.options = append(l.options, w)
		}
	}
	upper = upper || !lower && s.GetFstype() == "ext4"
	switch {
	case upper && lower:
		err = fmt.Errorf("both upper and lower: %w", ErrInvalid)
	case upper && (s.GetFstype() != "ext4" || gpt || checked):
		err = fmt.Errorf("an upper layer is a whole disk of ext4: %w", ErrInvalid)
	case gpt != (l.partition > 0):
		err = fmt.Errorf("a partition needs both its number and %s: %w", wordGPT, ErrInvalid)
	case checked && !gpt, !checked && len(settings) > 0:
		err = fmt.Errorf("dm-verity is for partitions, and has to be asked for: %w", ErrInvalid)
	case !upper && len(s.GetDriverOptions()) > 0:
		err = fmt.Errorf("driver option %.80q of a lower layer: %w", s.GetDriverOptions()[0], ErrInvalid)
	case upper:
		l.encrypted, err = wantsEncryption(s.GetDriverOptions())
	case checked:
		l.verity, err = parseVerity(settings)
	}
	return upper, l, mkdirs, err
}

// parseVerity reads the parameters of a layer that the kernel is to check.
func parseVerity(settings map[string]string) (*verity.Params, error) {
	p := &verity.Params{Algorithm: verityHash, DataBlock: defaultBlock, HashBlock: defaultBlock}
	var offset uint64
	superblock := true
	for name, value := range settings {
		var err error
		switch name {
		case "roothash":
			p.RootHash, err = hex.DecodeString(value)
		case "salt":
			if value != "" && value != "-" {
				p.Salt, err = hex.DecodeString(value)
			}
		case "algorithm":
			p.Algorithm = value
		case "hashoffset":
			offset, err = strconv.ParseUint(value, 10, 63)
		case "blocksize":
			p.DataBlock, err = strconv.ParseUint(value, 10, 32)
		case "hashsize":
			p.HashBlock, err = strconv.ParseUint(value, 10, 32)
		case "hashtype":
			if value != "1" {
				err = ErrInvalid
			}
		case "no-superblock":
			superblock = value != "true"
			if value != "true" && value != "false" {
				err = ErrInvalid
			}
		default:
			err = ErrInvalid
		}
		if err != nil {
			return nil, fmt.Errorf("dm-verity parameter %.32q=%.80q: %w", name, value, ErrInvalid)
		}
	}
	if p.DataBlock == 0 || p.HashBlock == 0 || offset == 0 || offset%p.DataBlock != 0 || offset%p.HashBlock != 0 {
		return nil, fmt.Errorf("dm-verity tree at byte %d of blocks of %d and %d bytes: %w", offset, p.DataBlock, p.HashBlock, ErrInvalid)
	}
	p.DataBlocks, p.HashStart = offset/p.DataBlock, offset/p.HashBlock
	if superblock {
		p.HashStart += (superblockMin + p.HashBlock - 1) / p.HashBlock
	}
	if err := p.Check(); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	return p, nil
}

// driverOf is the driver by which a member's disk is found.
func (l layer) driverOf() string {
	if l.GetDriver() == DriverLayers {
		return device.DriverBlk
	}
	return l.GetDriver()
}

// expand replaces "{{ mount N }}" at the beginning of a template, and returns
// which mount it means and the path below it.
func expand(template string) (mount int, below string, err error) {
	for mount, mark := range []string{"{{ mount 0 }}", "{{ mount 1 }}"} {
		rest, ok := strings.CutPrefix(template, mark)
		clean := path.Clean("/" + rest)
		if ok && strings.HasPrefix(rest, "/") && clean != "/" && clean == rest {
			return mount, strings.TrimPrefix(clean, "/"), nil
		}
	}
	return 0, "", fmt.Errorf("directory %.80q: %w", template, ErrInvalid)
}
