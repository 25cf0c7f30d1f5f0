package sanlocktest

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// Storage is a file system of its own whose writes can be made to hang, as those of shared storage that is cut off do.
type Storage struct {
	// Dir is where it is mounted.
	Dir string

	mu     sync.Mutex // guards frozen
	frozen bool
}

// NewStorage makes an empty file system in an image. Where there is no loop device to be had the test is skipped.
func NewStorage(t testing.TB) *Storage {
	t.Helper()
	dir := t.TempDir()
	image := filepath.Join(dir, "image")
	s := &Storage{Dir: filepath.Join(dir, "mounted")}
	if err := os.WriteFile(image, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(image, 64<<20); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(s.Dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, words := range [][]string{{"mkfs.ext4", "-q", "-F", image}, {"mount", "-o", "loop", image, s.Dir}} {
		if out, err := exec.CommandContext(t.Context(), words[0], words[1:]...).CombinedOutput(); err != nil {
			t.Skipf("no storage that can be cut off: %v: %v: %s", words, err, out)
		}
	}
	t.Cleanup(func() {
		s.Thaw(t)
		if out, err := exec.CommandContext(context.Background(), "umount", s.Dir).CombinedOutput(); err != nil {
			t.Errorf("unmount storage: %v: %s", err, out)
		}
	})
	return s
}

// Requests of ioctl_fs: FIFREEZE and FITHAW of linux/fs.h.
const (
	fiFreeze = 0xC0045877
	fiThaw   = 0xC0045878
)

// Freeze has all writes hang.
func (s *Storage) Freeze(t testing.TB) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ioctl(t, fiFreeze)
	s.frozen = true
}

// Thaw lets them go on.
func (s *Storage) Thaw(t testing.TB) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.frozen {
		return
	}
	s.ioctl(t, fiThaw)
	s.frozen = false
}

func (s *Storage) ioctl(t testing.TB, request uint) {
	t.Helper()
	dir, err := os.Open(s.Dir)
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	if err := unix.IoctlSetInt(int(dir.Fd()), request, 0); err != nil {
		t.Fatal(err)
	}
}
