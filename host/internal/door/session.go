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
	case p.handler == nil, p.flags&local != 0 && s.connection().Pools == nil:
		return verr.New(verr.NoSupport, "%s", p.name)
	}
	return nil
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
func (s *session) domain(ref libvirt.Domain) (*domain.Domain, error) {
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

// onDomain finds a domain and calls f with it.
func (s *session) onDomain(ctx context.Context, ref libvirt.Domain, f func(context.Context, *domain.Domain) error) error {
	d, err := s.domain(ref)
	if err != nil {
		return err
	}
	return f(ctx, d)
}

// reference names a domain to the client.
func reference(v domain.View) libvirt.Domain {
	return libvirt.Domain{Name: v.Name, UUID: libvirt.UUID(v.UUID), ID: v.ID}
}

// checkFlags refuses flags that are not known.
func checkFlags(flags, known uint32, what string) error {
	if unknown := flags &^ known; unknown != 0 {
		return verr.New(verr.InvalidArg, "unsupported flags (0x%x) in function %s", unknown, what)
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
