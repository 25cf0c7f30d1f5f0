package lockserver_test

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lodgevirt/lodge/host/internal/lockproto"
	"github.com/lodgevirt/lodge/host/internal/lockserver"
	"github.com/lodgevirt/lodge/host/internal/lockspace"
	"github.com/lodgevirt/lodge/host/internal/rpc"
)

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

// letGo takes a lock for its own process, closes the connection and stays. In the role "stubborn" it does not listen to SIGTERM, and
// in the role "ends" it ends with the connection.
func letGo(socket, path, role string) {
	if role == "stubborn" {
		signal.Ignore(syscall.SIGTERM)
	}
	c, err := dial(socket)
	if err == nil {
		_, err = c.call(lockproto.ClassicProgram, lockproto.ClassicRegister, register(uint32(os.Getpid())))
	}
	if err == nil && path != "" {
		_, err = c.call(lockproto.ClassicProgram, lockproto.ClassicAcquireResource, &lockproto.ResourceArgs{Name: path})
	}
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	if role == "ends" {
		os.Exit(2)
	}
	c.conn.Close()
	time.Sleep(patience / 8)
	os.Exit(2)
}

func TestOwnerThatLetsGoOfItsConnectionIsEnded(t *testing.T) {
	image := filepath.Join(t.TempDir(), "image")
	if err := os.WriteFile(image, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, daemon := range []struct {
		name  string
		start func(*testing.T) string
	}{
		{"ours", func(t *testing.T) string { socket, _ := serve(t); return socket }}, {"virtlockd", startVirtlockd},
	} {
		for _, c := range []struct {
			name, path, stubborn string
			signal               syscall.Signal
			from, to             time.Duration
		}{
			{"with a lock", image, "", syscall.SIGTERM, 0, time.Second},
			{"with a lock and without ears", image, "stubborn", syscall.SIGKILL, 1500 * time.Millisecond, 2400 * time.Millisecond},
			{"without a lock", "", "", 0, 0, 0},
		} {
			t.Run(daemon.name+"/"+c.name, func(t *testing.T) {
				socket := daemon.start(t)
				cmd := exec.Command(os.Args[0], c.path, c.stubborn)
				cmd.Env = append(os.Environ(), roleVariable+"="+socket)
				begun := time.Now()
				out, err := cmd.CombinedOutput()
				took := time.Since(begun)
				status, ok := cmd.ProcessState.Sys().(syscall.WaitStatus)
				switch {
				case !ok || (c.signal == 0) != status.Exited() || (c.signal == 0 && status.ExitStatus() != 2):
					t.Fatalf("owner ended with %v: %s", err, out)
				case c.signal != 0 && (status.Signal() != c.signal || took < c.from):
					t.Errorf("owner ended with %v after %v", err, took)
				}
				eventually(t, "lock of a dead owner is never free", func() bool {
					lock, err := lockspace.Take(lockspace.Resource{Name: image})
					if err == nil {
						lock.Close()
					}
					return err == nil
				})
			})
		}
	}
}

// TestOrdinaryEndOfAnOwnerIsNoWarning has an owner end with its connection, and one let go of it and live.
func TestOrdinaryEndOfAnOwnerIsNoWarning(t *testing.T) {
	warning := regexp.MustCompile(`\[WARN\] +lock owner closed its connection`)
	for name, c := range map[string]struct {
		role  string
		warns bool
	}{
		"one that ends": {"ends", false}, "one that lives": {"", true},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			image := filepath.Join(r.dir, "image")
			if err := os.WriteFile(image, nil, 0o600); err != nil {
				t.Fatal(err)
			}
			cmd := exec.Command(os.Args[0], image, c.role)
			cmd.Env = append(os.Environ(), roleVariable+"="+r.socket)
			if err := cmd.Run(); err == nil {
				t.Fatal("the owner ended well")
			}
			eventually(t, "the owner's connection stays", func() bool { return r.Limits().Clients == 0 })
			// What is answered now comes after all that the server had to say of it.
			if v, err := mustDial(t, r.socket).call(lockproto.Program, lockproto.Status, nil); err != nil || v != fine {
				t.Fatalf("status: %v %v", v, err)
			}
			if warned := r.log.has(warning); warned != c.warns {
				t.Errorf("warned: %v", warned)
			}
		})
	}
}

func TestReplacementWaitsForOwnersThatAreBeingEnded(t *testing.T) {
	r := newRig(t)
	image := filepath.Join(r.dir, "image")
	if err := os.WriteFile(image, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(os.Args[0], image, "stubborn")
	cmd.Env = append(os.Environ(), roleVariable+"="+r.socket)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	over, cancel := context.WithCancel(t.Context())
	cancel()
	eventually(t, "nobody is being ended", func() bool { return errors.Is(r.Fenced(over), context.Canceled) })
	if err := r.Fenced(t.Context()); err != nil {
		t.Fatal(err)
	}
	// It was told to end, did not, and was killed by now.
	var exit *exec.ExitError
	if err := <-ended; !errors.As(err, &exit) {
		t.Fatal(err)
	}
	if status, ok := exit.Sys().(syscall.WaitStatus); !ok || status.Signal() != syscall.SIGKILL {
		t.Errorf("owner ended with %v", exit)
	}
}

func TestLockTakenForAnotherProcessStaysWithIt(t *testing.T) {
	image := filepath.Join(t.TempDir(), "image")
	if err := os.WriteFile(image, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, daemon := range []struct {
		name  string
		start func(*testing.T) string
		ours  bool
	}{
		{"ours", func(t *testing.T) string { socket, _ := serve(t); return socket }, true}, {"virtlockd", startVirtlockd, false},
	} {
		t.Run(daemon.name, func(t *testing.T) {
			socket := daemon.start(t)
			owner := exec.Command("sleep", "600")
			if err := owner.Start(); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = owner.Process.Kill(); _ = owner.Wait() })
			pid := uint32(owner.Process.Pid)
			acquire := func() verdict {
				t.Helper()
				c := mustDial(t, socket)
				defer c.conn.Close()
				if v, err := c.call(lockproto.ClassicProgram, lockproto.ClassicRegister, register(pid)); err != nil || v != fine {
					t.Fatalf("register: %v %v", v, err)
				}
				v, err := c.call(lockproto.ClassicProgram, lockproto.ClassicAcquireResource, &lockproto.ResourceArgs{Name: image})
				if err != nil {
					t.Fatal(err)
				}
				return v
			}
			if v := acquire(); v != fine {
				t.Fatalf("acquire: %v", v)
			}
			for range 10 {
				if v := acquire(); v != busy {
					t.Fatalf("acquire after the connection was closed: %v", v)
				}
			}
			_ = owner.Process.Kill()
			_ = owner.Wait()
			pid = sleeper(t)
			if daemon.ours {
				eventually(t, "lock of a dead owner stays", func() bool { return acquire() == fine })
			} else if v := acquire(); v != busy {
				t.Errorf("virtlockd has freed the lock of a dead owner: %v", v)
			}
		})
	}
}

func TestOrderlyStopEndsNoOwner(t *testing.T) {
	r := newRig(t)
	image := filepath.Join(r.dir, "image")
	if err := os.WriteFile(image, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	// The process of the test is the owner, and has the connection.
	c := mustDial(t, r.socket)
	if v, err := c.call(lockproto.ClassicProgram, reg, register(uint32(os.Getpid()))); err != nil || v != fine {
		t.Fatalf("register: %v %v", v, err)
	}
	if v, err := c.call(lockproto.ClassicProgram, acquire, &lockproto.ResourceArgs{Name: image}); err != nil || v != fine {
		t.Fatalf("acquire: %v %v", v, err)
	}
	ended := make(chan os.Signal, 1)
	signal.Notify(ended, syscall.SIGTERM)
	defer signal.Stop(ended)
	r.stop()
	select {
	case <-ended:
		t.Error("the owner was told to end")
	case <-time.After(100 * time.Millisecond):
	}
}

func TestAdministratorsSeeAndCloseConnections(t *testing.T) {
	r := newRig(t)
	a, b := mustDial(t, r.socket), mustDial(t, r.socket)
	for _, c := range []*caller{a, b} {
		if v, err := c.call(lockproto.Program, lockproto.Status, nil); err != nil || v != fine {
			t.Fatalf("status: %v %v", v, err)
		}
	}
	all := r.Clients()
	slices.SortFunc(all, func(a, b lockserver.Client) int { return cmp.Compare(a.ID, b.ID) })
	for i, c := range all {
		me := int32(os.Getpid())
		if c.ID != uint64(i+1) || c.PID != me || c.UID != uint32(os.Getuid()) || c.GID != uint32(os.Getgid()) || c.ReadOnly {
			t.Errorf("client %+v", c)
		}
		if age := time.Since(c.Connected); age < 0 || age > patience {
			t.Errorf("client %d has been connected for %v", c.ID, age)
		}
	}
	if l := r.Limits(); l != (lockserver.Limits{MaxClients: 32, Clients: 2}) || len(all) != 2 {
		t.Errorf("limits %+v, %d clients", l, len(all))
	}
	if !r.CloseClient(1) || r.CloseClient(99) {
		t.Error("a client that is there was not closed, or one that is not was")
	}
	if _, err := a.reader.Next(); !errors.Is(err, io.EOF) {
		t.Errorf("client that was closed reads %v", err)
	}
	eventually(t, "client that was closed stays", func() bool { return r.Limits().Clients == 1 })
	r.SetMaxClients(1)
	waiting := mustDial(t, r.socket)
	b.conn.Close()
	if v, err := waiting.call(lockproto.Program, lockproto.Status, nil); err != nil || v != fine {
		t.Errorf("client that waited for another's end: %v %v", v, err)
	}
}

// hang mounts a file system that answers nothing. What waits for it is let go by the end of the test or by free.
func hang(t *testing.T) (dir string, free func()) {
	t.Helper()
	dir = t.TempDir()
	fuse, err := os.OpenFile("/dev/fuse", os.O_RDWR, 0)
	if err != nil {
		t.Skip("needs FUSE: ", err)
	}
	options := fmt.Sprintf("fd=%d,rootmode=40000,user_id=0,group_id=0", fuse.Fd())
	if err := unix.Mount("hung", dir, "fuse", unix.MS_NODEV|unix.MS_NOSUID, options); err != nil {
		fuse.Close()
		t.Skip("needs the right to mount: ", err)
	}
	free = sync.OnceFunc(func() {
		fuse.Close()
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(free)
	return dir, free
}

// As for virtlockd, no lock can be had in a lockspace whose folder was deleted. Making the lockspace again makes the folder again, too.
func TestLockspaceWhoseFolderIsDeletedIsMadeAgain(t *testing.T) {
	r := newRig(t)
	space := filepath.Join(r.dir, "locks")
	c := mustDial(t, r.socket)
	call := func(want verdict, procedure int32, args any) {
		t.Helper()
		if v, err := c.call(lockproto.ClassicProgram, procedure, args); err != nil || v != want {
			t.Errorf("procedure %d: %v (%v), want %v", procedure, v, err, want)
		}
	}
	lock := &lockproto.ResourceArgs{Path: space, Name: "x", Flags: createFlag}
	call(fine, reg, register(sleeper(t)))
	call(fine, ensure, &lockproto.CreateLockspaceArgs{Path: space})
	if err := os.Remove(space); err != nil {
		t.Fatal(err)
	}
	call(system, acquire, lock)
	call(system, acquire, lock)
	call(fine, ensure, &lockproto.CreateLockspaceArgs{Path: space})
	call(fine, acquire, lock)
	call(fine, release, &lockproto.ResourceArgs{Path: space, Name: "x"})
}

func TestHungFileSystemCostsNobodyElse(t *testing.T) {
	r := newRig(t)
	dir, free := hang(t)
	space := filepath.Join(r.dir, "locks")
	ready := func() *caller {
		t.Helper()
		c := mustDial(t, r.socket)
		for _, v := range []func() (verdict, error){
			func() (verdict, error) { return c.call(lockproto.ClassicProgram, reg, register(sleeper(t))) },
			func() (verdict, error) {
				return c.call(lockproto.ClassicProgram, ensure, &lockproto.CreateLockspaceArgs{Path: space})
			},
		} {
			if v, err := v(); err != nil || v != fine {
				t.Fatalf("%v %v", v, err)
			}
		}
		return c
	}
	good := ready()
	var stuck []*caller
	for n := range 20 {
		c := ready()
		args := encoded(t, &lockproto.ResourceArgs{Name: filepath.Join(dir, fmt.Sprint(n))})
		ping := rpc.Header{Program: rpc.KeepaliveProgram, Version: 1, Procedure: rpc.KeepalivePing, Type: rpc.Message}
		err := errors.Join(
			c.writer.Send(rpc.Header{Program: lockproto.ClassicProgram, Version: 1, Procedure: acquire, Serial: 77}, args),
			c.writer.Send(ping, nil))
		if err != nil {
			t.Fatal(err)
		}
		stuck = append(stuck, c)
		for range 10 {
			for _, procedure := range []int32{acquire, release} {
				args := &lockproto.ResourceArgs{Path: space, Name: "x"}
				if procedure == acquire {
					args.Flags = createFlag
				}
				if v, err := good.call(lockproto.ClassicProgram, procedure, args); err != nil || v != fine {
					t.Fatalf("procedure %d beside %d calls that hang: %v %v", procedure, n+1, v, err)
				}
			}
		}
		if v, err := good.call(lockproto.Program, lockproto.List, &lockproto.ListArgs{}); err != nil || v != fine {
			t.Fatalf("list: %v %v", v, err)
		}
	}
	for _, c := range stuck {
		if f, err := c.reader.Next(); err != nil || f.Program != rpc.KeepaliveProgram {
			t.Fatalf("ping of a client whose call hangs: %+v, %v", f.Header, err)
		}
	}
	free()
	for _, c := range stuck {
		f, err := c.reader.Next()
		if err != nil || f.Serial != 77 || f.Status != rpc.Failed {
			t.Fatalf("call that hung: %+v, %v", f.Header, err)
		}
		if e, err := rpc.ParseError(f.Payload); err != nil || (verdict{e.Code, e.Domain}) != system {
			t.Errorf("call that hung: %+v, %v", e, err)
		}
	}
}
