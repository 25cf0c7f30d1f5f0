package lockstate

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

func TestSavedStateIsLoadedOnce(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.json")
	s, err := Parse([]byte(virtlockds))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path+".new", []byte("half of another one"), 0o400); err != nil {
		t.Fatal(err)
	}
	if err := Save(path, s); err != nil {
		t.Fatal(err)
	}
	if st, err := os.Stat(path); err != nil || st.Mode() != 0o600 {
		t.Errorf("mode %v, %v", st.Mode(), err)
	}
	if !Names(path, "25983") || Names(path, "1") || Names(path+".new", "25983") {
		t.Error("the document does not name its process, or another one")
	}
	text, err := Load(path)
	if err != nil {
		t.Fatal(err)
	}
	got, err := Parse(text)
	if err != nil || !cmp.Equal(s, got) {
		t.Errorf("%v: %s", err, cmp.Diff(s, got))
	}
	if _, err := Load(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("second time: %v", err)
	}
	if left, err := os.ReadDir(filepath.Dir(path)); err != nil || len(left) != 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

func TestStateThatCannotBeSavedLeavesNothing(t *testing.T) {
	dir := t.TempDir()
	if err := Save(filepath.Join(dir, "missing", "state"), &State{}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("missing folder: %v", err)
	}
	if err := os.MkdirAll(filepath.Join(dir, "state", "x"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := Save(filepath.Join(dir, "state"), &State{}); err == nil {
		t.Error("a folder was replaced")
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 1 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

func TestStateIsLoadedFromAFileOnly(t *testing.T) {
	dir := t.TempDir()
	path := func(name string) string { return filepath.Join(dir, name) }
	if err := os.WriteFile(path("target"), []byte(virtlockds), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.Symlink(path("target"), path("link")), unix.Mkfifo(path("fifo"), 0o600), os.Mkdir(path("dir"), 0o700)); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"link", "fifo", "dir"} {
		if s, err := Load(path(name)); err == nil || Names(path(name), "25983") {
			t.Errorf("%s: %+v", name, s)
		}
	}
	if err := os.WriteFile(path("damaged"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if text, err := Load(path("damaged")); err != nil || string(text) != "{" {
		t.Errorf("damaged: %q, %v", text, err)
	}
}
