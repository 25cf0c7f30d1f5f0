// Package fdpass carries open descriptors from the core to a plugin, beside gRPC, which cannot: the core sends each file under a
// token of 16 random bytes over a SOCK_SEQPACKET socket, names the token in an RPC, and the plugin takes the file by it.
//
// The Receiver owns what it has received until somebody takes it; a file that nobody takes within Expiry is closed, and at most
// MaxPending are kept. All methods are safe concurrently. A sender or receiver that dies in the middle costs nothing but
// that one transfer.
package fdpass

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lodgevirt/lodge/sdk/peer"
)

// Limits of the channel.
const (
	// TokenSize is the size of a token in bytes.
	TokenSize = 16
	// MaxPending is how many files wait to be taken at most.
	MaxPending = 4096
	// Expiry is how long a file waits to be taken.
	Expiry = 60 * time.Second
	// maxConns is how many senders are served at a time.
	maxConns = 64
	// ioTimeout bounds a sender's silence, and the wait for a receiver's answer without a context's deadline.
	ioTimeout = 10 * time.Second
)

// Token names a file in transit.
type Token [TokenSize]byte

// ErrRefused is returned by Send when the receiver did not take the file: its table is full, or the token was used before.
var ErrRefused = errors.New("descriptor refused by the receiver")

// ErrClosed is returned by Take once the receiver is closed.
var ErrClosed = errors.New("descriptor channel is closed")

const (
	accepted = 0
	refused  = 1
)

// ParseToken checks the length of a token that arrived in a message.
func ParseToken(b []byte) (Token, error) {
	if len(b) != TokenSize {
		return Token{}, fmt.Errorf("parse token: %d bytes instead of %d", len(b), TokenSize)
	}
	return Token(b), nil
}

// Send hands a duplicate of file to the receiver that listens on path and returns once that has it. The caller keeps its own.
func Send(ctx context.Context, path string, token Token, file *os.File) error {
	var d net.Dialer
	c, err := d.DialContext(ctx, "unixpacket", path)
	if err != nil {
		return fmt.Errorf("send descriptor: %w", err)
	}
	defer func() { _ = c.Close() }()
	conn, ok := c.(*net.UnixConn)
	if !ok {
		return fmt.Errorf("send descriptor: %T is not a unix socket", c)
	}
	deadline, ok := ctx.Deadline()
	if !ok {
		deadline = time.Now().Add(ioTimeout)
	}
	if err := conn.SetDeadline(deadline); err != nil {
		return fmt.Errorf("send descriptor: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	raw, err := file.SyscallConn()
	if err != nil {
		return fmt.Errorf("send descriptor: %w", err)
	}
	var werr error
	if err := raw.Control(func(fd uintptr) {
		_, _, werr = conn.WriteMsgUnix(token[:], unix.UnixRights(int(fd)), nil)
	}); err != nil {
		return fmt.Errorf("send descriptor: %w", err)
	}
	if werr != nil {
		return fmt.Errorf("send descriptor: %w", werr)
	}
	answer := make([]byte, 1)
	n, err := conn.Read(answer)
	switch {
	case err != nil:
		return fmt.Errorf("send descriptor: %w", err)
	case n != 1 || answer[0] != accepted:
		return ErrRefused
	}
	return nil
}

// Receiver takes descriptors from the core.
type Receiver struct {
	listener *net.UnixListener
	slots    chan struct{}
	done     chan struct{}
	wg       sync.WaitGroup

	mu      sync.Mutex // guards all below
	closed  bool
	conns   map[*net.UnixConn]struct{}
	pending map[Token]*entry
	waiting map[Token]chan *os.File
}

type entry struct {
	file  *os.File
	timer *time.Timer
}

// Listen starts to receive on path; a socket that is there already is replaced. Only root and the own user may send.
func Listen(path string) (*Receiver, error) {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("replace socket %q: %w", path, err)
	}
	l, err := net.ListenUnix("unixpacket", &net.UnixAddr{Name: path, Net: "unixpacket"})
	if err != nil {
		return nil, fmt.Errorf("listen for descriptors on %q: %w", path, err)
	}
	l.SetUnlinkOnClose(false) // an orphan must not take its successor's socket away
	r := &Receiver{
		listener: l, slots: make(chan struct{}, maxConns), done: make(chan struct{}),
		conns:   make(map[*net.UnixConn]struct{}),
		pending: make(map[Token]*entry), waiting: make(map[Token]chan *os.File),
	}
	r.wg.Add(1)
	go r.accept()
	return r, nil
}

// Take returns the file that was or will be sent under token, waiting for it until the context ends. The caller owns the file.
// A token is good for one call; a second one that waits for the same token is refused.
func (r *Receiver) Take(ctx context.Context, token Token) (*os.File, error) {
	ch, file, err := r.claim(token)
	if file != nil || err != nil {
		return file, err
	}
	select {
	case file := <-ch:
		return file, nil
	case <-r.done:
		err = ErrClosed
	case <-ctx.Done():
		err = fmt.Errorf("wait for a descriptor: %w", ctx.Err())
	}
	r.mu.Lock()
	delete(r.waiting, token)
	r.mu.Unlock()
	select {
	case file := <-ch: // it came in the same moment
		return file, nil
	default:
		return nil, err
	}
}

// claim returns a file that has arrived, or the channel on which it will.
func (r *Receiver) claim(token Token) (chan *os.File, *os.File, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return nil, nil, ErrClosed
	}
	if e, ok := r.pending[token]; ok {
		e.timer.Stop()
		delete(r.pending, token)
		return nil, e.file, nil
	}
	if _, ok := r.waiting[token]; ok {
		return nil, nil, errors.New("wait for a descriptor: its token is waited for already")
	}
	ch := make(chan *os.File, 1)
	r.waiting[token] = ch
	return ch, nil, nil
}

// Close stops receiving, closes what nobody took, and waits for its goroutines.
func (r *Receiver) Close() error {
	r.mu.Lock()
	if r.closed {
		r.mu.Unlock()
		return nil
	}
	r.closed = true
	close(r.done)
	for token, e := range r.pending {
		e.timer.Stop()
		_ = e.file.Close()
		delete(r.pending, token)
	}
	for conn := range r.conns {
		_ = conn.Close()
	}
	r.mu.Unlock()
	err := r.listener.Close()
	r.wg.Wait()
	return err
}

func (r *Receiver) accept() {
	defer r.wg.Done()
	for {
		select {
		case r.slots <- struct{}{}:
		case <-r.done:
			return
		}
		conn, err := r.listener.AcceptUnix()
		if err != nil {
			<-r.slots
			if errors.Is(err, net.ErrClosed) {
				return
			}
			select { // out of descriptors: try again soon
			case <-time.After(10 * time.Millisecond):
				continue
			case <-r.done:
				return
			}
		}
		r.wg.Add(1)
		go r.serve(conn)
	}
}

// serve reads the messages of one connection.
func (r *Receiver) serve(conn *net.UnixConn) {
	defer r.wg.Done()
	defer func() { <-r.slots }()
	defer func() { _ = conn.Close() }()
	if !r.track(conn) {
		return
	}
	defer r.untrack(conn)
	if cred, err := peer.Of(conn); err != nil || !peer.SameUser(cred) {
		return
	}
	for {
		if err := conn.SetDeadline(time.Now().Add(ioTimeout)); err != nil {
			return
		}
		token, file, err := receive(conn)
		if err != nil {
			return
		}
		answer := byte(accepted)
		if !r.store(token, file) {
			_ = file.Close()
			answer = refused
		}
		if _, err := conn.Write([]byte{answer}); err != nil {
			return
		}
	}
}

func (r *Receiver) track(conn *net.UnixConn) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return false
	}
	r.conns[conn] = struct{}{}
	return true
}

func (r *Receiver) untrack(conn *net.UnixConn) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.conns, conn)
}

// store gives the file to who waits for it, or keeps it. It is false if the file is not wanted.
func (r *Receiver) store(token Token, file *os.File) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return false
	}
	if ch, ok := r.waiting[token]; ok {
		delete(r.waiting, token)
		ch <- file
		return true
	}
	if _, taken := r.pending[token]; taken || len(r.pending) >= MaxPending {
		return false
	}
	e := &entry{file: file}
	e.timer = time.AfterFunc(Expiry, func() { r.expire(token, e) })
	r.pending[token] = e
	return true
}

func (r *Receiver) expire(token Token, e *entry) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.pending[token] == e {
		delete(r.pending, token)
		_ = e.file.Close()
	}
}

// receive reads one message, which is a token with exactly one descriptor; anything else closes what came with it.
func receive(conn *net.UnixConn) (Token, *os.File, error) {
	data := make([]byte, TokenSize+1)
	oob := make([]byte, unix.CmsgSpace(4*8))
	n, oobn, flags, _, err := conn.ReadMsgUnix(data, oob)
	if err != nil {
		return Token{}, nil, fmt.Errorf("receive descriptor: %w", err)
	}
	fds, perr := rights(oob[:oobn])
	if perr != nil || len(fds) != 1 || n != TokenSize || flags&(unix.MSG_TRUNC|unix.MSG_CTRUNC) != 0 {
		for _, fd := range fds {
			_ = unix.Close(fd)
		}
		return Token{}, nil, fmt.Errorf("receive descriptor: message of %d bytes with %d descriptors", n, len(fds))
	}
	return Token(data[:n]), os.NewFile(uintptr(fds[0]), "received"), nil
}

// rights returns the descriptors in a control message.
func rights(oob []byte) ([]int, error) {
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil, fmt.Errorf("parse control message: %w", err)
	}
	var all []int
	for i := range messages {
		if fds, err := unix.ParseUnixRights(&messages[i]); err == nil {
			all = append(all, fds...)
		}
	}
	return all, nil
}
