package hub

import (
	"errors"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lodgevirt/lodge/host/internal/rpc"
)

// chunk is something that waits to be sent: bytes, or one byte with a descriptor.
type chunk struct {
	bytes []byte
	file  *os.File
}

// sent closes what is sent, or never will be.
func (h *Hub) sent(o chunk) {
	if o.file != nil {
		h.discard(o.file)
	}
}

func (h *Hub) discardAll(files []*os.File) {
	for _, f := range files {
		h.discard(f)
	}
}

// answer sends what a call came to and closes its files. The buffer may be used to make the frame.
func (h *Hub) answer(c *Client, header rpc.Header, a Answer, buf []byte) {
	if c.gone {
		h.discardAll(a.Files)
		return
	}
	header = header.Answer(a.Status)
	if !a.WithFiles {
		h.send(c, rpc.AppendFrame(buf[:0], header, a.Payload), nil)
		return
	}
	header.Type = rpc.ReplyWithFDs
	h.send(c, rpc.AppendFrameWithFDs(buf[:0], header, a.Payload, len(a.Files)), a.Files)
}

// send sends bytes and then files, of which it becomes the owner, as far as the client's socket takes them. The rest is queued.
func (h *Hub) send(c *Client, b []byte, files []*os.File) {
	if len(c.out) == 0 {
		n, err := transmit(c.fd, b, nil)
		if err != nil && !errors.Is(err, unix.EAGAIN) {
			h.discardAll(files)
			h.drop(c, err)
			return
		}
		b = b[n:]
		if len(b) == 0 && len(files) == 0 {
			return
		}
	}
	if len(b) > 0 {
		c.queue(chunk{bytes: append([]byte(nil), b...)})
	}
	for _, f := range files {
		c.queue(chunk{bytes: []byte{0}, file: f})
	}
	if len(b) == 0 {
		h.flush(c)
		return
	}
	h.attend(c)
}

func (c *Client) queue(o chunk) {
	if len(c.out) == 0 {
		c.outDue = time.Now().Add(c.hub.frameTimeout)
	}
	c.out = append(c.out, o)
	c.unread += len(o.bytes)
}

// flush sends what is queued, as far as the client's socket takes it.
func (h *Hub) flush(c *Client) {
	for len(c.out) > 0 {
		o := &c.out[0]
		n, err := transmit(c.fd, o.bytes, o.file)
		if err != nil && !errors.Is(err, unix.EAGAIN) {
			h.drop(c, err)
			return
		}
		if err != nil {
			break
		}
		c.outDue = time.Now().Add(h.frameTimeout)
		c.unread -= n
		if o.bytes = o.bytes[n:]; len(o.bytes) > 0 {
			break
		}
		h.sent(*o)
		c.out = c.out[1:]
	}
	if len(c.out) == 0 {
		c.out, c.outDue = nil, time.Time{}
	}
	h.attend(c)
	if c.held && c.unread < unreadLimit {
		h.ready = append(h.ready, c)
	}
	h.pull(c)
}

// pull sends what a client's session has to say, as long as the client reads it.
func (h *Hub) pull(c *Client) {
	source, ok := c.session.(Source)
	for ok && !c.gone && c.unread < unreadLimit {
		var header rpc.Header
		var payload []byte
		if header, payload, ok = source.Next(); ok {
			h.send(c, rpc.AppendFrame(nil, header, payload), nil)
		}
	}
}
