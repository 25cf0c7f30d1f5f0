package leases_test

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"golang.org/x/sys/unix"

	"github.com/lodgevirt/lodge/host/internal/lockspace"
	"github.com/lodgevirt/lodge/host/internal/lockspace/leases"
	"github.com/lodgevirt/lodge/host/internal/lockspace/process"
)

const (
	modelDisks   = 6
	modelGuests  = 4
	modelClassic = 2
)

// entry is a lease of the model.
type entry struct {
	path  string
	mode  lockspace.Mode
	owner string
}

// person is an owner in the model.
type person struct {
	leases.Owner
	end func() // of its process, if it has one
}

func (p *person) id() string {
	if p.Classic {
		return fmt.Sprint("classic ", p.Process.PID)
	}
	return fmt.Sprint(p.Name, " life ", p.Generation)
}

// model is what the leases ought to be, beside the table.
type model struct {
	*rig
	rand    *rand.Rand
	people  []*person
	entries []entry
	disks   []lockspace.Resource
	told    string // the last step, for the failure's message
}

func newModel(t *testing.T, seed uint64) *model {
	m := &model{rig: newRig(t), rand: rand.New(rand.NewPCG(seed, 2))}
	for n := range modelDisks {
		m.disks = append(m.disks, m.disk(fmt.Sprint(n), lockspace.Exclusive))
	}
	m.disks = append(m.disks, m.direct("one.img"), m.direct("two.img"))
	for n := range modelGuests {
		m.people = append(m.people, &person{Owner: guest(byte(n), 1)})
	}
	for range modelClassic {
		m.people = append(m.people, m.newClassic())
	}
	return m
}

func (m *model) newClassic() *person {
	id, end := sleeper(m.t)
	return &person{Owner: classicOwner(id), end: end}
}

func (m *model) say(format string, args ...any) { m.told = fmt.Sprintf(format, args...) }

// someone returns a random owner of a kind.
func (m *model) someone(classic bool) *person {
	for {
		if p := m.people[m.rand.IntN(len(m.people))]; p.Classic == classic {
			return p
		}
	}
}

func (m *model) someDisk() lockspace.Resource {
	r := m.disks[m.rand.IntN(len(m.disks))]
	r.Mode = lockspace.Mode(m.rand.IntN(3) > 0)
	return r
}

func (m *model) owned(p *person) (all []entry) {
	for _, e := range m.entries {
		if e.owner == p.id() {
			all = append(all, e)
		}
	}
	return all
}

func (m *model) drop(match func(entry) bool) (count int) {
	before := len(m.entries)
	m.entries = slices.DeleteFunc(m.entries, match)
	return before - len(m.entries)
}

// grants says what an acquire ought to do: the entries after it, and whether it is granted.
func (m *model) grants(p *person, wants []lockspace.Resource) ([]entry, bool) {
	after := slices.Clone(m.entries)
	for _, w := range wants {
		e := entry{w.Path(), w.Mode, p.id()}
		if !p.Classic && slices.Contains(after, e) {
			continue
		}
		for _, other := range after {
			if other.path == e.path && (other.mode == lockspace.Exclusive || e.mode == lockspace.Exclusive) {
				return m.entries, false
			}
		}
		after = append(after, e)
	}
	return after, true
}

func (m *model) acquireStep() {
	p := m.someone(m.rand.IntN(2) == 0)
	wants := []lockspace.Resource{m.someDisk()}
	for !p.Classic && m.rand.IntN(2) == 0 {
		wants = append(wants, m.someDisk())
	}
	after, granted := m.grants(p, wants)
	m.say("acquire %v by %s", wants, p.id())
	err := m.acquire(p.Owner, wants...)
	// A child that is being forked has all descriptors for an instant, those of locks that were just released too.
	for give := time.Now().Add(2 * time.Second); granted && errors.As(err, new(*leases.BusyError)) && time.Now().Before(give); pause() {
		err = m.acquire(p.Owner, wants...)
	}
	if granted != (err == nil) || (err != nil && !errors.As(err, new(*leases.BusyError))) {
		m.t.Fatalf("%s: %v, want granted %v", m.told, err, granted)
	}
	m.entries = after
}

func (m *model) releaseStep() {
	p := m.someone(false)
	var some []lockspace.Resource
	if m.rand.IntN(4) > 0 {
		some = []lockspace.Resource{m.someDisk(), m.someDisk()}
	}
	m.say("release %v by %s", some, p.id())
	want := m.drop(func(e entry) bool {
		named := len(some) == 0 || slices.ContainsFunc(some, func(r lockspace.Resource) bool { return r.Path() == e.path })
		return e.owner == p.id() && named
	})
	if n, err := m.Release(m.t.Context(), p.Owner, some); n != want || err != nil {
		m.t.Fatalf("%s ended %d leases, error %v, want %d", m.told, n, err, want)
	}
}

func (m *model) releaseOneStep() {
	p, r := m.someone(true), m.someDisk()
	m.say("release %v by %s", r, p.id())
	var want error = leases.ErrNotHeld
	if slices.ContainsFunc(m.entries, func(e entry) bool { return e.path == r.Path() }) {
		want = leases.ErrNotOwner
	}
	if i := slices.IndexFunc(m.entries, func(e entry) bool { return e.path == r.Path() && e.owner == p.id() }); i >= 0 {
		want = nil
		m.entries = slices.Delete(m.entries, i, i+1)
	}
	if err := m.ReleaseOne(m.t.Context(), p.Owner, r); !errors.Is(err, want) {
		m.t.Fatalf("%s: %v, want %v", m.told, err, want)
	}
}

// startStep gives a guest a process that inherits its locks.
func (m *model) startStep() {
	p := m.someone(false)
	if p.end != nil || len(m.owned(p)) == 0 {
		return
	}
	m.say("start of %s", p.id())
	var inherit []lockspace.Resource
	for _, e := range m.owned(p) {
		for _, d := range m.disks {
			if d.Path() == e.path {
				d.Mode = e.mode
				inherit = append(inherit, d)
			}
		}
	}
	p.end = m.run(p.Owner, inherit...)
	// Without this a table that was restarted while the guest had no lease would not know the process.
	p.Process = m.Holder(p.Owner)
}

// dieStep ends an owner's process, which ends its leases.
func (m *model) dieStep() {
	p := m.someone(m.rand.IntN(3) == 0)
	if p.end == nil {
		return
	}
	m.say("death of %s", p.id())
	p.end()
	m.bury(p)
	eventually(m.t, m.told+" ends no leases", func() bool { return m.difference() == "" })
}

// bury takes the leases of a dead owner out, and makes a new life.
func (m *model) bury(p *person) {
	m.drop(func(e entry) bool { return e.owner == p.id() })
	if p.Classic {
		*p = *m.newClassic()
		return
	}
	p.Owner, p.end = guest(p.UUID[0], p.Generation+1), nil
}

func (m *model) forceStep() {
	all := m.List()
	if len(all) == 0 {
		return
	}
	l := all[m.rand.IntN(len(all))]
	e := entryOf(l)
	m.say("force against %v", e)
	if _, err := m.ForceRelease(m.t.Context(), l.Number); err != nil {
		m.t.Fatalf("%s: %v", m.told, err)
	}
	i := slices.Index(m.entries, e)
	if i < 0 {
		m.t.Fatalf("%s: the model has none", m.told)
	}
	m.entries = slices.Delete(m.entries, i, i+1)
}

// killStep is a daemon that is killed and started anew, perhaps with deaths in between.
func (m *model) killStep() {
	m.say("restart")
	m.close()
	for m.rand.IntN(3) == 0 {
		if p := m.someone(m.rand.IntN(2) == 0); p.end != nil {
			m.told += ", death of " + p.id()
			p.end()
			m.bury(p)
		}
	}
	m.open()
}

// execStep is a daemon that is executed anew: the descriptors stay, and the next table takes them over.
func (m *model) execStep() {
	m.say("handover")
	state, err := m.Handover(m.t.Context())
	if err != nil {
		m.t.Fatalf("%s: %v", m.told, err)
	}
	if len(state) != len(m.entries) {
		m.t.Fatalf("%s of %d locks, want %d", m.told, len(state), len(m.entries))
	}
	if m.rand.IntN(3) == 0 {
		m.told += " that is taken back"
		m.Resume()
		return
	}
	// This process goes on, so it has to duplicate what an execve would leave.
	kept := map[int]int{}
	for i, s := range state {
		if _, ok := kept[s.FD]; !ok {
			if kept[s.FD], err = unix.FcntlInt(uintptr(s.FD), unix.F_DUPFD_CLOEXEC, 3); err != nil {
				m.t.Fatal(err)
			}
		}
		state[i].FD = kept[s.FD]
		if m.rand.IntN(4) == 0 && strings.HasPrefix(m.told, "handover") {
			state[i].Number = 0 // which an owner makes up for
		}
	}
	m.Resume()
	m.close()
	in := leases.Inheritance{Locks: state}
	if m.rand.IntN(4) == 0 {
		m.told += " without the journal"
		if err := os.Remove(m.path); err != nil {
			m.t.Fatal(err)
		}
	}
	table, err := leases.TakeOver(m.path, hclog.NewNullLogger(), in)
	if err != nil {
		m.t.Fatalf("%s: %v", m.told, err)
	}
	m.Table = table
	if err := table.Recovered(m.t.Context()); err != nil {
		m.t.Fatal(err)
	}
}

func entryOf(l leases.Info) entry {
	p := person{Owner: l.Owner}
	return entry{l.Resource.Path(), l.Resource.Mode, p.id()}
}

func compare(a, b entry) int {
	return cmp.Or(cmp.Compare(a.path, b.path), cmp.Compare(a.owner, b.owner), cmp.Compare(fmt.Sprint(a.mode), fmt.Sprint(b.mode)))
}

// difference compares the table with the model, and is empty if there is none.
func (m *model) difference() string {
	var got []entry
	for _, l := range m.List() {
		got = append(got, entryOf(l))
		if l.State != leases.Held {
			return fmt.Sprintf("lease %v is %v: %s", entryOf(l), l.State, l.Detail)
		}
	}
	want := slices.SortedFunc(slices.Values(m.entries), compare)
	slices.SortFunc(got, compare)
	if !slices.Equal(got, want) {
		return fmt.Sprintf("leases are %v, want %v", got, want)
	}
	owners := map[string]bool{}
	for _, e := range m.entries {
		owners[e.owner] = true
	}
	if n := m.Counts(); n != (leases.Counts{Held: len(want), Owners: len(owners)}) {
		return fmt.Sprintf("counts are %+v, want %d of %d owners", n, len(want), len(owners))
	}
	return ""
}

// truth compares the kernel's locks on a disk with the model.
func (m *model) truth(r lockspace.Resource) string {
	taken, alone := false, false
	for _, e := range m.entries {
		if e.path == r.Path() {
			taken, alone = true, alone || e.mode == lockspace.Exclusive
		}
	}
	for mode, want := range map[lockspace.Mode]bool{lockspace.Exclusive: taken, lockspace.Shared: alone} {
		probe := r
		probe.Mode, probe.Temporary = mode, false
		lock, err := lockspace.Take(probe)
		if err == nil {
			lock.Close()
		}
		missing := errors.Is(err, fs.ErrNotExist)
		if busy := errors.As(err, new(*lockspace.BusyError)); busy != want || (!busy && err != nil && !missing) {
			return fmt.Sprintf("the kernel says %v for a %v lock of %v, want busy %v", err, mode, r, want)
		}
		if r.Temporary && missing == taken {
			return fmt.Sprintf("lock file of %v is missing: %v", r, missing)
		}
	}
	return ""
}

// descriptors compares the descriptors that carry locks with the model.
func (m *model) descriptors() string {
	all, err := lockspace.Scan()
	if err != nil {
		return err.Error()
	}
	want := 0
	shared := map[string]bool{}
	for _, e := range m.entries {
		if strings.HasPrefix(e.owner, "classic") && e.mode == lockspace.Shared {
			shared[e.path] = true
			continue
		}
		want++
	}
	// Owners of virtlockd's protocol share descriptors, but not with those that were taken anew.
	if n := len(all); n < want+len(shared) || n > len(m.entries) {
		return fmt.Sprintf("%d descriptors carry locks, want %d to %d", n, want+len(shared), len(m.entries))
	}
	return ""
}

func TestRandomOperationsAgreeWithAModel(t *testing.T) {
	steps := 4000
	if testing.Short() {
		steps = 400
	}
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	m := newModel(t, seed)
	kinds := []func(*model){
		(*model).acquireStep, (*model).acquireStep, (*model).acquireStep, (*model).acquireStep, (*model).releaseStep,
		(*model).releaseOneStep, (*model).releaseOneStep, (*model).startStep, (*model).dieStep, (*model).forceStep,
		(*model).killStep, (*model).execStep,
	}
	for i := range steps {
		kinds[m.rand.IntN(len(kinds))](m)
		wrong := cmp.Or(m.difference(), m.descriptors())
		disk := m.disks[m.rand.IntN(len(m.disks))]
		// A child that was being forked during the step had all descriptors for an instant.
		for give := time.Now().Add(2 * time.Second); wrong == ""; pause() {
			if wrong = m.truth(disk); wrong == "" {
				break
			}
			if time.Now().Before(give) {
				wrong = ""
			}
		}
		if wrong != "" {
			t.Fatalf("after step %d (%s): %s", i, m.told, wrong)
		}
	}
}

// Many owners at once never get what conflicts, are never refused what does not, and leave nothing behind.
func TestOwnersAtTheSameTime(t *testing.T) {
	for _, exclusive := range []bool{true, false} {
		t.Run(fmt.Sprint("exclusive ", exclusive), func(t *testing.T) { atTheSameTime(t, exclusive) })
	}
}

func atTheSameTime(t *testing.T, exclusive bool) {
	r := newRig(t)
	var mu sync.Mutex
	holders := map[string]int{} // -1 is one that is alone
	change := func(res lockspace.Resource, by int) {
		mu.Lock()
		defer mu.Unlock()
		n := holders[res.Path()]
		switch {
		case res.Mode == lockspace.Exclusive && by > 0 && n != 0, res.Mode == lockspace.Shared && by > 0 && n < 0:
			t.Errorf("%v lock of %v granted beside %d others", res.Mode, res, n)
		case res.Mode == lockspace.Exclusive:
			holders[res.Path()] = -max(by, 0)
		default:
			holders[res.Path()] = n + by
		}
	}
	var all sync.WaitGroup
	for n := range 12 {
		all.Go(func() {
			random := rand.New(rand.NewPCG(uint64(n), 3))
			o := guest(byte(n), 1)
			if n%2 == 0 {
				o = classicOwner(process.ID{})
				o.Process, _ = sleeper(t)
			}
			for range 300 {
				res := r.disk(fmt.Sprint(random.IntN(4)), lockspace.Mode(!exclusive || random.IntN(2) == 0))
				if err := r.acquire(o, res); err != nil {
					if !exclusive {
						t.Errorf("a shared lock was refused: %v", err)
					}
					continue
				}
				change(res, 1)
				if random.IntN(20) == 0 {
					if _, err := r.Handover(t.Context()); err == nil {
						r.Resume()
					}
				}
				change(res, -1)
				var err error
				if o.Classic {
					err = r.ReleaseOne(t.Context(), o, res)
				} else {
					_, err = r.Release(t.Context(), o, []lockspace.Resource{res})
				}
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
	r.expect(nil)
	if left, err := os.ReadDir(r.dir); err != nil || len(left) != 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}
