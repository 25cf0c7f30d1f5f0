package manager_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/lodgevirt/lodge/plugins/lock/etcd/internal/record"
	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/lock/v1"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// referee knows who believes to hold what.
type referee struct {
	t  testing.TB
	mu sync.Mutex // guards both
	// alone and sharing count the holders of each disk.
	alone, sharing map[string]int
	granted        int
}

func (r *referee) enter(disks []*pb.Resource) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.granted++
	for _, d := range disks {
		if d.GetShared() {
			r.sharing[d.GetDisk()]++
		} else {
			r.alone[d.GetDisk()]++
		}
		if a, s := r.alone[d.GetDisk()], r.sharing[d.GetDisk()]; a > 1 || (a == 1 && s > 0) {
			r.t.Errorf("disk %s is held by %d alone and %d that share", d.GetDisk(), a, s)
		}
	}
}

func (r *referee) leave(disks []*pb.Resource) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, d := range disks {
		if d.GetShared() {
			r.sharing[d.GetDisk()]--
		} else {
			r.alone[d.GetDisk()]--
		}
	}
}

// observe reads the history of all keys from etcd itself, and finds a holder that took another one's place.
func (s *scene) observe(ctx context.Context) (seen *atomic.Int64, done <-chan struct{}) {
	seen = &atomic.Int64{}
	ended := make(chan struct{})
	events := s.client.Watch(clientv3.WithRequireLeader(ctx), s.prefix, clientv3.WithPrefix(), clientv3.WithPrevKV())
	go func() {
		defer close(ended)
		present := map[string]map[string]string{} // by resource: the holders' keys and owners
		for resp := range events {
			for _, e := range resp.Events {
				resource, holder, ok := strings.Cut(string(e.Kv.Key), "/h/")
				if !ok {
					continue
				}
				seen.Add(1)
				if present[resource] == nil {
					present[resource] = map[string]string{}
				}
				if e.Type == clientv3.EventTypeDelete {
					delete(present[resource], holder)
					continue
				}
				h, err := record.Decode[record.Holder](e.Kv.Value)
				if err != nil {
					s.Errorf("key %s has value %q", e.Kv.Key, e.Kv.Value)
					continue
				}
				if before := present[resource][holder]; before != "" && before != h.Owner {
					s.Errorf("%s went from guest %s to guest %s without a release", e.Kv.Key, before, h.Owner)
				}
				present[resource][holder] = h.Owner
				if _, alone := present[resource]["e"]; alone && len(present[resource]) > 1 {
					s.Errorf("%s has holders %v", resource, present[resource])
				}
			}
		}
	}()
	return seen, ended
}

// worker is a core that starts and stops guests on a host whose plugin is killed again and again.
type worker struct {
	*scene
	host    *atomic.Pointer[pb.ManagerServiceClient]
	referee *referee
	process *guest
	stop    <-chan struct{}
	refused int
	rand    *rand.Rand
}

// call repeats a call until the plugin has answered it, as a core does.
func (w *worker) call(what string, do func(context.Context, pb.ManagerServiceClient) error) error {
	for limit := time.Now().Add(patience); ; {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		err := do(ctx, *w.host.Load())
		cancel()
		if c := status.Code(err); c != codes.Unavailable && c != codes.Canceled {
			return err
		}
		// The plugin was killed.
		if time.Now().After(limit) {
			w.Errorf("%s: %v", what, err)
			return err
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// live is one life of a guest.
func (w *worker) live(disks []*pb.Resource) {
	o := &pb.Owner{Uuid: uuid.NewString(), Name: "guest", Generation: 1}
	defer w.release(o, false)
	err := w.call("acquire", func(ctx context.Context, m pb.ManagerServiceClient) error {
		_, err := m.Acquire(ctx, &pb.AcquireRequest{Owner: o, Resources: disks})
		return err
	})
	if verr.From(err) != nil {
		if w.refused++; verr.From(err).Code != verr.ResourceBusy {
			w.Errorf("acquire: %v", err)
		}
		return
	}
	w.referee.enter(disks)
	defer w.referee.leave(disks) // before the release
	o.Pid, o.StartTime = w.process.owner.GetPid(), w.process.owner.GetStartTime()
	if err := w.call("acquire with the process", func(ctx context.Context, m pb.ManagerServiceClient) error {
		_, err := m.Acquire(ctx, &pb.AcquireRequest{Owner: o, Resources: disks})
		return err
	}); err != nil {
		w.Errorf("acquire with the process: %v", err)
		return
	}
	if err := w.call("recover", func(ctx context.Context, m pb.ManagerServiceClient) error {
		rsp, err := m.Recover(ctx, &pb.RecoverRequest{Owner: o, Resources: disks})
		for _, l := range rsp.GetLeases() {
			wantStatus(w, "recover", l, pb.Status_STATUS_HELD)
		}
		return err
	}); err != nil {
		w.Errorf("recover: %v", err)
	}
	if w.rand.IntN(4) == 0 {
		w.sleep(o, disks)
	}
}

// sleep suspends a guest and resumes it, if nobody was there meanwhile.
func (w *worker) sleep(o *pb.Owner, disks []*pb.Resource) {
	w.referee.leave(disks)
	defer w.referee.enter(nil)
	state := w.release(o, true)
	if len(state) == 0 {
		w.Error("a guest is suspended without a state")
	}
	err := w.call("resume", func(ctx context.Context, m pb.ManagerServiceClient) error {
		_, err := m.Acquire(ctx, &pb.AcquireRequest{Owner: o, Resources: disks, State: state})
		return err
	})
	if err == nil {
		w.referee.enter(disks)
		return
	}
	if c := verr.From(err).Code; c != verr.ResourceBusy && c != verr.OperationInvalid {
		w.Errorf("resume: %v", err)
	}
	w.referee.mu.Lock() // what leave will take away
	defer w.referee.mu.Unlock()
	for _, d := range disks {
		if d.GetShared() {
			w.referee.sharing[d.GetDisk()]++
		} else {
			w.referee.alone[d.GetDisk()]++
		}
	}
}

func (w *worker) release(o *pb.Owner, suspend bool) (state []byte) {
	if err := w.call("release", func(ctx context.Context, m pb.ManagerServiceClient) error {
		rsp, err := m.Release(ctx, &pb.ReleaseRequest{Owner: o, Suspend: suspend})
		state = rsp.GetState()
		return err
	}); err != nil {
		w.Errorf("release: %v", err)
	}
	return state
}

func (w *worker) run() {
	for {
		select {
		case <-w.stop:
			return
		default:
		}
		first, second := w.rand.IntN(4), w.rand.IntN(4)
		want := disks(fmt.Sprintf("/contested-%d", first))
		if second != first && w.rand.IntN(2) == 0 {
			want = append(want, disks(fmt.Sprintf("/shared-%d", second))...)
			want[1].Shared = w.rand.IntN(3) > 0
		}
		w.live(want)
	}
}

// TestPluginThatIsKilledFiftyTimes kills the plugins of two hosts at random moments while guests on both compete for the same disks.
func TestPluginThatIsKilledFiftyTimes(t *testing.T) {
	t.Parallel()
	const kills, workers = 50, 3
	s := newScene(t, cluster.get(t), 5)
	watching, end := context.WithCancel(context.Background())
	seen, observed := s.observe(watching)
	hosts := []*host{s.launched("a"), s.launched("b")}
	ref := &referee{t: t, alone: map[string]int{}, sharing: map[string]int{}}
	stop := make(chan struct{})
	var wg sync.WaitGroup
	finish := sync.OnceFunc(func() {
		close(stop)
		wg.Wait()
	})
	t.Cleanup(finish)
	var clients [2]atomic.Pointer[pb.ManagerServiceClient]
	var all []*worker
	for i := range 2 * workers {
		h := hosts[i%2]
		clients[i%2].Store(&h.ManagerServiceClient)
		w := &worker{
			scene: s, host: &clients[i%2], referee: ref, process: h.guest("process", true), stop: stop,
			rand: rand.New(rand.NewPCG(uint64(i), uint64(time.Now().UnixNano()))),
		}
		all = append(all, w)
		wg.Go(w.run)
	}
	for i := range kills {
		time.Sleep(time.Duration(10+rand.IntN(150)) * time.Millisecond)
		h := hosts[i%2]
		h.core.Kill()
		h.core.Relaunch(t, h.table, command)
		next := pb.NewManagerServiceClient(h.core.Conn)
		clients[i%2].Store(&next)
	}
	finish()
	refused := 0
	for _, w := range all {
		if refused += w.refused; !w.process.lives() {
			t.Error("a guest's process was ended")
		}
	}
	t.Logf("%d kills, %d grants, %d refusals, %d changes of holders seen", kills, ref.granted, refused, seen.Load())
	if ref.granted < kills || refused == 0 {
		t.Error("that was no competition")
	}
	for _, h := range hosts {
		h.core.Shutdown(t)
	}
	end()
	<-observed
	for _, k := range s.keys() {
		if !strings.HasSuffix(k, "/last") || !strings.Contains(s.value(k), `"shared":true`) {
			t.Errorf("left is %s", k)
		}
	}
	resp, err := s.client.Get(s.ctx(), s.prefix+"host/", prefixOption)
	if err != nil || len(resp.Kvs) > 0 {
		t.Errorf("left are hosts %v, %v", resp.Kvs, err)
	}
	for _, h := range hosts {
		s.eventually("no guard is left", func() bool { return len(guards(h.core.Settings.RuntimeDir)) == 0 })
	}
}

// value is what is written at a key.
func (s *scene) value(key string) string {
	s.Helper()
	resp, err := s.client.Get(s.ctx(), key)
	if err != nil || len(resp.Kvs) != 1 {
		s.Fatalf("key %q has %v, %v", key, resp, err)
	}
	return string(resp.Kvs[0].Value)
}

// guards are the processes that guard in a folder.
func guards(dir string) []string {
	paths, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	var found []string
	for _, p := range paths {
		if line, err := os.ReadFile(p); err == nil && strings.Contains(string(line), dir) {
			found = append(found, string(line))
		}
	}
	return found
}

// TestPluginThatIsKilledBeforeItAnswers kills the plugin once something is done and not yet answered, and asks for the same again.
func TestPluginThatIsKilledBeforeItAnswers(t *testing.T) {
	t.Parallel()
	s := newScene(t, cluster.get(t), 5)
	h := s.launched("a")
	other := s.host("b").guest("other", false)
	// again makes a call that kills the plugin, and repeats it with the next one.
	again := func(point string, call func() error) {
		t.Helper()
		h.core.Relaunch(t, h.table, failing(point))
		h.ManagerServiceClient = pb.NewManagerServiceClient(h.core.Conn)
		if err := call(); status.Code(err) != codes.Unavailable {
			t.Fatalf("the plugin lives on after %s: %v", point, err)
		}
		h.relaunch()
		if err := call(); err != nil {
			t.Fatalf("after %s: %v", point, err)
		}
	}
	g := h.guest("guest", true)
	var first, second []*pb.Lease
	again("Manager.Acquire.applied", func() (err error) {
		first, second = second, nil
		second, err = g.try("/disk")
		return err
	})
	if len(second) != 1 || second[0].GetStatus() != pb.Status_STATUS_HELD {
		t.Errorf("the leases are %v, and then %v", first, second)
	}
	if _, err := other.try("/disk"); !verr.Is(verr.From(err), verr.ResourceBusy) {
		t.Errorf("another host: %v", err)
	}
	var state []byte
	again("Manager.Release.applied", func() error {
		rsp, err := h.Release(s.ctx(), &pb.ReleaseRequest{Owner: g.owner, Suspend: true})
		state = rsp.GetState()
		return err
	})
	if len(state) == 0 {
		t.Error("the state was told only once, to nobody")
	}
	other.take("/disk")
	other.release(false)
	_, err := h.Acquire(s.ctx(), &pb.AcquireRequest{Owner: g.owner, Resources: disks("/disk"), State: state})
	wantCode(t, "resume after somebody else", err, verr.OperationInvalid)
	_, err = h.Acquire(s.ctx(), &pb.AcquireRequest{Owner: g.owner, Resources: disks("/disk")})
	wantCode(t, "resume with the state lost", err, verr.OperationInvalid)
	again("Manager.Release.applied", func() error {
		_, err := h.Release(s.ctx(), &pb.ReleaseRequest{Owner: g.owner})
		return err
	})
	g.take("/disk")
	again("Manager.Recover.applied", func() error {
		rsp, err := h.Recover(s.ctx(), &pb.RecoverRequest{Owner: g.owner, Resources: disks("/disk", "/more")})
		for _, l := range rsp.GetLeases() {
			if l.GetStatus() == pb.Status_STATUS_LOST {
				t.Errorf("recovered is %v", l)
			}
		}
		return err
	})
	g.release(false)
	other.take("/disk", "/more")
}
