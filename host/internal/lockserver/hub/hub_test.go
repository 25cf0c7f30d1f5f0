package hub

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/lodgevirt/lodge/host/internal/rpc"
)

// patience is how long a test waits for what must happen before it fails instead of hanging.
const patience = 20 * time.Second

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// Procedures of the tests' program.
const (
	echo  = 1 // answers with its payload
	slow  = 2 // answers when the test lets it
	files = 3 // answers with the descriptors that it got
)

// site is a hub with one service, and what its sessions share.
type site struct {
	*Hub
	*Service
	t    *testing.T
	path string
	// slow calls say that they have begun, and wait for leave.
	begun, leave chan struct{}
	closed       chan error
	stop         func()
}

// session is the tests' program.
type session struct{ *site }

func (s session) Call(f rpc.Frame) Answer {
	switch f.Procedure {
	case slow:
		s.begun <- struct{}{}
		<-s.leave
	case files:
		return Answer{Files: f.Files, WithFiles: true}
	}
	return Answer{Payload: f.Payload}
}

// Parallel allows as many calls as the program's version says.
func (s session) Parallel(h rpc.Header) int { return int(h.Version) }

func (s session) Closed(err error) { s.closed <- err }

// open makes a hub that does not run yet.
func open(t *testing.T, begin func(*site) Session) *site {
	t.Helper()
	h, err := New(hclog.NewNullLogger(), nil)
	if err != nil {
		t.Fatal(err)
	}
	s := &site{
		Hub: h, t: t, begun: make(chan struct{}, 100), leave: make(chan struct{}), closed: make(chan error, 5000),
	}
	s.Service = h.Add(ServiceConfig{Name: "test", MaxClients: 4, Open: func(*Client) (Session, error) { return begin(s), nil }})
	return s
}

// run lets the hub run until the end of the test.
func (s *site) run() *site {
	ctx, cancel := context.WithCancel(context.Background())
	var done sync.WaitGroup
	done.Go(func() {
		if err := s.Run(ctx); err != nil {
			s.t.Errorf("Run: %v", err)
		}
	})
	s.stop = sync.OnceFunc(func() { cancel(); done.Wait() })
	s.t.Cleanup(s.stop)
	return s
}

// plain is a session of the tests' program and nothing else.
func plain(s *site) Session { return session{s} }

// start runs a hub that listens.
func start(t *testing.T) *site { return startWith(t, plain).run() }

// startWith makes a hub that listens, and does not run yet.
func startWith(t *testing.T, begin func(*site) Session) *site {
	t.Helper()
	s := open(t, begin)
	s.path = filepath.Join(t.TempDir(), "sock")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: s.path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	listener, err := FromNet(l, true)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Listen(listener); err != nil {
		t.Fatal(err)
	}
	return s
}

// caller is a client.
type caller struct {
	t      *testing.T
	conn   *net.UnixConn
	reader *rpc.Reader
}

func (s *site) dial() *caller {
	s.t.Helper()
	conn, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: s.path, Net: "unix"})
	if err != nil {
		s.t.Fatal(err)
	}
	return newCaller(s.t, conn)
}

func newCaller(t *testing.T, conn *net.UnixConn) *caller {
	t.Cleanup(func() { conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	return &caller{t: t, conn: conn, reader: rpc.NewReader(conn, rpc.ReaderConfig{FDs: rpc.MaxFDs})}
}

func call(procedure int32, serial, parallel uint32, payload string) []byte {
	h := rpc.Header{Program: 7, Version: parallel, Procedure: procedure, Serial: serial}
	return rpc.AppendFrame(nil, h, []byte(payload))
}

var ping = rpc.AppendFrame(nil,
	rpc.Header{Program: rpc.KeepaliveProgram, Version: rpc.KeepaliveVersion, Procedure: rpc.KeepalivePing, Type: rpc.Message}, nil)

func (c *caller) write(b []byte) {
	c.t.Helper()
	if _, err := c.conn.Write(b); err != nil {
		c.t.Fatal(err)
	}
}

// expect reads the answer to a call, or a pong of serial 0.
func (c *caller) expect(serial uint32, payload string) {
	c.t.Helper()
	f, err := c.reader.Next()
	if err != nil || f.Serial != serial || string(f.Payload) != payload {
		c.t.Fatalf("read %+v with %.40q, error %v; want serial %d with %.40q", f.Header, f.Payload, err, serial, payload)
	}
}

// silent fails the test if something comes soon.
func (c *caller) silent() {
	c.t.Helper()
	time.Sleep(50 * time.Millisecond)
	raw, err := c.conn.SyscallConn()
	if err != nil {
		c.t.Fatal(err)
	}
	var n int
	var inner error
	err = raw.Control(func(fd uintptr) {
		n, _, inner = unix.Recvfrom(int(fd), make([]byte, 1), unix.MSG_PEEK|unix.MSG_DONTWAIT)
	})
	if err != nil || !errors.Is(inner, unix.EAGAIN) {
		c.t.Fatalf("%d bytes came, error %v", n, errors.Join(err, inner))
	}
}

func TestFramesThatComeInPiecesOrTogetherAreAnswered(t *testing.T) {
	s := start(t)
	c := s.dial()
	var all []byte
	for serial := range uint32(600) {
		all = append(all, call(echo, serial, 1, "abcd")...)
	}
	large := slices.Repeat([]byte("0123456789abcdef"), 1<<17)
	all = append(all, call(echo, 600, 1, string(large))...)
	all = append(all, call(echo, 601, 1, "end.")...)
	go func() {
		for pieces := all; len(pieces) > 0; {
			n := min(len(pieces), 1+len(pieces)%10_007)
			if _, err := c.conn.Write(pieces[:n]); err != nil {
				return
			}
			pieces = pieces[n:]
		}
	}()
	for serial := range uint32(600) {
		c.expect(serial, "abcd")
	}
	c.expect(600, string(large))
	c.expect(601, "end.")
}

func TestCallThatHangsKeepsNobodyElseWaiting(t *testing.T) {
	s := start(t)
	a, b := s.dial(), s.dial()
	a.write(slices.Concat(call(slow, 1, 1, "late"), ping, call(echo, 2, 1, "next"), ping))
	<-s.begun
	for serial := range uint32(20) {
		b.write(call(echo, serial, 1, "soon"))
		b.expect(serial, "soon")
	}
	// The ping before the next call is answered, and what comes behind it is not.
	a.expect(0, "")
	a.silent()
	s.leave <- struct{}{}
	a.expect(1, "late")
	a.expect(2, "next")
	a.expect(0, "")
}

func TestSeveralCallsOfOneClientHangAtOnce(t *testing.T) {
	s := start(t)
	a := s.dial()
	for serial := uint32(1); serial <= 4; serial++ {
		a.write(call(slow, serial, 3, fmt.Sprint(serial)))
	}
	for range 3 {
		<-s.begun
	}
	select {
	case <-s.begun:
		t.Fatal("a call too many has begun")
	case <-time.After(50 * time.Millisecond):
	}
	for range 4 {
		s.leave <- struct{}{}
	}
	var got []uint32
	for range 4 {
		f, err := a.reader.Next()
		if err != nil || string(f.Payload) != fmt.Sprint(f.Serial) {
			t.Fatalf("%+v %q: %v", f.Header, f.Payload, err)
		}
		got = append(got, f.Serial)
	}
	slices.Sort(got)
	if !slices.Equal(got, []uint32{1, 2, 3, 4}) {
		t.Errorf("answers to %v", got)
	}
}

func TestSessionHearsOfTheEndWhenItsCallHasEnded(t *testing.T) {
	s := start(t)
	a, b := s.dial(), s.dial()
	a.write(call(slow, 1, 1, ""))
	<-s.begun
	a.conn.Close()
	b.write(call(echo, 1, 1, ""))
	b.expect(1, "")
	select {
	case err := <-s.closed:
		t.Fatalf("told of the end during the call: %v", err)
	case <-time.After(50 * time.Millisecond):
	}
	s.leave <- struct{}{}
	if err := <-s.closed; !errors.Is(err, io.EOF) && !errors.Is(err, unix.ECONNRESET) && !errors.Is(err, unix.EPIPE) {
		t.Errorf("told of %v", err)
	}
	s.stop()
	if err := <-s.closed; !errors.Is(err, ErrEnded) {
		t.Errorf("other client is told of %v", err)
	}
}

func TestConnectionsAboveTheLimitWait(t *testing.T) {
	s := start(t)
	var all []*caller
	for range 6 {
		c := s.dial()
		c.write(call(echo, 1, 1, ""))
		all = append(all, c)
	}
	for _, c := range all[:4] {
		c.expect(1, "")
	}
	all[4].silent()
	if n := s.Count(); n != 4 {
		t.Errorf("%d clients", n)
	}
	var ids []uint64
	for _, c := range s.Clients() {
		ids = append(ids, c.ID())
		if c.Peer().Pid != int32(os.Getpid()) || time.Since(c.Connected()) > patience {
			t.Errorf("client %+v", c)
		}
	}
	slices.Sort(ids)
	if !slices.Equal(ids, []uint64{1, 2, 3, 4}) {
		t.Errorf("clients have the numbers %v", ids)
	}
	if !s.Close(2) || s.Close(77) {
		t.Error("Close: a client that was there was not, or one that was not was")
	}
	all[4].expect(1, "")
	all[5].silent()
	s.SetLimit(5)
	all[5].expect(1, "")
	if _, err := all[1].reader.Next(); !errors.Is(err, io.EOF) {
		t.Errorf("client that was closed reads %v", err)
	}
}

func TestDescriptorsTravelBothWays(t *testing.T) {
	s := start(t)
	c := s.dial()
	w := rpc.NewWriter(c.conn, patience)
	var sent []*os.File
	for i := range 5 {
		f, err := os.Create(filepath.Join(t.TempDir(), fmt.Sprint(i)))
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		sent = append(sent, f)
	}
	h := rpc.Header{Program: 7, Version: 1, Procedure: files, Type: rpc.CallWithFDs}
	for serial := range uint32(20) {
		h.Serial = serial
		if err := w.SendFiles(h, nil, sent); err != nil {
			t.Fatal(err)
		}
		f, err := c.reader.Next()
		if err != nil || len(f.Files) != len(sent) || f.Type != rpc.ReplyWithFDs {
			t.Fatalf("%+v with %d descriptors: %v", f.Header, len(f.Files), err)
		}
		for i, got := range f.Files {
			want, err1 := sent[i].Stat()
			have, err2 := got.Stat()
			if err := errors.Join(err1, err2); err != nil || !os.SameFile(want, have) {
				t.Errorf("descriptor %d is another file (%v)", i, err)
			}
			got.Close()
		}
	}
}

func TestClientThatDoesNotReadHoldsNoMoreThanItsDue(t *testing.T) {
	s := start(t)
	a, b := s.dial(), s.dial()
	payload := string(make([]byte, 8<<10))
	written := make(chan int, 1)
	go func() {
		n := 0
		for serial := uint32(0); ; serial++ {
			if err := a.conn.SetWriteDeadline(time.Now().Add(200 * time.Millisecond)); err != nil {
				break
			}
			if _, err := a.conn.Write(call(echo, serial, 1, payload)); err != nil {
				break
			}
			n++
		}
		written <- n
	}()
	// The hub stops to read, so the client cannot write any more.
	if n := <-written; n > 500 {
		t.Errorf("%d calls were taken", n)
	}
	b.write(call(echo, 1, 1, ""))
	b.expect(1, "")
	var unread int
	done := make(chan struct{})
	s.post(func() {
		defer close(done)
		for _, c := range s.Hub.clients {
			unread += c.unread
		}
	})
	<-done
	if unread == 0 || unread > unreadLimit+2*len(payload) {
		t.Errorf("%d bytes wait to be read", unread)
	}
}

func TestLateClientsAreDropped(t *testing.T) {
	s := startWith(t, plain)
	s.frameTimeout = 50 * time.Millisecond
	s.run()
	silent, half, deaf := s.dial(), s.dial(), s.dial()
	half.write(call(echo, 1, 1, "")[:20])
	for serial := range uint32(50) {
		if err := deaf.conn.SetWriteDeadline(time.Now().Add(100 * time.Millisecond)); err != nil {
			t.Fatal(err)
		}
		if _, err := deaf.conn.Write(call(echo, serial, 1, string(make([]byte, 64<<10)))); err != nil {
			break
		}
	}
	for range 2 {
		if err := <-s.closed; !errors.Is(err, errLate) {
			t.Errorf("told of %v", err)
		}
	}
	silent.write(call(echo, 1, 1, ""))
	silent.expect(1, "")
}

// said is a session that says numbers whenever it is asked.
type said struct {
	session
	mu   sync.Mutex
	left uint32
}

func (s *said) Next() (rpc.Header, []byte, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.left == 0 {
		return rpc.Header{}, nil, false
	}
	s.left--
	return rpc.Header{Program: 7, Type: rpc.Message, Serial: s.left}, make([]byte, 4<<10), true
}

func TestSourceIsAskedAsFastAsItsClientReads(t *testing.T) {
	source := &said{left: 1000}
	s := startWith(t, func(s *site) Session { source.session = session{s}; return source }).run()
	c := s.dial()
	c.write(call(echo, 5000, 1, ""))
	c.expect(5000, "")
	s.Clients()[0].Pull()
	time.Sleep(20 * time.Millisecond)
	source.mu.Lock()
	left := source.left
	source.mu.Unlock()
	if left == 0 {
		t.Error("everything was taken from the source before anything was read")
	}
	for want := uint32(1000); want > 0; want-- {
		c.expect(want-1, string(make([]byte, 4<<10)))
	}
}

func TestFreezeFailsWhileACallHangs(t *testing.T) {
	s := start(t)
	a, b := s.dial(), s.dial()
	a.write(call(slow, 1, 1, "late"))
	<-s.begun
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Millisecond)
	defer cancel()
	if _, err := s.Freeze(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("Freeze: %v", err)
	}
	b.write(call(echo, 1, 1, ""))
	b.expect(1, "")
	s.leave <- struct{}{}
	a.expect(1, "late")
}

func TestHubThatEndsIsNotFrozen(t *testing.T) {
	for range 50 {
		s := start(t)
		ended := make(chan error, 1)
		go func() {
			_, err := s.Freeze(t.Context())
			if err == nil {
				s.Thaw()
			}
			ended <- err
		}()
		s.stop()
		if err := <-ended; err != nil && !errors.Is(err, ErrEnded) {
			t.Fatal(err)
		}
	}
}

func TestTwoThousandClientsAreServed(t *testing.T) {
	const clients = 2000
	s := start(t)
	s.SetLimit(clients)
	goroutines := runtime.NumGoroutine()
	var all []*caller
	for range clients {
		conn, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: s.path, Net: "unix"})
		for give := time.Now().Add(patience); errors.Is(err, unix.EAGAIN) && time.Now().Before(give); {
			time.Sleep(time.Millisecond) // the backlog is full
			conn, err = net.DialUnix("unix", nil, &net.UnixAddr{Name: s.path, Net: "unix"})
		}
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, newCaller(t, conn))
	}
	for round := range uint32(3) {
		for _, c := range all {
			c.write(call(echo, round, 1, "abcd"))
		}
		for _, c := range all {
			c.expect(round, "abcd")
		}
	}
	if n := runtime.NumGoroutine() - goroutines; n > 20 {
		t.Errorf("%d goroutines more for %d clients", n, clients)
	}
}

func TestSuccessorAnswersWhatWasSentBefore(t *testing.T) {
	const rounds = 30
	first := start(t)
	c := first.dial()
	c.write(call(slow, 1000, 1, "slow"))
	<-first.begun
	time.AfterFunc(30*time.Millisecond, func() { first.leave <- struct{}{} })
	var sending, calls sync.WaitGroup
	sending.Go(func() {
		// Pieces that end anywhere in a frame.
		all := []byte{}
		for serial := range uint32(2000) {
			all = append(all, call(echo, serial, 1, "text")...)
		}
		for len(all) > 0 {
			n := min(len(all), 37)
			c.write(all[:n])
			all = all[n:]
		}
	})
	calls.Go(func() {
		c.expect(1000, "slow")
		for serial := range uint32(2000) {
			c.expect(serial, "text")
		}
	})
	s := first
	for range rounds {
		frozen, err := s.Freeze(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		s = s.succeed(frozen)
	}
	sending.Wait()
	calls.Wait()
	if n := s.Service.Clients()[0].ID(); n != 1 || s.Count() != 1 {
		t.Errorf("client has become number %d of %d", n, s.Count())
	}
	other := s.dial()
	other.write(call(echo, 1, 1, ""))
	other.expect(1, "")
	frozen, err := s.Freeze(t.Context())
	if err != nil || frozen[0].NextID != 3 {
		t.Errorf("next client is number %d, error %v", frozen[0].NextID, err)
	}
	s.Thaw()
}

// succeed makes another hub of what a frozen one is, and ends the first, as execve does to it.
func (s *site) succeed(frozen []Frozen) *site {
	s.t.Helper()
	next := open(s.t, plain)
	next.path, next.begun, next.leave = s.path, s.begun, s.leave
	duplicate := func(fd int) int {
		fd, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 3)
		if err != nil {
			s.t.Fatal(err)
		}
		return fd
	}
	f := frozen[0]
	next.Continue(f.NextID)
	for _, l := range f.Listeners {
		if err := next.Listen(Listener{FD: duplicate(l.FD), Path: l.Path}); err != nil {
			s.t.Fatal(err)
		}
	}
	for _, c := range f.Clients {
		c.FD = duplicate(c.FD)
		c.Session = nil
		c.In = slices.Clone(c.In)
		if _, err := next.Adopt(c); err != nil {
			s.t.Fatal(err)
		}
	}
	// Nothing is left to serve or to close when the first one goes on.
	for fd := range s.Hub.clients {
		unix.Close(fd)
		delete(s.Hub.clients, fd)
	}
	for fd := range s.listeners {
		unix.Close(fd)
		delete(s.listeners, fd)
	}
	s.Thaw()
	s.stop()
	return next.run()
}

func TestFrameThatAnnouncesTooMuchEndsTheConnection(t *testing.T) {
	s := start(t)
	c := s.dial()
	c.write(binary.BigEndian.AppendUint32(nil, 1<<31))
	if _, err := c.reader.Next(); !errors.Is(err, io.EOF) && !errors.Is(err, unix.ECONNRESET) {
		t.Fatalf("read %v", err)
	}
	if err := <-s.closed; !errors.Is(err, rpc.ErrFrame) {
		t.Errorf("told of %v", err)
	}
}
