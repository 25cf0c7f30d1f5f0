package locks

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/digitalocean/go-libvirt"
	"golang.org/x/sys/unix"

	"github.com/lodgevirt/lodge/tests/lockd"
	"github.com/lodgevirt/lodge/tests/peer"
	"github.com/lodgevirt/lodge/tests/rig"
)

// Connections of the drivers that share disks.
const (
	qemuURI = "qemu:///system"
	testURI = "test:///default"
)

// How long sides contend for disks by default, and how many disks there are and guests of one side on each.
const (
	contention = 12 * time.Second
	disks      = 4
	guestsEach = 2
)

// witness is an emulator that notes when a second guest runs on a disk: each holds a lock of another kind, on a file of the disk's, for as
// long as its process lives. The name of a guest ends with that of its disk.
const witness = `#!/bin/sh
for a in "$@"; do
	case $a in guest=*)
		name=${a#guest=}
		name=${name%%%%,*}
		exec 9>>"%[1]s/${name##*-}"
		flock -n 9 || echo "$name" >>"%[1]s/violations"
	esac
done
exec qemu-system-x86_64 "$@"
`

// arena is a few disks, and sides whose guests contend for them.
type arena struct {
	t    *testing.T
	dir  string
	uri  string
	stop chan struct{}
	wg   sync.WaitGroup

	// started and refused count what came of starts.
	started, refused atomic.Int64

	mu sync.Mutex
	// owners has the guest whose start was acknowledged and whose end nobody has asked for, by disk.
	owners map[string]string
}

// newArena makes the disks.
func newArena(t *testing.T, uri string) *arena {
	t.Helper()
	long(t)
	scheme, _, _ := strings.Cut(uri, ":")
	a := &arena{t: t, dir: folder(t), uri: uri, stop: make(chan struct{}), owners: map[string]string{}}
	for n := range disks {
		path := a.disk(n)
		must(t, errors.Join(os.WriteFile(path, nil, 0o600), os.Truncate(path, 1<<20)))
	}
	must(t, os.Mkdir(filepath.Join(a.dir, "witness"), 0o700))
	a.makePlugin(scheme)
	write(t, filepath.Join(a.dir, "qemu"), fmt.Sprintf(witness, filepath.Join(a.dir, "witness")), 0o755)
	return a
}

func (a *arena) disk(n int) string  { return filepath.Join(a.dir, fmt.Sprintf("disk%d", n)) }
func (a *arena) lockspace() string  { return filepath.Join(a.dir, "locks") }
func (a *arena) lease(n int) string { return hashed(a.lockspace())(a.disk(n)) }
func (a *arena) violations() []string {
	text, err := os.ReadFile(filepath.Join(a.dir, "witness", "violations"))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	must(a.t, err)
	return strings.Fields(string(text))
}

// begins notes that a guest runs on a disk. It must be the only one.
func (a *arena) begins(disk, guest string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.started.Add(1)
	if other := a.owners[disk]; other != "" {
		a.t.Errorf("%s runs on %s, and so does %s", guest, disk, other)
	}
	a.owners[disk] = guest
}

// ends notes, before anybody is asked to end a guest, that it may not run any more.
func (a *arena) ends(disk, guest string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.owners[disk] == guest {
		delete(a.owners, disk)
	}
}

// contend lets all sides work, and strikes them, until the time is up.
func (a *arena) contend(strike func(random *rand.Rand)) {
	a.t.Helper()
	random := rand.New(rand.NewPCG(seed(a.t), 1))
	defer func() {
		close(a.stop)
		a.wg.Wait()
		a.t.Logf("%d starts succeeded and %d were refused for a lock", a.started.Load(), a.refused.Load())
	}()
	begun, long := time.Now(), contention*time.Duration(scale(a.t))
	// On a busy machine it takes longer until enough has happened.
	for took := time.Duration(0); !a.t.Failed() && (took < long || !a.enough() && took < 4*long); took = time.Since(begun) {
		time.Sleep(time.Duration(200+random.IntN(600)) * time.Millisecond)
		strike(random)
	}
}

// enough says whether something can be concluded from what has happened.
func (a *arena) enough() bool { return a.started.Load() >= 20 && a.refused.Load() >= 20 }

// judge checks what is left when all is over.
func (a *arena) judge() {
	a.t.Helper()
	if !a.enough() {
		a.t.Errorf("%d starts succeeded and %d were refused: too few to prove anything", a.started.Load(), a.refused.Load())
	}
	if seen := a.violations(); len(seen) > 0 {
		a.t.Errorf("guests ran on a disk that another was running on: %v", seen)
	}
	eventually(a.t, func() error {
		for n := range disks {
			if _, err := os.Stat(a.lease(n)); !errors.Is(err, os.ErrNotExist) {
				return fmt.Errorf("the lock file of %s is left (%v)", a.disk(n), err)
			}
		}
		return nil
	})
}

// plugins is a folder with a driver whose disks are this machine's: those that the test driver pretends are otherwise each core's own.
func (a *arena) plugins() string { return filepath.Join(a.dir, "plugins") }

func (a *arena) makePlugin(name string) {
	a.t.Helper()
	from, to := filepath.Join(filepath.Dir(binary(a.t, "lodged")), "plugins"), a.plugins()
	must(a.t, os.Mkdir(to, 0o755))
	manifest, err := os.ReadFile(filepath.Join(from, name+".toml"))
	must(a.t, err)
	write(a.t, filepath.Join(to, name+".toml"), strings.ReplaceAll(string(manifest), `"elsewhere"`, `"local"`), 0o644)
	program, err := os.ReadFile(filepath.Join(from, "lodge-plugin-"+name))
	must(a.t, err)
	write(a.t, filepath.Join(to, "lodge-plugin-"+name), string(program), 0o755)
}

// side is a core with its lock daemon.
type side struct {
	*arena
	name  string
	host  *rig.Host
	turns [disks * guestsEach]sync.Mutex
}

// newSide starts a core that has its locks in the arena's folder.
func (a *arena) newSide(name string) *side {
	a.t.Helper()
	s := &side{arena: a, name: name, host: &rig.Host{Dir: folder(a.t), Bin: filepath.Dir(binary(a.t, "lodged"))}}
	a.t.Cleanup(func() {
		if a.t.Failed() {
			a.t.Logf("core %s said at last:\n%s", name, rig.Tail(s.host.LogFile()))
		}
		if err := s.host.End(); err != nil {
			a.t.Errorf("end core %s: %v", name, err)
		}
	})
	scheme, _, _ := strings.Cut(a.uri, ":")
	etc := filepath.Join(s.host.Dir, "etc")
	must(a.t, os.MkdirAll(etc, 0o755))
	write(a.t, filepath.Join(etc, "lodge.toml"), lines(
		`log_level = "debug"`, `[locks]`, fmt.Sprintf("file_lockspace_dir = %q", a.lockspace()),
		`[plugins]`, fmt.Sprintf("enabled = [%q]", scheme), fmt.Sprintf("dirs = [%q]", a.plugins()),
		`max_crashes_per_minute = 100000`,
	), 0o600)
	s.start()
	conn, err := s.host.Dial(a.uri)
	must(a.t, err)
	defer func() { _ = conn.Disconnect() }() // Every call has been answered.
	for n := range disks {
		for g := range guestsEach {
			_, err := conn.DomainDefineXML(s.definition(n, g))
			must(a.t, err)
		}
	}
	return s
}

// start starts the core and waits until its lock daemon is up.
func (s *side) start() {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), patience)
	defer cancel()
	must(s.t, s.host.Start(ctx))
	s.settle()
}

// settle waits until nothing is being restarted.
func (s *side) settle() {
	s.t.Helper()
	eventually(s.t, func() error {
		status, err := s.host.Status(s.t.Context())
		if err != nil {
			return err
		}
		if !status.GetLockdReady() {
			return errors.New("the lock daemon is not back")
		}
		for _, p := range status.GetPlugins() {
			if p.GetState() != "ready" && p.GetState() != "absent" {
				return fmt.Errorf("the plugin is %s: %s", p.GetState(), p.GetDetail())
			}
		}
		return nil
	})
}

func (s *side) guest(disk, number int) string {
	return fmt.Sprintf("%s%d-disk%d", s.name, number, disk)
}

func (s *side) definition(disk, number int) string {
	kind, emulator := "test", ""
	if s.uri == qemuURI {
		kind, emulator = "qemu", "<emulator>"+filepath.Join(s.dir, "qemu")+"</emulator>"
	}
	return fmt.Sprintf(`<domain type='%s'>
  <name>%s</name>
  <memory unit='MiB'>16</memory>
  <os><type arch='x86_64'>hvm</type></os>
  <devices>%s%s</devices>
</domain>
`, kind, s.guest(disk, number), emulator, diskXML(s.arena.disk(disk), ""))
}

// work starts and ends guests at random until the arena closes.
func (s *side) work(random *rand.Rand) {
	var conn *libvirt.Libvirt
	defer func() {
		if conn != nil {
			_ = conn.Disconnect() // It may be gone already.
		}
	}()
	for {
		select {
		case <-s.stop:
			return
		default:
		}
		if conn == nil || !conn.IsConnected() {
			var err error
			if conn, err = s.host.Dial(s.uri); err != nil {
				time.Sleep(5 * time.Millisecond)
				continue
			}
		}
		disk := random.IntN(disks)
		number := random.IntN(guestsEach)
		// What is known of a guest is what its only worker was told.
		if turn := &s.turns[disk*guestsEach+number]; turn.TryLock() {
			s.live(conn, random, s.arena.disk(disk), s.guest(disk, number))
			turn.Unlock()
		}
	}
}

// live is one guest's life, or what comes of it.
func (s *side) live(conn *libvirt.Libvirt, random *rand.Rand, disk, guest string) {
	dom, err := conn.DomainLookupByName(guest)
	if err != nil {
		return // The connection was cut.
	}
	flags := libvirt.DomainCreateFlags(0)
	if s.uri == qemuURI && random.IntN(2) == 0 {
		flags = libvirt.DomainStartPaused
	}
	_, err = conn.DomainCreateWithFlags(dom, uint32(flags))
	var refused libvirt.Error
	switch {
	case err == nil:
		s.begins(disk, guest)
		time.Sleep(time.Duration(random.IntN(60)) * time.Millisecond)
	case errors.As(err, &refused) && refused.Code == uint32(libvirt.ErrResourceBusy):
		s.refused.Add(1)
		time.Sleep(time.Duration(random.IntN(20)) * time.Millisecond)
		return
	default:
		// It may be active, from a start or an end whose answer was lost.
	}
	s.ends(disk, guest)
	if s.uri == qemuURI && random.IntN(4) == 0 {
		s.crash(guest)
		return
	}
	_ = conn.DomainDestroy(dom) // Whatever it comes to, somebody tries again.
}

// crash kills a guest's process.
func (s *side) crash(guest string) {
	all, err := s.host.Find(rig.Guest)
	if err != nil {
		return
	}
	for _, p := range all {
		if strings.Contains(strings.Join(p.Args, " "), "guest="+guest+",") {
			_ = p.Signal(unix.SIGKILL) // It may have ended.
		}
	}
}

// strike kills daemons of the side, and waits until all are back.
func (s *side) strike(kinds ...rig.Kind) {
	s.t.Helper()
	killed, err := s.host.Kill(kinds...)
	must(s.t, err)
	ctx, cancel := context.WithTimeout(s.t.Context(), patience)
	defer cancel()
	for _, p := range killed {
		if p.Kind == rig.Core {
			must(s.t, errors.Join(s.host.WaitCore(ctx), s.host.Start(ctx)))
		}
	}
	s.settle()
}

// clear ends all guests of the side.
func (s *side) clear() {
	s.t.Helper()
	conn, err := s.host.Dial(s.uri)
	must(s.t, err)
	defer func() { _ = conn.Disconnect() }() // Every call has been answered.
	eventually(s.t, func() error {
		active, _, err := conn.ConnectListAllDomains(1, libvirt.ConnectListDomainsActive)
		if err != nil {
			return err
		}
		left := 0
		for _, dom := range active {
			if dom.Name == "test" {
				continue // The test driver's own.
			}
			left++
			_ = conn.DomainDestroy(dom) // It may be ending.
		}
		if left > 0 {
			return fmt.Errorf("%d guests of %s are active", left, s.name)
		}
		return nil
	})
	eventually(s.t, func() error {
		locks, err := s.host.Locks(s.t.Context())
		for _, l := range locks {
			if l.GetOwnerName() != "test" {
				return fmt.Errorf("the lock of %s is left", l.GetOwnerName())
			}
		}
		return err
	})
}

// daemons are the kinds that are killed.
var daemons = []rig.Kind{rig.Core, rig.Lockd, rig.Plugin}

// TestTwoCoresNeverShareADisk lets guests of two cores contend for the same disks while their daemons are killed. With QEMU any daemons
// are killed together; a guest of the test driver is no process that could hold its lock, so there one at a time.
func TestTwoCoresNeverShareADisk(t *testing.T) {
	for name, tc := range map[string]struct {
		uri     string
		workers int
	}{
		"of QEMU's guests":            {qemuURI, 3},
		"of the test driver's guests": {testURI, 6},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := exec.LookPath("qemu-system-x86_64"); err != nil && tc.uri == qemuURI {
				t.Skip("QEMU is not installed (make deps)")
			}
			a := newArena(t, tc.uri)
			sides := []*side{a.newSide("a"), a.newSide("b")}
			for i, s := range sides {
				for n := range tc.workers {
					a.wg.Go(func() { s.work(rand.New(rand.NewPCG(uint64(i), uint64(n)))) })
				}
			}
			a.contend(func(random *rand.Rand) {
				kinds := []rig.Kind{pick(random, daemons)}
				if tc.uri == qemuURI && random.IntN(3) == 0 {
					kinds = daemons
				}
				pick(random, sides).strike(kinds...)
			})
			for _, s := range sides {
				s.clear()
			}
			a.judge()
		})
	}
}

// TestACoreAndVirtlockdNeverShareADisk lets guests of a core contend with owners of a real virtlockd that has its locks in the same
// folder: locks of descriptions against locks of processes.
func TestACoreAndVirtlockdNeverShareADisk(t *testing.T) {
	if err := peer.Available(); err != nil {
		t.Skip(err)
	}
	a := newArena(t, testURI)
	s := a.newSide("a")
	dir := folder(t)
	l, err := peer.Build(t.Context(), dir)
	must(t, err)
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	pid, err := l.Jail.Start("virtlockd", "virtlockd", "-p", filepath.Join(dir, "virtlockd.pid"))
	must(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	must(t, peer.Await(ctx, l.LockSocket()))
	var calls sync.RWMutex
	for n := range 4 {
		a.wg.Go(func() { s.work(rand.New(rand.NewPCG(0, uint64(n)))) })
		o := &rival{arena: a, calls: &calls, client: dial(t, l.LockSocket()), name: fmt.Sprint("rival-", n)}
		must(t, o.client.Register(lockd.Owner{UUID: [16]byte{byte(n + 1)}, Name: o.name, ID: uint32(n + 1), PID: sleeper(t, t).Process.Pid}))
		must(t, o.client.CreateSpace(a.lockspace()))
		a.wg.Go(func() { o.work(rand.New(rand.NewPCG(1, uint64(n)))) })
	}
	a.contend(func(random *rand.Rand) {
		if random.IntN(4) == 0 {
			// It never answers the calls that are under way.
			calls.Lock()
			defer calls.Unlock()
			_, err := lockd.Reexecute(pid, patience)
			must(t, err)
			return
		}
		s.strike(pick(random, daemons))
	})
	s.clear()
	a.judge()
}

// rival takes locks from virtlockd as a libvirtd does for its guests.
type rival struct {
	*arena
	calls  *sync.RWMutex
	client *lockd.Client
	name   string
}

func (r *rival) call(do func() error) error {
	r.calls.RLock()
	defer r.calls.RUnlock()
	return do()
}

func (r *rival) work(random *rand.Rand) {
	for {
		select {
		case <-r.stop:
			return
		default:
		}
		n := random.IntN(disks)
		lease := filepath.Base(r.lease(n))
		err := r.call(func() error { return r.client.Acquire(r.lockspace(), lease, lockd.Autocreate) })
		switch code(err) {
		case 0:
			r.begins(r.disk(n), r.name)
			time.Sleep(time.Duration(random.IntN(3000)) * time.Microsecond)
			r.ends(r.disk(n), r.name)
			if err := r.call(func() error { return r.client.Release(r.lockspace(), lease) }); err != nil {
				r.t.Errorf("%s cannot release: %v", r.name, err)
				return
			}
		case 87:
			r.arena.refused.Add(1)
		default:
			r.t.Errorf("%s cannot acquire: %v", r.name, err)
			return
		}
		time.Sleep(time.Duration(random.IntN(2000)) * time.Microsecond)
	}
}

// pick chooses one of many.
func pick[T any](random *rand.Rand, of []T) T { return of[random.IntN(len(of))] }
