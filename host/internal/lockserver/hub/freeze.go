package hub

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lodgevirt/lodge/host/internal/rpc"
)

const (
	// drainPatience is how long Freeze waits for clients that are within a frame or do not read.
	drainPatience = 300 * time.Millisecond
	// drainStep bounds how long it waits for one thing, in milliseconds.
	drainStep = 20
)

// Frozen is what a service is while the hub is frozen.
type Frozen struct {
	// Name is the service's.
	Name string
	// MaxClients and NextID are its limit and the number of its next connection.
	MaxClients int
	NextID     uint64
	// Listeners are its sockets.
	Listeners []Listener
	// Clients are its connections.
	Clients []FrozenClient
}

// FrozenClient is a connection while the hub is frozen, or one that is taken over.
type FrozenClient struct {
	// ID and Connected are those of Client.
	ID        uint64
	Connected time.Time
	// FD is its socket.
	FD int
	// In is what it has sent and nobody has acted on: frames, and a part of one.
	In []byte
	// FDs came with what is in In.
	FDs []int
	// Out is what it has to be sent before anything else.
	Out []Chunk
	// Session serves it.
	Session Session
}

// Chunk is something to be sent: bytes, and a descriptor with the first of them, or -1.
type Chunk struct {
	Bytes []byte
	FD    int
}

// Freeze stops everything: nobody is read any more, and what has been read is dealt with. Calls under way are waited for; if the context ends
// first, everything goes on and an error is returned. Clients within a frame, and those that have not read their answers, have a moment
// to go on; what is left then is in In and Out. After Freeze nothing happens until Thaw, and what was returned stays the hub's.
func (h *Hub) Freeze(ctx context.Context) ([]Frozen, error) {
	frozen := make(chan struct{})
	h.post(func() {
		if !h.stopping {
			h.freezing = frozen
			h.work.Add(1) // Run does not end before Thaw
		}
	})
	select {
	case <-frozen:
	case <-h.ended:
		return nil, ErrEnded
	}
	w := h.worker(h.turn.Load())
	w.draining = true
	if err := w.drain(ctx); err != nil {
		h.Thaw()
		return nil, fmt.Errorf("freeze hub: %w", err)
	}
	h.mu.Lock()
	services := h.services
	h.mu.Unlock()
	out := make([]Frozen, len(services))
	for i, s := range services {
		out[i] = Frozen{Name: s.name, MaxClients: s.Limit(), NextID: s.nextID}
		for _, l := range h.listeners {
			if l.service == s {
				out[i].Listeners = append(out[i].Listeners, l.Listener)
			}
		}
		for _, c := range s.Clients() {
			out[i].Clients = append(out[i].Clients, c.frozen())
		}
	}
	return out, nil
}

// drain waits until no call is under way, and a moment for clients to finish what they have begun.
func (w *worker) drain(ctx context.Context) error {
	give := time.Now().Add(drainPatience)
	for {
		w.settle()
		for len(w.ready) > 0 {
			c := w.ready[0]
			w.ready = w.ready[1:]
			if !c.gone {
				w.advance(c, c.in, true)
			}
		}
		waiting := w.unfinished()
		switch {
		case w.away > 0 && ctx.Err() != nil:
			return fmt.Errorf("%d calls are under way: %w", w.away, ctx.Err())
		case w.away == 0 && (len(waiting) == 0 || time.Now().After(give)):
			return nil
		}
		if err := w.wait(waiting); err != nil {
			return err
		}
	}
}

// unfinished returns the clients that are within a frame or have something to read.
func (h *Hub) unfinished() []unix.PollFd {
	var out []unix.PollFd
	for fd, c := range h.clients {
		var events int16
		if rpc.Missing(c.in) > 0 && len(c.in) > 0 {
			events |= unix.POLLIN
		}
		if c.unread > 0 {
			events |= unix.POLLOUT
		}
		if events != 0 {
			out = append(out, unix.PollFd{Fd: int32(fd), Events: events})
		}
	}
	return out
}

// wait lets clients go on for a short time, or until a call has ended.
func (w *worker) wait(clients []unix.PollFd) error {
	fds := append(clients, unix.PollFd{Fd: int32(w.bell), Events: unix.POLLIN})
	if _, err := unix.Poll(fds, drainStep); err != nil && !errors.Is(err, unix.EINTR) {
		return fmt.Errorf("wait for clients: %w", err)
	}
	for _, f := range fds {
		c := w.clients[int(f.Fd)]
		switch {
		case f.Revents == 0:
		case c == nil:
			w.hear()
		case f.Revents&unix.POLLOUT != 0:
			w.flush(c)
		default:
			w.read(c)
		}
	}
	return nil
}

// settle does what was posted.
func (h *Hub) settle() {
	for {
		do, ok := h.next()
		if !ok {
			return
		}
		do()
	}
}

// Thaw goes on after Freeze.
func (h *Hub) Thaw() {
	h.freezing = nil
	h.begin()
	h.work.Done()
	h.post(func() {})
}

func (c *Client) frozen() FrozenClient {
	f := FrozenClient{ID: c.id, Connected: c.connected, FD: c.fd, In: c.in, Session: c.session}
	for _, file := range c.files {
		f.FDs = append(f.FDs, int(file.Fd()))
	}
	for _, o := range c.out {
		fd := -1
		if o.file != nil {
			fd = int(o.file.Fd())
		}
		f.Out = append(f.Out, Chunk{Bytes: o.bytes, FD: fd})
	}
	return f
}

// Adopt takes over a connection from a predecessor's Freeze. Its descriptors are the hub's from now on, unless an error is returned.
func (s *Service) Adopt(f FrozenClient) (*Client, error) {
	peer, err := peerOf(f.FD)
	if err == nil {
		err = own(f.FD)
	}
	if err != nil {
		return nil, fmt.Errorf("take over client %d: %w", f.ID, err)
	}
	c := &Client{
		hub: s.hub, service: s, session: f.Session, fd: f.FD, id: f.ID, connected: f.Connected, peer: peer, in: f.In,
	}
	if c.session == nil {
		if c.session, err = s.open(c); err != nil {
			return nil, fmt.Errorf("take over client %d: %w", f.ID, err)
		}
	}
	for _, fd := range f.FDs {
		unix.CloseOnExec(fd)
		c.files = append(c.files, fileOf(fd))
	}
	for _, o := range f.Out {
		if o.FD >= 0 {
			unix.CloseOnExec(o.FD)
		}
		c.queue(chunk{bytes: o.Bytes, file: fileOf(o.FD)})
	}
	s.add(c)
	s.hub.post(func() {
		s.hub.clients[c.fd] = c
		s.hub.attend(c)
		if len(c.in) > 0 {
			s.hub.ready = append(s.hub.ready, c)
		}
	})
	return c, nil
}

// Continue has the numbers of further connections begin after those of a predecessor.
func (s *Service) Continue(nextID uint64) {
	s.hub.mu.Lock()
	defer s.hub.mu.Unlock()
	s.nextID = max(s.nextID, nextID)
}
