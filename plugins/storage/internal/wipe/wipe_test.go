package wipe

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

func secret(t *testing.T, size int) *os.File {
	t.Helper()
	path := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(path, bytes.Repeat([]byte("secret"), size/6+1)[:size], 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	return f
}

func TestNothingIsLeft(t *testing.T) {
	want := map[uint32]int{Zero: 1, NNSA: 3, DoD: 3, BSI: 9, Gutmann: 35, Schneier: 7, Pfitzner7: 7, Pfitzner33: 33, Random: 1}
	for algorithm, passes := range want {
		const size = 10_001
		f := secret(t, size)
		var last, total uint64
		if err := File(t.Context(), f, size, algorithm, func(d, all uint64) { last, total = d, all }); err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(f.Name())
		if err != nil || len(got) != size || bytes.Contains(got, []byte("secret")) {
			t.Errorf("algorithm %d leaves %d bytes, error %v", algorithm, len(got), err)
		}
		if last != total || total != uint64(passes*size) {
			t.Errorf("algorithm %d told %d of %d bytes, want %d", algorithm, last, total, passes*size)
		}
	}
}

func TestZeroLeavesZeros(t *testing.T) {
	f := secret(t, block+7)
	if err := File(t.Context(), f, block+7, Zero, func(uint64, uint64) {}); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(f.Name()); err != nil || !bytes.Equal(got, make([]byte, block+7)) {
		t.Errorf("not all are zeros, error %v", err)
	}
}

func TestTrimFreesRoom(t *testing.T) {
	f := secret(t, 1<<20)
	if err := File(t.Context(), f, 1<<20, Trim, func(uint64, uint64) {}); errors.Is(err, unix.EOPNOTSUPP) {
		t.Skip("the file system cannot punch holes")
	} else if err != nil {
		t.Fatal(err)
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil || st.Size != 1<<20 || st.Blocks != 0 {
		t.Errorf("size %d with %d blocks, error %v", st.Size, st.Blocks, err)
	}
}

func TestWipeCanBeCancelled(t *testing.T) {
	f := secret(t, 2*block)
	ctx, cancel := context.WithCancel(t.Context())
	err := File(ctx, f, 2*block, Random, func(uint64, uint64) { cancel() })
	if !errors.Is(err, context.Canceled) {
		t.Errorf("ended with %v", err)
	}
	if err := File(t.Context(), f, 1, 77, nil); !errors.Is(err, ErrAlgorithm) {
		t.Errorf("unknown algorithm: %v", err)
	}
}
