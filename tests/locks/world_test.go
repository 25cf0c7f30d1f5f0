package locks

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/lodgevirt/lodge/tests/lockd"
	"github.com/lodgevirt/lodge/tests/wire"
)

// subject is the daemon that a world tries.
type subject interface {
	socket() string
	// kill ends the daemon with SIGKILL, and revive starts it again and returns once it takes connections.
	kill() error
	revive(ctx context.Context) error
	// reexecute returns once the daemon executes itself anew.
	reexecute() error
	// ours says that the daemon has our own program, and that it frees what a dead process owns.
	ours() bool
	// lists says that it lists its leases now.
	lists() bool
}

// seat is a client's connection.
type seat struct {
	conn       *lockd.Client
	party      *party
	restricted bool
}

// world is a lock daemon with its clients, owners and guests, and the model of what must be.
type world struct {
	*model
	t       *testing.T
	dir     string
	random  *rand.Rand
	daemon  subject
	eye     *lockd.Eye
	admin   *lockd.Client
	seats   []*seat
	parties []*party
	guests  []*party
	// outsiders are the descriptors by which a process that is no client, this one, has things locked.
	outsiders map[*thing]*os.File
	// virtlockd says that the daemon is libvirt's all the time.
	virtlockd bool
	born      uint32
	done      map[string]int
	history   []string
}

// Sizes of a world.
const (
	worldSpaces = 3
	worldNames  = 6
	worldSeats  = 7
	worldOwners = 6
	worldGuests = 6
)

// newWorld makes a world around a daemon that has just been started and knows nothing.
func newWorld(t *testing.T, dir string, daemon subject) *world {
	t.Helper()
	w := &world{
		model: &model{spaces: map[string]bool{}}, t: t, dir: dir, random: rand.New(rand.NewPCG(seed(t), 0)), daemon: daemon, eye: watch(t),
		outsiders: map[*thing]*os.File{}, done: map[string]int{},
	}
	t.Cleanup(w.end)
	images := filepath.Join(dir, "images")
	must(t, os.Mkdir(images, 0o755))
	for n := range worldNames {
		w.things = append(w.things, &thing{name: filepath.Join(images, fmt.Sprint("image-", n))})
	}
	for s := range worldSpaces {
		for n := range worldNames {
			w.things = append(w.things, &thing{space: w.space(s), name: fmt.Sprint("name-", n)})
		}
	}
	for _, f := range w.things {
		if f.space == "" {
			write(t, f.path(), "", 0o600)
			f.exists = true
		}
	}
	w.connect()
	for range worldSeats {
		s := &seat{}
		w.seats = append(w.seats, s)
		w.sit(s)
	}
	for range worldOwners {
		w.parties = append(w.parties, w.birth())
	}
	return w
}

func (w *world) space(n int) string { return filepath.Join(w.dir, fmt.Sprint("space-", n)) }

// end ends all processes.
func (w *world) end() {
	for _, p := range slices.Concat(w.parties, w.guests) {
		w.bury(p)
	}
	for _, s := range w.seats {
		s.conn.Close()
	}
	for _, f := range w.outsiders {
		_ = f.Close() // It carries a lock and nothing else.
	}
	if w.admin != nil {
		w.admin.Close()
	}
}

// bury ends a process and its connection.
func (w *world) bury(p *party) {
	end(p.cmd)
	if p.conn != nil {
		p.conn.Close()
		p.conn = nil
	}
}

// connect makes the connection over which the daemon is asked what it knows.
func (w *world) connect() {
	w.t.Helper()
	if w.admin != nil {
		w.admin.Close()
	}
	if !w.daemon.ours() {
		return
	}
	var err error
	w.admin, err = lockd.Dial(w.daemon.socket())
	must(w.t, err)
}

// sit gives a seat a new connection.
func (w *world) sit(s *seat) {
	w.t.Helper()
	if s.conn != nil {
		s.conn.Close()
	}
	conn, err := lockd.Dial(w.daemon.socket())
	must(w.t, err)
	*s = seat{conn: conn}
}

// name makes the identity of another party.
func (w *world) name(kind string, cmd *exec.Cmd) lockd.Owner {
	w.born++
	return lockd.Owner{UUID: [16]byte{byte(w.born >> 8), byte(w.born)}, Name: fmt.Sprint(kind, "-", w.born), ID: w.born, PID: cmd.Process.Pid}
}

// birth starts a process that others take locks for.
func (w *world) birth() *party {
	w.t.Helper()
	cmd := exec.CommandContext(context.WithoutCancel(w.t.Context()), "sleep", "3600")
	must(w.t, cmd.Start())
	return &party{owner: w.name("owner", cmd), cmd: cmd}
}

// told is the verdict in an answer. No answer at all fails the test.
func (w *world) told(err error) verdict {
	w.t.Helper()
	var refused *wire.Error
	switch {
	case err == nil:
		return fine
	case errors.As(err, &refused):
		return verdict{int(refused.Code), int(refused.Domain)}
	}
	w.fail("no answer: %v", err)
	return verdict{}
}

// check compares an answer with what was to be expected.
func (w *world) check(want verdict, err error, what string, args ...any) {
	w.t.Helper()
	w.note(what, args...)
	if got := w.told(err); got != want {
		w.fail("%s: the answer is %v (%v), want %v", fmt.Sprintf(what, args...), got, err, want)
	}
	if want != fine {
		w.history[len(w.history)-1] += fmt.Sprint(": ", want)
	}
}

// What a failed test tells of what was before: the last things that were done, and before these the last that had to do with a file that
// the failure names, or with the daemon's own life.
const (
	historyTail = 20
	historyOf   = 25
)

// note keeps what was done.
func (w *world) note(what string, args ...any) {
	w.history = append(w.history, fmt.Sprintf(what, args...))
}

// fail ends the test with what was done before.
func (w *world) fail(format string, args ...any) {
	w.t.Helper()
	text := fmt.Sprintf(format, args...)
	older := w.history[:max(0, len(w.history)-historyTail)]
	var related []string
	for i := len(older) - 1; i >= 0 && len(related) < historyOf; i-- {
		if strings.Contains(older[i], "daemon") || strings.Contains(older[i], "re-execute") || slices.ContainsFunc(w.things, func(f *thing) bool {
			return strings.Contains(text, f.path()) && strings.Contains(older[i], f.path())
		}) {
			related = append(related, fmt.Sprintf("%d: %s", i, older[i]))
		}
	}
	slices.Reverse(related)
	w.t.Fatalf("%s\nwhat was before:\n  %s\n  ...\n  %s", text, strings.Join(related, "\n  "), strings.Join(w.history[len(older):], "\n  "))
}

// compare compares all that the daemon knows, that the kernel says and that lies in folders with the model.
func (w *world) compare() {
	w.t.Helper()
	w.compareLocks(w.things)
	for n := range worldSpaces {
		w.compareFiles(w.space(n))
	}
	if w.daemon.lists() {
		all, err := w.list()
		must(w.t, err)
		got := make([]string, 0, len(all))
		for _, l := range all {
			got = append(got, w.describe(l.Owner, l.Classic, l.Path, l.Shared, l.State))
		}
		slices.Sort(got)
		if d := difference(w.leases(w.describe), got); d != "" {
			w.fail("leases differ:%s", d)
		}
	}
}

// describe says in a line what a lease is. What virtlockd has handed over has no more than a process.
func (w *world) describe(o lockd.Owner, classic bool, path string, shared bool, state uint32) string {
	if classic {
		// Virtlockd's program knows neither.
		o.Generation, o.Start = 0, 0
	}
	if !w.daemon.ours() {
		o = lockd.Owner{PID: o.PID}
	}
	return fmt.Sprintf("%s %x %d gen %d pid %d classic %v shared %v state %d", path, o.UUID[:2], o.ID, o.Generation, o.PID, classic, shared, state)
}

// list lists the daemon's leases.
func (w *world) list() ([]lockd.Lease, error) {
	if w.admin != nil {
		return w.admin.List()
	}
	c, err := lockd.Dial(w.daemon.socket())
	if err != nil {
		return nil, err
	}
	defer c.Close()
	return c.List()
}

// compareLocks compares what the kernel says of some files.
func (w *world) compareLocks(things []*thing) {
	w.t.Helper()
	paths := make([]string, len(things))
	for i, f := range things {
		paths[i] = f.path()
	}
	seen, err := w.eye.Look(paths...)
	must(w.t, err)
	for i, f := range things {
		if seen[i] != f.sight() {
			w.fail("%s is %v, want %v", paths[i], seen[i], f.sight())
		}
	}
}

func (w *world) compareFiles(space string) {
	w.t.Helper()
	entries, err := os.ReadDir(space)
	if errors.Is(err, os.ErrNotExist) && !w.spaces[space] {
		return
	}
	must(w.t, err)
	got := make([]string, 0, len(entries))
	for _, e := range entries {
		got = append(got, e.Name())
	}
	if d := difference(w.files(space), got); d != "" {
		w.fail("files in %s differ:%s", space, d)
	}
}

// killDaemon kills the daemon. While it is down the guests of our own program still have their locks, by the duplicates of the
// descriptors; as soon as it answers again it has all locks.
func (w *world) killDaemon() {
	w.t.Helper()
	w.note("kill the daemon")
	must(w.t, w.daemon.kill())
	var kept []*thing
	for _, f := range w.things {
		if f.outsider || len(f.shares) > 0 && f.shares[0].party.guest {
			kept = append(kept, f)
		}
	}
	w.compareLocks(kept)
	w.resume()
	w.compare()
}

// resume starts a daemon that was killed, and connects all clients anew.
func (w *world) resume() {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), patience)
	defer cancel()
	must(w.t, w.daemon.revive(ctx))
	w.connect()
	for _, s := range w.seats {
		w.sit(s)
	}
	// A process whose connection was cut is an owner like others.
	for _, p := range w.parties {
		if p.conn != nil {
			p.conn.Close()
			p.conn = nil
		}
	}
}

// reexecuteDaemon re-executes the daemon: every connection is what it was.
func (w *world) reexecuteDaemon() {
	w.t.Helper()
	w.seatAll()
	must(w.t, w.daemon.reexecute())
	w.note("re-execute, and list leases then: %v", w.daemon.lists())
	for i, s := range w.seats {
		want := s.access()
		if want == fine {
			want = noSpace
		}
		w.check(want, s.conn.Acquire("/nowhere", "nothing", 0), "after re-execution a bad call on seat %d", i)
	}
	w.compare()
}

// seatAll gives each seat an owner, before virtlockd re-executes itself: 9.0.0 ends with all locks instead if there is a client without.
func (w *world) seatAll() {
	w.t.Helper()
	for _, s := range w.seats {
		if w.daemon.ours() || s.party != nil {
			continue
		}
		s.party = one(w, w.parties)
		w.check(fine, s.conn.Register(s.party.owner), "register %v", s.party)
	}
}

// outside locks a file as a process would that knows nothing of lock daemons.
func outside(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	if err := unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLK, &unix.Flock_t{Type: unix.F_WRLCK, Len: 1}); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}
