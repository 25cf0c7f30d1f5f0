package dspath

import (
	"strings"
	"testing"

	"github.com/lodgevirt/lodge/sdk/verr"
)

func TestPathsThatMeanOneFileAreLetPass(t *testing.T) {
	for _, file := range []string{
		"a", "dir/file.vmdk", "a b/c d.vmdk", "a]b/[c].vmdk", "100%/a%20b.iso", "what?/#1.flp", "größe/日本.vmdk", "a..b/..c", "*", "~/$x;`y`", "a\\b",
		strings.Repeat("n", 255),
	} {
		if err := Check(file); err != nil {
			t.Errorf("%q: %v", file, err)
		}
	}
}

func TestPathsThatMeanAnotherFileAreRefusedByName(t *testing.T) {
	for file, reason := range map[string]string{
		"": "empty", "/etc/passwd": "absolute", "../x": `".."`, "a/../b": `".."`, "a/./b": `"."`, "a//b": "empty part", "a/": "empty part", "..": `".."`,
		" a": "blank", "a/b ": "blank", "a /b": "blank", "a\nb": "control", "a\x00b": "control", "a\x7fb": "control", "a\xffb": "UTF-8",
		strings.Repeat("n", 256): "255 bytes", strings.Repeat("n/", 5000): "2048 bytes",
	} {
		err := Check(file)
		if !verr.Is(err, verr.InvalidArg) || !strings.Contains(err.Error(), reason) || len(err.Error()) > 2500 {
			t.Errorf("%.40q: %v, want an error about %s", file, err, reason)
		}
	}
}

func TestPathsAreWrittenAndReadBack(t *testing.T) {
	for _, file := range []string{"a", "dir/file.vmdk", "a]b/[c] d"} {
		if got, ok := Within("ds 1", Join("ds 1", file)); !ok || got != file {
			t.Errorf("%q is read back as %q, %v", file, got, ok)
		}
		if _, ok := Within("ds", Join("ds 1", file)); ok {
			t.Errorf("%q is read as of another datastore", file)
		}
	}
	if got, ok := Within("ds", "[ds] dir/"); !ok || got != "dir" {
		t.Errorf("a folder is read as %q, %v", got, ok)
	}
	if got, ok := Within("ds", "[ds]"); !ok || got != "" {
		t.Errorf("the datastore itself is read as %q, %v", got, ok)
	}
}

func TestDatastoresThatNoPathCanNameAreRefused(t *testing.T) {
	for name, good := range map[string]bool{"ds": true, "ds 1": true, "größe": true, "": false, "a]b": false, "[a": false, " a": false, "a\n": false} {
		if err := CheckDatastore(name); (err == nil) != good {
			t.Errorf("%q: %v", name, err)
		}
	}
}

func FuzzCheckedPathStaysInItsDatastore(f *testing.F) {
	f.Add("dir/file.vmdk")
	f.Add("a/../../b")
	f.Add(" ] [x] ..")
	f.Fuzz(func(t *testing.T, file string) {
		if Check(file) != nil {
			return
		}
		back, ok := Within("ds", Join("ds", file))
		folder, name := Split(file)
		if !ok || back != file || name == "" || strings.HasPrefix(folder, "/") {
			t.Errorf("%q is read back as %q, split %q and %q", file, back, folder, name)
		}
		for part := range strings.SplitSeq(file, "/") {
			if part == ".." || part == "." || part == "" {
				t.Errorf("%q has the part %q", file, part)
			}
		}
	})
}
