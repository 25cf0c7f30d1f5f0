package manager

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lodgevirt/lodge/plugins/lock/sanlock/internal/sanlocktest"
	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/lock/v1"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// lost checks that a change tells of the loss of a guest's lock.
func (g *guest) lost(r *pb.WatchResponse, resource *pb.Resource, say string) {
	g.Helper()
	l := r.GetLease()
	if l.GetStatus() != pb.Status_STATUS_LOST || l.GetOwner().GetUuid() != g.who.GetUuid() || l.GetOwner().GetGeneration() != g.who.GetGeneration() ||
		l.GetResource().GetDisk() != resource.GetDisk() || !strings.Contains(l.GetDetail(), say) {
		g.Errorf("told of %v, not of the loss of %v", r, resource)
	}
}

// When the storage is cut off, the loss is told before sanlock acts on it, and there is time to stop a guest and give up its locks. Three
// guests that want different things share one daemon, whose grace time is short so that what it does can be seen.
func TestLossIsToldBeforeSanlockEndsTheGuest(t *testing.T) {
	t.Parallel()
	storage := sanlocktest.NewStorage(t)
	const ioTimeout = 2 // twice the shortest, so that a busy machine is no reason
	n := newNode(t, storage.Dir, 1, map[string]any{"io_timeout": ioTimeout}, sanlocktest.Grace(6))
	paused, off, kept, slow := disk("/images/paused"), disk("/images/off"), disk("/images/kept"), disk("/images/slow")
	guests := map[string]*guest{
		paused.GetDisk(): n.newGuest("paused", pb.Action_ACTION_PAUSE, paused),
		off.GetDisk():    n.newGuest("off", pb.Action_ACTION_POWEROFF, off),
		kept.GetDisk():   n.newGuest("kept", pb.Action_ACTION_IGNORE, kept),
		slow.GetDisk():   n.newGuest("slow", pb.Action_ACTION_UNSPECIFIED, slow),
	}
	for _, r := range []*pb.Resource{paused, off, kept, slow} {
		guests[r.GetDisk()].acquired(r)
	}
	storage.Freeze(t)
	for range guests {
		r := n.next()
		g := guests[r.GetLease().GetResource().GetDisk()]
		g.lost(r, r.GetLease().GetResource(), "could not be renewed")
		if !g.lives() {
			t.Error("a guest was ended before its loss was told")
		}
		if left := time.Until(r.GetUntil().AsTime()); left <= 0 || left > 2*ioTimeout*time.Second {
			t.Errorf("there are %v left", left)
		}
	}
	told := time.Now()
	state := guests[paused.GetDisk()].release(true).GetState()
	if len(state) == 0 || guests[paused.GetDisk()].holds(paused.GetDisk()) {
		t.Error("the lock of the paused guest is not given up")
	}

	// One guest is not dealt with and gets sanlock's SIGTERM, one is not dealt with in its grace time and gets a SIGKILL.
	if sig := guests[off.GetDisk()].process.EndedBy(); sig != unix.SIGTERM {
		t.Errorf("the guest to be powered off was ended by %v", sig)
	}
	if sig := guests[slow.GetDisk()].process.EndedBy(); sig != unix.SIGKILL {
		t.Errorf("the guest that is not dealt with was ended by %v", sig)
	}
	if took := time.Since(told); took < 4*time.Second {
		t.Errorf("that was after %v", took)
	}
	if !guests[paused.GetDisk()].lives() || !guests[kept.GetDisk()].lives() {
		t.Error("a guest that gave up its locks was ended")
	}
	guests[off.GetDisk()].release(false)
	guests[slow.GetDisk()].release(false)

	// When the storage is back, so is the lockspace, and the guest that went on without its lock has it again.
	storage.Thaw(t)
	back := n.next()
	if l := back.GetLease(); l.GetStatus() != pb.Status_STATUS_HELD || l.GetResource().GetDisk() != kept.GetDisk() {
		t.Errorf("told of %v", back)
	}
	if !guests[kept.GetDisk()].holds(kept.GetDisk()) {
		t.Error("the lock is not held")
	}
	if _, err := guests[paused.GetDisk()].resume(state, paused); err != nil {
		t.Error(err)
	}
}

func TestShortFailureOfTheStorageIsNoLoss(t *testing.T) {
	t.Parallel()
	storage := sanlocktest.NewStorage(t)
	n := newNode(t, storage.Dir, 1, nil)
	a := disk("/images/a")
	g := n.newGuest("guest", unspecified, a)
	g.acquired(a)
	storage.Freeze(t)
	time.Sleep(3 * time.Second)
	storage.Thaw(t)
	select {
	case r := <-n.seen:
		t.Errorf("told of %v", r)
	case <-time.After(5 * time.Second):
	}
	if !g.holds(a.GetDisk()) {
		t.Error("the lock is not held")
	}
}

func TestDamagedLockspaceIsALoss(t *testing.T) {
	t.Parallel()
	n := newNode(t, t.TempDir(), 1, nil)
	a := disk("/images/a")
	g := n.newGuest("guest", pb.Action_ACTION_PAUSE, a)
	g.acquired(a)
	f, err := os.OpenFile(filepath.Join(n.dir, diskSpace), os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.Write(make([]byte, 4096)); err != nil {
		t.Fatal(err)
	}
	g.lost(n.next(), a, "damaged")
	g.release(true)
	if err := pause(t.Context(), 2*time.Second); err != nil || !g.lives() {
		t.Error("the guest was ended after it gave its lock up")
	}
	if _, err := n.prepare(newOwner("other"), unspecified, a); err == nil {
		t.Error("a lock can be had in a damaged lockspace")
	}
}

func TestLocksEndWithTheDaemon(t *testing.T) {
	t.Parallel()
	n := newNode(t, t.TempDir(), 1, nil)
	a := disk("/images/a")
	g := n.newGuest("guest", unspecified, a)
	g.acquired(a)
	n.host.Kill()
	r := n.next()
	g.lost(r, a, "daemon has ended")
	if left := time.Until(r.GetUntil().AsTime()); left <= 0 {
		t.Errorf("there are %v left", left)
	}
	if resp := g.release(true); resp.GetReleased() != 1 || len(resp.GetState()) == 0 {
		t.Errorf("released %v", resp)
	}
	if _, err := n.prepare(newOwner("other"), unspecified, a); !verr.Is(err, verr.OperationFailed) || !strings.Contains(err.Error(), "not running") {
		t.Errorf("error is %v", err)
	}
	// A daemon that is started anew knows no processes. Who starts now has the lock, since this host's own leases are from before.
	n.host.Start(t)
	if _, err := g.acquire(a); !verr.Is(err, verr.OperationInvalid) || !strings.Contains(err.Error(), "started anew") {
		t.Errorf("error is %v", err)
	}
	if l := g.recover(a); l[0].GetStatus() != pb.Status_STATUS_LOST {
		t.Errorf("recovered: %v", l)
	}
	n.newGuest("other", unspecified, a).acquired(a)
}

func TestDaemonThatHangsIsALoss(t *testing.T) {
	t.Parallel()
	n := newNode(t, t.TempDir(), 1, nil)
	a := disk("/images/a")
	g := n.newGuest("guest", unspecified, a)
	g.acquired(a)
	n.host.Signal(t, unix.SIGSTOP)
	defer n.host.Signal(t, unix.SIGCONT)
	g.lost(n.next(), a, "does not answer")
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := n.m.Prepare(ctx, &pb.PrepareRequest{Owner: newOwner("other"), Resources: []*pb.Resource{a}}); err == nil {
		t.Error("a lock was prepared without the daemon")
	}
}

func TestLockThatIsTakenAwayIsALoss(t *testing.T) {
	t.Parallel()
	n := newNode(t, t.TempDir(), 1, nil)
	a := disk("/images/a")
	g := n.newGuest("guest", unspecified, a)
	g.acquired(a)
	if _, err := giveUp(t.Context(), n.host.Client, g.who, func(id) bool { return true }); err != nil {
		t.Fatal(err)
	}
	g.lost(n.next(), a, "does not count")
	if l := g.recover(a); l[0].GetStatus() != pb.Status_STATUS_HELD {
		t.Errorf("recovered: %v", l)
	}
}
