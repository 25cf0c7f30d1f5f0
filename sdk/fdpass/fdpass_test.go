package fdpass_test

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/lodgevirt/lodge/sdk/fdpass"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func listen(t *testing.T) (*fdpass.Receiver, string) {
	t.Helper()
	dir, err := os.MkdirTemp("", "lodge")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	path := filepath.Join(dir, "fds.sock")
	r, err := fdpass.Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.Close() })
	return r, path
}

func within(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func file(t *testing.T, text string) *os.File {
	t.Helper()
	f, err := os.CreateTemp(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	if _, err := f.WriteString(text); err != nil {
		t.Fatal(err)
	}
	return f
}

func read(t *testing.T, f *os.File) string {
	t.Helper()
	defer func() { _ = f.Close() }()
	buf := make([]byte, 64)
	n, _ := f.ReadAt(buf, 0)
	return string(buf[:n])
}

func TestFileIsTakenByItsTokenOnce(t *testing.T) {
	r, path := listen(t)
	a, b := fdpass.Token{1}, fdpass.Token{2}
	for token, text := range map[fdpass.Token]string{a: "first", b: "second"} {
		if err := fdpass.Send(within(t), path, token, file(t, text)); err != nil {
			t.Fatal(err)
		}
	}
	f, err := r.Take(within(t), b)
	if err != nil || read(t, f) != "second" {
		t.Errorf("took %v, %v", f, err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
	defer cancel()
	if _, err := r.Take(ctx, b); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a second take gave %v", err)
	}
}

func TestTakeWaitsForTheFile(t *testing.T) {
	r, path := listen(t)
	got := make(chan string, 1)
	go func() {
		f, err := r.Take(within(t), fdpass.Token{3})
		if err != nil {
			got <- err.Error()
			return
		}
		got <- read(t, f)
	}()
	if err := fdpass.Send(within(t), path, fdpass.Token{3}, file(t, "late")); err != nil {
		t.Fatal(err)
	}
	if s := <-got; s != "late" {
		t.Errorf("took %q", s)
	}
}

func TestReceivedFilesAreNotInheritedAndShareTheLock(t *testing.T) {
	r, path := listen(t)
	f := file(t, "x")
	if err := fdpass.Send(within(t), path, fdpass.Token{4}, f); err != nil {
		t.Fatal(err)
	}
	g, err := r.Take(within(t), fdpass.Token{4})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = g.Close() }()
	flags, err := unix.FcntlInt(g.Fd(), unix.F_GETFD, 0)
	if err != nil || flags&unix.FD_CLOEXEC == 0 {
		t.Errorf("flags are %d, %v", flags, err)
	}
	if pos, err := g.Seek(0, 1); err != nil || pos != 1 {
		t.Errorf("it is not the same open file: position %d, %v", pos, err)
	}
}

func TestTokenThatIsInUseIsRefused(t *testing.T) {
	_, path := listen(t)
	if err := fdpass.Send(within(t), path, fdpass.Token{5}, file(t, "x")); err != nil {
		t.Fatal(err)
	}
	if err := fdpass.Send(within(t), path, fdpass.Token{5}, file(t, "y")); !errors.Is(err, fdpass.ErrRefused) {
		t.Errorf("sent again: %v", err)
	}
}

func TestGarbageEndsTheConnectionAndNothingElse(t *testing.T) {
	r, path := listen(t)
	f := file(t, "good")
	for name, message := range map[string]struct {
		data []byte
		oob  []byte
	}{
		"no descriptor":   {make([]byte, fdpass.TokenSize), nil},
		"two descriptors": {make([]byte, fdpass.TokenSize), unix.UnixRights(int(f.Fd()), int(f.Fd()))},
		"many":            {make([]byte, fdpass.TokenSize), unix.UnixRights(0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)},
		"a short token":   {make([]byte, 3), unix.UnixRights(int(f.Fd()))},
		"a long token":    {make([]byte, 64), unix.UnixRights(int(f.Fd()))},
	} {
		t.Run(name, func(t *testing.T) {
			conn, err := net.DialUnix("unixpacket", nil, &net.UnixAddr{Name: path, Net: "unixpacket"})
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = conn.Close() }()
			if _, _, err := conn.WriteMsgUnix(message.data, message.oob, nil); err != nil {
				t.Fatal(err)
			}
			if n, err := conn.Read(make([]byte, 1)); n > 0 {
				t.Errorf("answered %d bytes, %v", n, err)
			}
		})
	}
	if err := fdpass.Send(within(t), path, fdpass.Token{6}, f); err != nil {
		t.Fatal(err)
	}
	g, err := r.Take(within(t), fdpass.Token{6})
	if err != nil {
		t.Fatal(err)
	}
	_ = g.Close()
}

func TestCloseLeaksNoDescriptor(t *testing.T) {
	count := func() int {
		entries, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		return len(entries)
	}
	f := file(t, "x")
	before := count()
	for range 20 {
		r, path := listen(t)
		for i := range 10 {
			if err := fdpass.Send(within(t), path, fdpass.Token{byte(i)}, f); err != nil {
				t.Fatal(err)
			}
		}
		if err := r.Close(); err != nil {
			t.Fatal(err)
		}
		if _, err := r.Take(within(t), fdpass.Token{1}); !errors.Is(err, fdpass.ErrClosed) {
			t.Errorf("take after close: %v", err)
		}
	}
	if after := count(); after > before+2 {
		t.Errorf("%d descriptors before, %d after", before, after)
	}
}
