package lockserver_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lodgevirt/lodge/host/internal/lockproto"
	"github.com/lodgevirt/lodge/host/internal/rpc"
	"github.com/lodgevirt/lodge/host/internal/xdr"
)

// frame is a whole frame of our program, or of what is said instead.
func frame(h rpc.Header, payload []byte) []byte {
	b := binary.BigEndian.AppendUint32(nil, uint32(4+rpc.HeaderSize+len(payload)))
	return append(h.Append(b), payload...)
}

func call(procedure int32, payload []byte) []byte {
	return frame(rpc.Header{Program: lockproto.Program, Version: lockproto.Version, Procedure: procedure}, payload)
}

func encoded(t *testing.T, args any) []byte {
	t.Helper()
	b, err := xdr.Append(nil, args)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// population counts what a server might leak.
func population(t *testing.T) (goroutines, descriptors int) {
	t.Helper()
	all, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return runtime.NumGoroutine(), len(all)
}

// starting is how many of a server's own goroutines may not have begun when they were counted first.
const starting = 2

// leakless fails the test if something is left of what do did on connections that it has closed. do should be able to leave more than
// a few of whatever it may leave.
func leakless(t *testing.T, do func()) {
	t.Helper()
	goroutines, descriptors := population(t)
	do()
	eventually(t, "goroutines or descriptors are left", func() bool {
		g, d := population(t)
		return g <= goroutines+starting && d <= descriptors
	})
}

// well fails the test unless a new client is served.
func well(t *testing.T, socket string) {
	t.Helper()
	c, err := dial(socket)
	if err != nil {
		t.Fatal(err)
	}
	defer c.conn.Close()
	if v, err := c.call(lockproto.Program, lockproto.Status, nil); err != nil || v != (verdict{}) {
		t.Fatalf("status: %v %v", v, err)
	}
}

func TestWhatIsNoCallEndsTheConnectionOnly(t *testing.T) {
	socket, _ := serve(t)
	reply := rpc.Header{Program: lockproto.Program, Version: lockproto.Version, Procedure: lockproto.Status, Type: rpc.Reply}
	stream := rpc.Header{Program: lockproto.ClassicProgram, Version: 1, Procedure: 1, Type: rpc.Stream}
	files := rpc.Header{Program: lockproto.Program, Version: 1, Procedure: lockproto.Adopt, Type: rpc.CallWithFDs}
	pong := rpc.Header{Program: rpc.KeepaliveProgram, Version: 1, Procedure: 77, Type: rpc.Message}
	for name, bytes := range map[string][]byte{
		"nothing":                           nil,
		"text":                              []byte("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"),
		"a length of zero":                  {0, 0, 0, 0},
		"a length below the header":         {0, 0, 0, 27},
		"a length above the limit":          {0xff, 0xff, 0xff, 0xff},
		"part of a length":                  {0, 0},
		"part of a header":                  call(lockproto.Status, nil)[:20],
		"part of a payload":                 call(lockproto.Acquire, make([]byte, 100))[:60],
		"a reply":                           frame(reply, nil),
		"a stream":                          frame(stream, nil),
		"descriptors without a count":       frame(files, nil),
		"more descriptors than allowed":     frame(files, []byte{0, 0, 0, 33}),
		"descriptors that do not come":      append(frame(files, []byte{0, 0, 0, 2}), 0, 0),
		"a keepalive that nobody knows":     frame(pong, nil),
		"a call and garbage":                append(call(lockproto.Status, nil), "garbage!garbage!"...),
		"a huge frame that is not all sent": append([]byte{1, 0, 0, 0}, bytes.Repeat([]byte("x"), 1<<16)...),
	} {
		t.Run(name, func(t *testing.T) {
			leakless(t, func() {
				for range 2 * starting {
					say(t, socket, bytes)
				}
				well(t, socket)
			})
		})
	}
}

// say sends bytes, closes its half of the connection, and waits until the server closes the other.
func say(t *testing.T, socket string, bytes []byte) {
	t.Helper()
	conn, err := net.Dial("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	// The server may close while we still write.
	if _, err := conn.Write(bytes); err != nil && !errors.Is(err, unix.EPIPE) && !errors.Is(err, unix.ECONNRESET) {
		t.Fatal(err)
	}
	if err := conn.(*net.UnixConn).CloseWrite(); err != nil && !errors.Is(err, unix.ENOTCONN) {
		t.Fatal(err)
	}
	if _, err := io.Copy(io.Discard, conn); err != nil && !errors.Is(err, unix.ECONNRESET) {
		t.Fatal(err)
	}
}

func TestBadCallsAreAnsweredAndTheConnectionGoesOn(t *testing.T) {
	socket, table := serve(t)
	dir := filepath.Join(t.TempDir(), "locks")
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	acquire := func(space, name string) *lockproto.AcquireArgs {
		return &lockproto.AcquireArgs{
			Owner:     lockproto.Owner{UUID: [16]byte{1}, Name: "guest", Generation: 1},
			Resources: []lockproto.Resource{{Lockspace: space, Name: name, Temporary: true}},
		}
	}
	invalid, malformed := verdict{8, 42}, verdict{39, 7}
	system := verdict{38, 42}
	long := strings.Repeat("n", 4097)
	gone := &lockproto.SetProcessArgs{Owner: lockproto.Owner{UUID: [16]byte{1}, Generation: 1, PID: 1, StartTime: 1 << 60}}
	negative := &lockproto.SetProcessArgs{Owner: lockproto.Owner{UUID: [16]byte{1}, Generation: 1, PID: -1}}
	for _, c := range []struct {
		name      string
		procedure int32
		args      any
		want      verdict
	}{
		{"procedure zero", 0, nil, malformed},
		{"an unknown procedure", 77, nil, malformed},
		{"a message as a call", lockproto.Changed, nil, malformed},
		{"a lease that is not there", lockproto.ForceRelease, &lockproto.ForceReleaseArgs{Number: 77}, verdict{55, 42}},
		{"a negative procedure", -1, nil, malformed},
		{"no arguments", lockproto.Acquire, nil, malformed},
		{"arguments cut short", lockproto.Acquire, encoded(t, acquire(dir, "x"))[:40], malformed},
		{"a count of four thousand millions", lockproto.Release, append(make([]byte, 24), 0xff, 0xff, 0xff, 0xff), malformed},
		{"a name of over 4096 bytes", lockproto.Acquire, append(encoded(t, acquire(dir, ""))[:64], long...), malformed},
		{"a name that leads out", lockproto.Acquire, acquire(dir, "../x"), invalid},
		{"a name that leads out later", lockproto.Acquire, acquire(dir, "a/../../x"), invalid},
		{"an absolute name in a lockspace", lockproto.Acquire, acquire(dir, "/etc/passwd"), invalid},
		{"the lockspace itself", lockproto.Acquire, acquire(dir, "."), invalid},
		{"no name", lockproto.Acquire, acquire(dir, ""), invalid},
		{"no name at all", lockproto.Acquire, acquire("", ""), invalid},
		{"a relative path", lockproto.Acquire, acquire("", "image"), invalid},
		{"a relative lockspace", lockproto.Acquire, acquire("locks", "x"), invalid},
		{"a null byte", lockproto.Acquire, acquire(dir, "a\x00b"), malformed},
		{"no UTF-8", lockproto.Acquire, acquire(dir, "\xff\xfe"), invalid},
		{"a name longer than the file system's", lockproto.Acquire, acquire(dir, long[:4000]), system},
		{"a lockspace that is a file", lockproto.Acquire, acquire(file, "x"), system},
		{"a lockspace below a file", lockproto.Acquire, acquire(file+"/locks", "x"), system},
		{"a lockspace of the kernel's", lockproto.Acquire, acquire("/proc/locks-of-nobody", "x"), system},
		{"a folder as an image", lockproto.Acquire, acquire("", filepath.Dir(file)), system},
		{"a process that is gone", lockproto.SetProcess, gone, system},
		{"a process that cannot be", lockproto.SetProcess, negative, system},
		{"release of nothing", lockproto.Release, &lockproto.ReleaseArgs{Generation: 9}, verdict{}},
		{"the end of the list", lockproto.List, &lockproto.ListArgs{After: 1<<64 - 1}, verdict{}},
		{"a good call after all that", lockproto.Status, nil, verdict{}},
	} {
		t.Run(c.name, func(t *testing.T) {
			client := mustDial(t, socket)
			for range 2 {
				got, err := client.call(lockproto.Program, c.procedure, c.args)
				if err != nil || got != c.want {
					t.Errorf("%v (%v), want %v", got, err, c.want)
				}
			}
		})
	}
	if all := table.List(); len(all) > 0 {
		t.Errorf("leases are left: %v", all)
	}
}

func TestClassicNamesCannotLeaveTheirLockspace(t *testing.T) {
	socket, table := serve(t)
	dir := filepath.Join(t.TempDir(), "locks")
	c := mustDial(t, socket)
	for procedure, args := range map[int32]any{
		lockproto.ClassicRegister: register(sleeper(t)), lockproto.ClassicCreateLockspace: &lockproto.CreateLockspaceArgs{Path: dir},
	} {
		if v, err := c.call(lockproto.ClassicProgram, procedure, args); err != nil || v != (verdict{}) {
			t.Fatalf("procedure %d: %v %v", procedure, v, err)
		}
	}
	for _, name := range []string{"", ".", "..", "../x", "a/../../x", "/etc/passwd", "a\x00b", strings.Repeat("n", 4097), strings.Repeat("n", 65536)} {
		for _, procedure := range []int32{4, 5, 6, 7} {
			args := &lockproto.ResourceArgs{Path: dir, Name: name}
			if v, err := c.call(lockproto.ClassicProgram, procedure, args); err != nil || v.code == 0 {
				t.Errorf("procedure %d with %.20q: %v (%v)", procedure, name, v, err)
			}
		}
	}
	if v, err := c.call(lockproto.ClassicProgram, lockproto.ClassicNew, &lockproto.NewArgs{Path: strings.Repeat("/n", 30000)}); err != nil || v.code == 0 {
		t.Errorf("lockspace with a name of 60000 bytes: %v (%v)", v, err)
	}
	if names, err := os.ReadDir(filepath.Dir(dir)); err != nil || len(names) != 1 || len(table.List()) != 0 {
		t.Errorf("beside the lockspace there are %v (%v), leases %v", names, err, table.List())
	}
}

func TestSlowAndSilentClientsKeepNobodyWaiting(t *testing.T) {
	socket, _ := serve(t)
	leakless(t, func() {
		var conns []net.Conn
		for i := range 30 {
			conn, err := net.Dial("unix", socket)
			if err != nil {
				t.Fatal(err)
			}
			conns = append(conns, conn)
			// A third is silent, a third sends one byte, a third asks without reading.
			part := [][]byte{nil, {0}, bytes.Repeat(call(lockproto.Status, nil), 500)}[i%3]
			if _, err := conn.Write(part); err != nil {
				t.Fatal(err)
			}
		}
		well(t, socket)
		for _, c := range conns {
			c.Close()
		}
	})
}

func TestThousandsOfConnections(t *testing.T) {
	socket, _ := serve(t) // for 32 clients
	leakless(t, func() {
		var each sync.WaitGroup
		slots := make(chan struct{}, 100)
		for range 3000 {
			slots <- struct{}{}
			each.Go(func() {
				defer func() { <-slots }()
				c, err := dial(socket)
				if err != nil {
					return // the backlog is full
				}
				defer c.conn.Close()
				// An answer or a closed connection, but nothing in between.
				v, err := c.call(lockproto.Program, lockproto.Status, nil)
				if err == nil && v != (verdict{}) {
					t.Errorf("verdict %v", v)
				}
				if errors.Is(err, os.ErrDeadlineExceeded) {
					t.Error("no answer")
				}
			})
		}
		each.Wait()
	})
	eventually(t, "nobody is served any more", func() bool {
		c, err := dial(socket)
		if err != nil {
			return false
		}
		defer c.conn.Close()
		v, err := c.call(lockproto.Program, lockproto.Status, nil)
		return err == nil && v == (verdict{})
	})
}

func TestDescriptorsThatNobodyAskedForAreClosed(t *testing.T) {
	socket, _ := serve(t)
	leakless(t, func() {
		c, err := dial(socket)
		if err != nil {
			t.Fatal(err)
		}
		defer c.conn.Close()
		null, err := os.Open(os.DevNull)
		if err != nil {
			t.Fatal(err)
		}
		defer null.Close()
		adoption := encoded(t, &lockproto.AcquireArgs{Resources: make([]lockproto.Resource, 1)})
		for _, h := range []rpc.Header{
			{Program: lockproto.Program, Version: 1, Procedure: lockproto.Status},
			{Program: lockproto.Program, Version: 1, Procedure: lockproto.Adopt},
			{Program: lockproto.Program, Version: 1, Procedure: 99},
			{Program: lockproto.Program, Version: 9, Procedure: 1},
			{Program: lockproto.ClassicProgram, Version: 1, Procedure: lockproto.ClassicRestrict},
			{Program: 1, Version: 1, Procedure: 1},
		} {
			h.Type = rpc.CallWithFDs
			if err := c.writer.SendFiles(h, adoption, []*os.File{null, null, null}); err != nil {
				t.Fatal(err)
			}
			if _, err := c.reader.Next(); err != nil {
				t.Fatalf("%+v: %v", h, err)
			}
		}
		// Some that belong to no frame at all.
		raw := c.conn.(*net.UnixConn)
		if _, _, err := raw.WriteMsgUnix(call(lockproto.Status, nil), unix.UnixRights(int(null.Fd()), int(null.Fd())), nil); err != nil {
			t.Fatal(err)
		}
		if _, err := c.reader.Next(); err != nil {
			t.Fatal(err)
		}
	})
}

func TestAdoptionOfADescriptorWithoutTheLockIsRefused(t *testing.T) {
	socket, table := serve(t)
	dir := t.TempDir()
	image := filepath.Join(dir, "image")
	plain, err := os.Create(image)
	if err != nil {
		t.Fatal(err)
	}
	defer plain.Close()
	// Somebody else has the lock; the descriptor in the call is of the right file, and proves nothing.
	holder, err := os.OpenFile(image, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer holder.Close()
	if err := unix.FcntlFlock(holder.Fd(), unix.F_OFD_SETLK, &unix.Flock_t{Type: unix.F_WRLCK, Len: 1}); err != nil {
		t.Fatal(err)
	}
	c := mustDial(t, socket)
	h := rpc.Header{Program: lockproto.Program, Version: 1, Procedure: lockproto.Adopt, Type: rpc.CallWithFDs}
	args := encoded(t, &lockproto.AcquireArgs{Resources: []lockproto.Resource{{Name: image}}})
	if err := c.writer.SendFiles(h, args, []*os.File{plain}); err != nil {
		t.Fatal(err)
	}
	f, err := c.reader.Next()
	if err != nil {
		t.Fatal(err)
	}
	if e, err := rpc.ParseError(f.Payload); f.Status != rpc.Failed || err != nil || e.Code != 87 || len(table.List()) > 0 {
		t.Errorf("status %d, error %+v (%v), leases %v", f.Status, e, err, table.List())
	}
}

func TestLockspaceWithoutRoomIsAnErrorOfTheSystem(t *testing.T) {
	dir := t.TempDir()
	// One inode is the folder's, one is for a lock.
	if err := unix.Mount("locks", dir, "tmpfs", 0, "nr_inodes=2"); err != nil {
		t.Skip("needs the right to mount: ", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	socket, table := serve(t)
	c := mustDial(t, socket)
	take := func(name string) verdict {
		args := &lockproto.AcquireArgs{
			Owner:     lockproto.Owner{UUID: [16]byte{1}, Generation: 1},
			Resources: []lockproto.Resource{{Lockspace: dir, Name: name, Temporary: true}},
		}
		h := rpc.Header{Program: lockproto.Program, Version: 1, Procedure: lockproto.Acquire}
		if err := c.writer.Send(h, encoded(t, args)); err != nil {
			t.Fatal(err)
		}
		f, err := c.reader.Next()
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range f.Files {
			file.Close()
		}
		if f.Status == rpc.OK {
			return verdict{}
		}
		e, err := rpc.ParseError(f.Payload)
		if err != nil || e.Int1 != int32(unix.ENOSPC) && e.Int1 != int32(unix.EROFS) {
			t.Errorf("error %+v (%v)", e, err)
		}
		return verdict{e.Code, e.Domain}
	}
	if v := take("first"); v != (verdict{}) {
		t.Fatalf("first lock: %v", v)
	}
	system := verdict{38, 42}
	if v := take("second"); v != system {
		t.Errorf("lock in a full folder: %v", v)
	}
	if err := unix.Mount("", dir, "", unix.MS_REMOUNT|unix.MS_RDONLY, ""); err == nil {
		if v := take("third"); v != system {
			t.Errorf("lock in a folder that is read-only: %v", v)
		}
	}
	if n := len(table.List()); n != 1 {
		t.Errorf("%d leases, want the first", n)
	}
}
