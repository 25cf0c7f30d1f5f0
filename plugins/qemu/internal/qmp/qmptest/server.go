// Package qmptest is a scripted QEMU monitor for tests: it greets, answers commands from a table, records them, sends events, and
// can be told to stall, to answer garbage or to hang up.
//
// A Server belongs to one test, which ends it. It serves one client at a time, as QEMU does. All methods are safe concurrently.
// A command without a handler is answered with CommandNotFound, so that a test says what it expects.
package qmptest

import (
	"encoding/json"
	"errors"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/lodgevirt/lodge/plugins/qemu/internal/qmp"
)

// Greeting is what the server says first; it claims to be QEMU 7.2.0.
const Greeting = `{"QMP": {"version": {"qemu": {"micro": 0, "minor": 2, "major": 7}, "package": "qmptest"}, "capabilities": ["oob"]}}`

// Handler answers a command. A *qmp.Error is sent as it is, another error as a GenericError.
type Handler func(args json.RawMessage) (reply any, err error)

// Call is a command that has arrived.
type Call struct {
	// Name is the command's.
	Name string
	// Args are its arguments, or nil.
	Args json.RawMessage
	// File came along with it, or nil. The server closes it at the end of the test.
	File *os.File
}

// Server is a fake monitor.
type Server struct {
	listener *net.UnixListener
	path     string
	wg       sync.WaitGroup
	// quit is closed at the end of the test.
	quit chan struct{}

	// mu guards what follows.
	mu       sync.Mutex
	handlers map[string]Handler
	calls    []Call
	conn     net.Conn
	files    []*os.File
	stalled  chan struct{}
}

// Listen starts a server on a socket in a directory of the test's own.
func Listen(t testing.TB) *Server {
	t.Helper()
	dir, err := os.MkdirTemp("", "qmp") // a test's own folder may be too long a name for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	s := newServer(t)
	s.path = filepath.Join(dir, "qmp.sock")
	if s.listener, err = net.ListenUnix("unix", &net.UnixAddr{Name: s.path, Net: "unix"}); err != nil {
		t.Fatal(err)
	}
	s.wg.Add(1)
	go func() { defer s.wg.Done(); s.accept() }()
	return s
}

func newServer(t testing.TB) *Server {
	s := &Server{quit: make(chan struct{}), handlers: map[string]Handler{
		"qmp_capabilities": func(json.RawMessage) (any, error) { return struct{}{}, nil },
	}}
	t.Cleanup(s.end)
	return s
}

// Path is the socket's.
func (s *Server) Path() string { return s.path }

// Reply answers every further command of a name with a value, marshalled to JSON.
func (s *Server) Reply(name string, value any) {
	s.Handle(name, func(json.RawMessage) (any, error) { return value, nil })
}

// Fail answers every further command of a name with an error of a class.
func (s *Server) Fail(name, class, desc string) {
	s.Handle(name, func(json.RawMessage) (any, error) { return nil, &qmp.Error{Class: class, Desc: desc} })
}

// Handle answers every further command of a name by a function, which runs on the server's goroutine.
func (s *Server) Handle(name string, h Handler) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.handlers[name] = h
}

// Event sends an event to the client, if there is one. data is marshalled to JSON; nil leaves it out.
func (s *Server) Event(name string, data any) {
	event := struct {
		Event     string         `json:"event"`
		Data      any            `json:"data,omitempty"`
		Timestamp map[string]int `json:"timestamp"`
	}{name, data, map[string]int{"seconds": 1700000000, "microseconds": 5}}
	line, err := json.Marshal(event)
	if err != nil {
		panic(err) // a test that sends what is no JSON
	}
	s.Raw(string(line) + "\n")
}

// Raw sends text to the client as it is, if there is one.
func (s *Server) Raw(text string) {
	s.mu.Lock()
	conn := s.conn
	s.mu.Unlock()
	if conn != nil {
		// A client that has gone meanwhile is the client's test to notice.
		_, _ = conn.Write([]byte(text))
	}
}

// Stall stops reading and answering, like a QEMU that got SIGSTOP, until the function that it returns is called. A read that
// is under way may still take one chunk.
func (s *Server) Stall() (resume func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	gate := make(chan struct{})
	s.stalled = gate
	return sync.OnceFunc(func() { close(gate) })
}

// HangUp ends the client's connection; another one may come.
func (s *Server) HangUp() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.conn != nil {
		_ = s.conn.Close()
	}
}

// Calls returns the commands that have arrived so far, in order, without qmp_capabilities.
func (s *Server) Calls() []Call {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]Call(nil), s.calls...)
}

// Names returns the names of Calls.
func (s *Server) Names() []string {
	var names []string
	for _, c := range s.Calls() {
		names = append(names, c.Name)
	}
	return names
}

func (s *Server) end() {
	s.mu.Lock()
	close(s.quit)
	if s.listener != nil {
		_ = s.listener.Close()
	}
	if s.conn != nil {
		_ = s.conn.Close()
	}
	s.mu.Unlock()
	s.wg.Wait()
	for _, f := range s.files {
		_ = f.Close()
	}
}

func (s *Server) accept() {
	for {
		conn, err := s.listener.AcceptUnix()
		if err != nil {
			return
		}
		s.mu.Lock()
		s.conn = conn
		s.mu.Unlock()
		select {
		case <-s.quit:
		default:
			s.serve(conn)
		}
		_ = conn.Close()
	}
}

// gate waits while the server is stalled, but not beyond its end.
func (s *Server) gate() {
	s.mu.Lock()
	gate := s.stalled
	s.mu.Unlock()
	if gate != nil {
		select {
		case <-gate:
		case <-s.quit:
		}
	}
}

func (s *Server) answer(name string, args json.RawMessage) (any, *qmp.Error) {
	s.mu.Lock()
	h := s.handlers[name]
	s.mu.Unlock()
	if h == nil {
		return nil, &qmp.Error{Class: "CommandNotFound", Desc: "The command " + name + " has not been found"}
	}
	reply, err := h(args)
	if err == nil {
		return reply, nil
	}
	var qerr *qmp.Error
	if !errors.As(err, &qerr) {
		qerr = &qmp.Error{Class: "GenericError", Desc: err.Error()}
	}
	return nil, qerr
}
