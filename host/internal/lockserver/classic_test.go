package lockserver_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/lodgevirt/lodge/host/internal/lockproto"
	"github.com/lodgevirt/lodge/host/internal/lockspace"
)

const (
	sharedFlag  = lockproto.ClassicShared
	createFlag  = lockproto.ClassicAutocreate
	unknownFlag = 4
)

// step is one call in virtlockd's program by client a or b, and what comes back.
type step struct {
	client    string
	procedure int32
	args      any
	want      verdict
}

// classicStory goes through the rules of virtlockd's program. The clients are owners of the processes pids[0] and pids[1].
func classicStory(dir string, pids [2]uint32) []step {
	on := func(name string, flags uint32) *lockproto.ResourceArgs {
		return &lockproto.ResourceArgs{Path: dir, Name: name, Flags: flags}
	}
	noID := register(pids[0])
	noID.ID = 0
	flagged := register(pids[0])
	flagged.Flags = 1
	const (
		reg, restrict, add, create, remove, acquire, release, ensure = 1, 2, 3, 4, 5, 6, 7, 8
	)
	busy, denied := verdict{87, 51}, verdict{29, 7}
	return []step{
		{"a", add, &lockproto.NewArgs{Path: dir}, verdict{55, 7}},
		{"a", acquire, on("x", 0), verdict{55, 7}},
		{"a", reg, noID, verdict{55, 7}},
		{"a", reg, flagged, verdict{8, 7}},
		{"a", reg, register(pids[0]), verdict{}},
		{"b", reg, register(pids[1]), verdict{}},
		{"a", acquire, on("x", 0), verdict{1, 7}},
		{"a", add, &lockproto.NewArgs{}, verdict{55, 7}},
		{"a", add, &lockproto.NewArgs{Path: dir, Flags: 1}, verdict{8, 7}},
		{"a", add, &lockproto.NewArgs{Path: dir}, verdict{}},
		{"b", add, &lockproto.NewArgs{Path: dir}, verdict{1, 7}},
		{"b", ensure, &lockproto.CreateLockspaceArgs{Path: dir}, verdict{}},
		{"a", acquire, on("x", 0), verdict{38, 51}},
		{"a", create, on("x", 0), verdict{}},
		{"a", create, on("x", 0), verdict{}},
		{"a", acquire, on("x", unknownFlag), verdict{8, 7}},
		{"a", acquire, on("x", 0), verdict{}},
		{"a", acquire, on("x", 0), busy},
		{"a", acquire, on("x", sharedFlag), busy},
		{"b", acquire, on("x", 0), busy},
		{"b", acquire, on("x", sharedFlag), busy},
		{"b", create, on("x", 0), busy},
		{"b", remove, on("x", 0), busy},
		{"b", release, on("x", 0), verdict{1, 51}},
		{"a", release, on("x", 0), verdict{}},
		{"a", release, on("x", 0), busy},
		{"a", remove, on("x", 0), verdict{}},
		{"a", remove, on("x", 0), verdict{}},
		{"a", acquire, on("s", sharedFlag|createFlag), verdict{}},
		{"a", acquire, on("s", sharedFlag|createFlag), verdict{}},
		{"b", acquire, on("s", sharedFlag|createFlag), verdict{}},
		{"b", acquire, on("s", createFlag), busy},
		{"a", release, on("s", 0), verdict{}},
		{"a", release, on("s", 0), verdict{}},
		{"a", release, on("s", 0), verdict{1, 51}},
		{"b", release, on("s", 0), verdict{}},
		{"a", 0, nil, verdict{39, 7}},
		{"a", 9, nil, verdict{39, 7}},
		{"a", acquire, []byte{0, 0, 0, 9, 'x'}, verdict{39, 7}},
		{"a", restrict, &lockproto.RestrictArgs{Flags: 1}, verdict{8, 7}},
		{"a", restrict, &lockproto.RestrictArgs{}, verdict{}},
		{"a", restrict, &lockproto.RestrictArgs{}, denied},
		{"a", reg, register(pids[0]), denied},
		{"a", ensure, &lockproto.CreateLockspaceArgs{Path: dir}, denied},
		{"b", acquire, on("x", createFlag), verdict{}},
	}
}

func tell(t *testing.T, socket, dir string) {
	t.Helper()
	clients := map[string]*caller{"a": mustDial(t, socket), "b": mustDial(t, socket)}
	for i, s := range classicStory(dir, [2]uint32{sleeper(t), sleeper(t)}) {
		got, err := clients[s.client].call(lockproto.ClassicProgram, s.procedure, s.args)
		if err != nil || got != s.want {
			t.Errorf("step %d, client %s, procedure %d with %+v: %v (%v), want %v", i, s.client, s.procedure, s.args, got, err, s.want)
		}
	}
}

func TestClassicProgramKeepsVirtlockdsRules(t *testing.T) {
	socket, _ := serve(t)
	tell(t, socket, filepath.Join(t.TempDir(), "locks"))
}

// startVirtlockd runs libvirt's own daemon in a mount namespace where /run/libvirt is a folder of the test's.
func startVirtlockd(t *testing.T) (socket string) {
	t.Helper()
	dir := t.TempDir()
	if _, err := exec.LookPath("virtlockd"); err != nil || os.Geteuid() != 0 {
		t.Skip("needs virtlockd and root")
	}
	cmd := exec.Command("unshare", "--mount", "--propagation", "private", "sh", "-c",
		"mkdir -p /run/libvirt && mount --bind "+dir+" /run/libvirt && exec virtlockd -p "+dir+"/pid")
	if err := cmd.Start(); err != nil {
		t.Skip("cannot start virtlockd: ", err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	socket = filepath.Join(dir, "virtlockd-sock")
	eventually(t, "virtlockd does not serve", func() bool {
		c, err := dial(socket)
		if err == nil {
			c.conn.Close()
		}
		return err == nil
	})
	return socket
}

func TestVirtlockdKeepsTheSameRules(t *testing.T) {
	tell(t, startVirtlockd(t), filepath.Join(t.TempDir(), "locks"))
}

func TestLocksConflictWithVirtlockds(t *testing.T) {
	theirs, ours := startVirtlockd(t), ""
	ours, _ = serve(t)
	image := filepath.Join(t.TempDir(), "image")
	if err := os.WriteFile(image, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name          string
		first, second string
		flags         uint32
		busy          bool
	}{
		{"virtlockd's against ours", theirs, ours, 0, true},
		{"ours against virtlockd's", ours, theirs, 0, true},
		{"both shared", ours, theirs, sharedFlag, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			args := &lockproto.ResourceArgs{Name: image, Flags: c.flags}
			take := func(socket string) verdict {
				client := mustDial(t, socket)
				if v, err := client.call(lockproto.ClassicProgram, lockproto.ClassicRegister, register(sleeper(t))); err != nil || v != (verdict{}) {
					t.Fatalf("register: %v %v", v, err)
				}
				v, err := client.call(lockproto.ClassicProgram, lockproto.ClassicAcquireResource, args)
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() {
					_, _ = client.call(lockproto.ClassicProgram, lockproto.ClassicReleaseResource, &lockproto.ResourceArgs{Name: image})
				})
				return v
			}
			if v := take(c.first); v != (verdict{}) {
				t.Fatalf("first: %v", v)
			}
			if v := take(c.second); (v == verdict{87, 51}) != c.busy {
				t.Errorf("second: %v", v)
			}
		})
	}
}

const roleVariable = "LOCKSERVER_TEST_SOCKET"

// letGo takes a lock for its own process, closes the connection and stays.
func letGo(socket, path string) {
	c, err := dial(socket)
	if err == nil {
		_, err = c.call(lockproto.ClassicProgram, lockproto.ClassicRegister, register(uint32(os.Getpid())))
	}
	if err == nil {
		_, err = c.call(lockproto.ClassicProgram, lockproto.ClassicAcquireResource, &lockproto.ResourceArgs{Name: path})
	}
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	c.conn.Close()
	time.Sleep(patience)
	os.Exit(2)
}

func TestOwnerThatLetsGoOfItsConnectionIsEnded(t *testing.T) {
	socket, table := serve(t)
	image := filepath.Join(t.TempDir(), "image")
	if err := os.WriteFile(image, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(os.Args[0], image)
	cmd.Env = append(os.Environ(), roleVariable+"="+socket)
	out, err := cmd.CombinedOutput()
	status, ok := cmd.ProcessState.Sys().(syscall.WaitStatus)
	if !ok || status.Signal() != syscall.SIGTERM {
		t.Fatalf("owner ended with %v: %s", err, out)
	}
	eventually(t, "lock of a dead owner is never free", func() bool { return len(table.List()) == 0 })
	lock, err := lockspace.Take(lockspace.Resource{Name: image})
	if err != nil {
		t.Fatal(err)
	}
	lock.Close()
}

func TestLockTakenForAnotherProcessStaysWithIt(t *testing.T) {
	socket, table := serve(t)
	image := filepath.Join(t.TempDir(), "image")
	if err := os.WriteFile(image, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	c := mustDial(t, socket)
	if v, err := c.call(lockproto.ClassicProgram, lockproto.ClassicRegister, register(sleeper(t))); err != nil || v != (verdict{}) {
		t.Fatalf("register: %v %v", v, err)
	}
	args := &lockproto.ResourceArgs{Name: image}
	if v, err := c.call(lockproto.ClassicProgram, lockproto.ClassicAcquireResource, args); err != nil || v != (verdict{}) {
		t.Fatalf("acquire: %v %v", v, err)
	}
	c.conn.Close()
	// A call on another connection comes after the server has seen the end, or shows that it changes nothing.
	other := mustDial(t, socket)
	if v, err := other.call(lockproto.Program, lockproto.Status, nil); err != nil || v != (verdict{}) {
		t.Fatalf("status: %v %v", v, err)
	}
	if n := len(table.List()); n != 1 {
		t.Errorf("%d leases, want the one", n)
	}
}
