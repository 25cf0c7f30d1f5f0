package cmdline_test

import (
	"os"
	"path/filepath"
	"regexp"
	"testing"

	"github.com/lodgevirt/lodge/plugins/qemu/internal/define"
	"github.com/lodgevirt/lodge/sdk/domxml"
)

// FuzzDefinition looks for definitions that make completing or building panic, and for ones that are completed differently
// the second time.
func FuzzDefinition(f *testing.F) {
	inputs, err := filepath.Glob("../define/testdata/*.xml")
	if err != nil || len(inputs) == 0 {
		f.Fatal("no definitions", err)
	}
	for _, in := range inputs {
		text, err := os.ReadFile(in)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(string(text))
	}
	f.Fuzz(func(t *testing.T, text string) {
		if _, err := corpusBuild(text); err != nil {
			return
		}
		first, err := completed(text)
		if err != nil {
			return
		}
		second, err := completed(first)
		if err != nil {
			t.Fatalf("a completed definition is refused: %v\n%s", err, first)
		}
		if first != second {
			t.Errorf("completed again, it is another:\n%s\n%s", first, second)
		}
	})
}

func completed(text string) (string, error) {
	d, err := domxml.Parse(text)
	if err != nil {
		return "", err
	}
	if err := domxml.Complete(d); err != nil {
		return "", err
	}
	if err := define.Complete(d, plainEnv()); err != nil {
		return "", err
	}
	return domxml.Format(d)
}

// part is an attribute, an empty element or an element with text.
var part = regexp.MustCompile(`( [a-zA-Z_]+=)(?:'[^']*'|"[^"]*")|<[a-z][^<>]*/>|<([a-z]+)[^<>/]*>[^<>]*</[a-z]+>`)

// Each part of a definition is left out, emptied or made too large in turn: what is left may be refused, but must not panic.
func TestPartsThatAreMissingOrTooLarge(t *testing.T) {
	inputs, err := filepath.Glob("../define/testdata/*.xml")
	if err != nil || len(inputs) == 0 {
		t.Fatal("no definitions", err)
	}
	for _, in := range inputs {
		b, err := os.ReadFile(in)
		if err != nil {
			t.Fatal(err)
		}
		text := string(b)
		for _, at := range part.FindAllStringSubmatchIndex(text, -1) {
			variants := []string{""}
			if at[2] >= 0 {
				name := text[at[2]:at[3]]
				variants = append(variants, name+"''", name+"'4294967295'", name+"'x'")
			}
			for _, v := range variants {
				changed := text[:at[0]] + v + text[at[1]:]
				if !survives(changed) {
					t.Errorf("%s: %q instead of %q panics", filepath.Base(in), v, text[at[0]:at[1]])
				}
			}
		}
	}
}

func survives(text string) (ok bool) {
	defer func() { ok = recover() == nil }()
	_, _ = corpusBuild(text)
	return true
}
