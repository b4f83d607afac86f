// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"errors"
	"strconv"
	"unicode/utf8"

	"github.com/open-policy-agent/opa/v1/ast"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	"cocoon/internal/wire/agentpb"
)

// errSymlinkTarget refuses a target that a policy could not be shown exactly.
var errSymlinkTarget = errors.New("target of the symbolic link is not UTF-8")

// copyFile shows a CopyFile request to policies: what kind of file goes where,
// and a link's target, but no file content.
type copyFile struct{ *agentpb.CopyFileRequest }

func asCopyFile(m proto.Message) (copyFile, bool) {
	r, ok := m.(*agentpb.CopyFileRequest)
	return copyFile{r}, ok
}

func (c copyFile) input() (ast.Value, error) {
	kind, target := "Unknown", ast.NullTerm()
	switch c.GetFileMode() & unix.S_IFMT {
	case unix.S_IFREG:
		kind = "Regular"
	case unix.S_IFDIR:
		kind = "Directory"
	case unix.S_IFLNK:
		kind = "Symlink"
		if !utf8.Valid(c.GetData()) {
			return nil, errSymlinkTarget
		}
		target = ast.StringTerm(string(c.GetData()))
	}
	number := func(n int64) *ast.Term { return ast.NewTerm(ast.Number(strconv.FormatInt(n, 10))) }
	return ast.NewObject(
		ast.Item(ast.StringTerm("path"), ast.StringTerm(c.GetPath())),
		ast.Item(ast.StringTerm("file_type"), ast.StringTerm(kind)),
		ast.Item(ast.StringTerm("symlink_target"), target),
		ast.Item(ast.StringTerm("file_size"), number(c.GetFileSize())),
		ast.Item(ast.StringTerm("file_mode"), number(int64(c.GetFileMode()))),
		ast.Item(ast.StringTerm("dir_mode"), number(int64(c.GetDirMode()))),
		ast.Item(ast.StringTerm("uid"), number(int64(c.GetUid()))),
		ast.Item(ast.StringTerm("gid"), number(int64(c.GetGid()))),
		ast.Item(ast.StringTerm("offset"), number(c.GetOffset())),
	), nil
}
