package arch

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// module is the path of this module.
const module = "github.com/lodgevirt/lodge"

// source is one Go file of the tree.
type source struct {
	// path is relative to the top of the tree, with slashes.
	path  string
	file  *ast.File
	set   *token.FileSet
	text  string
	lines int
}

// dir is the folder of the file.
func (s source) dir() string { return path.Dir(s.path) }

// generated says whether a tool has written the file.
func (s source) generated() bool { return ast.IsGenerated(s.file) }

// test says whether the file belongs to tests.
func (s source) test() bool { return strings.HasSuffix(s.path, "_test.go") }

// imports lists the paths that the file imports.
func (s source) imports() []string {
	var paths []string
	for _, spec := range s.file.Imports {
		if p, err := strconv.Unquote(spec.Path.Value); err == nil {
			paths = append(paths, p)
		}
	}
	return paths
}

// skipped are folders that hold no source of ours.
var skipped = map[string]bool{".git": true, "bin": true, "build": true, "testdata": true}

// sources parses every Go file of the tree.
func sources(t *testing.T) []source {
	t.Helper()
	top, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	var all []source
	err = filepath.WalkDir(top, func(name string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if entry.IsDir() && skipped[entry.Name()] {
			return filepath.SkipDir
		}
		if entry.IsDir() || !strings.HasSuffix(name, ".go") {
			return nil
		}
		text, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		set := token.NewFileSet()
		file, err := parser.ParseFile(set, name, text, parser.ParseComments)
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(top, name)
		all = append(all, source{
			path: filepath.ToSlash(rel), file: file, set: set, text: string(text), lines: strings.Count(string(text), "\n"),
		})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(all) < 10 {
		t.Fatalf("only %d Go files found: the test looks at the wrong place", len(all))
	}
	return all
}
