package door

import (
	"context"
	"sync/atomic"

	libvirt "github.com/digitalocean/go-libvirt"
	"github.com/google/uuid"

	"github.com/lodgevirt/lodge/host/internal/connection"
	"github.com/lodgevirt/lodge/host/internal/domain"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// session is what handlers know of their client.
type session struct {
	server *Server
	peer   Peer
	// readOnly is set by the socket, or by a flag of OPEN.
	readOnly atomic.Bool
	// conn is what OPEN opened, or nil before.
	conn atomic.Pointer[connection.Connection]
	// events are the client's callbacks.
	events *subscriptions
	// keepalive begins to ping the client.
	keepalive func()
}

func newSession(s *Server, peer Peer, readOnly bool) *session {
	out := &session{server: s, peer: peer}
	out.readOnly.Store(readOnly)
	return out
}

// admit says why a procedure may not be called now, or nil.
func (s *session) admit(p *procedure) error {
	switch {
	case p.flags&early == 0 && s.conn.Load() == nil:
		return errNotOpen
	case p.flags&changes != 0 && s.readOnly.Load():
		return denied(p.name)
	case p.handler == nil, !has(s.connection(), p.flags):
		return verr.New(verr.NoSupport, "%s", p.name)
	}
	return nil
}

// has reports whether a connection has what procedures with some flags are about.
func has(c *connection.Connection, needs flag) bool {
	switch {
	case needs&pools != 0:
		return c.Pools != nil
	case needs&secrets != 0:
		return c.Secrets != nil
	case needs&networks != 0:
		return c.Networks != nil
	case needs&interfaces != 0:
		return c.Interfaces != nil
	}
	return true
}

// errNotOpen is what calls before OPEN get.
var errNotOpen = verr.New(verr.Internal, "connection not open").In(verr.FromRPC)

// denied is what changes over a read-only connection get.
func denied(what string) error {
	return verr.New(verr.OperationDenied, "read only access prevents %s", what)
}

// allow refuses the flags that a read-only connection may not use.
func (s *session) allow(flags, refused uint32, what string) error {
	if s.readOnly.Load() && flags&refused != 0 {
		return denied(what)
	}
	return nil
}

// errorDomain is the domain of a handler's errors that name none: the driver's, or before OPEN the procedure's.
func (s *session) errorDomain(p *procedure) verr.Domain {
	if conn := s.conn.Load(); conn != nil && conn.ErrorDomain != verr.FromNone {
		return conn.ErrorDomain
	}
	return p.domain()
}

// connection is what the client has opened; admit has seen to that.
func (s *session) connection() *connection.Connection { return s.conn.Load() }

// domain finds the domain that a client means, which is by UUID.
func (s *session) domain(ref libvirt.Domain) (connection.Domain, error) {
	return s.connection().Domains.ByUUID(uuid.UUID(ref.UUID))
}

// view finds a domain and returns what is known of it.
func (s *session) view(ref libvirt.Domain) (domain.View, error) {
	d, err := s.domain(ref)
	if err != nil {
		return domain.View{}, err
	}
	return d.View(), nil
}

// able finds the domain that a client means as one that can do what T says, or fails with NoSupport.
func able[T any](s *session, ref libvirt.Domain) (T, error) {
	var can T
	d, err := s.domain(ref)
	if err != nil {
		return can, err
	}
	can, ok := d.(T)
	if !ok {
		return can, errUnable
	}
	return can, nil
}

// errUnable is what a client gets who asks for what no domain of the connection can do.
var errUnable = verr.New(verr.NoSupport, "the connection's driver cannot do that")

// onDomain finds a domain that can do what T says, and calls f with it.
func onDomain[T any](ctx context.Context, s *session, ref libvirt.Domain, f func(context.Context, T) error) error {
	d, err := able[T](s, ref)
	if err != nil {
		return err
	}
	return f(ctx, d)
}

// domainsThat returns the connection's domains as those that can do what T says, or fails with NoSupport.
func domainsThat[T any](s *session) (T, error) {
	can, ok := s.connection().Domains.(T)
	if !ok {
		return can, errUnable
	}
	return can, nil
}

// reference names a domain to the client.
func reference(v domain.View) libvirt.Domain {
	return libvirt.Domain{Name: v.Name, UUID: libvirt.UUID(v.UUID), ID: v.ID}
}

// checkFlags refuses flags that are not known.
func checkFlags[F ~uint32 | ~uint64](flags, known F, what string) error {
	if unknown := flags &^ known; unknown != 0 {
		return verr.New(verr.InvalidArg, "unsupported flags (0x%x) in function %s", unknown, what)
	}
	return nil
}

// exclusive refuses two flags that are set together.
func exclusive(flags, both uint32, what string) error {
	if flags&both == both {
		return verr.New(verr.InvalidArg, "flags 0x%x exclude each other in function %s", both, what)
	}
	return nil
}

// optional reads an optional string; absent is empty.
func optional(s libvirt.OptString) string {
	if len(s) == 0 {
		return ""
	}
	return s[0]
}

// boolean is a bool as libvirt's int.
func boolean(b bool) int32 {
	if b {
		return 1
	}
	return 0
}
