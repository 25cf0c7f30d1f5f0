package lockclient

import (
	"context"
	"fmt"
	"net"
	"os"
	"sync"

	"github.com/lodgevirt/lodge/host/internal/lockproto"
	"github.com/lodgevirt/lodge/host/internal/rpc"
)

// conn is one connection: calls that wait for their replies, and the goroutine that reads these.
type conn struct {
	raw    net.Conn
	writer *rpc.Writer
	done   chan struct{}

	mu      sync.Mutex
	serial  uint32
	waiting map[uint32]chan rpc.Frame
	err     error // why the connection ended
}

func newConn(raw net.Conn) *conn {
	c := &conn{
		raw: raw, writer: rpc.NewWriter(raw, writeTimeout), done: make(chan struct{}), waiting: map[uint32]chan rpc.Frame{},
	}
	go c.read()
	return c
}

// read hands replies to their calls until the connection ends.
func (c *conn) read() {
	defer close(c.done)
	reader := rpc.NewReader(c.raw, rpc.ReaderConfig{FrameTimeout: writeTimeout, FDs: rpc.MaxFDs})
	defer reader.Close()
	for {
		f, err := reader.Next()
		if err != nil {
			c.fail(fmt.Errorf("read from the lock daemon: %w", err))
			return
		}
		f.Payload = append([]byte(nil), f.Payload...)
		c.mu.Lock()
		call := c.waiting[f.Serial]
		if f.Type != rpc.Reply && f.Type != rpc.ReplyWithFDs {
			call = nil
		}
		if call != nil {
			delete(c.waiting, f.Serial)
			call <- f // has room for the one reply
		}
		c.mu.Unlock()
		if call == nil {
			closeAll(f.Files)
		}
	}
}

// fail ends all waiting calls.
func (c *conn) fail(err error) {
	c.raw.Close()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err == nil {
		c.err = err
	}
	for serial, call := range c.waiting {
		delete(c.waiting, serial)
		close(call)
	}
}

// close ends the connection and waits for its goroutine.
func (c *conn) close(err error) {
	c.fail(err)
	<-c.done
}

func (c *conn) begin() (uint32, chan rpc.Frame, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return 0, nil, c.err
	}
	c.serial++
	call := make(chan rpc.Frame, 1)
	c.waiting[c.serial] = call
	return c.serial, call, nil
}

// abandon forgets a call; a reply that came meanwhile is thrown away.
func (c *conn) abandon(serial uint32, call chan rpc.Frame) {
	c.mu.Lock()
	delete(c.waiting, serial)
	c.mu.Unlock()
	select {
	case f := <-call:
		closeAll(f.Files)
	default:
	}
}

// roundTrip sends a call and waits for its reply.
func (c *conn) roundTrip(ctx context.Context, procedure int32, payload []byte, files []*os.File) (rpc.Frame, error) {
	serial, call, err := c.begin()
	if err != nil {
		return rpc.Frame{}, err
	}
	h := rpc.Header{Program: lockproto.Program, Version: lockproto.Version, Procedure: procedure, Type: rpc.Call, Serial: serial}
	if len(files) > 0 {
		h.Type = rpc.CallWithFDs
		err = c.writer.SendFiles(h, payload, files)
	} else {
		err = c.writer.Send(h, payload)
	}
	if err != nil {
		c.abandon(serial, call)
		return rpc.Frame{}, err
	}
	select {
	case f, ok := <-call:
		if !ok {
			c.mu.Lock()
			defer c.mu.Unlock()
			return rpc.Frame{}, c.err
		}
		return f, nil
	case <-ctx.Done():
		c.abandon(serial, call)
		return rpc.Frame{}, ctx.Err()
	}
}
