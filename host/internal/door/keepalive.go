package door

import (
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/lodgevirt/lodge/host/internal/rpc"
)

var errSilent = errors.New("no answer to keepalive")

// keepalive answers a client's pings, and pings a client that said it can answer.
type keepalive struct {
	client   *client
	interval time.Duration
	count    int32
	// ticks counts the intervals since the client was last heard.
	ticks atomic.Int32

	mu      sync.Mutex // guards the fields below
	timer   *time.Timer
	stopped bool
}

func newKeepalive(c *client, lim *Limits) *keepalive {
	return &keepalive{client: c, interval: lim.KeepaliveInterval, count: int32(lim.KeepaliveCount)}
}

// heard notes that the client lives.
func (k *keepalive) heard() { k.ticks.Store(0) }

// message deals with a message of the client's: only those of keepalive mean something.
func (k *keepalive) message(h rpc.Header) error {
	if h.Program != rpc.KeepaliveProgram || h.Version != rpc.KeepaliveVersion || h.Procedure != rpc.KeepalivePing {
		return nil
	}
	return k.client.w.Queue(keepaliveHeader(rpc.KeepalivePong), nil)
}

func keepaliveHeader(procedure int32) rpc.Header {
	return rpc.Header{
		Program: rpc.KeepaliveProgram, Version: rpc.KeepaliveVersion, Procedure: procedure, Type: rpc.Message,
	}
}

// start begins to ping; the client has asked whether the server knows keepalive.
func (k *keepalive) start() {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.timer == nil && !k.stopped {
		k.timer = time.AfterFunc(k.interval, k.tick)
	}
}

// stop ends the pinging.
func (k *keepalive) stop() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.stopped = true
	if k.timer != nil {
		k.timer.Stop()
	}
}

// tick runs once an interval: the first one after a frame may be early, each further one pings, the one after the last ping
// gives up.
func (k *keepalive) tick() {
	n := k.ticks.Add(1)
	if n > k.count+1 {
		k.client.disconnect(errSilent)
		return
	}
	if n > 1 {
		if err := k.client.w.Send(keepaliveHeader(rpc.KeepalivePing), nil); err != nil {
			k.client.disconnect(err)
			return
		}
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if !k.stopped {
		k.timer.Reset(k.interval)
	}
}
