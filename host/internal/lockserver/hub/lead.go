package hub

import (
	"bytes"
	"errors"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lodgevirt/lodge/host/internal/rpc"
)

const (
	// eventsAtOnce is how many ready descriptors are told in one wait.
	eventsAtOnce = 64
	// readAtOnce is how much is read from a connection before others have their turn, in bytes.
	readAtOnce = 64 << 10
	// answerSize is how large an answer may be without memory of its own, in bytes.
	answerSize = 1 << 10
)

// worker is a goroutine that leads, or did so until a call took too long.
type worker struct {
	*Hub
	at     uint64 // the number that turn has while this worker leads
	events [eventsAtOnce]unix.EpollEvent
	// buf holds what is read, and the frames that are looked at. It is used until the lead is lost, and then left to the call.
	buf []byte
	out []byte // has room for the answers of most calls
	// draining lets no client begin a frame.
	draining bool
}

func (h *Hub) worker(at uint64) *worker {
	return &worker{Hub: h, at: at, buf: make([]byte, readAtOnce), out: make([]byte, 0, answerSize)}
}

// lead serves until the lead is lost, or the hub stops or freezes; then it closes over.
func (h *Hub) lead(at uint64, over chan struct{}) {
	w := h.worker(at)
	if h.busy != nil {
		// The call in which the last leader has lost the lead goes on. Its client may have said more.
		h.away++
		h.ready = append(h.ready, h.busy)
		h.busy = nil
	}
	for {
		if !w.round() {
			return
		}
		if h.stopping {
			h.shut()
			close(over)
			return
		}
		if h.freezing != nil {
			close(over)
			close(h.freezing)
			return
		}
	}
}

// round waits once and serves what is ready. It returns false if the lead was lost; what was not served yet is then told
// to the next leader by epoll, by posted and by ready.
func (w *worker) round() bool {
	n, err := unix.EpollWait(w.epoll, w.events[:], w.patience())
	if err != nil && !errors.Is(err, unix.EINTR) {
		w.log.Error("cannot wait for connections", "error", err)
		time.Sleep(acceptPause)
	}
	// It is the same during the calls that follow, but for a rare move, after which the watch is wrong about it once.
	w.thread.Store(int32(unix.Gettid()))
	for i := range max(n, 0) {
		e := &w.events[i]
		fd := int(e.Fd)
		if fd == w.bell {
			w.hear()
			continue
		}
		if l := w.listeners[fd]; l != nil {
			w.accept(l)
			continue
		}
		if c := w.clients[fd]; c != nil && !w.event(c, e.Events) {
			return false
		}
	}
	return w.chores()
}

// hear makes the bell silent.
func (h *Hub) hear() {
	var count [8]byte
	_, _ = unix.Read(h.bell, count[:])
}

// patience is how long to wait for events at most, in milliseconds.
func (w *worker) patience() int {
	switch {
	case len(w.ready) > 0:
		return 0
	case !w.retry.IsZero():
		return int(acceptPause / time.Millisecond)
	case len(w.late) > 0:
		return int(w.frameTimeout / 10 / time.Millisecond)
	}
	return -1
}

// chores does what was posted, looks at frames that wait, and drops clients that are late.
func (w *worker) chores() bool {
	for {
		do, ok := w.next()
		if !ok {
			break
		}
		do()
		if w.freezing != nil {
			return true
		}
	}
	for len(w.ready) > 0 {
		c := w.ready[0]
		w.ready = w.ready[1:]
		if !c.gone && !w.advance(c, c.in, true) {
			return false
		}
	}
	if len(w.late) > 0 {
		w.expire(time.Now())
	}
	if !w.retry.IsZero() && time.Now().After(w.retry) {
		w.retry = time.Time{}
		w.listen()
	}
	return true
}

// event serves one client.
func (w *worker) event(c *Client, events uint32) bool {
	if events&unix.EPOLLOUT != 0 {
		w.flush(c)
	}
	if events&^unix.EPOLLOUT == 0 || c.gone {
		return true
	}
	return w.read(c)
}

// read takes what has come from a client and acts on it.
func (w *worker) read(c *Client) bool {
	buf, own := w.buf, false
	have := len(c.in)
	if have > len(buf)/2 {
		// A large frame grows where it is, as it comes.
		c.in = slices.Grow(c.in, readAtOnce/2)
		buf, own = c.in[:cap(c.in)], true
	} else {
		copy(buf, c.in)
	}
	if w.draining {
		buf = buf[:min(len(buf), have+rpc.Missing(c.in))]
	}
	n, err := c.receive(buf[have:])
	switch {
	case errors.Is(err, unix.EAGAIN):
		return true
	case err != nil:
		w.drop(c, err)
		return true
	}
	return w.advance(c, buf[:have+n], own)
}

// advance acts on the frames in data, which is what the client has sent and nobody has acted on. It is in the client's own memory, or in
// the worker's. It returns false if the lead was lost.
func (w *worker) advance(c *Client, data []byte, own bool) bool {
	c.held = false
	whole := false
	for {
		f, fds, size, err := rpc.Split(data)
		if err == nil && fds > len(c.files) {
			err = rpc.ErrFDs
		}
		if err != nil {
			w.drop(c, err)
			return true
		}
		if size == 0 {
			break
		}
		call := f.Type == rpc.Call || f.Type == rpc.CallWithFDs
		if c.unread >= unreadLimit || (call && c.running > 0 && c.running >= c.session.Parallel(f.Header)) {
			c.held = true
			break
		}
		data, whole = data[size:], true
		f.Files = c.take(fds)
		if call {
			c.in = data // for whoever leads next
			if !w.call(c, f) {
				return false
			}
		} else {
			w.message(c, f)
		}
		if c.gone {
			return true
		}
	}
	w.keep(c, data, own, whole)
	return true
}

// keep remembers what has come of the next frame, and how long the rest may take.
func (w *worker) keep(c *Client, data []byte, own, whole bool) {
	switch {
	case len(data) == 0:
		c.in = nil
	case own && cap(data) <= 2*(len(data)+readAtOnce):
		c.in = data
	default:
		c.in = bytes.Clone(data)
	}
	if whole || c.held || len(data) == 0 {
		c.inDue = time.Time{}
	}
	if len(data) > 0 && !c.held && c.inDue.IsZero() {
		c.inDue = time.Now().Add(w.frameTimeout)
	}
	w.attend(c)
}

// message deals with a frame that is no call: a ping is answered, and everything else is ignored, as virtlockd does.
func (w *worker) message(c *Client, f rpc.Frame) {
	w.discardAll(f.Files)
	if f.Program != rpc.KeepaliveProgram || f.Version != rpc.KeepaliveVersion || f.Type != rpc.Message || f.Procedure != rpc.KeepalivePing {
		return
	}
	h := f.Header
	h.Procedure, h.Status = rpc.KeepalivePong, rpc.OK
	w.send(c, rpc.AppendFrame(w.out[:0], h, nil), nil)
}

// call runs a call and answers it, or has it run elsewhere if others are slow, or nobody looks after this worker. It returns false if the lead was lost meanwhile.
func (w *worker) call(c *Client, f rpc.Frame) bool {
	c.running++
	if w.away > 0 || w.draining {
		f.Payload = bytes.Clone(f.Payload)
		w.away++
		w.work.Go(func() { w.comeBack(c, f.Header, c.session.Call(f)) })
		return true
	}
	w.busy = c
	w.turn.Store(w.at + 1)
	if w.asleep.Load() {
		select {
		case w.wake <- struct{}{}:
		default:
		}
	}
	a := c.session.Call(f)
	if !w.turn.CompareAndSwap(w.at+1, w.at+2) {
		w.comeBack(c, f.Header, a)
		return false
	}
	w.at += 2
	w.busy = nil
	c.running--
	w.answer(c, f.Header, a, w.out)
	return true
}
