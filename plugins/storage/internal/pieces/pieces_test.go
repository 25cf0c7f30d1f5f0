package pieces

import (
	"bytes"
	"context"
	"errors"
	"io"
	"testing"

	"github.com/lodgevirt/lodge/sdk/verr"
)

// memory is content that counts how it is used.
type memory struct {
	data   []byte
	writes []int
	closed int
}

func (m *memory) Name() string { return "memory" }

func (m *memory) Overwrite(_ context.Context, data []byte, at uint64) error {
	copy(m.data[at:], data)
	m.writes = append(m.writes, len(data))
	return nil
}

func (m *memory) Flush(context.Context) error { return nil }

func (m *memory) Read(_ context.Context, data []byte, at uint64) error {
	copy(data, m.data[at:])
	return nil
}

func (m *memory) Close() { m.closed++ }

func TestPiecesAreGathered(t *testing.T) {
	m := &memory{data: make([]byte, 1000)}
	s, err := Volume{m, 1000, 100}.Create(50, 0)
	if err != nil {
		t.Fatal(err)
	}
	for range 4 {
		if err := s.Write(t.Context(), bytes.Repeat([]byte("x"), 60)); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(s.Hole(t.Context(), 30), s.Write(t.Context(), []byte("y")), s.Finish(t.Context())); err != nil {
		t.Fatal(err)
	}
	want := make([]byte, 1000)
	copy(want[50:], bytes.Repeat([]byte("x"), 240))
	want[320] = 'y'
	if !bytes.Equal(m.data, want) || len(m.writes) != 4 || m.closed != 1 {
		t.Errorf("writes %v, closed %d times, right %v", m.writes, m.closed, bytes.Equal(m.data, want))
	}
}

func TestPiecesAreHandedOut(t *testing.T) {
	const size = 3 * message
	m := &memory{data: make([]byte, size)}
	copy(m.data[message+5:], "data")
	for _, c := range []struct{ piece, offset, length, holes uint64 }{
		{size, 0, 0, 0}, {message, 0, 0, 2 * message}, {message / 2, 7, size - 8, 5*message/2 - 8}, {message, size, 0, 0},
	} {
		s, err := Volume{m, size, c.piece}.Open(c.offset, c.length, true)
		if err != nil {
			t.Fatal(err)
		}
		var got []byte
		holes := uint64(0)
		for {
			data, hole, err := s.Next(t.Context())
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil || len(data) > message {
				t.Fatalf("%d bytes, error %v", len(data), err)
			}
			got = append(append(got, data...), make([]byte, hole)...)
			holes += hole
		}
		end := uint64(size)
		if c.length > 0 {
			end = c.offset + c.length
		}
		if !bytes.Equal(got, m.data[c.offset:end]) || holes != c.holes {
			t.Errorf("%+v: %d bytes, %d in holes", c, len(got), holes)
		}
	}
}

func TestWhatIsOutsideIsRefused(t *testing.T) {
	m := &memory{data: make([]byte, 10)}
	v := Volume{m, 10, 4}
	_, behind := v.Open(11, 0, false)
	_, long := v.Create(5, 6)
	_, overflow := v.Create(5, 1<<64-1)
	for name, err := range map[string]error{"behind the end": behind, "too long": long, "beyond numbers": overflow} {
		if !verr.Is(err, verr.InvalidArg) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if m.closed != 3 {
		t.Errorf("closed %d times", m.closed)
	}
	s, err := v.Create(5, 2)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Write(t.Context(), []byte("abc")); !verr.Is(err, verr.OperationFailed) {
		t.Errorf("more than stated: %v", err)
	}
	if err := s.Hole(t.Context(), 1<<63); !verr.Is(err, verr.OperationFailed) {
		t.Errorf("a hole that is too big: %v", err)
	}
}
