package qmp

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Client is a connection to one QEMU's monitor. Make one with Dial or New; its owner must Close it, also after QEMU has gone.
type Client struct {
	conn    net.Conn
	version Version
	queue   chan *batch
	events  chan Event
	backlog *eventQueue
	// done is closed when the connection has ended, quit when the owner has closed the client.
	done chan struct{}
	quit chan struct{}
	wg   sync.WaitGroup

	// mu guards what follows. Nothing waits while it is held.
	mu     sync.Mutex
	err    error
	closed bool
	nextID uint64
	// greeted says that the monitor has let the client in: it tells the client nothing from then on that the client has not asked.
	greeted bool
	pending map[uint64]*pendingCommand
}

// Dial connects to a monitor that listens on a unix socket, and greets it. The path may be longer than a socket's address can
// be. The context bounds connecting and greeting.
func Dial(ctx context.Context, path string) (*Client, error) {
	conn, err := dialUnix(ctx, path)
	if err != nil {
		return nil, fmt.Errorf("connect to monitor: %w", err)
	}
	return New(ctx, conn)
}

// maxSocketPath is the size of sun_path less its final zero.
const maxSocketPath = 107

func dialUnix(ctx context.Context, path string) (net.Conn, error) {
	var d net.Dialer
	if len(path) <= maxSocketPath {
		return d.DialContext(ctx, "unix", path)
	}
	dir, err := unix.Open(filepath.Dir(path), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: filepath.Dir(path), Err: err}
	}
	defer unix.Close(dir)
	return d.DialContext(ctx, "unix", filepath.Join("/proc/self/fd", strconv.Itoa(dir), filepath.Base(path)))
}

// New greets the monitor at the other end of a connection, which the client then owns; on an error it is closed.
func New(ctx context.Context, conn net.Conn) (*Client, error) {
	c := &Client{
		conn: conn, queue: make(chan *batch, maxQueuedBatches), events: make(chan Event), backlog: newEventQueue(),
		done: make(chan struct{}), quit: make(chan struct{}), pending: map[uint64]*pendingCommand{},
	}
	in := bufio.NewReaderSize(conn, 64<<10)
	if err := c.greet(ctx, in); err != nil {
		return nil, errors.Join(fmt.Errorf("greet monitor: %w", err), conn.Close())
	}
	c.wg.Add(3)
	go func() { defer c.wg.Done(); c.read(in) }()
	go func() { defer c.wg.Done(); c.write() }()
	go func() { defer c.wg.Done(); c.backlog.pump(c.events, c.quit) }()
	if err := c.Execute(ctx, "qmp_capabilities", nil, nil); err != nil {
		return nil, errors.Join(fmt.Errorf("greet monitor: %w", err), c.Close())
	}
	c.mu.Lock()
	c.greeted = true
	c.mu.Unlock()
	return c, nil
}

// greet waits for the greeting. A read has no context, so the end of the context moves the connection's deadline.
func (c *Client) greet(ctx context.Context, in *bufio.Reader) error {
	stop := context.AfterFunc(ctx, func() { c.abort(time.Unix(1, 0)) })
	line, err := readLine(in, MaxEvent)
	if !stop() {
		return ctx.Err()
	}
	if err != nil {
		return err
	}
	m, err := decode(line)
	if err != nil {
		return err
	}
	if m.Greeting == nil {
		return protocolError("no greeting")
	}
	c.version = m.Greeting.Version
	return nil
}

// abort moves the deadline of the connection; a connection that cannot is closed instead.
func (c *Client) abort(at time.Time) {
	if err := c.conn.SetReadDeadline(at); err != nil {
		c.fail(errors.Join(err, c.conn.Close()))
	}
}

// Version returns what QEMU said in its greeting.
func (c *Client) Version() Version { return c.version }

// Events returns the channel of events. It is closed when the connection has ended and all events that came before were read,
// or when the client is closed.
func (c *Client) Events() <-chan Event { return c.events }

// Done returns a channel that is closed when the connection has ended; Err then says why.
func (c *Client) Done() <-chan struct{} { return c.done }

// Err returns why the connection ended: an error that wraps ErrClosed, ErrGone or ErrProtocol. Before that it is nil.
func (c *Client) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// Close ends the connection, fails every call under way and waits for the client's goroutines. Events that were not read are
// lost. Closing twice is harmless. QEMU itself lives on.
func (c *Client) Close() error {
	c.fail(ErrClosed)
	c.mu.Lock()
	if !c.closed {
		c.closed = true
		close(c.quit)
	}
	c.mu.Unlock()
	c.wg.Wait()
	return nil
}

// fail ends the connection for the first reason that it is given.
func (c *Client) fail(reason error) {
	c.mu.Lock()
	if c.err != nil {
		c.mu.Unlock()
		return
	}
	c.err = reason
	c.mu.Unlock()
	// The socket is of no more use to anybody; an error of closing it changes nothing.
	_ = c.conn.Close()
	c.backlog.end()
	close(c.done)
}

// read takes QEMU's messages in order until the connection ends.
func (c *Client) read(in *bufio.Reader) {
	for {
		line, err := readLine(in, MaxReply)
		if err == nil && len(line) == 0 {
			continue
		}
		if err == nil {
			err = c.receive(line)
		}
		if err != nil {
			c.fail(err)
			return
		}
	}
}

func (c *Client) receive(line []byte) error {
	m, err := decode(line)
	if err != nil {
		return err
	}
	if m.Greeting != nil {
		return protocolError("second greeting")
	}
	if m.Event != "" {
		c.backlog.push(Event{Name: m.Event, Time: m.time(), Data: m.Data})
		return nil
	}
	id, err := m.replyID()
	if err != nil {
		return err
	}
	return c.settle(id, m)
}
