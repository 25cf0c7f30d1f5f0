package guard

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"golang.org/x/sys/unix"

	"github.com/lodgevirt/lodge/plugins/lock/etcd/internal/record"
)

const (
	// answerTime is how long guard and plugin may take to answer each other.
	answerTime = 4 * time.Second
	// endTime is how long a guard may take to end after SIGKILL.
	endTime = 3 * time.Second
	// pingTime is how often the plugin looks whether the guard answers.
	pingTime = time.Second
)

// Post keeps a guard running while there are guests, and tells it of them.
type Post struct {
	log    hclog.Logger
	dir    string
	linger time.Duration
	hello  func() *Hello

	// turn is held by whoever talks to the guard, and guards link, stuck, met and dead.
	turn chan struct{}
	link *link
	// stuck is a guard that has not answered in time, or 0.
	stuck int32
	// met says that a guard of an earlier process was looked for.
	met bool
	// dead are guards that have hung up, and may be children of this process that wait to be reaped.
	dead []int32

	mu     sync.Mutex // guards guests
	guests map[record.Life]Guest
}

// NewPost makes a post for the guard in a folder. hello tells what a guard needs to know; a call of Refresh has it asked again.
func NewPost(dir string, log hclog.Logger, linger time.Duration, hello func() *Hello) *Post {
	return &Post{
		log: log, dir: dir, linger: linger, hello: hello, turn: make(chan struct{}, 1), guests: map[record.Life]Guest{},
	}
}

// link is a connection to a guard that runs.
type link struct {
	conn net.Conn
	r    *bufio.Reader
	// watch is a second connection, which tells by its end that the guard has died.
	watch net.Conn
	pid   int32
}

// Close ends the connection; the guard lives on.
func (p *Post) Close() {
	p.turn <- struct{}{}
	defer func() { <-p.turn }()
	p.hangUp()
}

// Adopt has guests guarded that earlier processes have left, from the first contact with the guard on. It does not wait, and must come
// before any other call: what the guard knows besides is forgotten then.
func (p *Post) Adopt(guests ...Guest) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.keep(guests)
}

// keep remembers guests; called with mu.
func (p *Post) keep(guests []Guest) {
	for i := range guests {
		guests[i].Name = record.Show(guests[i].Name)
		p.guests[guests[i].Life] = guests[i]
	}
}

// Set has guests guarded, also those that are guarded already. It returns once the guard has answered.
func (p *Post) Set(ctx context.Context, guests ...Guest) error {
	p.mu.Lock()
	p.keep(guests)
	p.mu.Unlock()
	return p.tell(ctx, guests, nil)
}

// Drop has a guest left alone. Without a guard there is nothing to do.
func (p *Post) Drop(ctx context.Context, l record.Life) error {
	p.mu.Lock()
	_, ok := p.guests[l]
	delete(p.guests, l)
	p.mu.Unlock()
	if !ok {
		return nil
	}
	return p.tell(ctx, nil, []record.Life{l})
}

// Refresh tells the guard what it needs to know once more.
func (p *Post) Refresh(ctx context.Context) error {
	if !p.lock(ctx) {
		return ctx.Err()
	}
	p.hangUp()
	<-p.turn
	return p.tell(ctx, nil, nil)
}

// Guard returns the process that guards, or 0.
func (p *Post) Guard(ctx context.Context) int32 {
	if !p.lock(ctx) {
		return 0
	}
	defer func() { <-p.turn }()
	if p.link == nil {
		return 0
	}
	return p.link.pid
}

// Run looks after the guard until the context ends: one that has died or does not answer is replaced at once.
func (p *Post) Run(ctx context.Context) {
	for {
		if err := p.tell(ctx, nil, nil); err != nil && ctx.Err() == nil {
			p.log.Error("guests are not guarded", "error", err)
		}
		if !p.await(ctx) {
			return
		}
	}
}

// await waits for pingTime, less if the guard hangs up, and says whether the context goes on.
func (p *Post) await(ctx context.Context) bool {
	if !p.lock(ctx) {
		return false
	}
	l := p.link
	<-p.turn
	if l == nil {
		return pause(ctx, pingTime)
	}
	stop := context.AfterFunc(ctx, func() { _ = l.watch.Close() })
	defer stop()
	err := l.watch.SetReadDeadline(time.Now().Add(pingTime))
	if err == nil {
		_, err = l.watch.Read(make([]byte, 1)) // nothing ever comes
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return ctx.Err() == nil
	}
	if !p.lock(ctx) {
		return false
	}
	defer func() { <-p.turn }()
	if p.link == l {
		p.hangUp()
	}
	return ctx.Err() == nil
}

func (p *Post) lock(ctx context.Context) bool {
	select {
	case p.turn <- struct{}{}:
		return true
	case <-ctx.Done():
		return false
	}
}

// tell sends a request to the guard, or the whole list to a new one if there is none. Without guests no guard is needed.
func (p *Post) tell(ctx context.Context, set []Guest, drop []record.Life) error {
	if !p.lock(ctx) {
		return ctx.Err()
	}
	defer func() { <-p.turn }()
	p.reap()
	if p.link != nil {
		err := p.send(ctx, set, drop)
		if err == nil {
			return nil
		}
		if errors.Is(err, os.ErrDeadlineExceeded) && ctx.Err() == nil {
			p.stuck = p.link.pid
		}
		p.hangUp()
		if p.needed() {
			p.log.Warn("guard does not answer, and is replaced", "error", err)
		}
	}
	if !p.needed() && (p.met || !p.isThere()) {
		p.met = true
		return nil
	}
	return p.attach(ctx)
}

// isThere says whether a guard runs.
func (p *Post) isThere() bool {
	lock, err := os.OpenFile(filepath.Join(p.dir, lockFile), os.O_RDWR|unix.O_NOFOLLOW, 0)
	if err != nil {
		return false
	}
	defer func() { _ = lock.Close() }() // this frees it, too
	return errors.Is(unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB), unix.EWOULDBLOCK)
}

// all lists the guests.
func (p *Post) all() []Guest {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Collect(maps.Values(p.guests))
}

func (p *Post) needed() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.guests) > 0
}

// send sends a request in parts that fit; called with the turn.
func (p *Post) send(ctx context.Context, set []Guest, drop []record.Life) error {
	for {
		req := request{Set: set[:min(len(set), maxBatch)], Drop: drop[:min(len(drop), maxBatch)]}
		ended, err := p.ask(ctx, req)
		if err != nil {
			return err
		}
		if set, drop = set[len(req.Set):], drop[len(req.Drop):]; len(set)+len(drop)+ended == 0 {
			return nil
		}
	}
}

// ask sends one request and reads the answer, and returns how many guests it says have ended: there may be more of them. Called with the
// turn.
func (p *Post) ask(ctx context.Context, req request) (ended int, err error) {
	limit := time.Now().Add(answerTime)
	if d, ok := ctx.Deadline(); ok && d.Before(limit) {
		limit = d
	}
	if err := p.link.conn.SetDeadline(limit); err != nil {
		return 0, err
	}
	if err := writeLine(p.link.conn, req); err != nil {
		return 0, err
	}
	resp, err := readLine[response](p.link.r)
	if err != nil {
		return 0, err
	}
	if resp.Error != "" {
		return 0, errors.New(resp.Error)
	}
	p.haveEnded(resp.Ended)
	return len(resp.Ended), nil
}

// haveEnded takes note that guests need no guard any more.
func (p *Post) haveEnded(list []Ended) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, e := range list {
		if e.Why != "" {
			p.log.Error("guest was ended by its guard", "guest", e.Name, "uuid", e.UUID, "process", e.PID, "why", e.Why)
		}
		if g, ok := p.guests[e.Life]; ok && g.PID == e.PID && g.StartTime == e.StartTime {
			delete(p.guests, e.Life)
		}
	}
}

// hangUp ends the connection; called with the turn.
func (p *Post) hangUp() {
	if p.link == nil {
		return
	}
	_ = p.link.conn.Close()
	_ = p.link.watch.Close()
	p.dead = append(p.dead, p.link.pid)
	p.link = nil
}

// reap takes dead children off the system's list. Those that live are left for the next time, unless they are nobody's child here.
func (p *Post) reap() {
	p.dead = slices.DeleteFunc(p.dead, func(pid int32) bool {
		got, err := unix.Wait4(int(pid), nil, unix.WNOHANG, nil)
		return got == int(pid) || err != nil
	})
}

// attach finds the guard that runs, or starts one, and tells it of all guests; called with the turn.
func (p *Post) attach(ctx context.Context) error {
	const tries = 3
	var problems []error
	for range tries {
		err := p.meet(ctx)
		if err == nil {
			err = p.tellAll(ctx)
		}
		if err == nil {
			p.met = true
			return nil
		}
		p.hangUp()
		problems = append(problems, err)
		if ctx.Err() != nil {
			break
		}
	}
	return fmt.Errorf("find or start the guard: %w", errors.Join(problems...))
}

// tellAll tells a guard of all guests, and of no other; called with the turn.
func (p *Post) tellAll(ctx context.Context) error {
	if _, err := p.ask(ctx, request{Begin: true}); err != nil {
		return err
	}
	if err := p.send(ctx, p.all(), nil); err != nil {
		return err
	}
	_, err := p.ask(ctx, request{End: true})
	return err
}

// errStuck says that a guard has not answered in time.
var errStuck = errors.New("it does not answer")

// meet connects to the guard, which is started or replaced if need be.
func (p *Post) meet(ctx context.Context) error {
	lock, err := os.OpenFile(filepath.Join(p.dir, lockFile), os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return fmt.Errorf("open the guard's lock: %w", err)
	}
	defer func() { _ = lock.Close() }() // a guard that was started has it now
	err = unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if err == nil {
		return p.start(ctx, lock)
	}
	if !errors.Is(err, unix.EWOULDBLOCK) {
		return fmt.Errorf("lock %q: %w", lock.Name(), err)
	}
	pid, start, err := readPID(lock)
	if err != nil {
		return fmt.Errorf("find the guard: %w", err)
	}
	if err = errStuck; pid != p.stuck {
		err = p.greet(ctx, pid)
	}
	if err == nil {
		return nil
	}
	// It is stuck, or of another version. The guests that it knows are the plugin's too.
	p.log.Warn("guard is of no use, and is ended", "process", pid, "error", err)
	return errors.Join(err, end(ctx, pid, start))
}

// start starts a guard, which takes the lock over, and connects to it.
func (p *Post) start(ctx context.Context, lock *os.File) error {
	socket, err := listen(p.dir)
	if err != nil {
		return err
	}
	defer func() { _ = socket.Close() }()
	pid, err := spawn(p.dir, p.linger, lock, socket)
	if err != nil {
		return err
	}
	return p.greet(ctx, int32(pid))
}

// greet connects and says hello.
func (p *Post) greet(ctx context.Context, pid int32) error {
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", filepath.Join(p.dir, socketFile))
	if err != nil {
		return fmt.Errorf("connect to the guard: %w", err)
	}
	watch, err := d.DialContext(ctx, "unix", filepath.Join(p.dir, socketFile))
	if err != nil {
		return errors.Join(fmt.Errorf("connect to the guard: %w", err), conn.Close())
	}
	p.link = &link{conn: conn, r: newReader(conn), watch: watch, pid: pid}
	_, err = p.ask(ctx, request{Hello: p.hello()})
	return err
}

// end kills a guard and waits until it is gone.
func end(ctx context.Context, pid int32, start uint64) error {
	fd, err := openProcess(pid, start)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer closeFD(fd)
	if err := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("end process %d: %w", pid, err)
	}
	ctx, cancel := context.WithTimeout(ctx, endTime)
	defer cancel()
	for !hasEnded(fd) {
		if !pause(ctx, 5*time.Millisecond) {
			return fmt.Errorf("end process %d: %w", pid, ctx.Err())
		}
	}
	return nil
}

// End ends the guard of a folder, if there is one, without ending a guest: for tests, and for whoever removes the folder.
func End(dir string) error {
	lock, err := os.Open(filepath.Join(dir, lockFile))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("find the guard: %w", err)
	}
	defer func() { _ = lock.Close() }()
	pid, start, err := readPID(lock)
	if err != nil {
		return fmt.Errorf("find the guard: %w", err)
	}
	return end(context.Background(), pid, start)
}
