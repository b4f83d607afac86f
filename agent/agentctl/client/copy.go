// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"

	"golang.org/x/sys/unix"

	"cocoon/internal/wire/agentpb"
)

// copyChunk is the content that one CopyFile request carries at most, as shims
// do it.
const copyChunk = 1 << 20

// Copy copies the file, symbolic link or directory tree src to guestPath. The
// agent accepts paths below /run/kata-containers/shared/containers only.
// Links are copied as links. Other files than these are an error.
func (c *Client) Copy(ctx context.Context, src, guestPath string) error {
	return filepath.WalkDir(src, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return fmt.Errorf("copy %q: %w", p, err)
		}
		rel, err := filepath.Rel(src, p)
		if err != nil {
			return fmt.Errorf("copy %q: %w", p, err)
		}
		if err := c.copyEntry(ctx, p, path.Join(guestPath, filepath.ToSlash(rel))); err != nil {
			return fmt.Errorf("copy %q: %w", p, err)
		}
		return nil
	})
}

func (c *Client) copyEntry(ctx context.Context, src, dst string) error {
	var st unix.Stat_t
	if err := unix.Lstat(src, &st); err != nil {
		return &fs.PathError{Op: "lstat", Path: src, Err: err}
	}
	req := &agentpb.CopyFileRequest{
		Path:     dst,
		FileMode: st.Mode,
		DirMode:  uint32(fs.ModeDir | 0o750),
		Uid:      int32(st.Uid),
		Gid:      int32(st.Gid),
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		return c.copyCall(ctx, req)
	case unix.S_IFLNK:
		target, err := os.Readlink(src)
		if err != nil {
			return err
		}
		req.Data, req.FileSize = []byte(target), int64(len(target))
		return c.copyCall(ctx, req)
	case unix.S_IFREG:
		return c.copyContent(ctx, src, req)
	default:
		return errors.New("neither a regular file nor a directory nor a symbolic link")
	}
}

// copyContent sends a regular file in chunks, an empty one in one call.
func (c *Client) copyContent(ctx context.Context, src string, req *agentpb.CopyFileRequest) error {
	f, err := os.Open(src)
	if err != nil {
		return err
	}
	defer f.Close() // read only
	info, err := f.Stat()
	if err != nil {
		return err
	}
	req.FileSize = info.Size()
	buf := make([]byte, min(copyChunk, max(req.FileSize, 1)))
	for {
		n, err := io.ReadFull(f, buf[:min(int64(len(buf)), req.FileSize-req.Offset)])
		if err != nil {
			return fmt.Errorf("the file shrank while it was read: %w", err)
		}
		req.Data = buf[:n]
		if err := c.copyCall(ctx, req); err != nil {
			return err
		}
		if req.Offset += int64(n); req.Offset >= req.FileSize {
			return nil
		}
	}
}

func (c *Client) copyCall(ctx context.Context, req *agentpb.CopyFileRequest) error {
	ctx, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	_, err := c.CopyFile(ctx, req)
	return err
}
