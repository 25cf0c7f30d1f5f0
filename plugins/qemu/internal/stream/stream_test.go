package stream

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// state is a guest's state of a size: some of it compresses well.
func state(size int) []byte {
	b := make([]byte, size)
	random := rand.NewChaCha8([32]byte{1})
	_, _ = random.Read(b[:size/2]) // never fails
	return b
}

// offset is where a state begins in the files of these tests.
const offset = 8192

func newFile(t *testing.T) *os.File {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "state"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	if _, err := f.Seek(offset, io.SeekStart); err != nil {
		t.Fatal(err)
	}
	return f
}

func TestStateComesBackAsItWas(t *testing.T) {
	for _, format := range Formats() {
		for _, direct := range []bool{false, true} {
			for _, size := range []int{0, 1, alignment, chunk, 3*chunk + 12345} {
				t.Run(fmt.Sprintf("%s direct=%v %d bytes", format, direct, size), func(t *testing.T) {
					want, f := state(size), newFile(t)
					save := &Copy{Format: format, Direct: direct}
					err := save.Save(f, bytes.NewReader(want))
					if errors.Is(err, ErrDirect) {
						t.Skip(err)
					}
					if err != nil || save.Moved() != uint64(size) {
						t.Fatalf("%d bytes were moved, error %v", save.Moved(), err)
					}
					if at, err := f.Seek(0, io.SeekCurrent); err != nil || format == Raw && at != offset+int64(size) {
						t.Errorf("the file is at %d, error %v", at, err)
					}
					if _, err := f.Seek(offset, io.SeekStart); err != nil {
						t.Fatal(err)
					}
					var got bytes.Buffer
					restore := &Copy{Format: format, Direct: direct}
					if err := restore.Restore(&got, f); err != nil {
						t.Fatal(err)
					}
					if !bytes.Equal(got.Bytes(), want) || restore.Moved() != uint64(size) {
						t.Errorf("%d bytes came back of %d, or others", got.Len(), size)
					}
				})
			}
		}
	}
}

func TestFullDiskIsTold(t *testing.T) {
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Skip(err)
	}
	defer full.Close()
	for _, format := range Formats() {
		c := &Copy{Format: format}
		if err := c.Save(full, bytes.NewReader(state(2*chunk))); !errors.Is(err, unix.ENOSPC) {
			t.Errorf("%s: %v, want that the disk is full", format, err)
		}
	}
}

// TestReaderMayHaveEnough: QEMU closes the pipe when it has read the end of the state, whatever follows.
func TestReaderMayHaveEnough(t *testing.T) {
	f := newFile(t)
	if _, err := f.Write(state(2 * chunk)); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Seek(offset, io.SeekStart); err != nil {
		t.Fatal(err)
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	r.Close()
	if err := (&Copy{Format: Raw}).Restore(w, f); err != nil {
		t.Error(err)
	}
}

func TestBrokenStreamIsAnError(t *testing.T) {
	for _, format := range []string{Gzip, Zstd} {
		f := newFile(t)
		if err := (&Copy{Format: format}).Save(f, bytes.NewReader(state(chunk))); err != nil {
			t.Fatal(err)
		}
		if err := f.Truncate(offset + 1000); err != nil {
			t.Fatal(err)
		}
		if _, err := f.Seek(offset, io.SeekStart); err != nil {
			t.Fatal(err)
		}
		if err := (&Copy{Format: format}).Restore(io.Discard, f); err == nil {
			t.Errorf("%s: a stream that was cut off is read without an error", format)
		}
	}
	if err := (&Copy{Format: "lzop"}).Save(newFile(t), bytes.NewReader(nil)); err == nil {
		t.Error("an unknown format was written")
	}
	misplaced := newFile(t)
	if _, err := misplaced.Seek(92, io.SeekStart); err != nil {
		t.Fatal(err)
	}
	if err := (&Copy{Format: Raw, Direct: true}).Restore(io.Discard, misplaced); !errors.Is(err, ErrDirect) {
		t.Errorf("a direct copy from an odd place: %v", err)
	}
}

// FuzzRestore: whatever a file holds, reading it ends, without a panic.
func FuzzRestore(f *testing.F) {
	for n, format := range Formats() {
		file, err := os.Create(filepath.Join(f.TempDir(), "state"))
		if err != nil {
			f.Fatal(err)
		}
		if err := (&Copy{Format: format}).Save(file, bytes.NewReader(state(1000))); err != nil {
			f.Fatal(err)
		}
		text, err := os.ReadFile(file.Name())
		if err != nil {
			f.Fatal(err)
		}
		file.Close()
		f.Add(n, text)
	}
	f.Fuzz(func(t *testing.T, n int, b []byte) {
		c := &Copy{Format: Formats()[uint(n)%uint(len(Formats()))]}
		d, err := c.decoder(bytes.NewReader(b))
		if err != nil {
			return
		}
		defer d.Close()
		_ = c.move(io.Discard, io.LimitReader(d, 16*chunk))
	})
}
