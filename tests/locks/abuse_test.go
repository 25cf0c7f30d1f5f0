package locks

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lodgevirt/lodge/tests/lockd"
)

// TestThousandsOfClients has 2000 idle connections, every other one of an owner, beside some that work.
func TestThousandsOfClients(t *testing.T) {
	const idle, working, pairs = 2000, 16, 200
	long(t)
	dir := folder(t)
	d := daemon(t, dir, "--max-clients", fmt.Sprint(idle+working+10))
	space := filepath.Join(dir, "space")
	before, err := lockd.Descriptors(d.PID())
	must(t, err)
	pid := sleeper(t, t).Process.Pid
	clients := make([]*lockd.Client, idle)
	for i := range clients {
		if clients[i], err = lockd.Dial(d.Socket); err != nil {
			t.Fatalf("after %d connections: %v", i, err)
		}
		if i%2 == 0 {
			must(t, clients[i].Register(lockd.Owner{Name: "idle", ID: 1, PID: pid}))
		}
	}
	var wg sync.WaitGroup
	errs := make([]error, working)
	for n := range working {
		c := owner(t, t, d.Socket, uint32(n+1))
		must(t, c.SetPatience(bound))
		must(t, c.CreateSpace(space))
		wg.Go(func() {
			for range pairs {
				name := fmt.Sprint("name-", n)
				if errs[n] = errors.Join(c.Acquire(space, name, lockd.Autocreate), c.Release(space, name)); errs[n] != nil {
					return
				}
			}
		})
	}
	wg.Wait()
	must(t, errors.Join(errs...))
	for i, c := range clients {
		if i%2 == 0 {
			must(t, c.Acquire(space, fmt.Sprint("idle-", i%10), lockd.Shared|lockd.Autocreate))
		}
	}
	t.Logf("with %d connections the daemon has %d KiB", idle+working, resident(t, d.PID()))
	for _, c := range clients {
		c.Close()
	}
	c := dial(t, d.Socket)
	eventually(t, func() error {
		s, err := c.Status()
		if err == nil && s.Clients > working+1 {
			err = fmt.Errorf("the daemon has %d clients", s.Clients)
		}
		return err
	})
	// The locks belong to a process that lives.
	if s, err := c.Status(); err != nil || s.Held != idle/2 {
		t.Errorf("%d locks are held (%v), want %d", s.Held, err, idle/2)
	}
	eventually(t, func() error {
		now, err := lockd.Descriptors(d.PID())
		// One for each lock, one for each client, and one for the process of each owner.
		if most := before + idle/2 + working + 1 + working + 1; err == nil && now > most {
			err = fmt.Errorf("the daemon has %d descriptors, want at most %d", now, most)
		}
		return err
	})
}

// TestOneClientTooMany fills all places and expects those who have one to be served, and others as soon as one comes free.
func TestOneClientTooMany(t *testing.T) {
	const most = 20
	long(t)
	dir := folder(t)
	d := daemon(t, dir, "--max-clients", fmt.Sprint(most))
	space := filepath.Join(dir, "space")
	var clients []*lockd.Client
	for n := range most {
		clients = append(clients, owner(t, t, d.Socket, uint32(n+1)))
	}
	must(t, clients[0].CreateSpace(space))
	for range 30 {
		c, err := lockd.Dial(d.Socket)
		must(t, err)
		// It may be turned away or kept waiting.
		must(t, c.SetPatience(50*time.Millisecond))
		if err := c.CreateSpace(space); code(err) != -1 {
			t.Errorf("one client too many was served: %v", err)
		}
		c.Close()
	}
	served(t, clients[most-1], space, "name")
	clients[0].Close()
	eventually(t, func() error {
		c, err := lockd.Dial(d.Socket)
		if err != nil {
			return err
		}
		defer c.Close()
		return errors.Join(c.SetPatience(bound), c.CreateSpace(space))
	})
}

// TestHundredThousandNames makes a lockspace with as many files, takes thousands of its locks at once, and expects all to be known after
// the daemon was killed.
func TestHundredThousandNames(t *testing.T) {
	const names, makers, held = 100_000, 8, 5_000
	long(t)
	dir := folder(t)
	d := daemon(t, dir, "--log-level", "info")
	space := filepath.Join(dir, "space")
	name := func(n int) string { return fmt.Sprintf("name-%06d", n) }
	clients := make([]*lockd.Client, makers)
	for m := range clients {
		clients[m] = owner(t, t, d.Socket, uint32(m+1))
		must(t, clients[m].CreateSpace(space))
	}
	all := func(first, last int, do func(c *lockd.Client, name string) error) time.Duration {
		t.Helper()
		begun := time.Now()
		var wg sync.WaitGroup
		errs := make([]error, makers)
		for m, c := range clients {
			wg.Go(func() {
				for n := first + m; n < last && errs[m] == nil; n += makers {
					errs[m] = do(c, name(n))
				}
			})
		}
		wg.Wait()
		must(t, errors.Join(errs...))
		return time.Since(begun)
	}
	made := all(0, names, func(c *lockd.Client, name string) error { return c.CreateResource(space, name) })
	size := resident(t, d.PID())
	taken := all(0, held, func(c *lockd.Client, name string) error { return c.Acquire(space, name, 0) })
	pairs := all(held, 2*held, func(c *lockd.Client, name string) error {
		return errors.Join(c.Acquire(space, name, 0), c.Release(space, name))
	})
	t.Logf("%d files took %v, then the daemon had %d KiB; %d locks took %v, as many taken and dropped %v; then it had %d KiB",
		names, made, size, held, taken, pairs, resident(t, d.PID()))
	must(t, d.End(unix.SIGKILL))
	begun := time.Now()
	must(t, d.Start(t.Context()))
	c := dial(t, d.Socket)
	leases, err := c.List()
	must(t, err)
	t.Logf("after SIGKILL %d leases were known in %v", len(leases), time.Since(begun))
	for _, l := range leases {
		if l.State != lockd.Held {
			t.Fatalf("the lease of %s is in state %d: %s", l.Path, l.State, l.Detail)
		}
	}
	if len(leases) != held {
		t.Errorf("%d leases are known, want %d", len(leases), held)
	}
	if left, err := os.ReadDir(space); err != nil || len(left) != names {
		t.Errorf("%d files are there (%v), want %d", len(left), err, names)
	}
}

// TestNoDescriptorIsLeft lets a daemon with few descriptors run out of them.
func TestNoDescriptorIsLeft(t *testing.T) {
	const limit = 64
	c := newCell(t, nil)
	space := filepath.Join(c.dir, "space")
	// A daemon may have raised its limit, so it is lowered from outside, for good.
	must(t, unix.Prlimit(c.pid, unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: limit, Max: limit}, nil))
	one, two := c.client(1), c.client(2)
	must(t, one.CreateSpace(space))
	// The daemon needs a descriptor for each owner that has locks.
	must(t, two.Acquire(space, "first", lockd.Autocreate))
	name := func(n int) string { return fmt.Sprint("name-", n) }
	held := 0
	for ; held <= limit; held++ {
		err := one.Acquire(space, name(held), lockd.Autocreate)
		if err == nil {
			continue
		}
		if code(err) != 38 || !strings.Contains(err.Error(), "too many open files") {
			t.Errorf("without descriptors the error is %v, want 38 and why", err)
		}
		break
	}
	if held < limit/4 || held >= limit {
		t.Fatalf("%d locks were had with %d descriptors", held, limit)
	}
	t.Logf("%d locks were had with %d descriptors", held, limit)
	t.Run("what is held stays held", func(t *testing.T) {
		if err := two.Acquire(space, name(0), lockd.Autocreate); code(err) != 87 {
			t.Errorf("the error is %v, want 87", err)
		}
		eye := watch(t)
		for n := range held {
			seen, err := eye.Look(filepath.Join(space, name(n)))
			if err != nil || seen[0] != lockd.Written {
				t.Errorf("lock %d is %v (%v)", n, seen[0], err)
			}
		}
	})
	t.Run("new connections wait and harm nobody", func(t *testing.T) {
		var waiting []*lockd.Client
		for range 30 {
			w, err := lockd.Dial(c.socket())
			must(t, err)
			waiting = append(waiting, w)
		}
		if err := two.Acquire(space, name(0), lockd.Autocreate); code(err) != 87 {
			t.Errorf("the error is %v, want 87", err)
		}
		for _, w := range waiting {
			w.Close()
		}
	})
	t.Run("a lock that is dropped makes room", func(t *testing.T) {
		for n := range 10 {
			must(t, one.Release(space, name(n)))
		}
		served(t, two, space, "another")
		served(t, c.client(3), space, "another")
	})
	t.Run("the rest is dropped", func(t *testing.T) {
		for n := 10; n < held; n++ {
			must(t, one.Release(space, name(n)))
		}
		must(t, two.Release(space, "first"))
		if left, err := os.ReadDir(space); err != nil || len(left) > 0 {
			t.Errorf("lock files are left: %v (%v)", left, err)
		}
	})
}

// TestAFolderThatIsDeleted deletes a lockspace with locks in it.
func TestAFolderThatIsDeleted(t *testing.T) {
	long(t)
	dir := folder(t)
	d := daemon(t, dir)
	space, other := filepath.Join(dir, "space"), filepath.Join(dir, "other")
	one, two := owner(t, t, d.Socket, 1), owner(t, t, d.Socket, 2)
	must(t, one.CreateSpace(space))
	must(t, one.CreateSpace(other))
	must(t, one.Acquire(space, "held", lockd.Autocreate))
	must(t, os.RemoveAll(space))
	if err := two.Acquire(space, "new", lockd.Autocreate); code(err) != 38 || !strings.Contains(err.Error(), "no such file") {
		t.Errorf("the error for a lock in a missing folder is %v, want 38 and why", err)
	}
	if err := two.CreateResource(space, "new"); code(err) != 38 {
		t.Errorf("the error for a file in a missing folder is %v, want 38", err)
	}
	must(t, two.DeleteResource(space, "new"))
	if err := two.Acquire(space, "held", lockd.Autocreate); code(err) != 87 {
		t.Errorf("the error for a lock that is held is %v, want 87", err)
	}
	served(t, two, other, "name")
	must(t, one.Release(space, "held"))
	// Making the lockspace again makes its folder again.
	must(t, two.CreateSpace(space))
	served(t, two, space, "held")
	if left, err := os.ReadDir(space); err != nil || len(left) > 0 {
		t.Errorf("lock files are left: %v (%v)", left, err)
	}
}

// TestAFolderThatIsReadOnly makes a lockspace with locks in it read-only.
func TestAFolderThatIsReadOnly(t *testing.T) {
	var space string
	c := newCell(t, func(c *cell) { space = c.memory("space", "size=1m") })
	other := filepath.Join(c.dir, "other")
	one, two := c.client(1), c.client(2)
	must(t, one.CreateSpace(space))
	must(t, one.CreateSpace(other))
	must(t, one.CreateResource(space, "made"))
	must(t, one.Acquire(space, "held", lockd.Autocreate))
	c.run("mount", "--bind", space, space)
	c.run("mount", "-o", "remount,bind,ro", space)
	for name, flags := range map[string]uint32{"new": lockd.Autocreate, "made": 0} {
		if err := two.Acquire(space, name, flags); code(err) != 38 || !strings.Contains(err.Error(), "read-only") {
			t.Errorf("the error for %s in a read-only folder is %v, want 38 and why", name, err)
		}
	}
	if err := two.DeleteResource(space, "made"); code(err) != 38 {
		t.Errorf("the error for a removal from a read-only folder is %v, want 38", err)
	}
	if err := two.Acquire(space, "held", lockd.Autocreate); code(err) != 87 {
		t.Errorf("the error for a lock that is held is %v, want 87", err)
	}
	served(t, two, other, "name")
	// The lock is dropped although its file cannot be removed.
	must(t, one.Release(space, "held"))
	c.run("umount", space)
	served(t, two, space, "held")
	served(t, two, space, "made")
}

// journalMax is more locks than a journal on a file system of 1 MiB has room for.
const journalMax = 8000

// TestAFileSystemThatIsFull has a lockspace in which no file can be made, and then a journal that cannot be written.
func TestAFileSystemThatIsFull(t *testing.T) {
	t.Run("of the locks", func(t *testing.T) {
		var space string
		c := newCell(t, func(c *cell) { space = c.memory("space", "size=1m,nr_inodes=12") })
		one, two := c.client(1), c.client(2)
		must(t, one.CreateSpace(space))
		held := 0
		for ; held < 20; held++ {
			if err := one.Acquire(space, fmt.Sprint("name-", held), lockd.Autocreate); err != nil {
				if code(err) != 38 || !strings.Contains(err.Error(), "no space") {
					t.Errorf("the error in a full file system is %v, want 38 and why", err)
				}
				break
			}
		}
		if held == 0 || held == 20 {
			t.Fatalf("%d locks were had", held)
		}
		if err := two.Acquire(space, "name-0", lockd.Autocreate); code(err) != 87 {
			t.Errorf("the error for a lock that is held is %v, want 87", err)
		}
		must(t, one.Release(space, "name-0"))
		served(t, two, space, "name-0")
	})
	t.Run("of the journal", func(t *testing.T) {
		var full string
		c := newCell(t, func(c *cell) {
			full = c.memory("full", "size=1m")
			c.args = append(c.args, "--journal", filepath.Join(full, "journal"))
		})
		space := filepath.Join(c.dir, "space")
		one, two := c.client(1), c.client(2)
		must(t, one.CreateSpace(space))
		must(t, one.Acquire(space, "held", lockd.Autocreate))
		c.run("sh", "-c", "dd if=/dev/zero of="+full+"/ballast bs=4k || true")
		refused := false
		for n := 0; n < journalMax && !refused; n++ {
			// What fits into what the journal has already is written.
			name := fmt.Sprint("name-", n, "-", strings.Repeat("x", 200))
			err := two.Acquire(space, name, lockd.Autocreate)
			if refused = err != nil; !refused {
				continue
			}
			if !strings.Contains(err.Error(), "no space") || code(err) != 38 {
				t.Errorf("the error for a journal that cannot be written is %v, want 38 and why", err)
			}
			if _, err := os.Stat(filepath.Join(space, name)); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("the file of a lock that was refused is there: %v", err)
			}
		}
		if !refused {
			t.Fatal("nothing was refused")
		}
		if err := two.Acquire(space, "held", lockd.Autocreate); code(err) != 87 {
			t.Errorf("the error for a lock that is held is %v, want 87", err)
		}
		before, err := dial(t, c.socket()).List()
		must(t, err)
		// The next daemon finds everything although there is no room for more.
		must(t, c.jail.End(c.pid, unix.SIGKILL))
		c.start()
		after, err := dial(t, c.socket()).List()
		must(t, err)
		if len(before) != len(after) {
			t.Errorf("%d leases are known after SIGKILL, before there were %d", len(after), len(before))
		}
		c.run("rm", filepath.Join(full, "ballast"))
		eventually(t, func() error { return c.client(3).Acquire(space, "another", lockd.Autocreate) })
	})
}

// resident reads a process's resident memory in KiB.
func resident(t *testing.T, pid int) int {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	must(t, err)
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			var kib int
			_, err := fmt.Sscan(rest, &kib)
			must(t, err)
			return kib
		}
	}
	t.Fatal("a process without memory")
	return 0
}
