package qmp

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// Command is one of a batch.
type Command struct {
	// Name is QEMU's, for example "query-status".
	Name string
	// Args is marshalled to the JSON object of the arguments; nil means none.
	Args any
	// Reply, unless nil, is a pointer that QEMU's answer is unmarshalled into.
	Reply any
	// Err is set by Batch: nil, QEMU's *Error, or what kept the answer away.
	Err error
}

// batch is what the writer sends with one system call.
type batch struct {
	data []byte
	// file travels with the first byte; the batch owns it.
	file *os.File
	// state decides between the writer, who takes a batch to send it, and the caller, who gives it up.
	state atomic.Int32
}

const (
	batchQueued int32 = iota
	batchSending
	batchGivenUp
)

func (b *batch) release() {
	if b.file != nil {
		// A duplicate of the caller's descriptor that nobody reads: closing it cannot lose anything.
		_ = b.file.Close()
	}
}

// pendingCommand waits for its reply. The channel has room for it, so that the reader never waits.
type pendingCommand struct{ reply chan *message }

// Execute runs a command and waits for its answer. args is marshalled to the command's arguments, nil for none; reply, unless
// nil, is a pointer that takes the answer. Errors: QEMU's own *Error; the context's (with ErrNotSent if the command has surely
// not reached QEMU); ErrBusy; or the reason for which the connection ended.
func (c *Client) Execute(ctx context.Context, name string, args, reply any) error {
	return c.run(ctx, nil, &Command{Name: name, Args: args, Reply: reply})
}

// ExecuteWithFile is Execute for the commands getfd and add-fd: it sends a descriptor along. The file stays the caller's and may
// be closed on return. The connection must be a unix socket.
func (c *Client) ExecuteWithFile(ctx context.Context, file *os.File, name string, args, reply any) error {
	if _, ok := c.conn.(*net.UnixConn); !ok {
		return fmt.Errorf("execute %q: %w: a descriptor needs a unix socket", name, ErrNotSent)
	}
	dup, err := duplicate(file)
	if err != nil {
		return fmt.Errorf("execute %q: %w: duplicate descriptor: %w", name, ErrNotSent, err)
	}
	return c.run(ctx, dup, &Command{Name: name, Args: args, Reply: reply})
}

func duplicate(file *os.File) (*os.File, error) {
	raw, err := file.SyscallConn()
	if err != nil {
		return nil, err
	}
	fd, dupErr := -1, error(nil)
	if err := raw.Control(func(p uintptr) { fd, dupErr = unix.FcntlInt(p, unix.F_DUPFD_CLOEXEC, 0) }); err != nil {
		return nil, err
	}
	if dupErr != nil {
		return nil, dupErr
	}
	return os.NewFile(uintptr(fd), file.Name()), nil
}

// Batch sends commands in order with one system call and waits for all answers, so that it costs one round trip. QEMU runs all
// of them, also after one has failed. Each command's Err and Reply are set; the first error, if any, is returned.
func (c *Client) Batch(ctx context.Context, cmds ...*Command) error {
	if len(cmds) == 0 {
		return nil
	}
	return c.run(ctx, nil, cmds...)
}

func (c *Client) run(ctx context.Context, file *os.File, cmds ...*Command) error {
	b := &batch{file: file}
	ids, waits, err := c.prepare(b, cmds)
	if err != nil {
		b.release()
		return failAll(cmds, fmt.Errorf("%w: %w", ErrNotSent, err))
	}
	defer c.forget(ids)
	select {
	case c.queue <- b:
	case <-ctx.Done():
		b.release()
		return failAll(cmds, fmt.Errorf("%w: %w", ErrNotSent, ctx.Err()))
	case <-c.done:
		b.release()
		return failAll(cmds, fmt.Errorf("%w: %w", ErrNotSent, c.Err()))
	}
	return c.collect(ctx, b, cmds, waits)
}

// prepare encodes the commands and registers whom their replies go to.
func (c *Client) prepare(b *batch, cmds []*Command) ([]uint64, []*pendingCommand, error) {
	if len(cmds) > MaxBatch {
		return nil, nil, fmt.Errorf("%d commands are more than %d", len(cmds), MaxBatch)
	}
	first, err := c.reserve(uint64(len(cmds)))
	if err != nil {
		return nil, nil, err
	}
	ids := make([]uint64, len(cmds))
	waits := make([]*pendingCommand, len(cmds))
	for i, cmd := range cmds {
		ids[i], waits[i] = first+uint64(i), &pendingCommand{reply: make(chan *message, 1)}
		line, err := encode(ids[i], cmd.Name, cmd.Args)
		if err != nil {
			return nil, nil, err
		}
		b.data = append(b.data, line...)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for i, id := range ids {
		c.pending[id] = waits[i]
	}
	return ids, waits, nil
}

// reserve takes n consecutive ids.
func (c *Client) reserve(n uint64) (first uint64, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return 0, c.err
	}
	if len(c.pending)+int(n) > maxPending {
		return 0, ErrBusy
	}
	first = c.nextID + 1
	c.nextID += n
	return first, nil
}

// forget drops ids whose replies nobody waits for any more; they are ignored when they come.
func (c *Client) forget(ids []uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, id := range ids {
		delete(c.pending, id)
	}
}

// settle hands a reply to its command. QEMU may still tell a new client what its predecessor has asked: that is ignored until the new one
// has been let in.
func (c *Client) settle(id uint64, m *message) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if id == 0 || id > c.nextID {
		if !c.greeted {
			return nil
		}
		return protocolError("reply to command %d, which was never sent", id)
	}
	if p, ok := c.pending[id]; ok {
		delete(c.pending, id)
		p.reply <- m
	}
	return nil
}

// collect waits for the replies of a batch that is queued or sent. The first error is kept, but every command gets its own.
func (c *Client) collect(ctx context.Context, b *batch, cmds []*Command, waits []*pendingCommand) error {
	var first error
	for i, cmd := range cmds {
		cmd.Err = c.wait(ctx, b, cmd, waits[i])
		if cmd.Err != nil && first == nil {
			first = cmd.Err
		}
	}
	return first
}

func (c *Client) wait(ctx context.Context, b *batch, cmd *Command, p *pendingCommand) error {
	select {
	case m := <-p.reply:
		return cmd.take(m)
	case <-ctx.Done():
		return b.giveUp(cmd, ctx.Err())
	case <-c.done:
	}
	// The reply may have come just before the end.
	select {
	case m := <-p.reply:
		return cmd.take(m)
	default:
		return b.giveUp(cmd, c.Err())
	}
}

// giveUp is the end of a wait without a reply. A batch that still stands in the queue will not be sent.
func (b *batch) giveUp(cmd *Command, reason error) error {
	if b.state.CompareAndSwap(batchQueued, batchGivenUp) || b.state.Load() == batchGivenUp {
		return fmt.Errorf("execute %q: %w: %w", cmd.Name, ErrNotSent, reason)
	}
	return fmt.Errorf("execute %q: %w", cmd.Name, reason)
}

func (cmd *Command) take(m *message) error {
	if m.Error != nil {
		return fmt.Errorf("execute %q: %w", cmd.Name, m.Error)
	}
	if cmd.Reply == nil {
		return nil
	}
	if err := json.Unmarshal(m.Return, cmd.Reply); err != nil {
		return fmt.Errorf("execute %q: decode reply: %w", cmd.Name, err)
	}
	return nil
}

func failAll(cmds []*Command, err error) error {
	for _, cmd := range cmds {
		cmd.Err = fmt.Errorf("execute %q: %w", cmd.Name, err)
	}
	return cmds[0].Err
}

// write sends queued batches until the connection ends, and lets go of those that are left.
func (c *Client) write() {
	for {
		select {
		case b := <-c.queue:
			if err := c.send(b); err != nil {
				c.fail(fmt.Errorf("%w: %w", ErrGone, err))
			}
		case <-c.done:
			c.discard()
			return
		}
	}
}

// discard empties the queue. A caller may still add to it for a moment; the garbage collector closes such a batch's file.
func (c *Client) discard() {
	for {
		select {
		case b := <-c.queue:
			b.release()
		default:
			return
		}
	}
}

func (c *Client) send(b *batch) error {
	defer b.release()
	if !b.state.CompareAndSwap(batchQueued, batchSending) {
		return nil
	}
	data := b.data
	if b.file != nil {
		sent, err := sendFile(c.conn, data, b.file)
		if err != nil {
			return err
		}
		data = data[sent:]
	}
	_, err := c.conn.Write(data)
	return err
}

// sendFile sends the beginning of data together with a descriptor and returns how much of it went. It leaves the mode of the
// descriptor, which it shares with the caller's, alone.
func sendFile(conn net.Conn, data []byte, file *os.File) (int, error) {
	unixConn, ok := conn.(*net.UnixConn)
	if !ok {
		return 0, errors.New("a descriptor needs a unix socket")
	}
	raw, err := file.SyscallConn()
	if err != nil {
		return 0, err
	}
	n, sendErr := 0, error(nil)
	if err := raw.Control(func(fd uintptr) { n, _, sendErr = unixConn.WriteMsgUnix(data, unix.UnixRights(int(fd)), nil) }); err != nil {
		return 0, err
	}
	return n, sendErr
}
