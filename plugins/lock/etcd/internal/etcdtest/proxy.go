package etcdtest

import (
	"context"
	"net"
	"sync"
	"testing"
)

// Proxy is the network between one host and a member: it can be cut, so that nothing gets through and no connection ends.
type Proxy struct {
	// URL is where the host finds the member.
	URL string

	listener net.Listener
	target   string
	wg       sync.WaitGroup

	mu    sync.Mutex // guards all below
	open  chan struct{}
	conns []net.Conn
	made  int
	ended bool
}

// NewProxy makes a proxy to a member, which ends with the test.
func NewProxy(t testing.TB, m *Member) *Proxy {
	t.Helper()
	l, err := new(net.ListenConfig).Listen(context.Background(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &Proxy{URL: "http://" + l.Addr().String(), listener: l, target: m.URL[len("http://"):], open: make(chan struct{})}
	close(p.open)
	p.wg.Go(p.accept)
	t.Cleanup(p.end)
	return p
}

// Cut lets nothing through.
func (p *Proxy) Cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	select {
	case <-p.open:
		p.open = make(chan struct{})
	default:
	}
}

// Mend lets through what was held up, and everything after it.
func (p *Proxy) Mend() {
	p.mu.Lock()
	defer p.mu.Unlock()
	select {
	case <-p.open:
	default:
		close(p.open)
	}
}

// Connections is how many connections hosts have made so far.
func (p *Proxy) Connections() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.made
}

func (p *Proxy) end() {
	p.mu.Lock()
	p.ended = true
	conns := p.conns
	p.mu.Unlock()
	_ = p.listener.Close()
	for _, c := range conns {
		_ = c.Close()
	}
	p.Mend()
	p.wg.Wait()
}

// keep remembers a connection, or closes it when the proxy has ended.
func (p *Proxy) keep(c net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ended {
		_ = c.Close()
		return false
	}
	p.conns = append(p.conns, c)
	return true
}

// pass waits until the network is there.
func (p *Proxy) pass() {
	p.mu.Lock()
	open := p.open
	p.mu.Unlock()
	<-open
}

func (p *Proxy) accept() {
	for {
		client, err := p.listener.Accept()
		if err != nil {
			return
		}
		if !p.keep(client) {
			return
		}
		p.mu.Lock()
		p.made++
		p.mu.Unlock()
		p.wg.Go(func() { p.connect(client) })
	}
}

// connect copies in both directions.
func (p *Proxy) connect(client net.Conn) {
	p.pass()
	server, err := new(net.Dialer).DialContext(context.Background(), "tcp", p.target)
	if err != nil {
		_ = client.Close()
		return
	}
	if !p.keep(server) {
		return
	}
	p.wg.Go(func() { p.copy(client, server) })
	p.copy(server, client)
}

func (p *Proxy) copy(to, from net.Conn) {
	defer func() { _, _ = to.Close(), from.Close() }()
	buffer := make([]byte, 32<<10)
	for {
		n, err := from.Read(buffer)
		if err != nil {
			return
		}
		p.pass()
		if _, err := to.Write(buffer[:n]); err != nil {
			return
		}
	}
}
