package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/lodgevirt/lodge/host/internal/lockclient"
	"github.com/lodgevirt/lodge/host/internal/lockproto"
	"github.com/lodgevirt/lodge/host/internal/lockspace"
	"github.com/lodgevirt/lodge/host/internal/virtlockdtest"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// relay is a daemon called virtlockd that is libvirt's and ours in turn, in one process.
type relay struct {
	*virtlockdtest.Daemon
	t   *testing.T
	bin string
	own *ownClient
}

// newRelay starts libvirt's virtlockd from a folder where its program can be replaced.
func newRelay(t *testing.T) *relay {
	t.Helper()
	virtlockdtest.Need(t)
	theirs, err := exec.LookPath("virtlockd")
	if err != nil {
		t.Skip(err)
	}
	r := &relay{t: t, bin: t.TempDir()}
	t.Setenv("PATH", r.bin+":"+os.Getenv("PATH"))
	t.Setenv(roleVariable, "daemon")
	if err := os.Symlink(theirs, filepath.Join(r.bin, "theirs")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(os.Args[0], filepath.Join(r.bin, "ours")); err != nil {
		t.Fatal(err)
	}
	r.install("theirs")
	r.Daemon = virtlockdtest.Prepare(t, "virtlockd").Start(t)
	r.Dial(t, r.Socket).Close()
	r.own = dialOwn(t, r.Socket)
	// virtlockd 9.0.0 ends when it is to be replaced while a client has not said for whom it acts.
	if _, err := r.own.callOf(lockproto.ClassicProgram, lockproto.ClassicRegister, ownerArgs(startSleep(t))); err != nil {
		t.Fatal(err)
	}
	return r
}

// install makes one of the programs the one that is called virtlockd.
func (r *relay) install(which string) {
	r.t.Helper()
	next := filepath.Join(r.bin, "next")
	target, err := os.Readlink(filepath.Join(r.bin, which))
	if err == nil {
		err = os.Symlink(target, next)
	}
	if err == nil {
		err = os.Rename(next, filepath.Join(r.bin, "virtlockd"))
	}
	if err != nil {
		r.t.Fatal(err)
	}
}

// hand hands the process over to a program, and waits until that answers on a connection that was there before. virtlockd does not know our
// program.
func (r *relay) hand(which string) {
	r.t.Helper()
	r.install(which)
	before := image(r.t, r.PID())
	if err := syscall.Kill(r.PID(), syscall.SIGUSR1); err != nil {
		r.t.Fatal(err)
	}
	// virtlockd would lose an answer that it is just about to send.
	eventually(r.t, "program is not replaced", func() bool { return image(r.t, r.PID()) != before })
	eventually(r.t, "program is not "+which, func() bool {
		_, err := r.own.call(lockproto.Status, nil)
		if err != nil && !verr.Is(err, verr.RPC) {
			r.t.Fatalf("after the program was replaced: %v", err)
		}
		return (err == nil) == (which == "ours")
	})
	if !r.Running() {
		r.t.Fatal("daemon has ended")
	}
}

// libvirtd is a connection that acts for a guest, as libvirtd's do.
type libvirtd struct {
	*classicClient
	t   *testing.T
	dir string
}

func (r *relay) libvirtd(dir string, pid int) *libvirtd {
	r.t.Helper()
	c := &libvirtd{classicClient: dialClassic(r.t, r.Socket), t: r.t, dir: dir}
	c.must(lockproto.ClassicRegister, ownerArgs(pid))
	c.must(lockproto.ClassicCreateLockspace, &lockproto.CreateLockspaceArgs{Path: dir})
	return c
}

func (c *libvirtd) must(procedure int32, args any) {
	c.t.Helper()
	if err := c.call(procedure, args); err != nil {
		c.t.Fatalf("procedure %d with %+v: %v", procedure, args, err)
	}
}

func (c *libvirtd) acquire(name string, flags uint32) error {
	return c.call(lockproto.ClassicAcquireResource, &lockproto.ResourceArgs{Path: c.dir, Name: name, Flags: flags})
}

func (c *libvirtd) release(name string) error {
	return c.call(lockproto.ClassicReleaseResource, &lockproto.ResourceArgs{Path: c.dir, Name: name})
}

// want fails the test unless an error is one of libvirt's with a code; 0 is none.
func (c *libvirtd) want(what string, err error, code verr.Code) {
	c.t.Helper()
	var e *verr.Error
	if (err == nil) != (code == 0) || (err != nil && (!errors.As(err, &e) || e.Code != code)) {
		c.t.Errorf("%s: %v, want code %d", what, err, code)
	}
}

const (
	flagShared = lockproto.ClassicShared | lockproto.ClassicAutocreate
	flagAlone  = lockproto.ClassicAutocreate
)

func TestVirtlockdAndOursFollowEachOtherInOneProcess(t *testing.T) {
	r := newRelay(t)
	dir := filepath.Join(t.TempDir(), "locks")
	image := filepath.Join(t.TempDir(), "image")
	if err := os.WriteFile(image, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	first, second := exec.Command("sleep", "600"), startSleep(t)
	if err := first.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { end(first) })
	l := r.libvirtd(dir, first.Process.Pid)
	other := r.libvirtd(dir, second)
	guests := r.libvirtd(dir, first.Process.Pid)
	guests.must(lockproto.ClassicRestrict, &lockproto.RestrictArgs{})

	l.want("acquire", l.acquire("alone", flagAlone), 0)
	l.want("acquire shared", l.acquire("shared", flagShared), 0)
	l.want("acquire shared twice", l.acquire("shared", flagShared), 0)
	other.want("acquire shared by another", other.acquire("shared", flagShared), 0)
	l.must(lockproto.ClassicAcquireResource, &lockproto.ResourceArgs{Name: image})

	var probers []func() string
	for _, path := range []string{filepath.Join(dir, "alone"), filepath.Join(dir, "shared"), image} {
		probers = append(probers, prober(t, path))
	}

	r.hand("ours")
	r.check(l, other, guests, image)
	l.want("acquire from ours", l.acquire("of ours", flagAlone), 0)
	r.hand("ours") // ours after ours, with POSIX locks
	r.check(l, other, guests, image)
	process, held := r.guest(dir)
	r.hand("theirs")
	r.check(l, other, guests, image)
	l.want("acquire again what ours has given", l.acquire("of ours", flagAlone), verr.ResourceBusy)
	l.want("acquire what our guest has", l.acquire(held.Name, flagAlone), verr.ResourceBusy)
	l.want("release what ours has given", l.release("of ours"), 0)
	l.want("acquire from theirs", l.acquire("of theirs", flagAlone), 0)
	r.hand("ours")
	r.check(l, other, guests, image)
	l.want("release what theirs has given", l.release("of theirs"), 0)
	l.want("acquire what our guest has", l.acquire(held.Name, flagAlone), verr.ResourceBusy)

	// Everything is still its owner's, with all that we knew of it.
	client := lockclient.New(r.Socket)
	defer client.Close()
	all, err := client.List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, l := range all {
		got = append(got, fmt.Sprint(filepath.Base(l.Path), " ", l.Owner.Name, " ", l.Owner.Generation, " ", l.Owner.PID, " ", l.State))
	}
	slices.Sort(got)
	one, two := fmt.Sprint(" guest 0 ", first.Process.Pid, " 1"), fmt.Sprint(" guest 0 ", second, " 1")
	want := []string{
		"alone" + one, "image" + one, "shared" + one, "shared" + one, "shared" + two,
		fmt.Sprint(held.Name, " guest7 3 ", process.Process.Pid, " 1"),
	}
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("leases\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}

	// The locks end with their owners, and only then.
	end(process)
	eventually(t, "lock of our guest stays", func() bool { return l.acquire(held.Name, flagAlone) == nil })
	l.want("release", l.release("shared"), 0)
	l.want("release", l.release("shared"), 0)
	l.want("release", l.release("shared"), verr.Internal)
	other.want("release", other.release("shared"), 0)
	if said := probers[1](); said != "free" {
		t.Errorf("prober of the shared lock said %q", said)
	}
	end(first)
	for _, wait := range []func() string{probers[0], probers[2]} {
		if said := wait(); said != "free" {
			t.Errorf("prober said %q", said)
		}
	}
}

// check calls every connection, whichever program answers now.
func (r *relay) check(l, other, guests *libvirtd, image string) {
	r.t.Helper()
	l.want("acquire what it has", l.acquire("alone", flagAlone), verr.ResourceBusy)
	other.want("acquire what another has", other.acquire("alone", flagShared), verr.ResourceBusy)
	other.want("acquire alone what is shared", other.acquire("shared", flagAlone), verr.ResourceBusy)
	other.want("release what another has", other.release("alone"), verr.Internal)
	other.want("release what nobody has", other.release("nothing"), verr.ResourceBusy)
	other.want("acquire an image", other.call(lockproto.ClassicAcquireResource, &lockproto.ResourceArgs{Name: image}), verr.ResourceBusy)
	other.want("acquire", other.acquire("new", flagAlone), 0)
	other.want("release", other.release("new"), 0)
	guests.want("restricted connection", guests.acquire("new", flagAlone), verr.OperationDenied)
	conn, err := net.Dial("unix", r.Socket)
	if err != nil {
		r.t.Fatal(err)
	}
	conn.Close()
	if text, err := os.ReadFile(r.PIDFile); err != nil || strings.TrimSpace(string(text)) != fmt.Sprint(r.PID()) {
		r.t.Errorf("pid file has %q (%v), daemon is %d", text, err, r.PID())
	}
}

// guest starts a process that has a lock through our own program, as a guest of the core's.
func (r *relay) guest(dir string) (*exec.Cmd, lockspace.Resource) {
	r.t.Helper()
	c := &rig{Client: lockclient.New(r.Socket), t: r.t}
	r.t.Cleanup(c.Close)
	disk := lockspace.ForDisk(dir, "/images/own", lockspace.Exclusive)
	o := guest(7, 3)
	process, _ := c.run(o, c.acquire(o, disk))
	return process, disk
}
