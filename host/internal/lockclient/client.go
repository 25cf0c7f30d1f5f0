// Package lockclient talks to the lock daemon for the core, and keeps one running.
//
// A Client connects when it is first used and again whenever the connection is lost. All of its calls may be repeated without
// harm, so a call that the daemon's death interrupts is sent again to the next one, until the context ends; a context without
// a deadline gets DefaultTimeout. What a call reports is what the daemon said last.
//
// All methods are safe concurrently, and calls run in parallel on one connection. The Client owns its connection and the goroutine
// that reads it; Close ends both. Descriptors that are returned belong to the caller, and are closed when a call fails.
package lockclient

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/lodgevirt/lodge/host/internal/lockproto"
	"github.com/lodgevirt/lodge/host/internal/lockspace"
	"github.com/lodgevirt/lodge/host/internal/rpc"
	"github.com/lodgevirt/lodge/host/internal/xdr"
)

const (
	// DefaultTimeout bounds a call whose context has no deadline.
	DefaultTimeout = 15 * time.Second
	// writeTimeout bounds one write to the daemon.
	writeTimeout = 5 * time.Second
	// firstPause and lastPause bound the waits between tries to connect.
	firstPause = 2 * time.Millisecond
	lastPause  = 100 * time.Millisecond
)

// ErrClosed says that the client was closed.
var ErrClosed = errors.New("lock client is closed")

// Client is a connection to the lock daemon that comes back by itself.
type Client struct {
	path    string
	dialing chan struct{} // holds a token while somebody connects
	done    chan struct{} // closed by Close

	mu     sync.Mutex
	conn   *conn
	closed bool
}

// New returns a client of the daemon at a socket's path. It does not connect yet.
func New(path string) *Client {
	return &Client{path: path, dialing: make(chan struct{}, 1), done: make(chan struct{})}
}

// Close ends the connection; calls and watches under way fail with ErrClosed.
func (c *Client) Close() {
	c.mu.Lock()
	if !c.closed {
		close(c.done)
	}
	c.closed = true
	old := c.conn
	c.conn = nil
	c.mu.Unlock()
	if old != nil {
		old.close(ErrClosed)
	}
}

// call sends a procedure until it is answered or the context ends. A nil ret reads nothing.
func (c *Client) call(ctx context.Context, procedure int32, args, ret any, files []*os.File) ([]*os.File, error) {
	if _, ok := ctx.Deadline(); !ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, DefaultTimeout)
		defer cancel()
	}
	payload, err := xdr.Append(nil, args)
	if err != nil {
		return nil, fmt.Errorf("encode call %d to the lock daemon: %w", procedure, err)
	}
	var cause error
	for wait := firstPause; ; wait = min(2*wait, lastPause) {
		f, err := c.try(ctx, procedure, payload, files)
		if err == nil {
			return finish(f, ret)
		}
		if cause == nil || ctx.Err() == nil {
			cause = err // what happens once the context has ended tells nothing about the daemon
		}
		if errors.Is(err, ErrClosed) || errors.Is(err, rpc.ErrTooLarge) || ctx.Err() != nil {
			return nil, fmt.Errorf("call the lock daemon at %q: %w", c.path, errors.Join(ctx.Err(), cause))
		}
		pause(ctx, wait)
	}
}

// try sends a call once. Its errors are those of the connection only.
func (c *Client) try(ctx context.Context, procedure int32, payload []byte, files []*os.File) (rpc.Frame, error) {
	conn, err := c.connect(ctx)
	if err != nil {
		return rpc.Frame{}, err
	}
	f, err := conn.roundTrip(ctx, procedure, payload, files)
	if err != nil && ctx.Err() == nil {
		c.drop(conn, err)
	}
	return f, err
}

// finish reads a reply.
func finish(f rpc.Frame, ret any) ([]*os.File, error) {
	if f.Status != rpc.OK {
		closeAll(f.Files)
		return nil, remote(f.Payload)
	}
	if ret == nil {
		return f.Files, nil
	}
	var err error
	if d, ok := ret.(decoder); ok {
		err = d.decode(f.Payload)
	} else {
		_, err = xdr.Unmarshal(f.Payload, ret)
	}
	if err != nil {
		closeAll(f.Files)
		return nil, fmt.Errorf("decode the lock daemon's answer: %w", err)
	}
	return f.Files, nil
}

// decoder is an answer that reads itself.
type decoder interface{ decode(payload []byte) error }

// remote is the error in a reply, with the sentence that has no phrase for its code in front.
func remote(payload []byte) error {
	e, err := rpc.ParseError(payload)
	if err != nil {
		return err
	}
	if e.Str2 != nil && *e.Str2 != "" {
		e.Message = e.Str2
	}
	return e.Err()
}

// connect returns the connection, made anew by one of the callers if there is none.
func (c *Client) connect(ctx context.Context) (*conn, error) {
	if current, err := c.current(); current != nil || err != nil {
		return current, err
	}
	select {
	case c.dialing <- struct{}{}:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	defer func() { <-c.dialing }()
	if current, err := c.current(); current != nil || err != nil {
		return current, err
	}
	var d net.Dialer
	raw, err := d.DialContext(ctx, "unix", c.path)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		raw.Close()
		return nil, ErrClosed
	}
	c.conn = newConn(raw)
	return c.conn, nil
}

// current returns the connection, or nil if there is none now.
func (c *Client) current() (*conn, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil, ErrClosed
	}
	return c.conn, nil
}

// drop forgets a connection that failed.
func (c *Client) drop(old *conn, err error) {
	c.mu.Lock()
	if c.conn == old {
		c.conn = nil
	}
	c.mu.Unlock()
	old.close(err)
}

// Owner is a guest in one generation.
type Owner struct {
	// UUID of the guest.
	UUID uuid.UUID
	// Name of the guest, at most 1024 bytes.
	Name string
	// ID is libvirt's number of the running guest.
	ID uint32
	// Generation counts the guest's starts.
	Generation uint64
	// PID and StartTime (field 22 of /proc/PID/stat) are the guest's process, or zero while it has none on this machine.
	PID       int32
	StartTime uint64
}

func (o Owner) wire() lockproto.Owner {
	return lockproto.Owner{
		UUID: o.UUID, Name: o.Name, ID: o.ID, Generation: o.Generation, PID: o.PID, StartTime: o.StartTime,
	}
}

// State is how sure the daemon is of a lease.
type State uint32

// States of a lease.
const (
	// Held means that the daemon has a descriptor of the lock.
	Held State = 1
	// Unproven means that the lock is held by a descriptor that the daemon does not have: adopt it.
	Unproven State = 2
	// Lost means that somebody else has the lock, or that it cannot be taken.
	Lost State = 3
)

// Lease is one lock of one owner.
type Lease struct {
	// Number tells leases apart.
	Number uint64
	// Owner has it.
	Owner Owner
	// Classic says that the owner came through virtlockd's protocol.
	Classic bool
	// Resource is what is locked, and Path the file.
	Resource lockspace.Resource
	Path     string
	// State is how sure it is, and Detail why it is not held.
	State  State
	Detail string
	// Since is when it was taken.
	Since time.Time
	// POSIX says that the lock is the daemon's process's, as one that was taken over from virtlockd: it has no descriptor for a guest.
	POSIX bool
	// Unknown says that nobody knows whose the lock is.
	Unknown bool
	// File is a duplicate of the lock's descriptor, from Acquire only; the caller closes it.
	File *os.File
}

func pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}

func closeAll(files []*os.File) {
	for _, f := range files {
		f.Close()
	}
}
