package locks

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/lodgevirt/lodge/tests/lockd"
	"github.com/lodgevirt/lodge/tests/peer"
	"github.com/lodgevirt/lodge/tests/rig"
)

// mirrorEnv names a folder and where it is to be seen, for a process that was started to show it there.
const mirrorEnv = "LODGE_LOCKS_MIRROR"

// runMirror turns this process into a file system that mirrors a folder if it was started as one, and then does not return. When the
// process is stopped it is like a file server that does not answer.
func runMirror() {
	from, to, ok := strings.Cut(os.Getenv(mirrorEnv), ":")
	if !ok {
		return
	}
	if err := mirror(from, to); err != nil {
		fmt.Fprintln(os.Stderr, "mirror:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

func mirror(from, to string) error {
	root, err := fs.NewLoopbackRoot(from)
	if err != nil {
		return fmt.Errorf("mirror %s: %w", from, err)
	}
	server, err := fs.Mount(to, root, &fs.Options{MountOptions: fuse.MountOptions{DirectMountStrict: true, AllowOther: true}})
	if err != nil {
		return fmt.Errorf("mirror %s: %w", from, err)
	}
	server.Wait()
	return nil
}

// cell is a jail with a lock daemon, whose files are outside.
type cell struct {
	// t is the test that is told about what fails, and whole the one that the cell is there for.
	t, whole *testing.T

	dir  string
	jail *peer.Jail
	pid  int
	args []string
}

// newCell starts a lock daemon in a jail; before it does so, prepare may mount something.
func newCell(t *testing.T, prepare func(*cell), args ...string) *cell {
	t.Helper()
	long(t)
	bin := binary(t, "lodge-lockd")
	if os.Geteuid() != 0 {
		t.Skip("mounts, which needs root")
	}
	dir := folder(t)
	jail, err := peer.Enter(t.Context(), dir)
	must(t, err)
	c := &cell{t: t, whole: t, dir: dir, jail: jail, args: append([]string{bin, "--socket", filepath.Join(dir, "sock"), "--log-level", "debug"}, args...)}
	t.Cleanup(func() {
		if err := jail.Close(); err != nil {
			t.Error(err)
		}
		if t.Failed() {
			t.Logf("the daemon said at last:\n%s", rig.Tail(jail.Log("lockd")))
		}
	})
	if prepare != nil {
		prepare(c)
	}
	c.start()
	return c
}

func (c *cell) socket() string { return filepath.Join(c.dir, "sock") }

// start starts the daemon and returns once it takes connections.
func (c *cell) start() {
	c.t.Helper()
	var err error
	c.pid, err = c.jail.Start("lockd", c.args...)
	must(c.t, err)
	ctx, cancel := context.WithTimeout(c.t.Context(), patience)
	defer cancel()
	must(c.t, peer.Await(ctx, c.socket()))
}

// run runs a program in the jail.
func (c *cell) run(args ...string) {
	c.t.Helper()
	if out, err := c.jail.Run(args...); err != nil {
		c.t.Fatalf("%v %s", err, out)
	}
}

// memory mounts a file system in memory.
func (c *cell) memory(name, options string) string {
	c.t.Helper()
	path := filepath.Join(c.dir, name)
	must(c.t, os.Mkdir(path, 0o700))
	c.run("mount", "-t", "tmpfs", "-o", options, "none", path)
	return path
}

// mount mirrors a folder of the cell at another name and returns the process that does it.
func (c *cell) mount(from, to string) (pid int) {
	c.t.Helper()
	self, err := os.Executable()
	must(c.t, err)
	must(c.t, os.Mkdir(filepath.Join(c.dir, to), 0o700))
	pid, err = c.jail.Start("mirror", "env", mirrorEnv+"="+filepath.Join(c.dir, from)+":"+filepath.Join(c.dir, to), self)
	must(c.t, err)
	eventually(c.t, func() error {
		mounts, err := os.ReadFile(fmt.Sprintf("/proc/%d/mounts", c.jail.PID()))
		if err == nil && !strings.Contains(string(mounts), filepath.Join(c.dir, to)+" ") {
			err = fmt.Errorf("%s is not mounted: %s", to, rig.Tail(c.jail.Log("mirror")))
		}
		return err
	})
	return pid
}

// client connects and registers a process of its own as the owner.
func (c *cell) client(id uint32) *lockd.Client {
	c.t.Helper()
	return owner(c.t, c.whole, c.socket(), id)
}

// owner connects to a lock daemon and registers a process of its own as the owner. Both are there until a test ends.
func owner(t, until *testing.T, socket string, id uint32) *lockd.Client {
	t.Helper()
	client, err := lockd.Dial(socket)
	must(t, err)
	until.Cleanup(client.Close)
	must(t, client.SetPatience(patience))
	must(t, client.Register(lockd.Owner{UUID: [16]byte{byte(id), byte(id >> 8)}, Name: fmt.Sprint("owner-", id), ID: id, PID: sleeper(t, until).Process.Pid}))
	return client
}

// bound is how long others may wait for an answer while something hangs.
const bound = 5 * time.Second

// served checks that a client gets its answers in time.
func served(t *testing.T, c *lockd.Client, space, name string) {
	t.Helper()
	must(t, c.SetPatience(bound))
	for range 20 {
		must(t, c.Acquire(space, name, lockd.Autocreate))
		must(t, c.Release(space, name))
	}
}

// remote is a cell with a folder behind a server that can be silenced, and one that is not.
type remote struct {
	*cell
	server    int
	far, near string
	// holder has locks in both.
	holder *lockd.Client
	ids    uint32
}

// silence stops the server and returns once none of its threads runs: what one of them had begun to answer could not be given up.
func (r *remote) silence() {
	r.t.Helper()
	must(r.t, unix.Kill(r.server, unix.SIGSTOP))
	eventually(r.t, func() error {
		threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", r.server))
		if err != nil || len(threads) == 0 {
			return fmt.Errorf("look at the server: %d threads: %w", len(threads), err)
		}
		for _, thread := range threads {
			text, err := os.ReadFile(thread)
			if err != nil {
				return err
			}
			if state := text[bytes.LastIndexByte(text, ')')+2]; state != 'T' {
				return fmt.Errorf("a thread of the server is in state %c", state)
			}
		}
		return nil
	})
}

// speak lets the server go on.
func (r *remote) speak() { must(r.t, unix.Kill(r.server, unix.SIGCONT)) }

// another connects another owner.
func (r *remote) another() *lockd.Client {
	r.t.Helper()
	r.ids++
	return r.client(r.ids)
}

// pendingCall is a call that waits for the server.
type pendingCall struct {
	client *lockd.Client
	name   string
	answer chan error
}

// hang makes a call that is not answered while the server is silent.
func (r *remote) hang() *pendingCall {
	r.t.Helper()
	p := &pendingCall{client: r.another(), name: fmt.Sprint("new-", r.ids), answer: make(chan error, 1)}
	go func() { p.answer <- p.client.Acquire(r.far, p.name, lockd.Autocreate) }()
	// It has been sent before the call of another.
	served(r.t, r.another(), r.near, "name")
	select {
	case err := <-p.answer:
		r.t.Fatalf("the call on the silent server was answered: %v", err)
	default:
	}
	return p
}

// answered waits for an answer.
func (r *remote) answered(p *pendingCall) error {
	r.t.Helper()
	select {
	case err := <-p.answer:
		return err
	case <-time.After(patience):
		r.t.Fatal("the call was never answered")
		return nil
	}
}

// refuses checks that nobody gets what the holder has.
func (r *remote) refuses(spaces ...string) {
	r.t.Helper()
	for _, space := range spaces {
		if err := r.another().Acquire(space, "held", lockd.Autocreate); code(err) != 87 {
			r.t.Errorf("the error for the lock that is held in %s is %v, want 87", filepath.Base(space), err)
		}
	}
}

// complete waits until the daemon holds the locks of a number of leases, which are all.
func (r *remote) complete(n int) {
	r.t.Helper()
	eventually(r.t, func() error {
		all, err := dial(r.t, r.socket()).List()
		for _, l := range all {
			if l.State != lockd.Held {
				return fmt.Errorf("the lock of %s is in state %d: %s", l.Path, l.State, l.Detail)
			}
		}
		if len(all) != n {
			err = errors.Join(err, fmt.Errorf("leases are %v, want %d", all, n))
		}
		return err
	})
}

// TestAFileServerThatDoesNotAnswerHoldsUpNobodyElse stops the process behind a file system with locks on it.
func TestAFileServerThatDoesNotAnswerHoldsUpNobodyElse(t *testing.T) {
	r := &remote{}
	r.cell = newCell(t, func(c *cell) {
		must(c.t, os.Mkdir(filepath.Join(c.dir, "served"), 0o700))
		r.server = c.mount("served", "far")
	})
	// Whatever becomes of the test, the server goes on, so that nobody waits for it for ever.
	t.Cleanup(func() { _ = unix.Kill(r.server, unix.SIGCONT) })
	r.far, r.near = filepath.Join(r.dir, "far"), filepath.Join(r.dir, "near")
	r.holder = r.another()
	for _, space := range []string{r.far, r.near} {
		must(t, r.holder.CreateSpace(space))
		must(t, r.holder.Acquire(space, "held", lockd.Autocreate))
	}
	for _, part := range []struct {
		name string
		run  func(*remote)
	}{
		{"others are served, and the call is when the server goes on", (*remote).silentForOne},
		{"the daemon is killed with a call that hangs", (*remote).killedWithCall},
		{"the daemon is killed with a lock there", (*remote).killedWithLock},
		{"the daemon starts with a lock there", (*remote).startedWithLock},
		{"the daemon re-executes itself", (*remote).reexecuted},
	} {
		t.Run(part.name, func(t *testing.T) {
			r.t, r.cell.t = t, t
			part.run(r)
		})
	}
}

func (r *remote) silentForOne() {
	r.silence()
	p := r.hang()
	served(r.t, r.another(), r.near, "name")
	r.refuses(r.far, r.near)
	if all, err := dial(r.t, r.socket()).List(); err != nil || len(all) != 2 {
		r.t.Errorf("leases are %v (%v), want the two", all, err)
	}
	r.speak()
	must(r.t, r.answered(p))
	r.complete(3)
	must(r.t, p.client.Release(r.far, p.name))
	must(r.t, r.holder.Release(r.far, "held"))
}

// killedWithCall has no lock on the server.
func (r *remote) killedWithCall() {
	r.silence()
	p := r.hang()
	must(r.t, r.jail.End(r.pid, unix.SIGKILL))
	if err := r.answered(p); code(err) != -1 {
		r.t.Errorf("the call on the silent server was answered: %v", err)
	}
	r.start()
	served(r.t, r.another(), r.near, "name")
	r.refuses(r.near)
	r.speak()
	r.complete(1)
}

// killedWithLock finds that the kernel does not let a process go that has a file there: it goes on to have all of its locks, and no
// other daemon can start, until the server answers.
func (r *remote) killedWithLock() {
	r.holder = r.another()
	must(r.t, r.holder.Acquire(r.far, "held", lockd.Autocreate))
	r.silence()
	must(r.t, unix.Kill(r.pid, unix.SIGKILL))
	out, err := r.jail.Run(r.args...)
	if err == nil || !strings.Contains(out, "is running") {
		r.t.Errorf("another daemon said %q (%v), want that one is running", out, err)
	}
	if seen, err := watch(r.t).Look(filepath.Join(r.near, "held")); err != nil || seen[0] != lockd.Written {
		r.t.Errorf("the lock that is held is %v (%v)", seen[0], err)
	}
	r.speak()
	must(r.t, r.jail.End(r.pid, unix.SIGKILL))
	r.start()
	r.complete(2)
}

func (r *remote) startedWithLock() {
	must(r.t, r.jail.End(r.pid, unix.SIGKILL))
	r.silence()
	r.start()
	served(r.t, r.another(), r.near, "name")
	r.refuses(r.far, r.near)
	r.speak()
	r.complete(2)
}

// reexecuted leaves it to the daemon whether it can execute itself anew while a call hangs: others are served in any case, and it does so when
// the server goes on.
func (r *remote) reexecuted() {
	idle := r.another()
	r.silence()
	p := r.hang()
	must(r.t, unix.Kill(r.pid, unix.SIGUSR1))
	for range 5 {
		served(r.t, idle, r.near, "name")
		served(r.t, r.another(), r.near, "name")
		time.Sleep(bound / 5)
	}
	r.refuses(r.far, r.near)
	r.speak()
	must(r.t, r.answered(p))
	reexecute(r.t, r.pid)
	served(r.t, idle, r.near, "name")
	r.refuses(r.far, r.near)
	r.complete(3)
}
