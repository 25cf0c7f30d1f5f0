package leases_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"golang.org/x/sys/unix"

	"github.com/lodgevirt/lodge/host/internal/lockspace"
	"github.com/lodgevirt/lodge/host/internal/lockspace/leases"
	"github.com/lodgevirt/lodge/host/internal/lockspace/process"
)

// The test binary runs itself as another process in the role of this variable, with a folder as its argument.
const roleVariable = "LEASES_TEST_ROLE"

var roles = map[string]func(dir string) error{
	"daemon": daemonRole, "daemon again": againRole, "prober": proberRole, "virtlockd": virtlockdRole,
}

func runRole(role string) {
	if err := roles[role](os.Args[1]); err != nil {
		fmt.Println("failed:", err)
		os.Exit(1)
	}
}

// become executes this program anew in another role, in the same process.
func become(role, dir string) error {
	if err := os.Setenv(roleVariable, role); err != nil {
		return err
	}
	return syscall.Exec("/proc/self/exe", []string{os.Args[0], dir}, os.Environ())
}

// untilKilled waits for the end of the test.
func untilKilled() error {
	_, _ = os.Stdin.Read(make([]byte, 1))
	return nil
}

// other is another process.
type other struct {
	*exec.Cmd
	in    io.Writer
	lines *bufio.Reader
}

// start runs a role until the end of the test.
func start(t *testing.T, role, dir string) *other {
	t.Helper()
	cmd := exec.Command(os.Args[0], dir)
	cmd.Env = append(os.Environ(), roleVariable+"="+role)
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait(); stdin.Close() })
	return &other{Cmd: cmd, in: stdin, lines: bufio.NewReader(stdout)}
}

func (o *other) line(t *testing.T) string {
	t.Helper()
	line, err := o.lines.ReadString('\n')
	if err != nil {
		t.Fatalf("other process: %v after %q", err, line)
	}
	return strings.TrimSpace(line)
}

// proberRole tries to get each lock in a folder, again and again, and names one that it had.
func proberRole(dir string) error {
	fmt.Println("ready")
	for {
		names, err := os.ReadDir(dir)
		if err != nil {
			return err
		}
		for _, e := range names {
			_, err := lockspace.Take(lockspace.Resource{Name: filepath.Join(dir, e.Name())})
			if err == nil {
				fmt.Println("had", e.Name())
				return untilKilled()
			}
		}
		time.Sleep(200 * time.Microsecond)
	}
}

// statement is what the daemon that was executed anew says.
type statement struct {
	Leases []leases.Info
	// Owners are those of Leases, which are written without.
	Owners []leases.Owner
	// Open counts descriptors that carry a lock.
	Open int
}

func daemonTable(dir string) (*leases.Table, error) {
	return leases.Open(filepath.Join(dir, "journal"), hclog.NewNullLogger())
}

// daemonRole takes locks of all sorts, hands them over, and executes itself anew in the way that the file "how" says.
func daemonRole(dir string) error {
	table, err := daemonTable(dir)
	if err != nil {
		return err
	}
	me, err := process.Find(int32(os.Getppid()))
	if err != nil {
		return err
	}
	space := filepath.Join(dir, "locks")
	ctx := context.Background()
	if err := table.AddSpace(space); err != nil {
		return err
	}
	first, second := classicOwner(me), classicOwner(process.ID{})
	if second.Process, err = process.Find(int32(os.Getpid())); err != nil {
		return err
	}
	for _, grant := range []struct {
		owner leases.Owner
		disk  string
		mode  lockspace.Mode
	}{
		{guest(1, 1), "/guest", lockspace.Exclusive},
		{guest(1, 1), "/guests", lockspace.Shared},
		{guest(2, 1), "/guests", lockspace.Shared},
		{first, "/classic", lockspace.Exclusive},
		{first, "/classics", lockspace.Shared},
		{first, "/classics", lockspace.Shared},
		{second, "/classics", lockspace.Shared},
	} {
		want := []leases.Want{{Resource: lockspace.ForDisk(space, grant.disk, grant.mode)}}
		if _, err := table.Acquire(ctx, grant.owner, want); err != nil {
			return err
		}
	}
	state, err := table.Handover(ctx)
	if err != nil {
		return err
	}
	text, err := json.Marshal(state)
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, "state"), text, 0o600); err != nil {
		return err
	}
	fmt.Println("ready")
	_, _ = bufio.NewReader(os.Stdin).ReadByte()
	return become("daemon again", dir)
}

// againRole is the daemon after it was executed anew.
func againRole(dir string) error {
	var in leases.Inheritance
	text, err := os.ReadFile(filepath.Join(dir, "state"))
	if err != nil {
		return err
	}
	if err := json.Unmarshal(text, &in.Locks); err != nil {
		if in, err = leases.Orphans(); err != nil {
			return err
		}
	}
	_, err = os.Stat(filepath.Join(dir, "complete"))
	in.Complete = err == nil
	table, err := leases.TakeOver(filepath.Join(dir, "journal"), hclog.New(&hclog.LoggerOptions{Level: hclog.Warn}), in)
	if err != nil {
		return err
	}
	if err := table.Recovered(context.Background()); err != nil {
		return err
	}
	held, err := lockspace.Scan()
	if err != nil {
		return err
	}
	said := statement{Leases: table.List(), Open: len(held)}
	for _, l := range said.Leases {
		said.Owners = append(said.Owners, l.Owner)
	}
	text, err = json.Marshal(said)
	if err != nil {
		return err
	}
	fmt.Println(string(text))
	return untilKilled()
}

func classicOwner(id process.ID) leases.Owner {
	return leases.Owner{UUID: [16]byte{0xc}, Name: "classic", ID: 1, Classic: true, Process: id}
}

// says reads the daemon's statement.
func (o *other) says(t *testing.T) statement {
	t.Helper()
	var said statement
	line := o.line(t)
	if err := json.Unmarshal([]byte(line), &said); err != nil {
		t.Fatalf("%v: %s", err, line)
	}
	for n, o := range said.Owners {
		said.Leases[n].Owner = o
	}
	return said
}

// described returns leases as "disk mode owner state", sorted.
func described(all []leases.Info) []string {
	var out []string
	for _, l := range all {
		who := l.Owner.Name
		if l.Owner.Unknown {
			who = "unknown"
		}
		name := l.Resource.Disk
		if name == "" {
			name = filepath.Base(l.Resource.Path())[:4]
		}
		out = append(out, fmt.Sprint(name, " ", l.Resource.Mode, " ", who, " ", l.State, " ", l.Kind))
	}
	slices.Sort(out)
	return out
}

func TestExecKeepsAllLocks(t *testing.T) {
	whole := []string{
		"/classic exclusive classic held ofd", "/classics shared classic held ofd", "/classics shared classic held ofd",
		"/classics shared classic held ofd", "/guest exclusive guest1 held ofd", "/guests shared guest1 held ofd",
		"/guests shared guest2 held ofd",
	}
	base := func(disk string) string { return lockspace.ForDisk("/", disk, false).Name[:4] }
	// Without journal and state there are as many leases as descriptions.
	nobodys := []string{
		base("/classic") + " exclusive unknown held ofd", base("/classics") + " shared unknown held ofd",
		base("/guest") + " exclusive unknown held ofd", base("/guests") + " shared unknown held ofd",
		base("/guests") + " shared unknown held ofd",
	}
	slices.Sort(nobodys)
	for _, c := range []struct {
		name    string
		damage  []string
		want    []string
		numbers bool
	}{
		{name: "with state and journal", want: whole, numbers: true},
		{name: "without journal", damage: []string{"journal"}, want: whole, numbers: true},
		{name: "without state", damage: []string{"state"}, want: whole, numbers: true},
		{name: "without both", damage: []string{"state", "journal"}, want: nobodys},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			daemon := start(t, "daemon", dir)
			if line := daemon.line(t); line != "ready" {
				t.Fatal(line)
			}
			prober := start(t, "prober", filepath.Join(dir, "locks"))
			prober.line(t)
			before := stateFile(t, dir)
			for _, name := range c.damage {
				if err := os.WriteFile(filepath.Join(dir, name), []byte("x\n"), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			if _, err := io.WriteString(daemon.in, "\n"); err != nil {
				t.Fatal(err)
			}
			said := daemon.says(t)
			if got := described(said.Leases); !slices.Equal(got, c.want) {
				t.Errorf("leases are\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(c.want, "\n"))
			}
			if said.Open != 5 {
				t.Errorf("%d descriptors carry locks, want 5", said.Open)
			}
			for _, l := range said.Leases {
				if i, ok := before[l.Number]; c.numbers && (!ok || i.Resource != l.Resource || i.Owners[0] != l.Owner) {
					t.Errorf("lease %+v was %+v", l, i)
				}
			}
			_ = prober.Process.Kill()
			if rest, _ := prober.lines.ReadString('\n'); rest != "" {
				t.Errorf("prober says %q", rest)
			}
		})
	}
}

func stateFile(t *testing.T, dir string) map[uint64]leases.Inherited {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(dir, "state"))
	if err != nil {
		t.Fatal(err)
	}
	var all []leases.Inherited
	if err := json.Unmarshal(text, &all); err != nil {
		t.Fatal(err)
	}
	out := map[uint64]leases.Inherited{}
	for _, i := range all {
		out[i.Number] = i
	}
	return out
}

// virtlockdRole has POSIX locks as libvirt's daemon does, of owners of which it knows no more than the process, and becomes ours.
func virtlockdRole(dir string) error {
	space := filepath.Join(dir, "locks")
	if err := os.MkdirAll(space, 0o700); err != nil {
		return err
	}
	parent := leases.Owner{Classic: true, Process: process.ID{PID: int32(os.Getppid())}}
	gone := exec.Command("true")
	if err := gone.Run(); err != nil {
		return err
	}
	dead := leases.Owner{Classic: true, Process: process.ID{PID: int32(gone.Process.Pid)}}
	var state []leases.Inherited
	for _, r := range []struct {
		disk   string
		mode   lockspace.Mode
		owners []leases.Owner
	}{
		{"/one", lockspace.Exclusive, []leases.Owner{parent}},
		{"/shared", lockspace.Shared, []leases.Owner{parent, parent, dead}},
		{"/dead", lockspace.Exclusive, []leases.Owner{dead}},
	} {
		i := leases.Inherited{Resource: lockspace.ForDisk(space, r.disk, r.mode), Owners: r.owners}
		kind := int16(unix.F_WRLCK)
		if r.mode == lockspace.Shared {
			kind = unix.F_RDLCK
		}
		fd, err := unix.Open(i.Resource.Path(), unix.O_RDWR|unix.O_CREAT, 0o600)
		if err == nil {
			err = unix.FcntlFlock(uintptr(fd), unix.F_SETLK, &unix.Flock_t{Type: kind, Len: 1})
		}
		if err != nil {
			return err
		}
		i.FD = fd
		state = append(state, i)
	}
	text, err := json.Marshal(state)
	if err != nil {
		return err
	}
	err = errors.Join(os.WriteFile(filepath.Join(dir, "state"), text, 0o600), os.WriteFile(filepath.Join(dir, "complete"), nil, 0o600))
	if err != nil {
		return err
	}
	// The journal of an earlier time, when the lease was somebody's that has released it from virtlockd meanwhile.
	table, err := daemonTable(dir)
	if err != nil {
		return err
	}
	stale := []leases.Want{{Resource: lockspace.ForDisk(space, "/stale", lockspace.Exclusive)}}
	if _, err := table.Acquire(context.Background(), guest(9, 1), stale); err != nil {
		return err
	}
	if err := table.Close(); err != nil {
		return err
	}
	return become("daemon again", dir)
}

func TestPOSIXLocksOfAnotherDaemonAreTakenOver(t *testing.T) {
	dir := t.TempDir()
	daemon := start(t, "virtlockd", dir)
	said := daemon.says(t)
	want := []string{"/one exclusive  held posix", "/shared shared  held posix", "/shared shared  held posix"}
	if got := described(said.Leases); !slices.Equal(got, want) {
		t.Errorf("leases are %q, want %q", got, want)
	}
	space := filepath.Join(dir, "locks")
	for disk, mode := range map[string]lockspace.Mode{"/one": lockspace.Shared, "/shared": lockspace.Exclusive} {
		_, err := lockspace.Take(lockspace.ForDisk(space, disk, mode))
		var busy *lockspace.BusyError
		if !errors.As(err, &busy) || busy.PID != daemon.Process.Pid {
			t.Errorf("Take of %s: %v, want held by process %d", disk, err, daemon.Process.Pid)
		}
	}
	if _, err := os.Stat(lockspace.ForDisk(space, "/dead", false).Path()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("lock file of a dead owner: %v", err)
	}
}

// The kernel tells real paths, whatever the journal calls a file.
func TestUndescribedLockIsFoundInTheJournalByItsFile(t *testing.T) {
	r := newRig(t)
	real := r.direct("image")
	alias := filepath.Join(r.dir, "alias")
	if err := os.Symlink(real.Path(), alias); err != nil {
		t.Fatal(err)
	}
	o, disk := guest(1, 1), lockspace.ForDisk("", alias, lockspace.Exclusive)
	r.mustAcquire(o, disk, r.disk("a", lockspace.Exclusive))
	r.close()
	lock, err := lockspace.Take(disk)
	if err != nil {
		t.Fatal(err)
	}
	in, err := leases.Orphans()
	if err != nil {
		t.Fatal(err)
	}
	if r.Table, err = leases.TakeOver(r.path, hclog.NewNullLogger(), in); err != nil {
		t.Fatal(err)
	}
	if err := r.Recovered(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, l := range r.List() {
		if l.Owner.Name != o.Name || l.State != leases.Held {
			t.Errorf("lease %+v", l)
		}
	}
	state, err := r.Handover(t.Context())
	r.Resume()
	if err != nil || len(state) != 2 || state[0].FD != lock.Descriptor() {
		t.Errorf("locks are %+v, %v", state, err)
	}
}

// A lock that nobody describes goes to the guest that proves to have it.
func TestUnknownOwnersLockIsReclaimedByProof(t *testing.T) {
	for _, how := range []string{"process", "descriptor", "no proof"} {
		t.Run(how, func(t *testing.T) {
			r := newRig(t)
			o, disk := guest(1, 1), r.disk("a", lockspace.Exclusive)
			lock, err := lockspace.Take(disk)
			if err != nil {
				t.Fatal(err)
			}
			dup, err := lock.Duplicate()
			if err != nil {
				t.Fatal(err)
			}
			defer dup.Close()
			r.close()
			in := leases.Inheritance{Locks: []leases.Inherited{{FD: lock.Descriptor(), Resource: lockspace.Resource{Name: disk.Path()}}}}
			table, err := leases.TakeOver(r.path, hclog.NewNullLogger(), in)
			if err != nil {
				t.Fatal(err)
			}
			r.Table = table
			if all := r.List(); len(all) != 1 || !all[0].Owner.Unknown || all[0].State != leases.Held {
				t.Fatalf("leases are %+v", all)
			}
			want := leases.Want{Resource: disk}
			switch how {
			case "process":
				o.Process, _ = sleeper(t, dup)
			case "descriptor":
				want.File = dup
			case "no proof":
				other := guest(2, 1)
				other.Process, _ = sleeper(t)
				if err := r.acquire(other, disk); !strings.Contains(fmt.Sprint(err), "unknown owner") {
					t.Errorf("Acquire without proof: %v", err)
				}
				return
			}
			if _, err := r.Acquire(t.Context(), o, []leases.Want{want}); err != nil {
				t.Fatal(err)
			}
			r.expect(map[string]leases.State{"a": leases.Held})
			if how == "process" {
				r.restart()
			}
			if all := r.List(); len(all) != 1 || all[0].Owner.Name != o.Name {
				t.Errorf("leases are %+v", all)
			}
			r.mustRelease(o, 1)
			if _, err := os.Stat(disk.Path()); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("lock file is left: %v", err)
			}
		})
	}
}

func TestHandoverHoldsChangesBack(t *testing.T) {
	r := newRig(t)
	o := guest(1, 1)
	r.mustAcquire(o, r.disk("a", lockspace.Exclusive))
	state, err := r.Handover(t.Context())
	if err != nil || len(state) != 1 {
		t.Fatalf("Handover: %v, %v", state, err)
	}
	if flags, err := unix.FcntlInt(uintptr(state[0].FD), unix.F_GETFD, 0); err != nil || flags&unix.FD_CLOEXEC != 0 {
		t.Errorf("descriptor does not survive: flags %d, %v", flags, err)
	}
	if _, err := r.Handover(t.Context()); !errors.Is(err, leases.ErrHandover) {
		t.Errorf("second Handover: %v", err)
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := r.Release(ctx, o, nil); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Release during a handover: %v", err)
	}
	done := make(chan error, 1)
	go func() { done <- r.acquire(guest(2, 1), r.disk("b", lockspace.Exclusive)) }()
	select {
	case err := <-done:
		t.Errorf("Acquire during a handover: %v", err)
	case <-time.After(20 * time.Millisecond):
	}
	r.expect(map[string]leases.State{"a": leases.Held})
	r.Resume()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if flags, err := unix.FcntlInt(uintptr(state[0].FD), unix.F_GETFD, 0); err != nil || flags&unix.FD_CLOEXEC == 0 {
		t.Errorf("descriptor would still survive: flags %d, %v", flags, err)
	}
	r.expect(map[string]leases.State{"a": leases.Held, "b": leases.Held})
}

func TestForcedReleaseEndsAnybodysLease(t *testing.T) {
	r := newRig(t)
	o, disk := guest(1, 1), r.disk("a", lockspace.Exclusive)
	r.mustAcquire(o, disk)
	r.run(o, disk)
	number := r.List()[0].Number
	was, err := r.ForceRelease(t.Context(), number)
	if err != nil || was.Owner.Name != o.Name || was.State != leases.Held {
		t.Fatalf("ForceRelease: %+v, %v", was, err)
	}
	r.expect(nil)
	// The guest lives and has a duplicate, which holds nothing any more.
	r.mustAcquire(guest(2, 1), disk)
	for _, n := range []uint64{number, 99} {
		if _, err := r.ForceRelease(t.Context(), n); !errors.Is(err, leases.ErrNotHeld) {
			t.Errorf("ForceRelease of lease %d: %v, want ErrNotHeld", n, err)
		}
	}
}
