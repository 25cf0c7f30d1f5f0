package arch

import (
	"go/ast"
	"path"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// Limits of size, in lines.
const (
	fileMax     = 700
	functionMax = 100
)

// commentMin is the length in bytes of the shortest comment that can say what a package is for.
const commentMin = 60

func TestFilesAndFunctionsAreShort(t *testing.T) {
	for _, s := range sources(t) {
		if s.generated() {
			continue
		}
		if s.lines > fileMax {
			t.Errorf("%s has %d lines, at most %d are allowed", s.path, s.lines, fileMax)
		}
		for _, decl := range s.file.Decls {
			f, ok := decl.(*ast.FuncDecl)
			if !ok {
				continue
			}
			if n := s.set.Position(f.End()).Line - s.set.Position(f.Pos()).Line + 1; n > functionMax {
				t.Errorf("%s: %s has %d lines, at most %d are allowed", s.path, f.Name.Name, n, functionMax)
			}
		}
	}
}

func TestEveryPackageSaysWhatItIsFor(t *testing.T) {
	comments := map[string]int{}
	for _, s := range sources(t) {
		if s.test() {
			continue
		}
		size := 0
		if s.file.Doc != nil {
			size = len(s.file.Doc.Text())
		}
		// Generated code gets its comment from the contract, when it has services and messages to explain.
		if s.generated() {
			size = commentMin
		}
		comments[s.dir()] = max(comments[s.dir()], size)
	}
	for dir, size := range comments {
		if size < commentMin {
			t.Errorf("the package in %s has a comment of %d bytes: say what it is for, who owns what, what is safe concurrently", dir, size)
		}
	}
}

// unnamed are names of folders that say nothing.
var unnamed = []string{"util", "utils", "common", "helper", "helpers", "types", "misc"}

func TestFoldersHaveNames(t *testing.T) {
	for _, s := range sources(t) {
		if slices.Contains(unnamed, path.Base(s.dir())) {
			t.Errorf("the folder of %s says nothing", s.path)
		}
	}
}

func TestNothingRunsBeforeMain(t *testing.T) {
	for _, s := range sources(t) {
		if s.generated() {
			continue
		}
		for _, decl := range s.file.Decls {
			if f, ok := decl.(*ast.FuncDecl); ok && f.Recv == nil && f.Name.Name == "init" {
				t.Errorf("%s has an init function", s.path)
			}
		}
	}
}

// leftover finds what was meant to be done later.
var leftover = regexp.MustCompile(`\b(TO` + `DO|FIX` + `ME|XX` + `X)\b`)

func TestNothingIsLeftForLater(t *testing.T) {
	for _, s := range sources(t) {
		if s.generated() {
			continue
		}
		for _, group := range s.file.Comments {
			if leftover.MatchString(group.Text()) {
				t.Errorf("%s: %s", s.set.Position(group.Pos()), strings.TrimSpace(group.Text()))
			}
		}
	}
}
