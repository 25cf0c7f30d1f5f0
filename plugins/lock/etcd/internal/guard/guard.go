package guard

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"golang.org/x/sys/unix"

	"github.com/lodgevirt/lodge/plugins/lock/etcd/internal/boot"
	"github.com/lodgevirt/lodge/plugins/lock/etcd/internal/record"
	"github.com/lodgevirt/lodge/plugins/lock/etcd/internal/store"
	"github.com/lodgevirt/lodge/sdk/peer"
	"github.com/lodgevirt/lodge/sdk/procfs"
)

const (
	// maxGuests is how many guests a guard takes.
	maxGuests = 1 << 16
	// maxEnded is how many guests that have ended are kept to be told of.
	maxEnded = maxGuests
	// Linger is how long a guard stays without a guest.
	Linger = 10 * time.Second
)

// Guard is the process.
type Guard struct {
	log    hclog.Logger
	clock  boot.Clock
	linger time.Duration
	page   *Page
	events *events
	dir    string
	// looked is when Run has last looked whether the folder is there.
	looked boot.Time
	// open makes what renews the lease; tests have their own.
	open func(*Hello) (renewer, error)

	mu    sync.Mutex // guards all below
	table table
	ended []Ended
	// empty is since when there is no guest.
	empty boot.Time
	hello *Hello
	conns map[net.Conn]bool
}

// New makes a guard whose files are in a folder. Close it when Run has returned.
func New(dir string, log hclog.Logger, linger time.Duration) (*Guard, error) {
	id, err := procfs.BootID()
	if err != nil {
		return nil, err
	}
	page, err := OpenPage(filepath.Join(dir, PageFile), id)
	if err != nil {
		return nil, err
	}
	events, err := newEvents()
	if err != nil {
		return nil, err
	}
	return &Guard{
		log: log, clock: boot.Now, linger: linger, page: page, events: events, dir: dir, open: openStore,
		table: table{guests: map[record.Life]*entry{}}, empty: boot.Now(), conns: map[net.Conn]bool{},
	}, nil
}

// Close lets go of everything; guests live on.
func (g *Guard) Close() {
	for _, e := range g.table.guests {
		closeFD(e.fd)
	}
	g.events.close()
}

// Run serves the plugin and guards until no guest has been there for a while, or the context ends.
func (g *Guard) Run(ctx context.Context, l net.Listener) error {
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	wg.Go(func() { g.accept(ctx, l, &wg) })
	wg.Go(func() { g.renew(ctx) })
	defer wg.Wait()
	defer g.hangUp()
	defer func() { _ = l.Close() }()
	defer cancel()
	stop := context.AfterFunc(ctx, g.events.wake)
	defer stop()
	for ctx.Err() == nil {
		now := g.clock()
		again := g.enforce(now)
		g.findFolder(now)
		if g.idle(now) {
			g.log.Info("guard ends: no guest has locks")
			return nil
		}
		ended, err := g.events.wait(again)
		if err != nil {
			return fmt.Errorf("wait for guests: %w", err)
		}
		g.bury(ended)
	}
	return nil
}

// enforce kills whoever must end, and returns when to look again.
func (g *Guard) enforce(now boot.Time) boot.Time {
	g.mu.Lock()
	defer g.mu.Unlock()
	lease := g.page.Lease()
	kill, again := g.table.due(now, lease)
	for _, e := range kill {
		e.killed, e.why = now, e.reason(now, lease)
		g.log.Error("guest is ended", "guest", e.Name, "uuid", e.UUID, "process", e.PID, "why", e.why)
		if err := e.kill(); err != nil {
			g.log.Error("guest cannot be ended", "guest", e.Name, "uuid", e.UUID, "process", e.PID, "error", err)
			e.killed = 0 // again the next time
		}
	}
	g.findDead()
	return again
}

// findDead looks after processes that have no pidfd because there were too many; called with the mutex held.
func (g *Guard) findDead() {
	for _, e := range g.table.guests {
		if e.PID == 0 || e.fd >= 0 {
			continue
		}
		if start, err := boot.StartTime(e.PID); errors.Is(err, os.ErrNotExist) || (err == nil && start != e.StartTime) {
			g.hasDied(e)
		}
	}
}

// findFolder looks every now and then whether the folder is there. Where it was removed there can be no plugin any more that would
// release the locks of guests without a process here, so they are kept no longer.
func (g *Guard) findFolder(now boot.Time) {
	const every = 5 * time.Second
	if now.Sub(g.looked) < every {
		return
	}
	g.looked = now
	if _, err := os.Stat(g.dir); !errors.Is(err, os.ErrNotExist) {
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, e := range g.table.guests {
		if e.PID == 0 {
			g.log.Warn("guest without a process is given up with the folder", "guest", e.Name, "uuid", e.UUID)
			g.forget(e)
		}
	}
}

// kill kills a guest's process, and nothing else that may have its number by now.
func (e *entry) kill() error {
	fd := e.fd
	if fd < 0 {
		var err error
		if fd, err = openProcess(e.PID, e.StartTime); err != nil {
			return err
		}
		defer closeFD(fd)
	}
	if err := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("kill process %d: %w", e.PID, err)
	}
	return nil
}

// openProcess returns a pidfd of a process, or os.ErrNotExist.
func openProcess(pid int32, start uint64) (int, error) {
	fd, err := unix.PidfdOpen(int(pid), 0)
	if errors.Is(err, unix.ESRCH) {
		return -1, os.ErrNotExist
	}
	if err != nil {
		return -1, fmt.Errorf("open process %d: %w", pid, err)
	}
	// The number is that of the process in fd for as long as that has not been waited for, so this is about the same process.
	if began, err := boot.StartTime(pid); err != nil || began != start {
		closeFD(fd)
		return -1, os.ErrNotExist
	}
	return fd, nil
}

func closeFD(fd int) {
	if fd >= 0 {
		_ = unix.Close(fd)
	}
}

// bury forgets the guests whose processes have ended.
func (g *Guard) bury(ended []int) {
	if len(ended) == 0 {
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, e := range g.table.guests {
		// A number in the list may be that of another descriptor by now.
		if slices.Contains(ended, e.fd) && hasEnded(e.fd) {
			g.hasDied(e)
		}
	}
}

// hasEnded says whether the process of a pidfd has ended.
func hasEnded(fd int) bool {
	list := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	n, err := unix.Poll(list, 0)
	return err == nil && n > 0 && list[0].Revents&unix.POLLIN != 0
}

// forget takes a guest out of the table; called with the mutex held.
func (g *Guard) forget(e *entry) {
	g.events.remove(e.fd)
	closeFD(e.fd)
	delete(g.table.guests, e.Life)
	if len(g.table.guests) == 0 {
		g.empty = g.clock()
	}
}

// hasDied forgets a guest whose process is gone, and tells of it; called with the mutex held.
func (g *Guard) hasDied(e *entry) {
	if e.killed != 0 {
		g.log.Info("guest has ended", "guest", e.Name, "uuid", e.UUID, "process", e.PID, "after", g.clock().Sub(e.killed))
	}
	if g.ended = append(g.ended, Ended{Guest: e.Guest, Why: e.why}); len(g.ended) > maxEnded {
		g.ended = g.ended[1:]
	}
	g.forget(e)
}

// idle says whether the guard has had nothing to do for long enough.
func (g *Guard) idle(now boot.Time) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return len(g.table.guests) == 0 && now.Sub(g.empty) >= g.linger
}

// set adds a guest or replaces what is known of it. A guest whose process is gone is not kept.
func (g *Guard) set(n Guest) error {
	e := g.table.guests[n.Life]
	if e != nil && e.PID == n.PID && e.StartTime == n.StartTime {
		e.Guest, e.stale = n, false
		return nil
	}
	if e == nil && len(g.table.guests) >= maxGuests {
		return fmt.Errorf("more than %d guests", maxGuests)
	}
	next := &entry{Guest: n, since: g.clock(), fd: -1}
	if n.PID != 0 {
		fd, err := openProcess(n.PID, n.StartTime)
		switch {
		case errors.Is(err, os.ErrNotExist):
			if e != nil {
				g.forget(e)
			}
			g.ended = append(g.ended, Ended{Guest: n})
			return nil
		case errors.Is(err, unix.EMFILE), errors.Is(err, unix.ENFILE): // findDead looks after it
		case err != nil:
			return err
		}
		if err := g.events.add(fd); err != nil {
			closeFD(fd)
			return err
		}
		next.fd = fd
	}
	if e != nil {
		g.forget(e)
	}
	g.table.guests[n.Life] = next
	return nil
}

// handle follows a request.
func (g *Guard) handle(req *request) response {
	g.mu.Lock()
	defer g.mu.Unlock()
	urgent := len(g.table.guests) == 0
	for _, n := range req.Set {
		urgent = urgent || n.Lost != 0
	}
	if urgent { // else the next look is early enough
		defer g.events.wake()
	}
	r := response{Version: Version}
	if h := req.Hello; h != nil {
		if h.Version != Version || h.Page != g.page.Ident() || h.Config == nil {
			r.Error = fmt.Sprintf("guard of version %d with page %s cannot serve version %d with page %s", Version, g.page.Ident(), h.Version, h.Page)
			return r
		}
		g.hello = h
	}
	if req.Begin {
		for _, e := range g.table.guests {
			e.stale = true
		}
	}
	for _, n := range req.Set {
		if err := g.set(n); err != nil {
			r.Error = fmt.Sprintf("guard guest %q: %v", n.Name, err)
			return r
		}
	}
	for _, l := range req.Drop {
		if e := g.table.guests[l]; e != nil {
			g.forget(e)
		}
	}
	if req.End {
		for _, e := range g.table.guests {
			if e.stale {
				g.forget(e)
			}
		}
	}
	r.Guests = len(g.table.guests)
	told := min(len(g.ended), maxBatch)
	r.Ended, g.ended = g.ended[:told], g.ended[told:]
	return r
}

// accept serves whoever connects and is the same user.
func (g *Guard) accept(ctx context.Context, l net.Listener, wg *sync.WaitGroup) {
	l = peer.Listener{Listener: l, Allow: peer.SameUser}
	for {
		conn, err := l.Accept()
		if err != nil {
			if ctx.Err() == nil {
				g.log.Error("guard cannot be talked to", "error", err)
			}
			return
		}
		g.mu.Lock()
		full := len(g.conns) >= 8
		if !full {
			g.conns[conn] = true
		}
		g.mu.Unlock()
		if full || ctx.Err() != nil {
			_ = conn.Close()
			continue
		}
		wg.Go(func() { g.serve(conn) })
	}
}

// serve answers one connection until it ends.
func (g *Guard) serve(conn net.Conn) {
	defer func() {
		_ = conn.Close()
		g.mu.Lock()
		defer g.mu.Unlock()
		delete(g.conns, conn)
	}()
	r := newReader(conn)
	for g.answer(conn, r) == nil {
	}
}

// answer answers one request.
func (g *Guard) answer(conn net.Conn, r *bufio.Reader) error {
	req, err := readLine[request](r)
	if err != nil {
		return err
	}
	if err := conn.SetWriteDeadline(time.Now().Add(answerTime)); err != nil {
		return err
	}
	return writeLine(conn, g.handle(req))
}

// hangUp ends all connections.
func (g *Guard) hangUp() {
	g.mu.Lock()
	defer g.mu.Unlock()
	for conn := range g.conns {
		_ = conn.Close()
	}
}

// renewer renews a lease.
type renewer interface {
	Renew(ctx context.Context, lease clientLease, patience time.Duration) (store.Granted, error)
	Close() error
}
