package adminserver

import (
	"fmt"
	"os"
	"sync/atomic"

	"github.com/lodgevirt/lodge/host/internal/adminproto"
	"github.com/lodgevirt/lodge/host/internal/lockserver/hub"
	"github.com/lodgevirt/lodge/host/internal/rpc"
)

// Server serves a program to the connections of a hub. It is a Service.
type Server struct {
	name    string
	service *hub.Service
	program atomic.Pointer[Program]
	// maxUnauthenticated is kept for who asks: all clients are authenticated when they have connected.
	maxUnauthenticated atomic.Uint32
}

var _ Service = (*Server)(nil)

// NewServer adds a server with a name and a bound of its clients to a hub, without listeners yet. Connections are refused until Use was
// called.
func NewServer(h *hub.Hub, name string, maxClients uint32) *Server {
	s := &Server{name: name}
	s.maxUnauthenticated.Store(maxClients)
	s.service = h.Add(hub.ServiceConfig{Name: name, MaxClients: int(maxClients), Open: s.open})
	return s
}

// Use has the server answer calls by a program, which may show the server itself.
func (s *Server) Use(p *Program) { s.program.Store(p) }

// Listen serves the connections of a listener.
func (s *Server) Listen(l hub.Listener) error { return s.service.Listen(l) }

// open makes the session of a new connection, or refuses its peer.
func (s *Server) open(c *hub.Client) (hub.Session, error) {
	cred := c.Peer()
	if cred.Uid != 0 && cred.Uid != uint32(os.Geteuid()) {
		return nil, fmt.Errorf("check peer: user %d of process %d may not administer the daemon", cred.Uid, cred.Pid)
	}
	p := s.program.Load()
	if p == nil {
		return nil, fmt.Errorf("server %s is not ready", s.name)
	}
	return &session{program: p, service: s.service, client: c}, nil
}

// Name implements Service.
func (s *Server) Name() string { return s.name }

// Clients implements Service.
func (s *Server) Clients() []Client {
	all := s.service.Clients()
	out := make([]Client, len(all))
	for i, c := range all {
		cred := c.Peer()
		out[i] = Client{
			ID: c.ID(), Since: c.Connected(), Transport: adminproto.TransportUnix,
			Peer: &Peer{UID: cred.Uid, GID: cred.Gid, PID: cred.Pid},
		}
	}
	return out
}

// Accepted returns how many connections there have been.
func (s *Server) Accepted() uint64 { return s.service.Accepted() }

// Disconnect implements Service.
func (s *Server) Disconnect(id uint64) bool { return s.service.Close(id) }

// Limits implements Service.
func (s *Server) Limits() Limits {
	most := uint32(s.service.Limit())
	return Limits{Clients: uint32(s.service.Count()), MaxClients: most, MaxUnauthenticated: min(s.maxUnauthenticated.Load(), most)}
}

// SetLimits implements Service. At the limit further connections wait until another one ends.
func (s *Server) SetLimits(clients, unauthenticated uint32) {
	s.service.SetLimit(int(clients))
	s.maxUnauthenticated.Store(unauthenticated)
}

// session is one connection. The hub has it do one call at a time.
type session struct {
	program *Program
	service *hub.Service
	client  *hub.Client
	// over says that the client has taken its leave.
	over atomic.Bool
}

var _ hub.Source = (*session)(nil)

// Call implements hub.Session.
func (s *session) Call(f rpc.Frame) hub.Answer {
	for _, file := range f.Files {
		file.Close() // no procedure takes any
	}
	status, payload, last := s.program.Call(f)
	if last {
		s.over.Store(true)
		s.client.Pull()
	}
	return hub.Answer{Status: status, Payload: payload}
}

// Parallel implements hub.Session.
func (s *session) Parallel(rpc.Header) int { return 1 }

// Closed implements hub.Session.
func (s *session) Closed(error) {}

// Next implements hub.Source. Nothing is sent that nobody asked for; but it is asked when the last answer is on its way, and then the
// connection ends.
func (s *session) Next() (h rpc.Header, payload []byte, ok bool) {
	if s.over.Load() {
		s.service.Close(s.client.ID())
	}
	return h, nil, false
}
