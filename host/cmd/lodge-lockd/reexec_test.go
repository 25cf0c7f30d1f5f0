package main

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

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

// installed is a program that can be replaced: a link to the test binary, at first.
type installed struct {
	t    *testing.T
	path string
}

func install(t *testing.T) *installed {
	t.Helper()
	p := &installed{t: t, path: filepath.Join(t.TempDir(), "lodge-lockd")}
	p.link(os.Args[0])
	return p
}

// link makes the program one that is elsewhere.
func (p *installed) link(to string) {
	p.t.Helper()
	if err := errors.Join(os.Symlink(to, p.path+".new"), os.Rename(p.path+".new", p.path)); err != nil {
		p.t.Fatal(err)
	}
}

// script makes the program a text; a script runs the test binary in the end.
func (p *installed) script(text string) {
	p.t.Helper()
	if err := errors.Join(os.WriteFile(p.path+".new", []byte(text), 0o700), os.Rename(p.path+".new", p.path)); err != nil {
		p.t.Fatal(err)
	}
}

// logged waits until the daemon has logged something.
func (r *rig) logged(what string) {
	r.t.Helper()
	eventually(r.t, "the daemon has not logged "+what, func() bool {
		text, err := os.ReadFile(r.path("log"))
		return err == nil && bytes.Contains(text, []byte(what))
	})
}

func (r *rig) kill(sig syscall.Signal) {
	r.t.Helper()
	if err := syscall.Kill(r.daemonPID(), sig); err != nil {
		r.t.Fatal(err)
	}
}

func TestStateThatIsLostCostsNoLock(t *testing.T) {
	for _, c := range []struct {
		name, damage string
		// connected says that connections survive, of which the document tells.
		connected bool
	}{
		{"missing", `rm "$STATE"`, false},
		{"empty", `: >"$STATE"`, false},
		{"cut off", `head -c 300 "$STATE" >"$STATE.x"; mv "$STATE.x" "$STATE"`, false},
		{"no JSON", `echo garbage >"$STATE"`, false},
		{"of another process", `sed -i 's/"magic":"[0-9]*"/"magic":"1"/' "$STATE"`, false},
		{"of a version to come", `sed -i 's/"version":1/"version":99/' "$STATE"`, true},
		{"of a daemon without our part", `sed -i 's/"lodge":/"other":/' "$STATE"`, true},
		{"of wrong descriptors", `sed -i 's/"fd":[0-9][0-9]*/"fd":1/g; s/"fd":\[[0-9]*,/"fd":[1,/' "$STATE"`, false},
		{"of descriptors that are all the same", `sed -i 's/"fd":[0-9][0-9]*/"fd":7/g; s/"fd":\[[0-9]*,[0-9]*/"fd":[7,7/' "$STATE"`, false},
		{"of too few descriptors", `sed -i 's/"fd":\[[0-9]*,/"fd":[/' "$STATE"`, true},
		{"of no owners", `sed -i 's/"owners":\[{.*}\],"locks"/"owners":[],"locks"/' "$STATE"`, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			program := install(t)
			r := newRigOf(t, program.path)
			a := r.disk("a", lockspace.Exclusive)
			process, _ := r.run(guest(1, 1), r.acquire(guest(1, 1), a))
			forget(r.acquire(guest(2, 5), r.disk("b", lockspace.Exclusive)))
			owner := startSleep(t)
			classic := dialClassic(t, r.path("sock"))
			for _, call := range []struct {
				procedure int32
				args      any
			}{
				{lockproto.ClassicRegister, ownerArgs(owner)},
				{lockproto.ClassicAcquireResource, &lockproto.ResourceArgs{Path: r.spaces, Name: "c", Flags: lockproto.ClassicAutocreate}},
			} {
				if err := classic.call(call.procedure, call.args); err != nil {
					t.Fatal(err)
				}
			}
			before := r.described()
			wait := prober(t, a.Path())
			program.script(fmt.Sprintf("#!/bin/sh\nSTATE=%q\n%s\nexec %q \"$@\"\n", r.path("virtlockd-restart-exec.json"), c.damage, os.Args[0]))
			r.replace()
			if after := r.described(); !slices.Equal(before, after) {
				t.Errorf("leases were\n%s\nand are\n%s", strings.Join(before, "\n"), strings.Join(after, "\n"))
			}
			err := classic.call(lockproto.ClassicReleaseResource, &lockproto.ResourceArgs{Path: r.spaces, Name: "c"})
			if (err == nil) != c.connected {
				t.Errorf("connection of before: %v", err)
			}
			end(process)
			if said := wait(); said != "free" {
				t.Errorf("prober said %q", said)
			}
			// What follows is as good as ever.
			program.link(os.Args[0])
			r.replace()
			r.acquire(guest(1, 2), a)
		})
	}
}

// described lists the leases.
func (r *rig) described() []string {
	r.t.Helper()
	all, err := r.List(r.t.Context())
	if err != nil {
		r.t.Fatal(err)
	}
	var out []string
	for _, l := range all {
		out = append(out, fmt.Sprint(l.Number, " ", filepath.Base(l.Path), " of ", l.Owner, " ", l.Classic, " is ", l.State, " ", l.Detail))
	}
	return out
}

func TestProgramThatCannotBeReplacedGoesOn(t *testing.T) {
	program := install(t)
	r := newRigOf(t, program.path)
	a := r.disk("a", lockspace.Exclusive)
	process, _ := r.run(guest(1, 1), r.acquire(guest(1, 1), a))
	wait := prober(t, a.Path())
	before := r.described()
	status, err := r.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	goesOn := func(logged string) {
		t.Helper()
		r.kill(syscall.SIGUSR1)
		r.logged(logged)
		r.logged("program is not replaced")
		now, err := r.Status(t.Context())
		if err != nil || now.PID != status.PID || !now.Started.Equal(status.Started) {
			t.Fatalf("daemon is %+v, %v", now, err)
		}
		if after := r.described(); !slices.Equal(before, after) {
			t.Errorf("leases were %q and are %q", before, after)
		}
		if left, err := filepath.Glob(r.path("*.json*")); err != nil || len(left) > 0 {
			t.Errorf("states are left: %v, %v", left, err)
		}
		// Descriptors of the lock would be inherited by whatever the daemon starts.
		for _, fd := range lockDescriptors(t, status.PID, a.Path()) {
			if flags := fdFlags(t, status.PID, fd); flags&syscall.O_CLOEXEC == 0 {
				t.Errorf("descriptor %s would be inherited: flags %o", fd, flags)
			}
		}
		if err := os.Truncate(r.path("log"), 0); err != nil {
			t.Fatal(err)
		}
	}
	program.script("this is no program")
	goesOn("exec format error")
	dir, free := hang(t)
	stuck := make(chan error, 1)
	go func() {
		_, err := r.Acquire(t.Context(), guest(3, 1), []lockspace.Resource{{Name: filepath.Join(dir, "image")}})
		stuck <- err
	}()
	eventually(t, "call does not hang", func() bool { return r.stuckIn(dir) })
	program.link(os.Args[0])
	goesOn("calls are under way")
	free()
	if err := <-stuck; err == nil {
		t.Error("call on a file system that is gone has succeeded")
	}
	// A program that is missing is no reason to do nothing: the one that runs can be executed again.
	if err := os.Remove(program.path); err != nil {
		t.Fatal(err)
	}
	r.replace()
	if after := r.described(); !slices.Equal(before, after) {
		t.Errorf("leases were %q and are %q", before, after)
	}
	end(process)
	if said := wait(); said != "free" {
		t.Errorf("prober said %q", said)
	}
}

// lockDescriptors are the daemon's of a file.
func lockDescriptors(t *testing.T, pid int, path string) (fds []string) {
	t.Helper()
	all, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
	if err != nil {
		t.Fatal(err)
	}
	for _, fd := range all {
		if to, err := os.Readlink(fd); err == nil && to == path {
			fds = append(fds, filepath.Base(fd))
		}
	}
	if len(fds) == 0 {
		t.Errorf("daemon has no descriptor of %q", path)
	}
	return fds
}

// fdFlags returns what the kernel tells of a descriptor.
func fdFlags(t *testing.T, pid int, fd string) (flags int) {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/fdinfo/%s", pid, fd))
	if err != nil {
		t.Fatal(err)
	}
	var pos int
	if _, err := fmt.Sscanf(string(text), "pos:\t%d\nflags:\t%o", &pos, &flags); err != nil {
		t.Fatalf("%v: %s", err, text)
	}
	return flags
}

// hang mounts a file system that answers nothing, until free.
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

// stuckIn reports whether a thread of the daemon waits for a file system of FUSE's.
func (r *rig) stuckIn(string) bool {
	all, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/wchan", r.daemonPID()))
	if err != nil {
		return false
	}
	for _, path := range all {
		if text, err := os.ReadFile(path); err == nil && bytes.Contains(text, []byte("fuse")) {
			return true
		}
	}
	return false
}

func TestSignalsThatComeAtAnyTime(t *testing.T) {
	r := newRig(t)
	a := r.disk("a", lockspace.Exclusive)
	process, _ := r.run(guest(1, 1), r.acquire(guest(1, 1), a))
	pid := r.daemonPID()
	wait := prober(t, a.Path())
	// However many there are, at whatever moment of the daemon's, it is replaced now and then and goes on.
	for range 300 {
		r.kill(syscall.SIGUSR1)
		if n := time.Now().UnixNano() % 5; n > 0 {
			time.Sleep(time.Duration(n) * time.Millisecond)
		}
	}
	if s, err := r.Status(t.Context()); err != nil || s.PID != pid {
		t.Fatalf("daemon is %+v, %v", s, err)
	}
	// One that is told to end during a replacement ends, and the next one has everything.
	want := map[string]lockclient.State{"a": lockclient.Held}
	for n := range 15 {
		r.kill(syscall.SIGUSR1)
		time.Sleep(time.Duration(n) * time.Millisecond)
		r.signal(syscall.SIGTERM)
		r.next()
		if got := r.states(); !maps.Equal(got, want) {
			t.Fatalf("leases are %v", got)
		}
	}
	end(process)
	if said := wait(); said != "free" {
		t.Errorf("prober said %q", said)
	}
}

func TestConversationsGoOnInTheMiddle(t *testing.T) {
	r := newRig(t)
	forget(r.acquire(guest(1, 1), r.disk("a", lockspace.Exclusive)))
	half, deaf := dialOwn(t, r.path("sock")), dialOwn(t, r.path("sock"))
	args, err := xdr.Append(nil, &lockproto.ListArgs{})
	if err != nil {
		t.Fatal(err)
	}
	list := func(serial uint32) []byte {
		h := rpc.Header{Program: lockproto.Program, Version: 1, Procedure: lockproto.List, Serial: serial}
		return rpc.AppendFrame(nil, h, args)
	}
	// This one never reads what it asks for, as long as the daemon reads its questions.
	var asked uint32
	for ; ; asked++ {
		if err := deaf.conn.SetWriteDeadline(time.Now().Add(200 * time.Millisecond)); err != nil {
			t.Fatal(err)
		}
		if n, err := deaf.conn.Write(list(asked)); err != nil {
			if n > 0 {
				t.Fatalf("part of a frame was written: %v", err)
			}
			break
		}
	}
	for n := range len(list(0)) {
		if _, err := half.conn.Write(list(4711)[n : n+1]); err != nil {
			t.Fatal(err)
		}
		if n%10 == 3 {
			r.replace()
		}
	}
	if f, err := half.reader.Next(); err != nil || f.Serial != 4711 || f.Status != rpc.OK {
		t.Errorf("answer to a call in pieces: %+v, %v", f.Header, err)
	}
	for want := range asked {
		if f, err := deaf.reader.Next(); err != nil || f.Serial != want || f.Status != rpc.OK {
			t.Fatalf("answer %d of %d: %+v, %v", want, asked, f.Header, err)
		}
	}
}

func TestWatcherIsStillToldAfterAReplacement(t *testing.T) {
	r := newRig(t)
	got := r.acquire(guest(1, 1), r.disk("a", lockspace.Exclusive))
	forget(got)
	watcher := dialOwn(t, r.path("sock"))
	if _, err := watcher.call(lockproto.Watch, nil); err != nil {
		t.Fatal(err)
	}
	expect := func(want lockproto.Change) {
		t.Helper()
		f, err := watcher.reader.Next()
		var change lockproto.Change
		if err == nil {
			_, err = xdr.Unmarshal(f.Payload, &change)
		}
		if err != nil || change != want || f.Type != rpc.Message || f.Procedure != lockproto.Changed {
			t.Fatalf("told of %+v in %+v (%v), want %+v", change, f.Header, err, want)
		}
	}
	r.replace()
	expect(lockproto.Change{Missed: true})
	if _, err := r.ForceRelease(t.Context(), got[0].Number); err != nil {
		t.Fatal(err)
	}
	expect(lockproto.Change{Number: got[0].Number, State: uint32(lockclient.Held), Ended: true})
}

// ownClient speaks our own program on one connection, which it never makes again.
type ownClient struct {
	conn   net.Conn
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
	if err := conn.SetReadDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	return &ownClient{conn: conn, reader: rpc.NewReader(conn, rpc.ReaderConfig{FDs: rpc.MaxFDs}), writer: rpc.NewWriter(conn, patience)}
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
func startSleep(t testing.TB) int {
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
