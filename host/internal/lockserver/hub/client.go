package hub

import (
	"errors"
	"io"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lodgevirt/lodge/host/internal/rpc"
)

// unreadLimit is how much of its answers a client may leave unread before nothing more is read from it, in bytes.
const unreadLimit = 64 << 10

// Session is what serves one connection.
type Session interface {
	// Call answers a call. The frame's payload is good until it returns, and its files are the session's to close.
	Call(f rpc.Frame) Answer
	// Parallel is how many calls may be under way at once for one like this to begin.
	Parallel(h rpc.Header) int
	// Closed is told, without a call under way, that the connection is closed: err is io.EOF if the client did it, ErrEnded if
	// the hub stops, or what was wrong. It must not wait for anything.
	Closed(err error)
}

// Source is a Session that sends frames which nobody asked for.
type Source interface {
	// Next returns the next frame to send, if there is one. It is asked after Pull, and whenever the client has read enough to have
	// room, so what a client does not read stays with its session. It must not wait for anything.
	Next() (h rpc.Header, payload []byte, ok bool)
}

// Answer is what a call came to.
type Answer struct {
	// Status is OK, or Failed with an error as payload.
	Status rpc.Status
	// Payload is what follows the header.
	Payload []byte
	// Files are sent along and then closed; WithFiles makes the answer one with descriptors even if there are none.
	Files     []*os.File
	WithFiles bool
}

// Client is one connection. The methods that are exported may be used by anybody.
type Client struct {
	hub       *Hub
	service   *Service
	session   Session
	fd        int
	id        uint64
	connected time.Time
	peer      unix.Ucred

	// What follows is the leader's.
	in      []byte     // what was read and not acted on
	files   []*os.File // were received and not taken by a call
	out     []chunk
	unread  int    // bytes in out
	running int    // calls
	held    bool   // the next frame has to wait for a call to end, or for answers to be read
	gone    bool   // the connection is closed, and calls may still run
	why     error  // it was closed
	mask    uint32 // the events that epoll tells
	// inDue is when a frame that has begun has to be whole, outDue when what waits in out has to be read, or zero.
	inDue, outDue time.Time
}

// ID tells the clients of a service apart; it is never used again.
func (c *Client) ID() uint64 { return c.id }

// Connected is when the client connected.
func (c *Client) Connected() time.Time { return c.connected }

// Session serves it.
func (c *Client) Session() Session { return c.session }

// Peer is the process that connected.
func (c *Client) Peer() unix.Ucred { return c.peer }

// Pull has the client's session, which is a Source, asked for frames soon.
func (c *Client) Pull() {
	c.hub.post(func() { c.hub.pull(c) })
}

// take removes descriptors that came with a frame.
func (c *Client) take(n int) []*os.File {
	if n == 0 {
		return nil
	}
	taken := c.files[:n:n]
	c.files = c.files[n:]
	return taken
}

// drop closes a connection. Its session is told once no call is under way any more.
func (h *Hub) drop(c *Client, err error) {
	if c.gone {
		return
	}
	c.gone, c.why = true, err
	h.unwatch(c)
	delete(h.clients, c.fd)
	delete(h.late, c)
	c.service.remove(c)
	unix.Close(c.fd)
	h.discardAll(c.files)
	for _, o := range c.out {
		h.sent(o)
	}
	c.in, c.files, c.out = nil, nil, nil
	if !errors.Is(err, io.EOF) && !errors.Is(err, ErrEnded) {
		h.log.Debug("connection ended", "service", c.service.name, "client", c.id, "error", err)
	}
	if c.running == 0 {
		c.session.Closed(err)
	}
	h.listen()
}

// comeBack has the leader deal with the end of a call that went on without it.
func (h *Hub) comeBack(c *Client, header rpc.Header, a Answer) {
	h.post(func() {
		h.away--
		c.running--
		h.answer(c, header, a, nil)
		switch {
		case !c.gone:
			h.ready = append(h.ready, c)
		case c.running == 0:
			c.session.Closed(c.why)
		}
	})
}

// attend sees to it that epoll tells what matters about a client, and that it is dropped when it is late.
func (h *Hub) attend(c *Client) {
	var mask uint32
	if !c.held && c.unread < unreadLimit {
		mask |= unix.EPOLLIN
	}
	if c.unread > 0 {
		mask |= unix.EPOLLOUT
	}
	if mask != c.mask {
		h.watch(c, mask)
	}
	if c.inDue.IsZero() && c.outDue.IsZero() {
		if len(h.late) > 0 {
			delete(h.late, c)
		}
		return
	}
	h.late[c] = struct{}{}
}

// watch has epoll tell some events of a client. Without any it is forgotten, because an end would be told all the time.
func (h *Hub) watch(c *Client, mask uint32) {
	op := unix.EPOLL_CTL_MOD
	switch {
	case c.mask == 0:
		op = unix.EPOLL_CTL_ADD
	case mask == 0:
		op = unix.EPOLL_CTL_DEL
	}
	if err := unix.EpollCtl(h.epoll, op, c.fd, &unix.EpollEvent{Events: mask, Fd: int32(c.fd)}); err != nil {
		h.log.Error("cannot wait for a connection", "client", c.id, "error", err)
		return
	}
	c.mask = mask
}

func (h *Hub) unwatch(c *Client) {
	if c.mask != 0 {
		h.watch(c, 0)
	}
}

// errLate says that a client took too long.
var errLate = errors.New("client is too slow")

// expire drops the clients that took too long.
func (h *Hub) expire(now time.Time) {
	for c := range h.late {
		if (!c.inDue.IsZero() && now.After(c.inDue)) || (!c.outDue.IsZero() && now.After(c.outDue)) {
			h.drop(c, errLate)
		}
	}
}

// shut ends everything: the hub stops.
func (h *Hub) shut() {
	for _, c := range h.clients {
		h.drop(c, ErrEnded)
	}
	for _, l := range h.listeners {
		l.close()
	}
}
