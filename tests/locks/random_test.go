package locks

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/lodgevirt/lodge/tests/lockd"
	"github.com/lodgevirt/lodge/tests/peer"
	"github.com/lodgevirt/lodge/tests/rig"
)

// Numbers of operations, by default and with -short, and how many there are between two comparisons.
const (
	operations      = 10000
	operationsShort = 1000
	compareEvery    = 10
)

// errNoReexecution says that a daemon did not execute itself anew.
var errNoReexecution = errors.New("the lock daemon does not re-execute itself")

// oursAlone is our daemon as a child of the test.
type oursAlone struct{ *lockd.Daemon }

func (d oursAlone) socket() string                   { return d.Socket }
func (d oursAlone) kill() error                      { return d.End(unix.SIGKILL) }
func (d oursAlone) revive(ctx context.Context) error { return d.Start(ctx) }
func (d oursAlone) ours() bool                       { return true }
func (d oursAlone) lists() bool                      { return true }
func (d oursAlone) reexecute() error                 { return reexecution(d.PID()) }

// theirs is libvirt's virtlockd in a jail, as a judge of the model.
type theirs struct {
	*peer.Libvirt
	dir string
	pid int
}

func (d *theirs) socket() string               { return d.LockSocket() }
func (d *theirs) kill() error                  { return errors.New("it would lose all locks") }
func (d *theirs) revive(context.Context) error { return nil }
func (d *theirs) ours() bool                   { return false }
func (d *theirs) lists() bool                  { return false }
func (d *theirs) reexecute() error             { return reexecution(d.pid) }

func reexecution(pid int) error {
	done, err := lockd.Reexecute(pid, patience)
	if err == nil && !done {
		err = errNoReexecution
	}
	return err
}

// TestRandomOperationsAgreeWithAModel does thousands of things at random to our daemon, kills and re-executes it in between, and compares
// its leases, the kernel's locks and the files with a model.
func TestRandomOperationsAgreeWithAModel(t *testing.T) {
	dir := folder(t)
	d := daemon(t, dir)
	wander(newWorld(t, dir, oursAlone{d}), steps, operations*scale(t))
}

// TestTheModelIsVirtlockds does the same to libvirt's own daemon, as far as it goes: what the model says of virtlockd's program is
// what virtlockd does.
func TestTheModelIsVirtlockds(t *testing.T) {
	d := newTheirs(t, "virtlockd")
	w := newWorld(t, d.dir, d)
	w.virtlockd = true
	wander(w, commonSteps(), operations/2*scale(t))
}

// commonSteps are those that libvirt's daemon can do too.
func commonSteps() []step {
	return slices.DeleteFunc(slices.Clone(steps), func(s step) bool { return s.oursOnly })
}

// newTheirs starts what is called virtlockd in a jail.
func newTheirs(t *testing.T, command ...string) *theirs {
	t.Helper()
	long(t)
	if err := peer.Available(); err != nil {
		t.Skip(err)
	}
	d := &theirs{dir: folder(t)}
	var err error
	d.Libvirt, err = peer.Build(t.Context(), d.dir)
	must(t, err)
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
		if t.Failed() {
			t.Logf("the lock daemon said at last:\n%s", rig.Tail(d.Jail.Log("lockd")))
		}
	})
	must(t, d.Configure("virtlockd.conf"))
	d.pid, err = d.Jail.Start("lockd", append(command, "-p", filepath.Join(d.dir, "virtlockd.pid"), "-f", "/etc/libvirt/virtlockd.conf")...)
	must(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	must(t, peer.Await(ctx, d.LockSocket()))
	return d
}

// changing is a daemon whose program is libvirt's and ours in turns, or one of them again.
type changing struct {
	*theirs
	*programs
	random *rand.Rand
	isOurs bool
}

func (d *changing) lists() bool { return d.isOurs }

func (d *changing) reexecute() error {
	if d.random.IntN(4) > 0 {
		d.isOurs = !d.isOurs
	}
	program := d.libvirt
	if d.isOurs {
		program = d.lodge
	}
	return errors.Join(d.install(program), d.theirs.reexecute())
}

// TestRandomOperationsWhileTheProgramChanges does thousands of things at random while libvirt's daemon and ours follow each other in one
// process. Nothing may tell which of them it is.
func TestRandomOperationsWhileTheProgramChanges(t *testing.T) {
	long(t)
	p := newPrograms(t, folder(t))
	d := &changing{theirs: newTheirs(t, p.command()...), programs: p, random: rand.New(rand.NewPCG(1, 1))}
	wander(newWorld(t, d.dir, d), commonSteps(), operations/4*scale(t))
}

// wander does n steps at random.
func wander(w *world, among []step, n int) {
	w.t.Helper()
	if testing.Short() {
		n = operationsShort
	}
	defer func() {
		counts := make([]string, 0, len(w.done))
		for _, name := range slices.Sorted(maps.Keys(w.done)) {
			counts = append(counts, fmt.Sprintf("%s: %d", name, w.done[name]))
		}
		w.t.Logf("done: %v", counts)
	}()
	for i := range n {
		s := w.draw(among)
		w.done[s.name]++
		s.do(w)
		if i%compareEvery == 0 {
			w.compare()
		}
		if w.t.Failed() {
			w.t.Fatalf("at operation %d, which was to %s", i, s.name)
		}
	}
	w.compare()
}
