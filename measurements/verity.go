// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"cocoon/internal/verity"
)

// errTree is returned where the tree of a disk is not that of its data.
var errTree = errors.New("the tree is not that of the data")

func verityCommand() *cobra.Command {
	var offset int64
	c := &cobra.Command{
		Use:   "verity DATA [HASHES]",
		Short: "root hash of a disk that dm-verity checks, computed from its data",
		Long: "Reads the superblock of the hash area, computes the tree from the data, and compares it with the one that is there.\n" +
			"HASHES is the file of the hash area; without it the area is in DATA, from --hash-offset on.",
		Args: cobra.RangeArgs(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 1 && offset == 0 {
				return fmt.Errorf("%w: name the file of the hash area, or --hash-offset in that of the data", errFlags)
			}
			p, err := computeRoot(args[0], args[len(args)-1], offset)
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "root_hash %x\nalgorithm %s\nverity_params %s\n", p.RootHash, p.Algorithm, p.Text())
			return err
		},
	}
	c.Flags().Int64Var(&offset, "hash-offset", 0, "where the hash area begins in its file, in bytes")
	return c
}

// computeRoot returns the parameters of a disk with the root hash that its data
// have, if the tree in the hash area is theirs.
func computeRoot(dataName, hashName string, offset int64) (_ *verity.Params, err error) {
	data, err := os.Open(dataName)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, data.Close()) }()
	hashes, err := os.Open(hashName)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, hashes.Close()) }()
	first := make([]byte, verity.SuperblockSize)
	if _, err := hashes.ReadAt(first, offset); err != nil {
		return nil, fmt.Errorf("read the superblock at byte %d of %q: %w", offset, hashName, err)
	}
	s, err := verity.ParseSuperblock(first)
	if err != nil {
		return nil, fmt.Errorf("%q, byte %d: %w", hashName, offset, err)
	}
	tree, err := s.Build(data)
	if err != nil {
		return nil, fmt.Errorf("%q: %w", dataName, err)
	}
	at := offset + int64(s.HashStart*s.HashBlock)
	stored := make([]byte, len(tree))
	if _, err := io.ReadFull(io.NewSectionReader(hashes, at, int64(len(tree))), stored); err != nil {
		return nil, fmt.Errorf("read the tree at byte %d of %q: %w", at, hashName, err)
	}
	if !bytes.Equal(stored, tree) {
		return nil, fmt.Errorf("%q and %q: %w", dataName, hashName, errTree)
	}
	return &s.Params, nil
}
