package leases_test

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/hashicorp/go-hclog"
	"go.uber.org/goleak"

	"github.com/lodgevirt/lodge/host/internal/lockspace"
	"github.com/lodgevirt/lodge/host/internal/lockspace/leases"
	"github.com/lodgevirt/lodge/host/internal/lockspace/process"
)

func TestMain(m *testing.M) {
	if role := os.Getenv(roleVariable); role != "" {
		runRole(role)
		return
	}
	goleak.VerifyTestMain(m)
}

// rig is a folder with a journal, a lockspace and a table that can be opened again.
type rig struct {
	*leases.Table
	t    *testing.T
	path string
	dir  string
}

func newRig(t *testing.T) *rig {
	t.Helper()
	r := &rig{t: t, path: filepath.Join(t.TempDir(), "journal"), dir: t.TempDir()}
	r.open()
	t.Cleanup(r.close)
	return r
}

func (r *rig) open() {
	r.t.Helper()
	table, err := leases.Open(r.path, hclog.NewNullLogger())
	if err != nil {
		r.t.Fatal(err)
	}
	if err := table.Recovered(r.t.Context()); err != nil {
		r.t.Fatal(err)
	}
	r.Table = table
}

func (r *rig) close() {
	if err := r.Close(); err != nil {
		r.t.Error(err)
	}
}

// restart ends the table, which leaves the locks to whoever has duplicates, and opens it again.
func (r *rig) restart() {
	r.t.Helper()
	r.close()
	r.open()
}

func (r *rig) disk(name string, mode lockspace.Mode) lockspace.Resource {
	return lockspace.ForDisk(r.dir, "/images/"+name, mode)
}

func (r *rig) acquire(o leases.Owner, resources ...lockspace.Resource) error {
	wants := make([]leases.Want, len(resources))
	for i, res := range resources {
		wants[i].Resource = res
	}
	_, err := r.Acquire(r.t.Context(), o, wants)
	return err
}

func (r *rig) mustAcquire(o leases.Owner, resources ...lockspace.Resource) {
	r.t.Helper()
	if err := r.acquire(o, resources...); err != nil {
		r.t.Fatal(err)
	}
}

// states returns the states of all leases by disk.
func (r *rig) states() map[string]leases.State {
	out := map[string]leases.State{}
	for _, l := range r.List() {
		out[filepath.Base(l.Resource.Disk)] = l.State
	}
	return out
}

func (r *rig) expect(want map[string]leases.State) {
	r.t.Helper()
	got := r.states()
	if len(got) != len(want) {
		r.t.Fatalf("leases are %v, want %v", got, want)
	}
	for disk, state := range want {
		if got[disk] != state {
			r.t.Fatalf("lease of %q is %v, want %v", disk, got[disk], state)
		}
	}
}

func guest(n byte, generation uint64) leases.Owner {
	return leases.Owner{UUID: uuid.UUID{n}, Name: "guest" + string('0'+rune(n)), Generation: generation}
}

// sleeper starts a process that inherits files, and returns its identity and its end.
func sleeper(t testing.TB, files ...*os.File) (process.ID, func()) {
	t.Helper()
	cmd := exec.Command("sleep", "600")
	cmd.ExtraFiles = files
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	id, err := process.Find(int32(cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	ended := false
	end := func() {
		if !ended {
			ended = true
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
		}
	}
	t.Cleanup(end)
	return id, end
}

// run makes a guest's process that has inherited the locks of its resources, and tells the table.
func (r *rig) run(o leases.Owner, resources ...lockspace.Resource) (end func()) {
	r.t.Helper()
	files, err := r.Files(r.t.Context(), o, resources)
	if err != nil {
		r.t.Fatal(err)
	}
	id, end := sleeper(r.t, files...)
	for _, f := range files {
		f.Close()
	}
	o.Process = id
	if err := r.SetProcess(r.t.Context(), o); err != nil {
		r.t.Fatal(err)
	}
	return end
}

// eventually waits for something that the table does by itself.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for give := time.Now().Add(20 * time.Second); !ok(); {
		if time.Now().After(give) {
			t.Fatal(what)
		}
		pause()
	}
}

func TestSecondGuestOnADiskIsRefusedByName(t *testing.T) {
	r := newRig(t)
	first := guest(1, 1)
	r.mustAcquire(first, r.disk("a", lockspace.Exclusive))
	end := r.run(first, r.disk("a", lockspace.Exclusive))
	err := r.acquire(guest(2, 1), r.disk("b", lockspace.Exclusive), r.disk("a", lockspace.Shared))
	var busy *leases.BusyError
	if !errors.As(err, &busy) || busy.Holder == nil || busy.PID == 0 {
		t.Fatalf("Acquire: %v", err)
	}
	for _, word := range []string{"/images/a", "guest1", first.UUID.String(), "process"} {
		if !strings.Contains(err.Error(), word) {
			t.Errorf("error %q does not name %q", err, word)
		}
	}
	r.expect(map[string]leases.State{"a": leases.Held})
	if _, err := os.Stat(r.disk("b", lockspace.Exclusive).Path()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the lock of the other disk was left behind: %v", err)
	}
	end()
	eventually(t, "lock of a dead guest is never free", func() bool { return len(r.List()) == 0 })
	r.mustAcquire(guest(2, 1), r.disk("a", lockspace.Exclusive))
}

func TestGrants(t *testing.T) {
	r := newRig(t)
	ex, sh := r.disk("a", lockspace.Exclusive), r.disk("a", lockspace.Shared)
	r.mustAcquire(guest(1, 1), ex)
	for _, c := range []struct {
		name  string
		owner leases.Owner
		want  lockspace.Resource
		busy  bool
	}{
		{name: "the same again", owner: guest(1, 1), want: ex},
		{name: "the same in another mode", owner: guest(1, 1), want: sh, busy: true},
		{name: "another generation", owner: guest(1, 2), want: ex, busy: true},
		{name: "another guest", owner: guest(2, 1), want: ex, busy: true},
		{name: "a shared lock of another guest", owner: guest(2, 1), want: sh, busy: true},
		{name: "another disk", owner: guest(2, 1), want: r.disk("b", lockspace.Shared)},
		{name: "sharing", owner: guest(3, 1), want: r.disk("b", lockspace.Shared)},
		{name: "alone what is shared", owner: guest(4, 1), want: r.disk("b", lockspace.Exclusive), busy: true},
	} {
		err := r.acquire(c.owner, c.want)
		if errors.As(err, new(*leases.BusyError)) != c.busy || (err != nil) != c.busy {
			t.Errorf("%s: %v", c.name, err)
		}
	}
	if n := len(r.List()); n != 3 {
		t.Errorf("%d leases, want 3", n)
	}
}

func TestReleaseNeedsUUIDAndGeneration(t *testing.T) {
	r := newRig(t)
	r.mustAcquire(guest(1, 7), r.disk("a", lockspace.Exclusive), r.disk("b", lockspace.Exclusive))
	for _, stranger := range []leases.Owner{guest(1, 6), guest(1, 8), guest(2, 7)} {
		if n, err := r.Release(t.Context(), stranger, nil); n != 0 || err != nil {
			t.Errorf("release by %v ended %d leases, error %v", stranger, n, err)
		}
	}
	one := []lockspace.Resource{r.disk("a", lockspace.Exclusive)}
	for _, want := range []int{1, 0} {
		if n, err := r.Release(t.Context(), guest(1, 7), one); n != want || err != nil {
			t.Errorf("release of one ended %d leases, error %v, want %d", n, err, want)
		}
	}
	r.expect(map[string]leases.State{"b": leases.Held})
	if n, err := r.Release(t.Context(), guest(1, 7), nil); n != 1 || err != nil {
		t.Errorf("release of all ended %d leases, error %v", n, err)
	}
}

func TestTwoNamesOfOneFileConflict(t *testing.T) {
	r := newRig(t)
	image := filepath.Join(r.dir, "image")
	if err := os.WriteFile(image, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	alias := filepath.Join(r.dir, "alias")
	if err := os.Symlink(image, alias); err != nil {
		t.Fatal(err)
	}
	r.mustAcquire(guest(1, 1), lockspace.ForDisk("", image, lockspace.Exclusive))
	err := r.acquire(guest(2, 1), lockspace.ForDisk("", alias, lockspace.Exclusive))
	var busy *leases.BusyError
	if !errors.As(err, &busy) || busy.Holder == nil || busy.Holder.Name != "guest1" {
		t.Errorf("Acquire of an alias: %v", err)
	}
}

func TestRestartTakesLocksBack(t *testing.T) {
	r := newRig(t)
	local, remote := guest(1, 1), guest(2, 1)
	r.mustAcquire(local, r.disk("local", lockspace.Exclusive), r.disk("shared", lockspace.Shared))
	end := r.run(local, r.disk("local", lockspace.Exclusive), r.disk("shared", lockspace.Shared))
	r.mustAcquire(remote, r.disk("remote", lockspace.Exclusive))
	for range 3 {
		r.restart()
		r.expect(map[string]leases.State{"local": leases.Held, "shared": leases.Held, "remote": leases.Held})
	}
	if err := r.acquire(guest(3, 1), r.disk("remote", lockspace.Exclusive)); err == nil {
		t.Error("lock of a remote guest was free after a restart")
	}
	r.close()
	end()
	r.open()
	r.expect(map[string]leases.State{"remote": leases.Held})
	if _, err := os.Stat(r.disk("local", lockspace.Exclusive).Path()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("lock file of a dead guest is left: %v", err)
	}
}

func TestLockOfAnUnknownDescriptorIsUnprovenUntilAdopted(t *testing.T) {
	for _, how := range []string{"descriptor", "process", "owner ends"} {
		t.Run(how, func(t *testing.T) {
			r := newRig(t)
			o, disk := guest(1, 1), r.disk("a", lockspace.Exclusive)
			r.mustAcquire(o, disk)
			files, err := r.Files(t.Context(), o, []lockspace.Resource{disk})
			if err != nil {
				t.Fatal(err)
			}
			defer files[0].Close()
			r.restart()
			r.expect(map[string]leases.State{"a": leases.Unproven})
			if err := r.acquire(guest(2, 1), disk); !errors.As(err, new(*leases.BusyError)) {
				t.Errorf("Acquire by another: %v", err)
			}
			switch how {
			case "descriptor":
				_, err = r.Acquire(t.Context(), o, []leases.Want{{Resource: disk, File: files[0]}})
			case "process":
				o.Process, _ = sleeper(t, files[0])
				err = r.SetProcess(t.Context(), o)
			case "owner ends":
				files[0].Close()
				eventually(t, "free lock is not taken again", func() bool { return r.states()["a"] == leases.Held })
			}
			if err != nil {
				t.Fatal(err)
			}
			r.expect(map[string]leases.State{"a": leases.Held})
		})
	}
}

func TestLockThatAnotherProgramHasIsLost(t *testing.T) {
	r := newRig(t)
	disk := r.disk("a", lockspace.Exclusive)
	r.mustAcquire(guest(1, 1), disk)
	r.close()
	id := posixLock(t, disk.Path())
	r.open()
	r.expect(map[string]leases.State{"a": leases.Lost})
	if l := r.List()[0]; !strings.Contains(l.Detail, "process") || l.Detail == "" {
		t.Errorf("detail %q does not name process %d", l.Detail, id)
	}
	if n, err := r.Release(t.Context(), guest(1, 1), nil); n != 1 || err != nil {
		t.Errorf("release of a lost lease: %d, %v", n, err)
	}
	if _, err := os.Stat(disk.Path()); err != nil {
		t.Errorf("file that another program has locked was removed: %v", err)
	}
}

func TestAdoptionWithoutJournal(t *testing.T) {
	r := newRig(t)
	o, disk := guest(1, 1), r.disk("a", lockspace.Exclusive)
	r.mustAcquire(o, disk)
	end := r.run(o, disk)
	o.Process = r.List()[0].Owner.Process
	r.close()
	if err := os.Remove(r.path); err != nil {
		t.Fatal(err)
	}
	r.open()
	if err := r.acquire(guest(2, 1), disk); !errors.As(err, new(*leases.BusyError)) {
		t.Fatalf("lock of a living guest was free: %v", err)
	}
	r.mustAcquire(o, disk)
	r.expect(map[string]leases.State{"a": leases.Held})
	end()
	eventually(t, "lock of a dead guest is never free", func() bool { return len(r.List()) == 0 })
}

func TestFailedAdoptionLeavesTheGuestItsLocks(t *testing.T) {
	r := newRig(t)
	o, mine, others := guest(1, 1), r.disk("mine", lockspace.Exclusive), r.disk("others", lockspace.Exclusive)
	r.mustAcquire(o, mine)
	files, err := r.Files(t.Context(), o, []lockspace.Resource{mine})
	if err != nil {
		t.Fatal(err)
	}
	defer files[0].Close()
	r.close()
	if err := os.Remove(r.path); err != nil {
		t.Fatal(err)
	}
	r.open()
	r.mustAcquire(guest(2, 1), others)
	lock, err := lockspace.Take(r.disk("third", lockspace.Exclusive))
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close()
	// The kernel's refusal of the third comes after the first was adopted.
	wants := []leases.Want{{Resource: mine, File: files[0]}, {Resource: r.disk("third", lockspace.Exclusive)}}
	if _, err := r.Acquire(t.Context(), o, wants); !errors.As(err, new(*leases.BusyError)) {
		t.Fatalf("Acquire: %v", err)
	}
	r.expect(map[string]leases.State{"others": leases.Held})
	if err := r.acquire(guest(3, 1), mine); !errors.As(err, new(*leases.BusyError)) {
		t.Errorf("the guest has lost its lock: %v", err)
	}
}

func TestProcessThatIsGoneChangesNothing(t *testing.T) {
	r := newRig(t)
	o := guest(1, 1)
	r.mustAcquire(o, r.disk("a", lockspace.Exclusive))
	id, end := sleeper(t)
	end()
	o.Process = id
	if err := r.SetProcess(t.Context(), o); !errors.Is(err, process.ErrGone) {
		t.Errorf("SetProcess: %v, want ErrGone", err)
	}
	r.expect(map[string]leases.State{"a": leases.Held})
}

func TestNewLifeUnderTheNameOfADeadOneKeepsItsLocks(t *testing.T) {
	r := newRig(t)
	o, disk := guest(1, 1), r.disk("a", lockspace.Exclusive)
	for range 30 {
		r.mustAcquire(o, disk)
		end := r.run(o, disk)
		r.close()
		end()
		// The watch of the dead process and the mender run beside the new life's call.
		table, err := leases.Open(r.path, hclog.NewNullLogger())
		if err != nil {
			t.Fatal(err)
		}
		r.Table = table
		r.mustAcquire(o, disk)
		if err := r.Recovered(t.Context()); err != nil {
			t.Fatal(err)
		}
		r.expect(map[string]leases.State{"a": leases.Held})
		end = r.run(o, disk)
		end()
		r.mustAcquire(o, disk)
		pause()
		r.expect(map[string]leases.State{"a": leases.Held})
		if n, err := r.Release(t.Context(), o, nil); n != 1 || err != nil {
			t.Fatalf("release ended %d leases, error %v", n, err)
		}
	}
}

func TestSharedLockIsNamedAfterWhoeverIsLeft(t *testing.T) {
	r := newRig(t)
	image := filepath.Join(r.dir, "image")
	if err := os.WriteFile(image, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	alias := filepath.Join(r.dir, "alias")
	if err := os.Symlink(image, alias); err != nil {
		t.Fatal(err)
	}
	shared := lockspace.ForDisk("", image, lockspace.Shared)
	r.mustAcquire(guest(1, 1), shared)
	r.mustAcquire(guest(2, 1), shared)
	if _, err := r.Release(t.Context(), guest(2, 1), nil); err != nil {
		t.Fatal(err)
	}
	err := r.acquire(guest(3, 1), lockspace.ForDisk("", alias, lockspace.Exclusive))
	var busy *leases.BusyError
	if !errors.As(err, &busy) || busy.Holder == nil || busy.Holder.Name != "guest1" {
		t.Errorf("Acquire of an alias: %v", err)
	}
}

func TestClosedTableRefuses(t *testing.T) {
	r := newRig(t)
	r.close()
	if err := r.acquire(guest(1, 1), r.disk("a", lockspace.Exclusive)); !errors.Is(err, leases.ErrClosed) {
		t.Errorf("Acquire: %v, want ErrClosed", err)
	}
}

func TestContextEndsTheWaitForATurn(t *testing.T) {
	r := newRig(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	// With a dead context either the turn is free or the context's error comes back; nothing is left in both cases.
	if _, err := r.Release(ctx, guest(1, 1), nil); err != nil && !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}
