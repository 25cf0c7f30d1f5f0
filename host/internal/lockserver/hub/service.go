package hub

import (
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// Listener is a socket that listens.
type Listener struct {
	// FD is its descriptor, which the hub owns from now on.
	FD int
	// Path is where it is, to be removed when the hub stops; empty leaves it, such as a socket of systemd's.
	Path string
}

// FromNet makes a Listener of net's, which is closed. Its socket's file is removed when the hub stops if remove is set.
func FromNet(l *net.UnixListener, remove bool) (Listener, error) {
	l.SetUnlinkOnClose(false)
	defer l.Close()
	raw, err := l.SyscallConn()
	if err != nil {
		return Listener{}, fmt.Errorf("take listener: %w", err)
	}
	out := Listener{FD: -1}
	var inner error
	err = raw.Control(func(fd uintptr) { out.FD, inner = unix.FcntlInt(fd, unix.F_DUPFD_CLOEXEC, 3) })
	if err := errors.Join(err, inner); err != nil {
		return Listener{}, fmt.Errorf("take listener: %w", err)
	}
	if remove {
		out.Path = l.Addr().String()
	}
	return out, nil
}

// ServiceConfig says what a service is.
type ServiceConfig struct {
	// Name is for logs and for the saved state.
	Name string
	// MaxClients bounds the connections.
	MaxClients int
	// Open is asked about each new connection: it returns what serves it, or why nothing does. It must not wait for anything.
	Open func(c *Client) (Session, error)
}

// Service is some listeners and the connections that came from them.
type Service struct {
	hub  *Hub
	name string
	open func(c *Client) (Session, error)

	// Guarded by Hub.mu.
	max     int
	nextID  uint64
	clients map[uint64]*Client
}

// listening is a listener in use; it is the leader's.
type listening struct {
	Listener
	service *Service
	on      bool // epoll tells its connections
}

func (l *listening) close() {
	if l.Path != "" {
		_ = os.Remove(l.Path)
	}
	unix.Close(l.FD)
}

// Add adds a service, without listeners yet. It may be called at any time.
func (h *Hub) Add(cfg ServiceConfig) *Service {
	s := &Service{hub: h, name: cfg.Name, open: cfg.Open, max: cfg.MaxClients, nextID: 1, clients: map[uint64]*Client{}}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.services = append(h.services, s)
	return s
}

// Service returns the service of a name, or nil.
func (h *Hub) Service(name string) *Service {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, s := range h.services {
		if s.name == name {
			return s
		}
	}
	return nil
}

// Listen serves the connections of a listener too. After an error its descriptor is still the caller's.
func (s *Service) Listen(l Listener) error {
	if err := own(l.FD); err != nil {
		return fmt.Errorf("serve %s: %w", s.name, err)
	}
	s.hub.post(func() {
		s.hub.listeners[l.FD] = &listening{Listener: l, service: s}
		s.hub.listen()
	})
	return nil
}

// listen has epoll tell the connections of all services that have room, and of no other.
func (h *Hub) listen() {
	for fd, l := range h.listeners {
		on := h.retry.IsZero() && !l.service.full()
		if on == l.on {
			continue
		}
		op := unix.EPOLL_CTL_ADD
		if !on {
			op = unix.EPOLL_CTL_DEL
		}
		if err := unix.EpollCtl(h.epoll, op, fd, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(fd)}); err != nil {
			h.log.Error("cannot wait for connections", "service", l.service.name, "error", err)
			continue
		}
		l.on = on
	}
}

// accept takes the connections that wait at a listener, as many as the service has room for.
func (h *Hub) accept(l *listening) {
	defer h.listen()
	for range eventsAtOnce {
		if l.service.full() {
			return
		}
		fd, _, err := unix.Accept4(l.FD, unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC)
		switch {
		case errors.Is(err, unix.EAGAIN):
			return
		case errors.Is(err, unix.ECONNABORTED), errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			h.log.Warn("cannot accept a connection", "service", l.service.name, "error", err)
			h.retry = time.Now().Add(acceptPause)
			return
		}
		if err := h.enter(l.service, fd); err != nil {
			h.log.Debug("connection refused", "service", l.service.name, "error", err)
			unix.Close(fd)
		}
	}
}

// enter makes a client of a new connection.
func (h *Hub) enter(s *Service, fd int) error {
	peer, err := peerOf(fd)
	if err != nil {
		return err
	}
	c := &Client{hub: h, service: s, fd: fd, connected: time.Now(), peer: peer}
	if c.session, err = s.open(c); err != nil {
		return err
	}
	s.add(c)
	h.clients[fd] = c
	h.attend(c)
	return nil
}

// add gives a client its number, unless it has one.
func (s *Service) add(c *Client) {
	s.hub.mu.Lock()
	defer s.hub.mu.Unlock()
	if c.id == 0 {
		c.id = s.nextID
		s.nextID++
	}
	s.clients[c.id] = c
}

func (s *Service) remove(c *Client) {
	s.hub.mu.Lock()
	defer s.hub.mu.Unlock()
	delete(s.clients, c.id)
}

func (s *Service) full() bool {
	s.hub.mu.Lock()
	defer s.hub.mu.Unlock()
	return len(s.clients) >= s.max
}

// Clients returns the connections there are, in no order.
func (s *Service) Clients() []*Client {
	s.hub.mu.Lock()
	defer s.hub.mu.Unlock()
	out := make([]*Client, 0, len(s.clients))
	for _, c := range s.clients {
		out = append(out, c)
	}
	return out
}

// Close ends a connection as if its client had done it, and reports whether there was one.
func (s *Service) Close(id uint64) bool {
	s.hub.mu.Lock()
	defer s.hub.mu.Unlock()
	c := s.clients[id]
	if c == nil {
		return false
	}
	// The leader sees the end and does the rest. The descriptor cannot be another's: it is closed after the client is removed.
	return unix.Shutdown(c.fd, unix.SHUT_RDWR) == nil
}

// Limit returns how many connections there may be.
func (s *Service) Limit() int {
	s.hub.mu.Lock()
	defer s.hub.mu.Unlock()
	return s.max
}

// SetLimit changes how many connections there may be. Those that are there stay.
func (s *Service) SetLimit(n int) {
	s.hub.mu.Lock()
	s.max = n
	s.hub.mu.Unlock()
	s.hub.post(s.hub.listen)
}

// Count returns how many connections there are.
func (s *Service) Count() int {
	s.hub.mu.Lock()
	defer s.hub.mu.Unlock()
	return len(s.clients)
}

// Accepted returns how many connections there have been.
func (s *Service) Accepted() uint64 {
	s.hub.mu.Lock()
	defer s.hub.mu.Unlock()
	return s.nextID - 1
}
