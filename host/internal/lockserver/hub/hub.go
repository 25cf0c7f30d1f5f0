// Package hub serves calls in libvirt's framing (package rpc) on unix sockets: many connections, one thread that waits for all of them and
// runs their calls, and no goroutine or buffer for a connection that is silent.
//
// One goroutine leads: it waits with epoll, reads a frame, runs its call and writes the answer, without handing anything to anybody. A
// watch looks every few milliseconds whether the leader is still in the same call; then another goroutine takes the lead and serves
// everybody else, and the answer of the slow call is sent when it is there. As long as there are such calls every other one runs on a
// goroutine of its own. So a call that hangs, such as one on a dead file server, costs its own client only.
//
// A client has one call at a time, or as many as its Session allows; frames beyond that stay in the socket, but for pings, which are
// answered at any time. A client that stops within a frame, or does not read its answers, is dropped after a while. At the
// limit of a service further connections wait unaccepted, as virtlockd lets them.
//
// The Hub owns listeners, connections and all goroutines. A Session is called by one goroutine at a time if it allows one call at a
// time. Freeze stops everything between two calls and says what each connection has been sent and has not been answered, so that the
// program can be replaced by execve without a lost byte; Thaw goes on. All methods of Hub, Service and Client are safe concurrently.
package hub

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"
	"golang.org/x/sys/unix"
)

const (
	// frameTimeout bounds how long the rest of a frame may take, and how long an answer may stay unread.
	frameTimeout = 10 * time.Second
	// lookEvery is how often the watch looks at the leader while it works. A call that is seen to wait twice has lost the lead.
	lookEvery = 8 * time.Millisecond
	// quietLooks is how many looks at an idle leader send the watch to sleep, and busyLooks how many at a leader that works and works
	// replace it.
	quietLooks = 25
	busyLooks  = 25
	// acceptPause is the wait after a failed accept, such as for want of descriptors.
	acceptPause = 50 * time.Millisecond
	// stopPatience bounds how long the end of Run waits for calls that hang.
	stopPatience = 2 * time.Second
)

// ErrEnded says that the hub does not run any more.
var ErrEnded = errors.New("hub has ended")

// Hub serves connections.
type Hub struct {
	log     hclog.Logger
	discard func(*os.File)
	epoll   int
	bell    int // an eventfd that wakes the leader
	// turn counts the beginnings and ends of the leader's calls: it is odd during one. Whoever moves it on from an odd number
	// decides: the leader ends its call and leads on, or the watch has taken the lead from it.
	turn   atomic.Uint64
	thread atomic.Int32  // the leader's, as the kernel numbers it
	asleep atomic.Bool   // the watch sleeps
	wake   chan struct{} // ends its sleep
	ended  chan struct{} // closed when Run ends
	work   sync.WaitGroup
	// frameTimeout is the constant of that name but in tests.
	frameTimeout time.Duration

	mu       sync.Mutex
	posted   []func() // what the leader shall do
	services []*Service

	// What follows is the leader's, or Freeze's between it and Thaw.
	clients   map[int]*Client
	listeners map[int]*listening
	ready     []*Client            // have sent frames that nobody has looked at
	late      map[*Client]struct{} // have a frame that is not whole, or answers that they do not read
	busy      *Client              // whose call the leader is in, or nil
	away      int                  // calls that run elsewhere
	retry     time.Time            // when to accept again
	stopping  bool
	freezing  chan struct{} // closed by the leader when it stops for Freeze
}

// New returns a hub without services. Descriptors that clients have sent, and that no call takes, are closed by discard; nil just closes
// them.
func New(log hclog.Logger, discard func(*os.File)) (*Hub, error) {
	if discard == nil {
		discard = func(f *os.File) { f.Close() }
	}
	epoll, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("make hub: epoll: %w", err)
	}
	bell, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err == nil {
		err = unix.EpollCtl(epoll, unix.EPOLL_CTL_ADD, bell, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(bell)})
	}
	if err != nil {
		unix.Close(epoll)
		return nil, fmt.Errorf("make hub: event: %w", err)
	}
	return &Hub{
		log: log, discard: discard, epoll: epoll, bell: bell,
		wake: make(chan struct{}, 1), ended: make(chan struct{}),
		frameTimeout: frameTimeout,
		clients:      map[int]*Client{}, listeners: map[int]*listening{}, late: map[*Client]struct{}{},
	}, nil
}

// Run serves until the context ends. Then it closes all connections and listeners, and waits for the calls under way, but not long for
// those that hang. It is called once.
func (h *Hub) Run(ctx context.Context) error {
	defer close(h.ended)
	h.begin()
	<-ctx.Done()
	h.post(func() { h.stopping = true })
	done := make(chan struct{})
	go func() {
		h.work.Wait()
		close(done)
	}()
	timer := time.NewTimer(stopPatience)
	defer timer.Stop()
	select {
	case <-done:
		unix.Close(h.epoll)
		unix.Close(h.bell)
		return nil
	case <-timer.C:
		return errors.New("stop hub: calls hang")
	}
}

// begin starts a leader and the watch over it.
func (h *Hub) begin() {
	over := make(chan struct{})
	h.work.Go(func() { h.lead(h.turn.Load(), over) })
	h.work.Go(func() { h.look(over) })
}

// post has the leader do something soon.
func (h *Hub) post(do func()) {
	h.mu.Lock()
	h.posted = append(h.posted, do)
	first := len(h.posted) == 1
	h.mu.Unlock()
	if !first {
		return // whoever was first rings
	}
	_, _ = unix.Write(h.bell, []byte{1, 0, 0, 0, 0, 0, 0, 0})
}

// next takes what was posted first.
func (h *Hub) next() (do func(), ok bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.posted) == 0 {
		return nil, false
	}
	do = h.posted[0]
	h.posted = h.posted[1:]
	if len(h.posted) == 0 {
		h.posted = nil
	}
	return do, true
}

// look watches the leader until the leadership ends, and replaces a leader that waits in the same call at two looks.
func (h *Hub) look(over chan struct{}) {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	seen, same := h.turn.Load(), 0
	for {
		select {
		case <-over:
			return
		case <-tick.C:
		}
		now := h.turn.Load()
		if now != seen {
			seen, same = now, 0
			continue
		}
		same++
		switch {
		case now%2 == 0 && same >= quietLooks:
			tick.Stop()
			if !h.sleep(seen, over) {
				return
			}
			tick.Reset(lookEvery)
			same = 0
		case now%2 == 1 && (same >= busyLooks || h.waits()) && h.turn.CompareAndSwap(now, now+1):
			seen, same = now+1, 0
			h.work.Go(func() { h.lead(now+1, over) })
		}
	}
}

// sleep waits for the leader's next call. It returns false if the leadership ends.
func (h *Hub) sleep(seen uint64, over chan struct{}) bool {
	h.asleep.Store(true)
	defer h.asleep.Store(false)
	if h.turn.Load() != seen {
		return true
	}
	select {
	case <-h.wake:
		return true
	case <-over:
		return false
	}
}

// waits reports whether the leader's thread waits for something. On a machine that has much else to do it may just not have its turn, and
// then another thread would not have it either.
func (h *Hub) waits() bool {
	text, err := os.ReadFile("/proc/self/task/" + strconv.Itoa(int(h.thread.Load())) + "/stat")
	if err != nil {
		return true
	}
	// The state is the field behind the name, which is in parentheses and may have some itself.
	at := bytes.LastIndexByte(text, ')') + 2
	return at >= len(text) || text[at] != 'R'
}
