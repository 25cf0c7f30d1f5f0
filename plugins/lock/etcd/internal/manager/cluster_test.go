package manager_test

import (
	"fmt"
	"os"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/lodgevirt/lodge/plugins/lock/etcd/internal/etcdtest"
	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/lock/v1"
)

// TestClusterThatLosesMembers harms a cluster of three in one way after another, under a host with a guest.
func TestClusterThatLosesMembers(t *testing.T) {
	t.Parallel()
	c := etcdtest.Start(t, 3)
	s := newScene(t, c, 15)
	h, other := s.launched("a"), s.host("b").guest("other", false)
	g := h.guest("guest", true)
	g.action = pb.Action_ACTION_IGNORE // an election may take longer than the rest of the lease, once most members were away
	token := g.take("/disk")[0].GetFencingToken()
	told := h.watch()
	n := 0
	// works checks that locks can be had and are held, now.
	works := func(when string) {
		t.Helper()
		n++
		next := h.guest("next", false)
		s.eventually(when+": another lock is had", func() bool {
			_, err := next.try(fmt.Sprintf("/disk-%d", n))
			return err == nil
		})
		if _, err := other.try("/disk"); err == nil {
			t.Fatalf("%s: another host has the disk", when)
		}
		next.release(false)
		l := g.recover("/disk")[0]
		wantStatus(t, when, l, pb.Status_STATUS_HELD)
		if l.GetFencingToken() != token {
			t.Fatalf("%s: the token is %d, was %d", when, l.GetFencingToken(), token)
		}
	}
	works("at first")
	leader := c.Leader()
	leader.Kill()
	works("after the leader was killed")
	leader.Start()
	if err := c.AwaitReady(); err != nil {
		t.Fatal(err)
	}
	leader = c.Leader()
	for _, m := range c.Members {
		if m != leader {
			m.Pause()
			works("while a follower is stuck")
			m.Resume()
			break
		}
	}
	leader.Pause()
	works("while the leader is stuck")
	leader.Resume()
	if lost := told.count(pb.Status_STATUS_LOST); lost > 0 {
		t.Errorf("a lock was told to be lost %d times, although most members were there all the time", lost)
	}
	before := s.lease("/disk")
	leader = c.Leader()
	leader.Kill()
	for _, m := range c.Members {
		if m != leader {
			m.Pause()
			g.wantChange(told, pb.Status_STATUS_LOST)
			m.Resume()
			break
		}
	}
	token = g.wantBack(told, "/disk", before, token)
	works("after most members were away for a while")
}

// wantBack waits until it is told that a lock which was in danger is there again: held all along if etcd has kept its lease, and taken
// again if etcd has ended it, as when the machine leaves the members no time. It returns the token.
func (g *guest) wantBack(told *changes, path string, before clientv3.LeaseID, token uint64) uint64 {
	s := g.h.scene
	s.Helper()
	var held, again *pb.Lease
	s.eventually("it is told what became of the lock", func() bool {
		if held == nil {
			held = told.next(g, pb.Status_STATUS_HELD).GetLease()
		}
		again = told.next(g, pb.Status_STATUS_TAKEN_AGAIN).GetLease()
		return again != nil || held != nil && s.lease(path) == before
	})
	if again == nil {
		if held.GetFencingToken() != token {
			s.Errorf("under the lease from before the token is %d, was %d", held.GetFencingToken(), token)
		}
		return token
	}
	s.Log("etcd has ended the lease")
	if again.GetFencingToken() <= token || s.lease(path) == before {
		s.Errorf("taken again, the lock has token %d, was %d, and lease %x, was %x", again.GetFencingToken(), token, s.lease(path), before)
	}
	wantStatus(s, "recovered after it was taken again", g.recover(path)[0], pb.Status_STATUS_TAKEN_AGAIN)
	return again.GetFencingToken()
}

// TestLeaderThatWasStuckForLong has a leader come back after longer than a lease. Before version 3.5.13 etcd let such a leader revoke
// leases that its successor has renewed: then the locks are taken again at once.
func TestLeaderThatWasStuckForLong(t *testing.T) {
	t.Parallel()
	c := etcdtest.Start(t, 3)
	s := newScene(t, c, 3)
	h := s.launched("a")
	g := h.guest("guest", true)
	g.take("/disk")
	told := h.watch()
	leader := c.Leader()
	leader.Pause()
	time.Sleep(4500 * time.Millisecond)
	leader.Resume()
	time.Sleep(1500 * time.Millisecond)
	s.eventually("the lock is there", func() bool { return s.lease("/disk") != 0 })
	if got := g.recover("/disk")[0].GetStatus(); got != pb.Status_STATUS_HELD && got != pb.Status_STATUS_TAKEN_AGAIN {
		t.Errorf("the lock is %v", got)
	}
	if !g.lives() {
		t.Error("the guest was ended")
	}
	t.Logf("taken again %d times", told.count(pb.Status_STATUS_TAKEN_AGAIN))
}

// TestClusterThatIsSlow has etcd stand still for most of the time, as with a disk that does not keep up.
func TestClusterThatIsSlow(t *testing.T) {
	t.Parallel()
	c := etcdtest.Start(t, 1)
	s := newScene(t, c, 6)
	h := s.launched("a")
	g := h.guest("guest", true)
	g.take("/disk")
	told := h.watch()
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c.Members[0].Pause()
			time.Sleep(300 * time.Millisecond)
			c.Members[0].Resume()
			select {
			case <-time.After(100 * time.Millisecond):
			case <-stop:
				return
			}
		}
	})
	for i := range 8 {
		next := h.guest("next", false)
		next.take(fmt.Sprintf("/disk-%d", i))
		next.release(false)
	}
	close(stop)
	wg.Wait()
	if n := told.count(pb.Status_STATUS_LOST); n > 0 {
		t.Errorf("a lock was told to be lost %d times", n)
	}
	wantStatus(t, "after all", g.recover("/disk")[0], pb.Status_STATUS_HELD)
}

// TestManyLocks has one host hold many locks, lose its lease, and give them back. LODGE_TEST_LOCKS is how many, if not 1000.
func TestManyLocks(t *testing.T) {
	t.Parallel()
	const workers = 32
	many := 1000
	if text := os.Getenv("LODGE_TEST_LOCKS"); text != "" {
		var err error
		if many, err = strconv.Atoi(text); err != nil {
			t.Fatal(err)
		}
	}
	s := newScene(t, cluster.get(t), 30)
	h := s.launched("a")
	told := h.watch()
	process := h.guest("process", true)
	owners := make([]*pb.Owner, many)
	for i := range owners {
		owners[i] = &pb.Owner{
			Uuid: uuid.NewString(), Name: fmt.Sprintf("guest-%d", i), Generation: 1,
			Pid: process.owner.GetPid(), StartTime: process.owner.GetStartTime(),
		}
	}
	all := func(what string, do func(i int) error) {
		t.Helper()
		begun := time.Now()
		var wg sync.WaitGroup
		for w := range workers {
			wg.Go(func() {
				for i := w; i < many; i += workers {
					if err := do(i); err != nil {
						t.Errorf("%s %d: %v", what, i, err)
						return
					}
				}
			})
		}
		wg.Wait()
		t.Logf("%s %d: %v", what, many, time.Since(begun).Round(time.Millisecond))
		if t.Failed() {
			t.FailNow()
		}
	}
	ctx := s.ctx
	all("acquire", func(i int) error {
		_, err := h.Acquire(ctx(), &pb.AcquireRequest{Owner: owners[i], Resources: disks(fmt.Sprintf("/disk-%d", i))})
		return err
	})
	listed := func() int {
		rsp, err := h.List(ctx(), &pb.ListRequest{})
		if err != nil {
			t.Fatal(err)
		}
		return len(rsp.GetLeases())
	}
	if n := listed(); n != many {
		t.Errorf("%d locks are listed", n)
	}
	begun := time.Now()
	if _, err := s.client.Revoke(ctx(), s.lease("/disk-0")); err != nil {
		t.Fatal(err)
	}
	s.eventually("all locks are taken again", func() bool { return told.count(pb.Status_STATUS_TAKEN_AGAIN) == many })
	t.Logf("take %d again: %v; %d were told to be lost meanwhile", many, time.Since(begun).Round(time.Millisecond), told.count(pb.Status_STATUS_LOST))
	begun = time.Now()
	h.core.Kill()
	h.relaunch()
	if n := listed(); n != many {
		t.Errorf("after SIGKILL %d locks are listed", n)
	}
	t.Logf("start again with %d: %v", many, time.Since(begun).Round(time.Millisecond))
	all("recover", func(i int) error {
		rsp, err := h.Recover(ctx(), &pb.RecoverRequest{Owner: owners[i], Resources: disks(fmt.Sprintf("/disk-%d", i))})
		if err == nil && rsp.GetLeases()[0].GetStatus() != pb.Status_STATUS_HELD {
			err = fmt.Errorf("the lock is %v", rsp.GetLeases()[0])
		}
		return err
	})
	if !process.lives() {
		t.Error("the guests were ended")
	}
	all("release", func(i int) error {
		_, err := h.Release(ctx(), &pb.ReleaseRequest{Owner: owners[i]})
		return err
	})
	if left := s.keys(); len(left) > 0 {
		t.Errorf("%d keys are left: %.3q", len(left), left)
	}
}
