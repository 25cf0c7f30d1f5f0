package locks

import (
	"fmt"
	"sync"
	"time"

	"github.com/lodgevirt/lodge/tests/lockd"
)

// volleyPairs is how many locks each client of a volley takes and drops.
const volleyPairs = 12

// forgotten says what a daemon still knows of a dead process.
func (w *world) forgotten(p *party) error {
	if !w.daemon.lists() {
		return nil // The kernel says it: compare looks.
	}
	all, err := w.list()
	if err != nil {
		return err
	}
	for _, l := range all {
		if l.Owner.PID == p.owner.PID {
			return fmt.Errorf("%v is dead and has the lock of %s", p, l.Path)
		}
	}
	return nil
}

// shot is what one client of a volley has done.
type shot struct {
	seat *seat
	path *thing
	// held says whether the last answer left the lock held, and open that a call was not answered.
	held, open bool
	err        error
}

// volley lets all seats that may take and drop locks of their own at the same time, and does something among that.
func (w *world) volley(among func()) []*shot {
	w.t.Helper()
	space := w.space(0)
	w.check(fine, w.freeSeat().conn.CreateSpace(space), "create lockspace")
	w.spaces[space] = true
	var (
		shots []*shot
		wg    sync.WaitGroup
	)
	for i, s := range w.seats {
		if s.access() != fine || s.party.cmd == nil {
			continue
		}
		shot := &shot{seat: s, path: &thing{space: space, name: fmt.Sprint("volley-", i)}}
		shots = append(shots, shot)
		wg.Go(shot.fire)
	}
	time.Sleep(time.Duration(w.random.IntN(3000)) * time.Microsecond)
	among()
	wg.Wait()
	return shots
}

// freeSeat returns a seat that is not restricted.
func (w *world) freeSeat() *seat {
	for _, s := range w.seats {
		if !s.restricted {
			return s
		}
	}
	w.sit(w.seats[0])
	return w.seats[0]
}

// fire takes and drops a lock again and again until that is done or fails.
func (s *shot) fire() {
	for range volleyPairs {
		for _, held := range []bool{true, false} {
			do := func() error { return s.seat.conn.Release(s.path.space, s.path.name) }
			if held {
				do = func() error { return s.seat.conn.Acquire(s.path.space, s.path.name, lockd.Autocreate) }
			}
			if s.err = do(); s.err != nil {
				s.open = true
				return
			}
			s.held = held
		}
	}
}

// reexecuteAmongCalls re-executes the daemon while clients call: each call is answered as if nothing had been.
func (w *world) reexecuteAmongCalls() {
	w.seatAll()
	w.note("re-execute among calls")
	shots := w.volley(func() { must(w.t, w.daemon.reexecute()) })
	for _, s := range shots {
		if s.err != nil {
			w.fail("a call failed while the daemon re-executed itself: %v", s.err)
		}
	}
	w.compare()
}

// killAmongCalls kills the daemon while clients call. What was answered is true afterwards; what was not is one or the other.
func (w *world) killAmongCalls() {
	w.note("kill the daemon among calls")
	shots := w.volley(func() { must(w.t, w.daemon.kill()) })
	parties := map[*shot]*party{}
	for _, s := range shots {
		parties[s] = s.seat.party
	}
	w.resume()
	all, err := w.list()
	must(w.t, err)
	known := map[string]lockd.Lease{}
	for _, l := range all {
		known[l.Path] = l
	}
	for _, s := range shots {
		l, held := known[s.path.path()]
		if !s.open && held != s.held {
			w.fail("after the daemon was killed the lock of %s is held: %v, which is not what was answered", s.path.path(), held)
		}
		seen, err := w.eye.Look(s.path.path())
		must(w.t, err)
		switch {
		case held:
			if seen[0] != lockd.Written || l.State != lockd.Held || l.Owner.PID != parties[s].owner.PID {
				w.fail("after the daemon was killed the lock is %v and its lease %+v", seen[0], l)
			}
		case seen[0] == lockd.Free && s.open:
			w.done["file left by a call that was cut off"]++
		case seen[0] != lockd.Missing:
			w.fail("after the daemon was killed %s is %v without a lease", s.path.path(), seen[0])
		}
		w.tidy(s, parties[s], held)
	}
	w.compare()
}

// tidy takes and drops the lock of a cut-off client, so that nothing of it is left.
func (w *world) tidy(s *shot, p *party, held bool) {
	seat := w.freeSeat()
	w.check(fine, seat.conn.Register(p.owner), "register anew")
	seat.party = p
	want := fine
	if held {
		want = busy
	}
	w.check(want, seat.conn.Acquire(s.path.space, s.path.name, lockd.Autocreate), "acquire %s anew", s.path.path())
	w.check(fine, seat.conn.Release(s.path.space, s.path.name), "release %s", s.path.path())
}
