package main

import (
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/lodgevirt/lodge/host/internal/lockclient"
	"github.com/lodgevirt/lodge/host/internal/lockproto"
	"github.com/lodgevirt/lodge/host/internal/lockspace"
	"github.com/lodgevirt/lodge/host/internal/rpc"
	"github.com/lodgevirt/lodge/host/internal/xdr"
)

// daemonPID is the process in a rig's pid file.
func (r *rig) daemonPID() int {
	r.t.Helper()
	text, err := os.ReadFile(r.path("journal.pid"))
	if err != nil {
		r.t.Fatal(err)
	}
	pid, err := strconv.Atoi(string(text))
	if err != nil {
		r.t.Fatal(err)
	}
	return pid
}

// replace has the daemon execute its program anew, and waits until it has.
func (r *rig) replace() {
	r.t.Helper()
	before, err := r.Status(r.t.Context())
	if err != nil {
		r.t.Fatal(err)
	}
	if err := syscall.Kill(before.PID, syscall.SIGUSR1); err != nil {
		r.t.Fatal(err)
	}
	eventually(r.t, "program is not replaced", func() bool {
		after, err := r.Status(r.t.Context())
		if err != nil || after.PID != before.PID {
			r.t.Fatalf("after the replacement: %+v, %v", after, err)
		}
		return !after.Started.Equal(before.Started)
	})
}

// hammer runs do again and again until the end of the test's part, and counts.
func hammer(t *testing.T, all *sync.WaitGroup, stop <-chan struct{}, do func() error) *atomic.Int64 {
	var n atomic.Int64
	all.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			if err := do(); err != nil {
				t.Error(err)
				return
			}
			n.Add(1)
		}
	})
	return &n
}

func TestNobodyNoticesThatTheProgramIsReplaced(t *testing.T) {
	const times = 100
	r := newRig(t)
	a, b := r.disk("a", lockspace.Exclusive), r.disk("b", lockspace.Shared)
	process, _ := r.run(guest(1, 1), r.acquire(guest(1, 1), a, b))
	core := r.acquire(guest(2, 1), r.disk("c", lockspace.Exclusive)) // a guest without a process
	forget(core)
	wait := prober(t, a.Path())
	pid := r.daemonPID()

	owner := startSleep(t)
	restricted := dialClassic(t, r.path("sock"))
	for procedure, args := range []any{nil, ownerArgs(owner), &lockproto.RestrictArgs{}} {
		if args != nil {
			if err := restricted.call(int32(procedure), args); err != nil {
				t.Fatal(err)
			}
		}
	}
	var all sync.WaitGroup
	stop := make(chan struct{})
	var counts []*atomic.Int64
	for n := range 3 {
		c := dialClassic(t, r.path("sock"))
		if err := c.call(lockproto.ClassicRegister, ownerArgs(startSleep(t))); err != nil {
			t.Fatal(err)
		}
		take := &lockproto.ResourceArgs{Path: r.spaces, Name: fmt.Sprint("classic", n), Flags: lockproto.ClassicAutocreate}
		drop := &lockproto.ResourceArgs{Path: r.spaces, Name: take.Name}
		counts = append(counts, hammer(t, &all, stop, func() error {
			return errors.Join(c.call(lockproto.ClassicAcquireResource, take), c.call(lockproto.ClassicReleaseResource, drop))
		}))
	}
	for n := range byte(3) {
		c := dialOwn(t, r.path("sock"))
		disk := r.disk(fmt.Sprint("own", n), lockspace.Exclusive)
		take := &lockproto.AcquireArgs{
			Owner:     lockproto.Owner{UUID: [16]byte{10 + n}, Name: "guest", Generation: 1},
			Resources: []lockproto.Resource{{Lockspace: disk.Lockspace, Name: disk.Name, Temporary: true}},
		}
		drop := &lockproto.ReleaseArgs{UUID: take.Owner.UUID, Generation: 1}
		counts = append(counts, hammer(t, &all, stop, func() error {
			if n, err := c.call(lockproto.Acquire, take); n != 1 || err != nil {
				return fmt.Errorf("acquire: %d descriptors, %w", n, err)
			}
			_, err := c.call(lockproto.Release, drop)
			return err
		}))
	}
	for i := range times {
		r.replace()
		if err := restricted.call(lockproto.ClassicRestrict, &lockproto.RestrictArgs{}); err == nil {
			t.Fatalf("restricted client is not, after %d replacements", i+1)
		}
	}
	close(stop)
	all.Wait()
	for i, n := range counts {
		if n.Load() < times {
			t.Errorf("client %d was served %d times in %d replacements", i, n.Load(), times)
		}
	}
	if r.daemonPID() != pid {
		t.Errorf("daemon's process was %d, is %d", pid, r.daemonPID())
	}
	want := map[string]lockclient.State{"a": lockclient.Held, "b": lockclient.Held, "c": lockclient.Held}
	if got := r.states(); !maps.Equal(got, want) {
		t.Errorf("leases are %v", got)
	}
	if n := descriptorsOf(t, pid); n > 60 {
		t.Errorf("daemon has %d descriptors", n)
	}
	end(process)
	if said := wait(); said != "free" {
		t.Errorf("prober said %q after the guest's end", said)
	}
	eventually(t, "leases of a dead guest stay", func() bool { return len(r.states()) == 1 })
	if left, err := filepath.Glob(r.path("*.json*")); err != nil || len(left) > 0 {
		t.Errorf("states are left: %v, %v", left, err)
	}
}

// ownClient speaks our own program on one connection, which it never makes again.
type ownClient struct {
	reader *rpc.Reader
	writer *rpc.Writer
	serial uint32
}

func dialOwn(t *testing.T, socket string) *ownClient {
	t.Helper()
	conn, err := net.Dial("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return &ownClient{reader: rpc.NewReader(conn, rpc.ReaderConfig{FDs: rpc.MaxFDs}), writer: rpc.NewWriter(conn, patience)}
}

// call returns how many descriptors came with the answer.
func (c *ownClient) call(procedure int32, args any) (files int, err error) {
	return c.callOf(lockproto.Program, procedure, args)
}

func (c *ownClient) callOf(program uint32, procedure int32, args any) (files int, err error) {
	payload, err := xdr.Append(nil, args)
	if err != nil {
		return 0, err
	}
	c.serial++
	h := rpc.Header{Program: program, Version: 1, Procedure: procedure, Serial: c.serial}
	if err := c.writer.Send(h, payload); err != nil {
		return 0, err
	}
	f, err := c.reader.Next()
	if err != nil {
		return 0, err
	}
	for _, file := range f.Files {
		file.Close()
	}
	if f.Serial != h.Serial {
		return 0, fmt.Errorf("answer to call %d, not %d", f.Serial, h.Serial)
	}
	if f.Status == rpc.OK {
		return len(f.Files), nil
	}
	e, err := rpc.ParseError(f.Payload)
	if err != nil {
		return 0, err
	}
	return 0, e.Err()
}

// startSleep runs a process that can own something, until the end of the test.
func startSleep(t *testing.T) int {
	t.Helper()
	cmd := exec.Command("sleep", "600")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { end(cmd) })
	return cmd.Process.Pid
}

func descriptorsOf(t *testing.T, pid int) int {
	t.Helper()
	all, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	if err != nil {
		t.Fatal(err)
	}
	return len(all)
}

func ownerArgs(pid int) *lockproto.RegisterArgs {
	return &lockproto.RegisterArgs{UUID: [16]byte{byte(pid)}, Name: "guest", ID: uint32(pid), PID: uint32(pid)}
}
