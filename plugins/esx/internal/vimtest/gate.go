package vimtest

import (
	"net"
	"sync"
	"time"
)

// Gate holds up the connections of a server as a stopped process, a cut cable or a slow line would.
type Gate struct {
	mu sync.Mutex
	// open is closed while bytes pass.
	open  chan struct{}
	cut   bool
	late  time.Duration
	conns map[*guarded]struct{}
}

func newGate() *Gate {
	g := &Gate{open: make(chan struct{}), conns: map[*guarded]struct{}{}}
	close(g.open)
	return g
}

// Hang stops everything: connections stay, new ones are accepted by the kernel, and no byte passes until Open or Cut.
func (g *Gate) Hang() {
	g.mu.Lock()
	defer g.mu.Unlock()
	select {
	case <-g.open:
		g.open = make(chan struct{})
	default:
	}
}

// Cut breaks all connections, and all new ones, until Open.
func (g *Gate) Cut() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.cut = true
	for c := range g.conns {
		_ = c.Conn.Close()
		c.once.Do(func() { close(c.gone) })
	}
}

// Late delays every answer by d.
func (g *Gate) Late(d time.Duration) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.late = d
}

// Open lets everything pass again, what was held up too.
func (g *Gate) Open() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.cut, g.late = false, 0
	select {
	case <-g.open:
	default:
		close(g.open)
	}
}

// guard returns a listener whose connections pass the gate.
func (g *Gate) guard(l net.Listener) net.Listener { return &guardedListener{Listener: l, gate: g} }

type guardedListener struct {
	net.Listener
	gate *Gate
}

// Accept returns the next connection; while the gate is cut they are closed at once.
func (l *guardedListener) Accept() (net.Conn, error) {
	for {
		conn, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if c := l.gate.admit(conn); c != nil {
			return c, nil
		}
		_ = conn.Close()
	}
}

func (g *Gate) admit(conn net.Conn) net.Conn {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.cut {
		return nil
	}
	c := &guarded{Conn: conn, gate: g, gone: make(chan struct{})}
	g.conns[c] = struct{}{}
	return c
}

// guarded is a connection behind the gate.
type guarded struct {
	net.Conn
	gate *Gate
	once sync.Once
	gone chan struct{}
}

// wait returns when the gate is open or the connection is closed.
func (c *guarded) wait() {
	c.gate.mu.Lock()
	open := c.gate.open
	c.gate.mu.Unlock()
	select {
	case <-open:
	case <-c.gone:
	}
}

// Read hands on what has arrived when the gate is open.
func (c *guarded) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	c.wait()
	return n, err
}

// Write sends when the gate is open, late if that is asked for.
func (c *guarded) Write(b []byte) (int, error) {
	c.wait()
	c.gate.mu.Lock()
	late := c.gate.late
	c.gate.mu.Unlock()
	if late > 0 {
		select {
		case <-time.After(late):
		case <-c.gone:
		}
	}
	return c.Conn.Write(b)
}

// Close ends the connection and all that waits in it.
func (c *guarded) Close() error {
	c.gate.mu.Lock()
	delete(c.gate.conns, c)
	c.gate.mu.Unlock()
	c.once.Do(func() { close(c.gone) })
	return c.Conn.Close()
}
