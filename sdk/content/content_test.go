package content_test

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/lodgevirt/lodge/sdk/content"
)

// pair returns both ends.
func pair(t testing.TB) (a, b *content.Conn) {
	t.Helper()
	a, file, err := content.Pair()
	if err != nil {
		t.Fatal(err)
	}
	if b, err = content.New(file); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = errors.Join(a.Close(), b.Close()) })
	return a, b
}

func TestContentArrivesInItsOrder(t *testing.T) {
	a, b := pair(t)
	long := bytes.Repeat([]byte("0123456789abcdef"), content.MaxPiece/8)
	go func() {
		_ = errors.Join(a.Data([]byte("head")), a.Hole(0), a.Hole(1<<40), a.Data(long), a.Data(nil), a.End())
	}()
	var got []byte
	holes := uint64(0)
	for {
		data, hole, err := b.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if len(data) > content.MaxPiece {
			t.Errorf("a piece of %d bytes", len(data))
		}
		got, holes = append(got, data...), holes+hole
	}
	if !bytes.Equal(got, append([]byte("head"), long...)) || holes != 1<<40 {
		t.Errorf("%d bytes and holes of %d arrived", len(got), holes)
	}
}

func TestContentThatIsBrokenOffIsNoEnd(t *testing.T) {
	a, b := pair(t)
	if err := errors.Join(a.Data([]byte("x")), a.Close()); err != nil {
		t.Fatal(err)
	}
	if data, _, err := b.Next(); string(data) != "x" || err != nil {
		t.Fatalf("got %q, %v", data, err)
	}
	if _, _, err := b.Next(); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("broken off: %v", err)
	}
	if err := b.Data(make([]byte, 1<<20)); err == nil {
		t.Error("sent to nobody")
	}
}

func TestCloseEndsAWait(t *testing.T) {
	a, b := pair(t)
	done := make(chan error, 2)
	go func() { _, _, err := b.Next(); done <- err }()
	_ = b.Close()
	if err := <-done; err == nil {
		t.Error("a read ended without an error")
	}
	go func() { done <- a.Data(make([]byte, 64<<20)) }()
	_ = a.Close()
	if err := <-done; err == nil {
		t.Error("a write ended without an error")
	}
}

// raw returns an end and the bare socket that is its other one.
func raw(t testing.TB) (net.Conn, *content.Conn) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	file := os.NewFile(uintptr(fds[0]), "raw")
	defer file.Close()
	bare, err := net.FileConn(file)
	if err != nil {
		t.Fatal(err)
	}
	c, err := content.New(os.NewFile(uintptr(fds[1]), "content"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = errors.Join(bare.Close(), c.Close()) })
	return bare, c
}

func TestAPieceThatIsTooLongIsRefused(t *testing.T) {
	bare, c := raw(t)
	if _, err := bare.Write([]byte{0, 0, 0, 0, 0, 4, 0, 1}); err != nil {
		t.Fatal(err)
	}
	if _, _, err := c.Next(); !errors.Is(err, content.ErrFrame) {
		t.Errorf("error %v", err)
	}
	if err := c.Hole(1 << 63); !errors.Is(err, content.ErrFrame) {
		t.Errorf("a hole beyond numbers: %v", err)
	}
}

func TestWhatIsNoSocketIsRefused(t *testing.T) {
	f, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := content.New(f); err == nil {
		t.Error("taken")
	}
}

func FuzzNext(f *testing.F) {
	f.Add([]byte{0, 0, 0, 0, 0, 0, 0, 1, 'x', 0, 0, 0, 0, 0, 0, 0, 0})
	f.Add([]byte{0x80, 0, 0, 0, 0, 0, 0, 1})
	f.Fuzz(func(t *testing.T, sent []byte) {
		bare, c := raw(t)
		go func() { _, _ = bare.Write(sent); _ = bare.Close() }()
		total := 0
		for {
			data, _, err := c.Next()
			total += len(data)
			if err != nil {
				break
			}
		}
		if total > len(sent) {
			t.Errorf("%d bytes came out of %d", total, len(sent))
		}
	})
}

func BenchmarkContent(b *testing.B) {
	from, to := pair(b)
	data := make([]byte, content.MaxPiece)
	b.SetBytes(int64(len(data)))
	go func() {
		for {
			if _, _, err := to.Next(); err != nil {
				return
			}
		}
	}()
	b.ReportAllocs()
	for b.Loop() {
		if err := from.Data(data); err != nil {
			b.Fatal(err)
		}
	}
}
