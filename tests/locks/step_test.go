package locks

import (
	"context"
	"os"
	"os/exec"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lodgevirt/lodge/tests/lockd"
)

// step is something that happens in a world; weight is how often, among the others.
type step struct {
	name   string
	weight int
	do     func(*world)
	// oursOnly says that libvirt's daemon cannot do it, or does it otherwise on purpose.
	oursOnly bool
}

var steps = []step{
	{"register", 80, (*world).register, false},
	{"acquire", 400, (*world).takeOne, false},
	{"release", 300, (*world).releaseOne, false},
	{"create a file", 40, (*world).createFile, false},
	{"remove a file", 40, (*world).removeFile, false},
	{"add a lockspace", 20, (*world).addSpace, false},
	{"restrict", 8, (*world).restrict, false},
	{"connect anew", 40, (*world).reconnect, false},
	{"be born as one's own owner", 6, (*world).bearOwner, false},
	{"close one's own connection", 5, (*world).closeOwner, false},
	{"lock as an outsider", 20, (*world).lockOutside, false},
	{"unlock as an outsider", 25, (*world).unlockOutside, false},
	{"kill an owner", 20, (*world).killOwner, true},
	{"start a guest", 60, (*world).startGuest, true},
	{"grant a guest the same again", 20, (*world).grantAgain, true},
	{"end a guest orderly", 15, (*world).endGuest, true},
	{"kill a guest", 20, (*world).killGuest, true},
	{"re-execute", 8, (*world).reexecuteDaemon, false},
	{"kill the daemon", 8, (*world).killDaemon, true},
	{"re-execute among calls", 4, (*world).reexecuteAmongCalls, true},
	{"kill the daemon among calls", 4, (*world).killAmongCalls, true},
}

// draw chooses a step.
func (w *world) draw(among []step) step {
	total := 0
	for _, s := range among {
		total += s.weight
	}
	n := w.random.IntN(total)
	for _, s := range among {
		if n -= s.weight; n < 0 {
			return s
		}
	}
	panic("the weights have changed")
}

// one chooses one of many, or nothing of none.
func one[T any](w *world, of []T) (chosen T) {
	if len(of) > 0 {
		chosen = of[w.random.IntN(len(of))]
	}
	return chosen
}

// access is what a call of a seat that needs an owner comes to before anything else is looked at.
func (s *seat) access() verdict {
	switch {
	case s.restricted:
		return denied
	case s.party == nil:
		return noOwner
	}
	return fine
}

func (w *world) register() {
	s, p := one(w, w.seats), one(w, w.parties)
	owner := p.owner
	want := fine
	switch w.random.IntN(20) {
	case 0:
		owner.ID, want = 0, noOwner
	}
	if s.restricted {
		want = denied
	}
	w.check(want, s.conn.Register(owner), "register %v", p)
	if want == fine {
		s.party = p
	}
}

// gone is what a seat gets that takes a lock for a process which has ended.
var gone = missing

func (w *world) takeOne() {
	s, f := one(w, w.seats), one(w, w.things)
	flags := one(w, []uint32{0, lockd.Shared, lockd.Autocreate, lockd.Shared | lockd.Autocreate, lockd.Shared | lockd.Autocreate, lockd.Autocreate, 4, 8 | lockd.Shared})
	flags = w.allowed(f, flags)
	want := s.access()
	if flags&^(lockd.Shared|lockd.Autocreate) != 0 {
		want = badFlags
	}
	if want == fine {
		want = w.model.acquire(s.party, f, flags)
	}
	w.check(want, s.conn.Acquire(f.space, f.name, flags), "acquire %s with flags %d for %v", f.path(), flags, s.party)
}

// allowed changes flags with which libvirt's daemon is known to do otherwise than the model.
func (w *world) allowed(f *thing, flags uint32) uint32 {
	switch {
	case w.daemon.ours():
		return flags
	case f.space == "":
		// Libvirt's daemon removes an image together with its lock.
		return flags &^ lockd.Autocreate
	case !w.virtlockd && flags&lockd.Shared != 0:
		// It does not remove the file of a shared lock that was ours: it asks for the whole lock first, and cannot have it.
		return flags &^ lockd.Autocreate
	}
	return flags
}

// releaseOne mostly releases what the seat's owner has.
func (w *world) releaseOne() {
	s, f := one(w, w.seats), one(w, w.things)
	held := w.held(s.party)
	if len(held) > 0 && w.random.IntN(8) > 0 {
		f = one(w, held)
	}
	want := s.access()
	if want == fine {
		want = w.model.release(s.party, f)
	}
	w.check(want, s.conn.Release(f.space, f.name), "release %s for %v", f.path(), s.party)
}

func (w *world) createFile() {
	s, f := one(w, w.seats), one(w, w.things)
	want := s.access()
	if want == fine {
		want = w.create(f)
	}
	w.check(want, s.conn.CreateResource(f.space, f.name), "create %s", f.path())
}

func (w *world) removeFile() {
	s, f := one(w, w.seats), one(w, w.things)
	if f.outsider && !w.daemon.ours() {
		return // libvirt's removes what another process has locked.
	}
	want := s.access()
	if want == fine {
		want = w.remove(f)
	}
	w.check(want, s.conn.DeleteResource(f.space, f.name), "remove %s", f.path())
}

func (w *world) addSpace() {
	s, space := one(w, w.seats), w.space(w.random.IntN(worldSpaces))
	if w.random.IntN(2) == 0 {
		// This one needs no owner.
		want := denied
		if !s.restricted {
			want = w.add(space, false)
		}
		w.check(want, s.conn.CreateSpace(space), "create lockspace %s", space)
		return
	}
	if w.random.IntN(4) == 0 {
		space = ""
	}
	want := s.access()
	if want == fine {
		want = w.add(space, true)
	}
	w.check(want, s.conn.NewSpace(space), "add lockspace %q", space)
}

func (w *world) restrict() {
	s := one(w, w.seats)
	want := s.access()
	w.check(want, s.conn.Restrict(), "restrict")
	s.restricted = s.restricted || want == fine
}

// reconnect closes a seat's connection, which frees nothing: the locks are the processes'. Now and then all seats change.
func (w *world) reconnect() {
	some := []*seat{one(w, w.seats)}
	if w.random.IntN(10) == 0 {
		some = w.seats
	}
	for _, s := range some {
		w.sit(s)
	}
}

// bearOwner starts a process that takes locks for itself.
func (w *world) bearOwner() {
	if len(w.parties) >= 2*worldOwners {
		return
	}
	cmd, conn, err := lockd.Birth(w.t.Context(), w.daemon.socket())
	must(w.t, err)
	p := &party{owner: w.name("self", cmd), cmd: cmd, conn: conn}
	w.parties = append(w.parties, p)
	w.check(fine, conn.Register(p.owner), "register itself")
	for range 1 + w.random.IntN(3) {
		f, flags := one(w, w.things), one(w, []uint32{lockd.Autocreate, lockd.Autocreate | lockd.Shared})
		flags = w.allowed(f, flags)
		want := w.model.acquire(p, f, flags)
		w.check(want, conn.Acquire(f.space, f.name, flags), "acquire %s for itself", f.path())
	}
}

// closeOwner closes the connection of a process that has taken locks for itself: it is ended if it has any, and its locks are free.
func (w *world) closeOwner() {
	var among []*party
	for _, p := range w.parties {
		// Libvirt's forgets only one of several leases of one lock.
		if p.conn != nil && (w.daemon.ours() || !w.twice(p)) {
			among = append(among, p)
		}
	}
	p := one(w, among)
	if p == nil {
		return
	}
	w.note("close the connection of %v, who has %v", p, w.held(p))
	err := p.conn.HangUp()
	p.conn = nil
	must(w.t, err)
	if len(w.held(p)) == 0 {
		return
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = p.cmd.Wait() // It is killed, as it must be.
	}()
	select {
	case <-ended:
	case <-time.After(patience):
		end(p.cmd)
		w.fail("%v has let go of its connection and goes on", p)
	}
	w.mourn(p)
}

// twice says whether a party has a shared lock more than once.
func (w *world) twice(p *party) bool {
	for _, f := range w.things {
		n := 0
		for _, s := range f.shares {
			if s.party == p {
				n++
			}
		}
		if n > 1 {
			return true
		}
	}
	return false
}

// mourn waits until the daemon knows that a process has ended, and puts another into its place.
func (w *world) mourn(p *party) {
	eventually(w.t, func() error { return w.forgotten(p) })
	w.leave(p)
	w.parties = slices.DeleteFunc(w.parties, func(other *party) bool { return other == p })
	if len(w.parties) < worldOwners {
		w.parties = append(w.parties, w.birth())
	}
	// A seat may still act for the dead: it gets nothing.
	for _, s := range w.seats {
		if s.party != p {
			continue
		}
		if w.daemon.ours() && !s.restricted {
			w.acquireForTheDead(s, p)
		}
		w.sit(s)
	}
}

// acquireForTheDead takes a lock for a process that has ended. It may be refused, or be had and be free again at once.
func (w *world) acquireForTheDead(s *seat, p *party) {
	f := w.things[0]
	err := s.conn.Acquire(f.space, f.name, lockd.Shared|lockd.Autocreate)
	w.note("acquire for %v, who is dead: %v", p, err)
	switch v := w.told(err); v {
	case fine:
		f.exists = true
	case gone, busy:
	default:
		w.fail("acquire for %v, who is dead: the answer is %v (%v)", p, v, err)
	}
	eventually(w.t, func() error { return w.forgotten(p) })
}

func (w *world) killOwner() {
	p := one(w, w.parties)
	w.note("kill %v, who has %v", p, w.held(p))
	w.bury(p)
	w.mourn(p)
}

func (w *world) lockOutside() {
	f := one(w, w.things)
	if !f.exists || len(f.shares) > 0 || f.outsider {
		return
	}
	file, err := outside(f.path())
	must(w.t, err)
	w.outsiders[f], f.outsider = file, true
	w.note("an outsider locks %v", f)
}

func (w *world) unlockOutside() {
	var held []*thing
	for _, f := range w.things {
		if f.outsider {
			held = append(held, f)
		}
	}
	f := one(w, held)
	if f == nil {
		return
	}
	w.note("an outsider unlocks %v", f)
	must(w.t, w.outsiders[f].Close())
	delete(w.outsiders, f)
	f.outsider = false
}

// startGuest takes locks in our own program, starts a process that inherits their descriptors, and tells the daemon which it is. Now
// and then the daemon ends or re-executes itself in between.
func (w *world) startGuest() {
	if len(w.guests) >= worldGuests {
		return
	}
	p := &party{guest: true}
	w.born++
	p.owner = lockd.Owner{UUID: [16]byte{byte(w.born >> 8), byte(w.born)}, Name: "guest", ID: w.born, Generation: uint64(w.random.IntN(9))}
	var things []*thing
	for _, i := range w.random.Perm(len(w.things))[:1+w.random.IntN(3)] {
		things = append(things, w.things[i])
	}
	shared, temporary := w.random.IntN(3) == 0, w.random.IntN(4) > 0
	var resources []lockd.Resource
	for _, f := range things {
		resources = append(resources, lockd.Resource{Space: f.space, Name: f.name, Shared: shared, Temporary: temporary})
	}
	want := w.take(p, temporary, shared, things)
	files, err := w.admin.Take(p.owner, resources...)
	w.check(want, err, "take %v for guest %v (shared %v, temporary %v)", things, p.owner.ID, shared, temporary)
	if want != fine {
		return
	}
	if len(files) != len(things) {
		w.fail("%d descriptors came for %d locks", len(files), len(things))
	}
	switch w.random.IntN(12) {
	case 0:
		w.note("kill the daemon before it knows the process")
		must(w.t, w.daemon.kill())
		w.resume()
	case 1:
		w.note("re-execute before the daemon knows the process")
		must(w.t, w.daemon.reexecute())
	}
	w.embody(p, files)
	w.guests = append(w.guests, p)
}

// embody starts a guest's process.
func (w *world) embody(p *party, files []*os.File) {
	cmd := exec.CommandContext(context.WithoutCancel(w.t.Context()), "sleep", "3600")
	cmd.ExtraFiles = files
	must(w.t, cmd.Start())
	for _, f := range files {
		must(w.t, f.Close())
	}
	p.cmd = cmd
	p.owner.PID = cmd.Process.Pid
	var err error
	p.owner.Start, err = lockd.StartTime(cmd.Process.Pid)
	must(w.t, err)
	w.check(fine, w.admin.SetProcess(p.owner), "set the process of guest %v", p.owner.ID)
}

// grantAgain repeats what a guest has got, which changes nothing.
func (w *world) grantAgain() {
	p := one(w, w.guests)
	if p == nil {
		return
	}
	var resources []lockd.Resource
	for _, f := range w.things {
		for _, s := range f.shares {
			if s.party == p {
				resources = append(resources, lockd.Resource{Space: f.space, Name: f.name, Shared: s.shared, Temporary: f.temporary})
			}
		}
	}
	files, err := w.admin.Take(p.owner, resources...)
	w.check(fine, err, "grant %d locks again", len(resources))
	for _, f := range files {
		must(w.t, f.Close())
	}
}

// endGuest drops a guest's locks while it still has duplicates of their descriptors, and then ends it.
func (w *world) endGuest() {
	p := one(w, w.guests)
	if p == nil {
		return
	}
	w.note("guest %v drops %v", p.owner.ID, w.held(p))
	want := w.leave(p)
	n, err := w.admin.Drop(p.owner)
	w.check(fine, err, "drop the locks of guest %v", p.owner.ID)
	if n != want {
		w.fail("%d leases of %v ended, want %d", n, p, want)
	}
	w.compare()
	w.bury(p)
	w.guests = slices.DeleteFunc(w.guests, func(other *party) bool { return other == p })
}

func (w *world) killGuest() {
	p := one(w, w.guests)
	if p == nil {
		return
	}
	w.note("kill guest %v, who has %v", p.owner.ID, w.held(p))
	must(w.t, p.cmd.Process.Signal(unix.SIGKILL))
	w.bury(p)
	eventually(w.t, func() error { return w.forgotten(p) })
	w.leave(p)
	w.guests = slices.DeleteFunc(w.guests, func(other *party) bool { return other == p })
}
