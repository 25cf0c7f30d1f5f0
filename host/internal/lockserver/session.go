package lockserver

import (
	"os"
	"runtime/debug"

	"github.com/lodgevirt/lodge/host/internal/lockproto"
	"github.com/lodgevirt/lodge/host/internal/lockserver/hub"
	"github.com/lodgevirt/lodge/host/internal/lockspace"
	"github.com/lodgevirt/lodge/host/internal/rpc"
	"github.com/lodgevirt/lodge/host/internal/xdr"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// session is one connection.
type session struct {
	server *Server
	client *hub.Client
	// classic is used by calls of virtlockd's program, of which there is one at a time.
	classic classic
	watch   watch
}

var _ hub.Source = (*session)(nil)

// answer is what a call of our program returns: a value to encode, and descriptors that are closed when they are sent.
type answer struct {
	value any
	files []*os.File
	// fds makes the reply carry descriptors even if there are none.
	fds bool
}

// Parallel allows several calls of our program at once, and one of any other.
func (c *session) Parallel(h rpc.Header) int {
	if h.Program == lockproto.Program {
		return callsPerClient
	}
	return 1
}

// Call runs a call of any program.
func (c *session) Call(f rpc.Frame) hub.Answer {
	defer closeAll(f.Files)
	domain := verr.FromLockspace
	var a answer
	err := c.guard(f.Header, func() (err error) {
		switch {
		case f.Program == lockproto.ClassicProgram && f.Version == lockproto.ClassicVersion:
			domain, err = c.classic.call(f)
		case f.Program == lockproto.Program && f.Version == lockproto.Version:
			domain = verr.FromLocking
			a, err = c.server.call(c, f)
		default:
			err = verr.New(verr.RPC, "unknown program 0x%x version %d", f.Program, f.Version).In(verr.FromRPC)
		}
		return err
	})
	return a.encode(err, domain)
}

// guard turns a panic into an error: one bad call must not end the daemon that holds everybody's locks.
func (c *session) guard(h rpc.Header, call func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			c.server.log.Error("call panicked", "program", h.Program, "procedure", h.Procedure, "panic", p, "stack", string(debug.Stack()))
			err = verr.New(verr.Internal, "procedure %d panicked", h.Procedure)
		}
	}()
	if h.Status != rpc.OK {
		return verr.New(verr.RPC, "call with status %d", h.Status).In(verr.FromRPC)
	}
	return call()
}

// encode makes the answer of a call that came to a or err.
func (a *answer) encode(err error, domain verr.Domain) hub.Answer {
	var payload []byte
	if err == nil && a.value != nil {
		payload, err = xdr.Append(nil, a.value)
	}
	if err != nil {
		closeAll(a.files)
		payload, err = rpc.NewError(err, domain).Append(nil)
		if err != nil {
			payload = nil // cannot be: an error has bounded strings
		}
		return hub.Answer{Status: rpc.Failed, Payload: payload}
	}
	return hub.Answer{Payload: payload, Files: a.files, WithFiles: a.fds}
}

// Closed deals with the owner that has let go of its connection.
func (c *session) Closed(err error) {
	c.watch.end()
	c.classic.left(err)
}

func closeAll(files []*os.File) {
	for _, f := range files {
		_ = lockspace.CloseFile(f)
	}
}

// decode reads a call's arguments.
func decode(f rpc.Frame, args any) error {
	if _, err := xdr.Unmarshal(f.Payload, args); err != nil {
		return malformed(f, err)
	}
	return nil
}

// malformed is the error for arguments that cannot be decoded.
func malformed(f rpc.Frame, err error) error {
	return verr.New(verr.RPC, "decode arguments of procedure %d: %w", f.Procedure, err).In(verr.FromRPC)
}

// unknown is the error for a procedure that a program does not have; clients know it by its first words.
func unknown(f rpc.Frame) error {
	return verr.New(verr.RPC, "unknown procedure: %d", f.Procedure).In(verr.FromRPC)
}
