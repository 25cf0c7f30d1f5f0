package reexec

import (
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"github.com/hashicorp/go-hclog"
	"golang.org/x/sys/unix"

	"github.com/lodgevirt/lodge/host/internal/lockspace"
	"github.com/lodgevirt/lodge/host/internal/lockspace/leases"
	"github.com/lodgevirt/lodge/host/internal/lockspace/process"
	"github.com/lodgevirt/lodge/host/internal/lockstate"
)

var (
	guest   = leases.Owner{UUID: uuid.UUID{1}, Name: "guest", ID: 3, Generation: 4, Process: process.ID{PID: 77, StartTime: 88}}
	asleep  = leases.Owner{UUID: uuid.UUID{2}, Name: "asleep", Generation: 1}
	classic = leases.Owner{UUID: uuid.UUID{3}, Name: "classic", ID: 9, Classic: true, Process: process.ID{PID: 99, StartTime: 5}}
	since   = time.UnixMilli(1_234_567_890_123).UTC()
)

// some are locks of every kind, on descriptors that are given.
func some(fds [6]int) []leases.Inherited {
	shared := lockspace.Resource{Lockspace: "/locks", Name: "shared", Mode: lockspace.Shared, Temporary: true}
	return []leases.Inherited{
		{FD: fds[0], Number: 3, Resource: lockspace.Resource{Name: "/images/a"}, Owners: []leases.Owner{guest}, Exclusive: true, Since: since},
		{FD: fds[1], Number: 4, Resource: lockspace.ForDisk("/locks", "/images/b", lockspace.Exclusive), Owners: []leases.Owner{asleep}, Exclusive: true, Since: since},
		{FD: fds[2], Number: 5, Resource: shared, Owners: []leases.Owner{classic}, Since: since, Others: []int{40, 41}},
		{FD: fds[2], Number: 6, Resource: shared, Owners: []leases.Owner{classic}, Since: since},
		{FD: fds[3], Number: 7, Resource: shared, Owners: []leases.Owner{guest}, Since: since},
		{FD: fds[4], Number: 8, Resource: lockspace.Resource{Name: "/orphan"}, Owners: []leases.Owner{{Unknown: true}}, Exclusive: true, Since: since},
	}
}

func TestLocksAreDescribedForBothDaemons(t *testing.T) {
	locks := some([6]int{10, 11, 12, 13, 14})
	var state lockstate.State
	mine := own{Version: version}
	lockspaces(&state, &mine, locks, []string{"/locks", "/more"})
	text, err := json.Marshal(mine)
	if err != nil {
		t.Fatal(err)
	}
	var again own
	if err := json.Unmarshal(text, &again); err != nil {
		t.Fatal(err)
	}
	if got, err := again.inherited(); err != nil || !cmp.Equal(got, locks) {
		t.Errorf("ours: %v (-want +got)\n%s", err, cmp.Diff(locks, got))
	}
	name := lockspace.ForDisk("", "/images/b", lockspace.Exclusive)
	hash := lockspace.ForDisk("/locks", name.Name, lockspace.Exclusive).Name
	want := lockstate.State{
		Default: lockstate.Lockspace{Resources: []lockstate.Resource{
			{Name: "/images/a", Path: "/images/a", FD: 10, Held: true, Owners: []int64{77}},
			{Name: "/orphan", Path: "/orphan", FD: 14, Held: true},
		}},
		Lockspaces: []lockstate.Lockspace{
			{Directory: "/locks", Resources: []lockstate.Resource{
				{Name: hash, Path: "/locks/" + hash, FD: 11, Held: true, Flags: 2},
				{Name: "shared", Path: "/locks/shared", FD: 12, Held: true, Flags: 3, Owners: []int64{99, 99, 77}},
			}},
			{Directory: "/more"},
		},
	}
	if diff := cmp.Diff(want, state); diff != "" {
		t.Errorf("virtlockd's (-want +got)\n%s", diff)
	}
}

func TestLockOutsideOfTheKnownLockspacesIsAPaths(t *testing.T) {
	var state lockstate.State
	mine := own{Version: version}
	strange := leases.Inherited{FD: 10, Number: 1, Resource: lockspace.Resource{Lockspace: "/nowhere", Name: "x"}, Owners: []leases.Owner{guest}}
	lockspaces(&state, &mine, []leases.Inherited{strange}, nil)
	got, err := mine.inherited()
	if err != nil || len(got) != 1 || got[0].Resource.Path() != "/nowhere/x" || got[0].Resource.Lockspace != "" {
		t.Errorf("%+v, %v", got, err)
	}
}

// files are open files with names.
func files(t *testing.T, n int) (fds []int, paths []string) {
	t.Helper()
	dir := t.TempDir()
	for i := range n {
		f, err := os.Create(filepath.Join(dir, fmt.Sprint(i)))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { f.Close() })
		fds, paths = append(fds, int(f.Fd())), append(paths, f.Name())
	}
	return fds, paths
}

// find saves a state and returns what a successor makes of it, without looking at the descriptors of this process.
func find(t *testing.T, state *lockstate.State) *Predecessor {
	t.Helper()
	p := &Predecessor{log: hclog.NewNullLogger(), at: Places{State: filepath.Join(t.TempDir(), "state")}, used: map[int]bool{}, pidFile: -1}
	state.Magic = strconv.Itoa(os.Getpid())
	if err := lockstate.Save(p.at.State, state); err != nil {
		t.Fatal(err)
	}
	if !lockstate.Names(p.at.State, state.Magic) || !Expected(p.at.State) {
		t.Error("the state is not expected")
	}
	p.load()
	if _, err := os.Stat(p.at.State); !os.IsNotExist(err) {
		t.Errorf("state is left behind: %v", err)
	}
	return p
}

func TestOwnersOfVirtlockdsLocksGetWhatItsClientsHaveSaid(t *testing.T) {
	fds, _ := files(t, 2)
	private, err := json.Marshal(lockstate.Private{OwnerPID: 26000, OwnerID: 7, OwnerName: "guestA", OwnerUUID: guest.UUID.String()})
	if err != nil {
		t.Fatal(err)
	}
	unregistered, err := json.Marshal(lockstate.Private{OwnerUUID: uuid.Nil.String()})
	if err != nil {
		t.Fatal(err)
	}
	p := find(t, &lockstate.State{
		Daemon: lockstate.Daemon{Servers: []lockstate.Server{{
			Name: "virtlockd", Clients: []lockstate.Client{{Private: unregistered}, {Private: private}},
		}}},
		Default: lockstate.Lockspace{Resources: []lockstate.Resource{
			{Name: "relative", Path: "relative", FD: int32(fds[1]), Held: true, Owners: []int64{1}},
		}},
		Lockspaces: []lockstate.Lockspace{{Directory: "/locks", Resources: []lockstate.Resource{
			{Name: "a", Path: "/locks/a", FD: int32(fds[0]), Held: true, Flags: 3, Owners: []int64{26000, 26000, 5}},
			{Name: "../out", Path: "/locks/../out", FD: int32(fds[0]), Held: true, Flags: 2},
			{Name: "b", Path: "/locks/b", FD: 1 << 20, Held: true},
		}}},
	})
	known := leases.Owner{UUID: guest.UUID, Name: "guestA", ID: 7, Classic: true, Process: process.ID{PID: 26000}}
	unknown := func(pid int32) leases.Owner { return leases.Owner{Classic: true, Process: process.ID{PID: pid}} }
	target, err := os.Readlink(fmt.Sprint("/proc/self/fd/", fds[1]))
	if err != nil {
		t.Fatal(err)
	}
	want := leases.Inheritance{
		Complete: true, Spaces: []string{"/locks"},
		Locks: []leases.Inherited{
			// A name that we would refuse becomes the file's.
			{FD: fds[1], Resource: lockspace.Resource{Name: target}, Owners: []leases.Owner{unknown(1)}, Exclusive: true},
			{
				FD: fds[0], Resource: lockspace.Resource{Lockspace: "/locks", Name: "a", Mode: lockspace.Shared, Temporary: true},
				Owners: []leases.Owner{known, known, unknown(5)},
			},
			{FD: fds[0], Resource: lockspace.Resource{Name: "/out", Temporary: true}, Exclusive: true},
		},
	}
	if diff := cmp.Diff(want, p.Leases()); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	// One descriptor is none.
	if !p.doubtful || !p.Left() || p.PIDFile() != -1 {
		t.Errorf("%+v", p)
	}
}

func TestOwnPartIsBelievedFirst(t *testing.T) {
	fds, _ := files(t, 6)
	state := &lockstate.State{}
	mine := own{Version: version, PIDFile: 42}
	locks := some([6]int(fds))
	lockspaces(state, &mine, locks, []string{"/locks"})
	text, err := json.Marshal(mine)
	if err != nil {
		t.Fatal(err)
	}
	state.Own = text
	p := find(t, state)
	want := leases.Inheritance{Locks: locks, Spaces: []string{"/locks"}}
	if diff := cmp.Diff(want, p.Leases()); diff != "" || p.PIDFile() != 42 || p.doubtful {
		t.Errorf("pid file %d, doubtful %v (-want +got)\n%s", p.PIDFile(), p.doubtful, diff)
	}
	// Without it there is less to know, but nothing is over.
	mine.Version = version + 1
	if state.Own, err = json.Marshal(mine); err != nil {
		t.Fatal(err)
	}
	p = find(t, state)
	if in := p.Leases(); in.Complete || len(in.Locks) != 4 || p.PIDFile() != -1 {
		t.Errorf("of a version to come: pid file %d, %+v", p.PIDFile(), in)
	}
}

func TestDescriptorsAreWhatTheyAreFoundToBe(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "sock")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	conn, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	accepted, err := l.AcceptUnix()
	if err != nil {
		t.Fatal(err)
	}
	defer accepted.Close()
	tcp, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer tcp.Close()
	number := func(c interface {
		File() (*os.File, error)
	},
	) int {
		f, err := c.File()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { f.Close() })
		return int(f.Fd())
	}
	plain, _ := files(t, 1)
	listener, client, other := number(l), number(accepted), number(tcp.(*net.TCPListener))
	for _, c := range []struct {
		name    string
		fd      int
		listens bool
		ok      bool
	}{
		{"a listener", listener, true, true},
		{"a listener, again", listener, true, false},
		{"a connection", client, false, true},
		{"a listener of another kind", other, true, false},
		{"a file", plain[0], true, false},
		{"nothing", 1 << 20, false, false},
		{"a negative number", -1, false, false},
	} {
		p := &Predecessor{used: map[int]bool{}}
		if c.name == "a listener, again" {
			p.used[c.fd] = true
		}
		got, err := p.claim(c.fd, c.listens)
		if (err == nil) != c.ok || (c.ok && got != path) || p.doubtful == c.ok {
			t.Errorf("%s: %q, %v, doubtful %v", c.name, got, err, p.doubtful)
		}
		if _, err := (&Predecessor{used: map[int]bool{}}).claim(c.fd, !c.listens); err == nil {
			t.Errorf("%s is the other kind too", c.name)
		}
	}
}

func TestProgramIsTheOneThatIsInstalledNow(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "daemon")
	if err := os.WriteFile(path, nil, 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir)
	for name, want := range map[string]string{
		"daemon": path, path: path, "missing": self, filepath.Join(dir, "missing"): self,
	} {
		if got := (&Program{Args: []string{name}, Log: hclog.NewNullLogger()}).find(); got != want {
			t.Errorf("%s is %s, want %s", name, got, want)
		}
	}
}

func TestKernelsThatDropPOSIXLocksAreKnown(t *testing.T) {
	for release, want := range map[string]bool{
		"5.10.0-30-amd64": false, "4.19.1": false, "5.11.0": true, "5.11-rc1": true, "6.1.187": true, "6.18.44+": true, "10.0": true, "strange": true, "": true,
	} {
		if got := keepsPOSIX(release); got != want {
			t.Errorf("%q keeps them: %v", release, got)
		}
	}
}

func TestDescriptorsThatAreKeptAreNotWhenNothingComesOfIt(t *testing.T) {
	fds, _ := files(t, 3)
	var k keeper
	for _, fd := range fds {
		if err := k.keep(fd); err != nil {
			t.Fatal(err)
		}
	}
	if err := k.keep(1 << 20); err == nil {
		t.Error("a descriptor that is not open was kept")
	}
	check := func(want int) {
		t.Helper()
		for _, fd := range fds {
			if flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err != nil || flags != want {
				t.Errorf("descriptor %d has flags %d, %v", fd, flags, err)
			}
		}
	}
	check(0)
	k.restore(hclog.NewNullLogger())
	check(unix.FD_CLOEXEC)
}

func FuzzOwn(f *testing.F) {
	mine := own{Version: version}
	lockspaces(&lockstate.State{}, &mine, some([6]int{10, 11, 12, 13, 14}), []string{"/locks"})
	text, err := json.Marshal(mine)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(text)
	f.Add([]byte(`{"version":1,"locks":{"fd":[1],"n":[1],"owner":[-1],"space":[0],"name":[""],"flags":[0],"since":[0]}}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		var o own
		if json.Unmarshal(text, &o) != nil {
			return
		}
		locks, err := o.inherited()
		if err == nil && len(locks) != len(o.Locks.FD) {
			t.Fatalf("%d locks of %d", len(locks), len(o.Locks.FD))
		}
	})
}
