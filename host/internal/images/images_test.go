package images

import (
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/lodgevirt/lodge/sdk/verr"
)

func TestSizes(t *testing.T) {
	dir := t.TempDir()
	qcow2 := make([]byte, 512)
	copy(qcow2, "QFI\xfb")
	binary.BigEndian.PutUint32(qcow2[4:], 3)
	binary.BigEndian.PutUint32(qcow2[20:], 16)
	binary.BigEndian.PutUint64(qcow2[24:], 1<<30)
	binary.BigEndian.PutUint32(qcow2[100:], 104)
	err := errors.Join(
		os.WriteFile(filepath.Join(dir, "a.qcow2"), qcow2, 0o600),
		os.WriteFile(filepath.Join(dir, "b.img"), make([]byte, 8192), 0o600),
		os.Symlink("a.qcow2", filepath.Join(dir, "link")),
		os.Symlink("loop", filepath.Join(dir, "loop")),
		unix.Mkfifo(filepath.Join(dir, "fifo"), 0o600),
	)
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]Sizes{
		"a.qcow2": {Capacity: 1 << 30, Physical: 512}, "b.img": {Capacity: 8192, Physical: 8192}, "link": {Capacity: 1 << 30, Physical: 512},
	} {
		got, err := New().Sizes(t.Context(), filepath.Join(dir, name))
		if got.Allocation = 0; err != nil || got != want {
			t.Errorf("%s: %+v, error %v, want %+v", name, got, err, want)
		}
	}
	for _, name := range []string{"fifo", "loop", "missing", ".", "b.img/c"} {
		if _, err := New().Sizes(t.Context(), filepath.Join(dir, name)); verr.From(err) == nil || verr.From(err).Code != verr.NoStorageVol {
			t.Errorf("%s: %v", name, err)
		}
	}
}
