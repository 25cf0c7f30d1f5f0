package driver

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
	"libvirt.org/go/libvirtxml"

	"github.com/lodgevirt/lodge/sdk/hypervisor"
	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/hypervisor/v1"
	"github.com/lodgevirt/lodge/sdk/verr"
)

var _ hypervisor.Console = (*Driver)(nil)

// consoles are the open consoles of a guest, one for each device.
type consoles struct {
	mu     sync.Mutex // guards all below
	open   map[string]*console
	closed bool
}

// console is a connection to a character device.
type console struct {
	io.ReadWriteCloser
	alias string
	of    *consoles
	once  sync.Once
}

// OpenConsole implements hypervisor.Console.
func (d *Driver) OpenConsole(ctx context.Context, target *pb.ConsoleTarget) (io.ReadWriteCloser, error) {
	l, _, err := d.living(target.GetGuest())
	if err != nil {
		return nil, err
	}
	device, err := choose(l.live(), target)
	if err != nil {
		return nil, err
	}
	c := &console{alias: device.alias, of: &l.consoles}
	if err := l.consoles.reserve(c, target.GetForce()); err != nil {
		return nil, err
	}
	line, err := connect(ctx, device)
	if err != nil {
		l.consoles.release(c)
		return nil, err
	}
	if !l.consoles.bind(c, line) {
		_ = line.Close()
		return nil, verr.New(verr.OperationInvalid, "domain is not running")
	}
	return c, nil
}

// choose finds the device that is meant.
func choose(d *libvirtxml.Domain, target *pb.ConsoleTarget) (character, error) {
	list, kind := characters(d), "console"
	if target.GetChannel() {
		list, kind = channels(d), "channel"
	}
	for _, c := range list {
		if target.GetDevice() == "" || target.GetDevice() == c.alias || (c.name != "" && target.GetDevice() == c.name) {
			return c, nil
		}
	}
	return character{}, verr.New(verr.InvalidArg, "cannot find %s device '%s'", kind, orDefault(target.GetDevice()))
}

func orDefault(device string) string {
	if device == "" {
		return "<default>"
	}
	return device
}

// connect opens the host's side of a device.
func connect(ctx context.Context, c character) (io.ReadWriteCloser, error) {
	switch {
	case c.source.Pty != nil && c.source.Pty.Path != "":
		f, err := os.OpenFile(c.source.Pty.Path, os.O_RDWR|unix.O_NOCTTY|unix.O_NONBLOCK, 0)
		if err != nil {
			return nil, fmt.Errorf("open console: %w", err)
		}
		return terminal{f}, nil
	case c.source.UNIX != nil && c.source.UNIX.Path != "" && c.source.UNIX.Mode != "connect":
		var d net.Dialer
		conn, err := d.DialContext(ctx, "unix", c.source.UNIX.Path)
		if err != nil {
			return nil, fmt.Errorf("open console: %w", err)
		}
		return conn, nil
	default:
		return nil, verr.New(verr.Internal, "character device %s is not using a PTY", c.alias)
	}
}

// terminal is our side of a pseudo terminal; it ends when QEMU closes its own.
type terminal struct{ *os.File }

// Read implements io.Reader.
func (t terminal) Read(p []byte) (int, error) {
	n, err := t.File.Read(p)
	if errors.Is(err, syscall.EIO) {
		err = io.EOF
	}
	return n, err
}

// reserve takes a device for a console, from another one if forced.
func (cs *consoles) reserve(c *console, force bool) error {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	if cs.closed {
		return verr.New(verr.OperationInvalid, "domain is not running")
	}
	if other := cs.open[c.alias]; other != nil {
		if !force {
			return verr.New(verr.OperationFailed, "Active console session exists for this domain")
		}
		if other.ReadWriteCloser != nil {
			_ = other.ReadWriteCloser.Close()
		}
	}
	if cs.open == nil {
		cs.open = map[string]*console{}
	}
	cs.open[c.alias] = c
	return nil
}

// bind gives a console its line, unless it was forced out or the guest has ended meanwhile.
func (cs *consoles) bind(c *console, line io.ReadWriteCloser) bool {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	if cs.open[c.alias] != c {
		return false
	}
	c.ReadWriteCloser = line
	return true
}

func (cs *consoles) release(c *console) {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	if cs.open[c.alias] == c {
		delete(cs.open, c.alias)
	}
}

// close ends all consoles with the guest.
func (cs *consoles) close() {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	cs.closed = true
	for alias, c := range cs.open {
		if c.ReadWriteCloser != nil {
			_ = c.ReadWriteCloser.Close()
		}
		delete(cs.open, alias)
	}
}

// Read implements io.Reader; a console that was ended by another, or with its guest, is at its end.
func (c *console) Read(p []byte) (int, error) {
	n, err := c.ReadWriteCloser.Read(p)
	if errors.Is(err, os.ErrClosed) || errors.Is(err, net.ErrClosed) {
		err = io.EOF
	}
	return n, err
}

// Close implements io.Closer.
func (c *console) Close() error {
	var err error
	c.once.Do(func() {
		c.of.release(c)
		err = c.ReadWriteCloser.Close()
		if errors.Is(err, os.ErrClosed) || errors.Is(err, net.ErrClosed) {
			err = nil
		}
	})
	return err
}
