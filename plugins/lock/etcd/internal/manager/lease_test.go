package manager_test

import (
	"context"
	"encoding/json"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/lodgevirt/lodge/plugins/lock/etcd/internal/boot"
	"github.com/lodgevirt/lodge/plugins/lock/etcd/internal/etcdtest"
	"github.com/lodgevirt/lodge/plugins/lock/etcd/internal/guard"
	"github.com/lodgevirt/lodge/sdk/faketest"
	"github.com/lodgevirt/lodge/sdk/procfs"
	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/lock/v1"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// ttl is the leases' in these tests, in seconds.
const ttl = 3

// behind is a host whose way to etcd goes through a proxy.
func (s *scene) behind(name string) (*host, *etcdtest.Proxy) {
	s.Helper()
	p := etcdtest.NewProxy(s.TB, s.etcd.Members[0])
	text, err := json.Marshal(map[string]any{
		"endpoints": []string{p.URL}, "prefix": s.prefix, "host": name, "ttl": s.ttl, "dial_timeout": 1, "request_timeout": 1,
	})
	if err != nil {
		s.Fatal(err)
	}
	h := &host{scene: s, name: name, core: faketest.Launch(s.TB, text, command), table: text}
	h.ManagerServiceClient = pb.NewManagerServiceClient(h.core.Conn)
	h.Cleanup(h.endGuard)
	return h, p
}

// page is what plugin and guard of a host share.
func (h *host) page() *guard.Page {
	h.Helper()
	id, err := procfs.BootID()
	if err != nil {
		h.Fatal(err)
	}
	p, err := guard.OpenPage(h.core.Settings.RuntimeDir+"/"+guard.PageFile, id)
	if err != nil {
		h.Fatal(err)
	}
	return p
}

func TestEtcdIsBackInTime(t *testing.T) {
	t.Parallel()
	s := newScene(t, cluster.get(t), 6)
	h, net := s.behind("a")
	g := h.guest("guest", true)
	token := g.take("/disk")[0].GetFencingToken()
	changes := h.watch()
	net.Cut()
	c := g.wantChange(changes, pb.Status_STATUS_LOST)
	until := c.GetUntil().AsTime()
	if left := time.Until(until); left < 900*time.Millisecond || left > 1500*time.Millisecond {
		t.Errorf("there are %v to act; of a lease of 6 s a third less a tenth should be left", left)
	}
	if end := h.page().Lease().Ends.Wall(boot.Now()); !until.Before(end) {
		t.Errorf("the lock is told to be safe until %v, the lease may end at %v", until, end)
	}
	net.Mend()
	held := g.wantChange(changes, pb.Status_STATUS_HELD)
	if held.GetLease().GetFencingToken() != token || held.GetUntil() != nil {
		t.Errorf("held again is %v, the token was %d", held, token)
	}
	time.Sleep(time.Until(until) + 200*time.Millisecond)
	if !g.lives() {
		t.Error("the guest was ended although the lease was renewed in time")
	}
	wantStatus(t, "after all", g.recover("/disk")[0], pb.Status_STATUS_HELD)
}

// TestNobodyHasTheDiskBeforeTheGuestIsDead cuts a host off, in different states of its plugin, while another one asks for the disk all
// the time. Nobody acts in the core's place, so it is the guard that has to.
func TestNobodyHasTheDiskBeforeTheGuestIsDead(t *testing.T) {
	for name, harm := range map[string]func(h *host){
		"the plugin is well":   func(*host) {},
		"the plugin is killed": func(h *host) { h.core.Kill() },
		"the plugin is stuck": func(h *host) {
			_ = h.core.Process.Signal(syscall.SIGSTOP)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newScene(t, cluster.get(t), ttl)
			h, net := s.behind("a")
			g, spared := h.guest("guest", true), h.guest("spared", true)
			g.take("/disk")
			spared.action = pb.Action_ACTION_IGNORE
			spared.take("/spared")
			other := s.host("b").guest("other", false)
			net.Cut()
			harm(h)
			for {
				_, err := other.try("/disk")
				if err == nil {
					break
				}
				wantCode(t, "while the lease lives", err, verr.ResourceBusy)
				time.Sleep(5 * time.Millisecond)
			}
			if g.lives() {
				t.Error("another host has the disk, and the guest lives")
			}
			if !spared.lives() {
				t.Error("a guest that may go on without its lock was ended")
			}
			net.Mend()
		})
	}
}

func TestAPluginThatIsAwayCostsNothing(t *testing.T) {
	for name, away := range map[string]func(h *host) (back func()){
		"killed": func(h *host) func() {
			h.core.Kill()
			return func() {}
		},
		"stuck": func(h *host) func() {
			p := h.core.Process
			_ = p.Signal(syscall.SIGSTOP)
			return func() { h.core.Kill() }
		},
		"ended in an orderly way": func(h *host) func() {
			h.core.Shutdown(h.TB)
			return func() {}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newScene(t, cluster.get(t), 2)
			h := s.launched("a")
			g, remote := h.guest("guest", true), h.guest("remote", false)
			token := g.take("/disk")[0].GetFencingToken()
			remote.take("/remote")
			lease := s.lease("/disk")
			other := s.host("b").guest("other", false)
			back := away(h)
			for end := time.Now().Add(3 * 2 * time.Second); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
				for _, path := range []string{"/disk", "/remote"} {
					if _, err := other.try(path); !verr.Is(verr.From(err), verr.ResourceBusy) {
						t.Fatalf("while the plugin is away, another host asks for %s: %v", path, err)
					}
				}
			}
			if !g.lives() {
				t.Fatal("the guest was ended because the plugin was away")
			}
			back()
			h.relaunch()
			l := g.recover("/disk")[0]
			wantStatus(t, "when the plugin is back", l, pb.Status_STATUS_HELD)
			if l.GetFencingToken() != token || s.lease("/disk") != lease {
				t.Errorf("token %d and lease %x, were %d and %x", l.GetFencingToken(), s.lease("/disk"), token, lease)
			}
			wantStatus(t, "a guest without a process", remote.recover("/remote")[0], pb.Status_STATUS_HELD)
			g.release(false)
			remote.release(false)
			other.take("/disk", "/remote")
		})
	}
}

// guardPID is the process that guards a host.
func (h *host) guardPID() int {
	h.Helper()
	facts := h.diagnose()
	pid := 0
	for _, c := range facts["guard"] {
		pid = pid*10 + int(c-'0')
	}
	return pid
}

func TestPluginAndGuardDieTogether(t *testing.T) {
	t.Parallel()
	s := newScene(t, cluster.get(t), 2*ttl)
	h, net := s.behind("a")
	g, free := h.guest("guest", true), h.guest("free", true)
	g.take("/disk")
	free.take("/free")
	free.release(false)
	pid := h.guardPID()
	if pid == 0 {
		t.Fatal("there is no guard")
	}
	net.Cut()
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	h.core.Kill()
	h.relaunch() // and nobody recovers anything
	g.wantEnd()
	if ends := h.page().Lease().Ends; boot.Now() > ends {
		t.Errorf("the guest was ended %v after its lease", boot.Now().Sub(ends))
	}
	if !free.lives() {
		t.Error("a guest that has released its locks was ended")
	}
	net.Mend()
}

func TestGuardThatIsKilledIsReplaced(t *testing.T) {
	t.Parallel()
	s := newScene(t, cluster.get(t), ttl)
	h, net := s.behind("a")
	g := h.guest("guest", true)
	g.take("/disk")
	before := h.guardPID()
	if err := syscall.Kill(before, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	s.eventually("another guard", func() bool { now := h.guardPID(); return now != 0 && now != before })
	net.Cut()
	h.core.Kill()
	g.wantEnd()
	net.Mend()
}

func TestLeaseThatIsRevokedIsReplaced(t *testing.T) {
	t.Parallel()
	s := newScene(t, cluster.get(t), 10)
	h := s.host("a")
	g := h.guest("guest", true)
	lost, spared := h.guest("lost", true), h.guest("spared", true)
	token := g.take("/disk", "/shared")[0].GetFencingToken()
	spared.action = pb.Action_ACTION_IGNORE
	lost.take("/lost")
	spared.take("/spared")
	changes := h.watch()
	before := s.lease("/disk")
	begun := time.Now()
	if _, err := s.client.Revoke(s.ctx(), before); err != nil {
		t.Fatal(err)
	}
	s.steal("/lost")
	s.steal("/spared")
	again := g.wantChange(changes, pb.Status_STATUS_TAKEN_AGAIN)
	t.Logf("taken again after %v", time.Since(begun).Round(time.Millisecond))
	if again.GetLease().GetFencingToken() <= token || s.lease("/disk") == before {
		t.Errorf("taken again is %v, the token was %d", again, token)
	}
	if passed := time.Since(begun); passed > 5*time.Second {
		t.Errorf("the lock was away for %v", passed)
	}
	c := lost.wantChange(changes, pb.Status_STATUS_LOST)
	if !strings.Contains(c.GetLease().GetDetail(), "thief") {
		t.Errorf("the loss is explained by %q", c.GetLease().GetDetail())
	}
	lost.wantEnd() // by the guard, since the core does nothing
	if !g.lives() || !spared.lives() {
		t.Errorf("the guest that has its locks again lives: %v; the one that was spared: %v", g.lives(), spared.lives())
	}
	g.recover("/disk", "/shared") // may tell it once more, if the stream did not reach the core
	wantStatus(t, "what was told", g.recover("/disk", "/shared")[0], pb.Status_STATUS_HELD)
	wantStatus(t, "the spared guest", spared.recover("/spared")[0], pb.Status_STATUS_LOST)
	if _, err := s.client.Delete(s.ctx(), s.holderKey("/spared")); err != nil {
		t.Fatal(err)
	}
	spared.wantChange(changes, pb.Status_STATUS_TAKEN_AGAIN)
}

func TestKeyThatIsDeletedIsMadeAgain(t *testing.T) {
	t.Parallel()
	s := newScene(t, cluster.get(t), ttl)
	h := s.host("a")
	g := h.guest("guest", true)
	g.take("/disk")
	changes := h.watch()
	if _, err := s.client.Delete(s.ctx(), s.holderKey("/disk")); err != nil {
		t.Fatal(err)
	}
	g.wantChange(changes, pb.Status_STATUS_TAKEN_AGAIN)
	resp, err := s.client.Get(s.ctx(), s.prefix+"host/", prefixOption)
	if err != nil || len(resp.Kvs) != 1 {
		t.Fatalf("hosts are %v, %v", resp, err)
	}
	if _, err := s.client.Delete(s.ctx(), string(resp.Kvs[0].Key)); err != nil {
		t.Fatal(err)
	}
	g.take("/disk", "/another")
	if !g.lives() {
		t.Error("the guest was ended")
	}
}

func TestReleaseWithoutEtcd(t *testing.T) {
	t.Parallel()
	s := newScene(t, cluster.get(t), 6)
	h, net := s.behind("a")
	ends, sleeps, moves := h.guest("ends", true), h.guest("sleeps", true), h.guest("moves", true)
	ends.take("/ends")
	sleeps.take("/sleeps")
	moves.take("/moves")
	net.Cut()
	ends.release(false)
	state := sleeps.release(true)
	if len(state) == 0 {
		t.Error("the guest that is suspended got no state")
	}
	h.core.Kill() // what is owed survives
	h.relaunch()
	if again := sleeps.release(true); string(again) != string(state) {
		t.Errorf("the state is %q, was %q", again, state)
	}
	moves.release(true)
	wantCode(t, "lock without etcd", func() error { _, err := ends.try("/ends"); return err }(), verr.OperationTimeout)
	net.Mend()
	other := s.host("b").guest("other", false)
	s.eventually("what was released is free", func() bool { _, err := other.try("/ends"); return err == nil })
	s.eventually("what was released by the suspended is free", func() bool { return s.lease("/sleeps") == 0 && s.lease("/moves") == 0 })
	if _, err := h.Acquire(s.ctx(), &pb.AcquireRequest{Owner: sleeps.owner, Resources: disks("/sleeps"), State: state}); err != nil {
		t.Errorf("resume: %v", err)
	}
	if !ends.lives() || !sleeps.lives() {
		t.Error("a guest that has released its locks was ended")
	}
	sleeps.release(false)
	moves.release(false)
	other.release(false)
	s.eventually("nothing is left", func() bool { return len(s.keys()) == 0 })
}

func TestRecoverWithoutEtcd(t *testing.T) {
	t.Parallel()
	s := newScene(t, cluster.get(t), 8)
	h, net := s.behind("a")
	g := h.guest("guest", true)
	g.take("/disk")
	net.Cut()
	h.core.Kill()
	h.relaunch()
	changes := h.watch()
	begun := time.Now()
	if got := g.recover("/disk")[0].GetStatus(); got != pb.Status_STATUS_UNSPECIFIED && got != pb.Status_STATUS_LOST {
		t.Errorf("without etcd the lock is %v", got)
	}
	if passed := time.Since(begun); passed > 5*time.Second {
		t.Errorf("recover took %v", passed)
	}
	net.Mend()
	g.wantChange(changes, pb.Status_STATUS_HELD)
	if !g.lives() {
		t.Error("the guest was ended")
	}
}

func TestAcquireOfUnknownOutcomeIsUndone(t *testing.T) {
	t.Parallel()
	s := newScene(t, cluster.get(t), ttl)
	h, net := s.behind("a")
	h.guest("first", false).take("/first")
	g := h.guest("guest", false)
	done := make(chan error, 1)
	go func() { // somewhere in the middle
		_, err := g.try("/disk")
		done <- err
	}()
	net.Cut()
	if err := <-done; err == nil {
		g.release(false)
	}
	net.Mend() // what was held up arrives now
	other := s.host("b").guest("other", false)
	s.eventually("the lock is free", func() bool { _, err := other.try("/disk"); return err == nil })
	time.Sleep(500 * time.Millisecond)
	other.take("/disk")
}

// diagnose asks the plugin how it is.
func (h *host) diagnose() map[string]string {
	h.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	rsp, err := diagnose(ctx, h.core.Conn)
	if err != nil {
		h.Fatal(err)
	}
	return rsp
}
