// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package main_test

import (
	"bytes"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// walkGo calls visit for each Go file of ours that nobody generated.
func walkGo(t *testing.T, visit func(path string, src []byte)) {
	t.Helper()
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && (d.Name() == "out" || d.Name() == "testdata" || (strings.HasPrefix(d.Name(), ".") && path != ".")):
			return filepath.SkipDir
		case d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, ".pb.go"):
			return nil
		}
		src, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		visit(path, src)
		return nil
	})
	if err != nil {
		t.Fatalf("walk the repository: %v", err)
	}
}

func TestEveryFileCarriesTheLicence(t *testing.T) {
	t.Parallel()
	const want = "// Copyright The Cocoon Authors.\n// SPDX-License-Identifier: Apache-2.0\n"
	walkGo(t, func(path string, src []byte) {
		if !bytes.HasPrefix(src, []byte(want)) {
			t.Errorf("%s does not begin with the licence lines", path)
		}
	})
}

func TestEveryPackageSaysWhatItIs(t *testing.T) {
	t.Parallel()
	documented := map[string]bool{}
	walkGo(t, func(path string, src []byte) {
		if strings.HasSuffix(path, "_test.go") {
			return
		}
		f, err := parser.ParseFile(token.NewFileSet(), path, src, parser.ParseComments|parser.PackageClauseOnly)
		if err != nil {
			t.Errorf("parse %s: %v", path, err)
			return
		}
		dir := filepath.Dir(path)
		documented[dir] = documented[dir] || f.Doc != nil && len(f.Doc.Text()) > 40
	})
	for dir, ok := range documented {
		if !ok {
			t.Errorf("package in %s has no package comment", dir)
		}
	}
}

func TestEveryExportedNameHasADocComment(t *testing.T) {
	t.Parallel()
	walkGo(t, func(path string, src []byte) {
		if strings.HasSuffix(path, "_test.go") {
			return
		}
		set := token.NewFileSet()
		f, err := parser.ParseFile(set, path, src, parser.ParseComments)
		if err != nil {
			t.Errorf("parse %s: %v", path, err)
			return
		}
		for _, d := range f.Decls {
			for _, name := range undocumented(d) {
				t.Errorf("%s: %s has no doc comment", set.Position(d.Pos()), name)
			}
		}
	})
}

// undocumented returns the exported names that d declares without a comment.
func undocumented(d ast.Decl) []string {
	switch d := d.(type) {
	case *ast.FuncDecl:
		if d.Name.IsExported() && d.Doc == nil && (d.Recv == nil || exportedReceiver(d.Recv)) {
			return []string{d.Name.Name}
		}
	case *ast.GenDecl:
		var names []string
		for _, s := range d.Specs {
			switch s := s.(type) {
			case *ast.TypeSpec:
				if s.Name.IsExported() && d.Doc == nil && s.Doc == nil {
					names = append(names, s.Name.Name)
				}
			case *ast.ValueSpec:
				if s.Names[0].IsExported() && d.Doc == nil && s.Doc == nil && s.Comment == nil {
					names = append(names, s.Names[0].Name)
				}
			}
		}
		return names
	}
	return nil
}

func exportedReceiver(l *ast.FieldList) bool {
	e := l.List[0].Type
	if s, ok := e.(*ast.StarExpr); ok {
		e = s.X
	}
	id, ok := e.(*ast.Ident)
	return ok && id.IsExported()
}

func TestNoPackageHasAnInitFunctionOrPanics(t *testing.T) {
	t.Parallel()
	walkGo(t, func(path string, src []byte) {
		if strings.HasSuffix(path, "_test.go") {
			return
		}
		f, err := parser.ParseFile(token.NewFileSet(), path, src, 0)
		if err != nil {
			t.Errorf("parse %s: %v", path, err)
			return
		}
		ast.Inspect(f, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.FuncDecl:
				// The main package's is libcontainer's re-execution hook.
				if n.Recv == nil && n.Name.Name == "init" && path != "init.go" {
					t.Errorf("%s has an init function", path)
				}
			case *ast.CallExpr:
				// The boot test's guest panics on purpose.
				if id, ok := n.Fun.(*ast.Ident); ok && id.Name == "panic" && !strings.HasPrefix(path, "test/vm/") {
					t.Errorf("%s panics", path)
				}
			}
			return true
		})
	})
}
