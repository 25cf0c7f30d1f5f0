package rpc

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// pair returns two connected unix stream sockets.
func pair(t testing.TB) (a, b *net.UnixConn) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	conns := make([]*net.UnixConn, 2)
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "pair")
		c, err := net.FileConn(f)
		_ = f.Close()
		if err != nil {
			t.Fatal(err)
		}
		conns[i] = c.(*net.UnixConn)
		t.Cleanup(func() { _ = c.Close() })
	}
	return conns[0], conns[1]
}

func frame(h Header, payload string) []byte {
	return append(appendPrefix(nil, h, len(payload)), payload...)
}

var sample = Header{Program: 0x20008086, Version: 1, Procedure: 66, Type: Call, Serial: 7}

func TestFramesCrossASocket(t *testing.T) {
	a, b := pair(t)
	w, r := NewWriter(a, time.Minute), NewReader(b, ReaderConfig{FrameTimeout: time.Minute})
	payloads := [][]byte{nil, []byte("abcd"), bytes.Repeat([]byte("x"), 3*readBuffer), bytes.Repeat([]byte("y"), 1<<20), []byte("end.")}
	go func() {
		for _, p := range payloads {
			if err := w.Queue(sample, p); err != nil {
				t.Error(err)
			}
		}
		if err := w.Flush(); err != nil {
			t.Error(err)
		}
		_ = a.Close()
	}()
	for i, want := range payloads {
		f, err := r.Next()
		if err != nil {
			t.Fatalf("frame %d: %v", i, err)
		}
		if f.Header != sample || !bytes.Equal(f.Payload, want) {
			t.Fatalf("frame %d: header %+v, %d bytes of payload", i, f.Header, len(f.Payload))
		}
	}
	if _, err := r.Next(); !errors.Is(err, io.EOF) {
		t.Fatalf("after the last frame: %v", err)
	}
	if len(r.buf) > readBuffer {
		t.Fatalf("reader kept %d bytes", len(r.buf))
	}
}

func TestReaderRefusesWhatIsNoFrame(t *testing.T) {
	for _, tc := range []struct {
		name string
		in   []byte
		want error
	}{
		{"nothing at all", nil, io.EOF},
		{"a length below itself", []byte{0, 0, 0, 3}, ErrFrame},
		{"a length too short for the header", []byte{0, 0, 0, 27}, ErrFrame},
		{"a length above the limit", binary.BigEndian.AppendUint32(nil, MaxMessage+5), ErrFrame},
		{"an end within the length", []byte{0, 0}, io.ErrUnexpectedEOF},
		{"an end within the header", []byte{0, 0, 0, 28, 1, 2}, io.ErrUnexpectedEOF},
		{"an end within the payload", frame(sample, "abcd")[:30], io.ErrUnexpectedEOF},
		{"more descriptors than allowed", frame(Header{Type: CallWithFDs}, "\x00\x00\x00\x21"), ErrFrame},
		{"a frame with descriptors without their count", frame(Header{Type: CallWithFDs}, ""), ErrFrame},
		{"announced descriptors that are plain bytes", append(frame(Header{Type: CallWithFDs}, "\x00\x00\x00\x01"), 0), ErrFDs},
	} {
		t.Run(tc.name, func(t *testing.T) {
			a, b := pair(t)
			if _, err := a.Write(tc.in); err != nil {
				t.Fatal(err)
			}
			_ = a.Close()
			r := NewReader(b, ReaderConfig{FDs: 1})
			if _, err := r.Next(); !errors.Is(err, tc.want) {
				t.Fatalf("error %v, want %v", err, tc.want)
			}
		})
	}
}

func TestAnAnnouncedLengthCostsNoMemory(t *testing.T) {
	a, b := pair(t)
	r := NewReader(b, ReaderConfig{})
	if _, err := a.Write(append(binary.BigEndian.AppendUint32(nil, MaxMessage), make([]byte, 100)...)); err != nil {
		t.Fatal(err)
	}
	_ = a.Close()
	if _, err := r.Next(); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Fatal(err)
	}
	if len(r.buf) > 2*readBuffer {
		t.Fatalf("reader holds %d bytes for 104", len(r.buf))
	}
}

func TestAHalfFrameTimesOut(t *testing.T) {
	a, b := pair(t)
	r := NewReader(b, ReaderConfig{FrameTimeout: 10 * time.Millisecond})
	if _, err := a.Write([]byte{0, 0}); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Next(); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("error %v", err)
	}
}

func TestDescriptorsTravelWithTheirFrame(t *testing.T) {
	a, b := pair(t)
	w, r := NewWriter(a, time.Minute), NewReader(b, ReaderConfig{FDs: MaxFDs})
	defer r.Close()
	var files []*os.File
	for range 3 {
		f, err := os.CreateTemp(t.TempDir(), "fd")
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		files = append(files, f)
	}
	h := sample
	h.Type = ReplyWithFDs
	if err := w.SendFiles(h, []byte("abcd"), files); err != nil {
		t.Fatal(err)
	}
	if err := w.Send(sample, nil); err != nil {
		t.Fatal(err)
	}
	f, err := r.Next()
	if err != nil {
		t.Fatal(err)
	}
	if string(f.Payload) != "abcd" || len(f.Files) != len(files) {
		t.Fatalf("payload %q, %d files", f.Payload, len(f.Files))
	}
	for i, got := range f.Files {
		gotInfo, err := got.Stat()
		if err != nil {
			t.Fatal(err)
		}
		wantInfo, err := files[i].Stat()
		if err != nil || !os.SameFile(gotInfo, wantInfo) {
			t.Fatalf("descriptor %d is another file (%v)", i, err)
		}
		_ = got.Close()
	}
	if f, err := r.Next(); err != nil || f.Header != sample {
		t.Fatalf("the frame behind: %+v, %v", f, err)
	}
}

func TestAReaderWithoutUseForDescriptorsHoldsNone(t *testing.T) {
	a, b := pair(t)
	w, r := NewWriter(a, time.Minute), NewReader(b, ReaderConfig{})
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	h := sample
	h.Type = CallWithFDs
	before := openFDs(t)
	if err := w.SendFiles(h, []byte("abcd"), []*os.File{null, null}); err != nil {
		t.Fatal(err)
	}
	f, err := r.Next()
	if err != nil || len(f.Files) != 0 || string(f.Payload) != "abcd" {
		t.Fatalf("frame %+v, %v", f, err)
	}
	if after := openFDs(t); after != before {
		t.Fatalf("%d descriptors are open, %d were", after, before)
	}
}

func openFDs(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Skip("no /proc")
	}
	return len(entries)
}

func TestFramesOfManySendersDoNotMix(t *testing.T) {
	a, b := pair(t)
	w, r := NewWriter(a, time.Minute), NewReader(b, ReaderConfig{})
	const senders, each = 8, 200
	var wg sync.WaitGroup
	for s := range senders {
		wg.Go(func() {
			for i := range each {
				h := Header{Program: uint32(s), Serial: uint32(i)}
				size := 16
				if i%50 == 0 {
					size = 2 * directPayload
				}
				if err := w.Send(h, bytes.Repeat([]byte{byte(s)}, size)); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	next := make([]uint32, senders)
	for range senders * each {
		f, err := r.Next()
		if err != nil {
			t.Fatal(err)
		}
		if f.Serial != next[f.Program] || bytes.Count(f.Payload, []byte{byte(f.Program)}) != len(f.Payload) {
			t.Fatalf("sender %d: serial %d, want %d, or mixed payload", f.Program, f.Serial, next[f.Program])
		}
		next[f.Program]++
	}
	wg.Wait()
}

func TestAPeerThatDoesNotReadHoldsNoMemory(t *testing.T) {
	a, _ := pair(t)
	w := NewWriter(a, 20*time.Millisecond)
	var err error
	for err == nil {
		err = w.Send(sample, make([]byte, 1000))
	}
	if !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("error %v", err)
	}
	if err := w.Send(sample, nil); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("the failure did not stay: %v", err)
	}
	if n := cap(w.buf) + cap(w.spare); n > 4*writeBuffer {
		t.Fatalf("writer holds %d bytes", n)
	}
}

func TestPayloadAboveTheLimitIsNotSent(t *testing.T) {
	a, _ := pair(t)
	if err := NewWriter(a, time.Minute).Send(sample, make([]byte, MaxPayload+1)); !errors.Is(err, ErrTooLarge) {
		t.Fatal(err)
	}
}

// bytesConn is a connection that only reads, from memory.
type bytesConn struct {
	net.Conn
	r io.Reader
}

func (c bytesConn) Read(b []byte) (int, error)      { return c.r.Read(b) }
func (c bytesConn) SetReadDeadline(time.Time) error { return nil }

func FuzzReader(f *testing.F) {
	f.Add(frame(sample, "abcd"))
	f.Add(append(frame(sample, ""), 0, 0, 0, 3))
	f.Add(frame(Header{Type: CallWithFDs}, "\x00\x00\x00\x01"))
	f.Fuzz(func(t *testing.T, in []byte) {
		r := NewReader(bytesConn{r: bytes.NewReader(in)}, ReaderConfig{})
		used := 0
		for {
			fr, err := r.Next()
			if err != nil {
				return
			}
			again := frame(fr.Header, string(fr.Payload))
			if !bytes.Equal(again, in[used:used+len(again)]) {
				t.Fatalf("frame at %d is not what was sent", used)
			}
			used += len(again)
		}
	})
}

func BenchmarkRoundTrip(b *testing.B) {
	x, y := pair(b)
	w, r := NewWriter(x, time.Minute), NewReader(y, ReaderConfig{FrameTimeout: time.Minute})
	payload := make([]byte, 100)
	b.ReportAllocs()
	for b.Loop() {
		if err := w.Send(sample, payload); err != nil {
			b.Fatal(err)
		}
		if _, err := r.Next(); err != nil {
			b.Fatal(err)
		}
	}
}
