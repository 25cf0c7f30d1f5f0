package manager

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"math/rand/v2"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/lodgevirt/lodge/sdk/faketest"
	"github.com/lodgevirt/lodge/sdk/plugin"
	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/lock/v1"
)

// victimOrders is the environment variable that makes TestVictim a manager that is to be killed.
const victimOrders = "LODGE_TEST_VICTIM"

type orders struct {
	State, Log string
	Config     json.RawMessage
	Owner      *pb.Owner
	Disks      []string
}

// lasting is a core whose State outlives the process.
type lasting struct {
	*faketest.Core
	dir string
}

func (l lasting) State() plugin.State { return fileState{l.dir} }

// fileState keeps each value in a file.
type fileState struct{ dir string }

func (s fileState) path(key string) string { return filepath.Join(s.dir, url.PathEscape(key)) }

func (s fileState) Get(_ context.Context, key string) ([]byte, bool, error) {
	text, err := os.ReadFile(s.path(key))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, false, nil
	}
	return text, err == nil, err
}

func (s fileState) Put(_ context.Context, key string, value []byte) error {
	fresh := s.path(key) + ".new"
	if err := os.WriteFile(fresh, value, 0o600); err != nil {
		return err
	}
	return os.Rename(fresh, s.path(key))
}

func (s fileState) Delete(_ context.Context, key string) error {
	if err := os.Remove(s.path(key)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

func (s fileState) List(_ context.Context, prefix string) ([]string, error) {
	entries, err := os.ReadDir(s.dir)
	var keys []string
	for _, e := range entries {
		key, uerr := url.PathUnescape(e.Name())
		if uerr == nil && strings.HasPrefix(key, prefix) && !strings.HasSuffix(key, ".new") {
			keys = append(keys, key)
		}
	}
	return keys, err
}

// TestVictim is the manager that TestManagerKilledAtAnyMoment kills: it takes a guest's locks and gives them up, again and again. Before
// and after each it writes a letter.
func TestVictim(t *testing.T) {
	text := os.Getenv(victimOrders)
	if text == "" {
		t.Skip("only runs as a child of TestManagerKilledAtAnyMoment")
	}
	var o orders
	if err := json.Unmarshal([]byte(text), &o); err != nil {
		t.Fatal(err)
	}
	log, err := os.OpenFile(o.Log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	m := New(lasting{faketest.NewCore(t), o.State})
	if err := m.Configure(t.Context(), plugin.Settings{Config: o.Config}); err != nil {
		t.Fatal(err)
	}
	var resources []*pb.Resource
	for _, path := range o.Disks {
		resources = append(resources, disk(path))
	}
	for n := 0; ; n++ {
		if _, err := m.Acquire(t.Context(), &pb.AcquireRequest{Owner: o.Owner, Resources: resources}); err != nil {
			t.Fatal(err)
		}
		_, _ = log.WriteString("a")
		time.Sleep(time.Duration(n%3) * 5 * time.Millisecond)
		_, _ = log.WriteString("r")
		if _, err := m.Release(t.Context(), &pb.ReleaseRequest{Owner: o.Owner, Suspend: n%2 == 0}); err != nil {
			t.Fatal(err)
		}
		_, _ = log.WriteString("f")
	}
}

func TestManagerKilledAtAnyMoment(t *testing.T) {
	t.Parallel()
	n := newNode(t, t.TempDir(), 1, nil)
	n.stop()
	n.core = lasting{faketest.NewCore(t), t.TempDir()}
	n.restart()
	a, b := disk("/images/a"), disk("/images/b")
	g, other := n.newGuest("guest", unspecified, a, b), n.newGuest("other", unspecified, a, b)
	last := map[string]int{}
	for range 16 {
		n.stop()
		word := n.killVictim(g, a, b)
		last[word]++
		if word == "a" && (!g.holds(a.GetDisk()) || !g.holds(b.GetDisk())) {
			t.Error("a lock that was had is not held any more")
		}
		n.restart()
		for _, l := range g.recover(a, b) {
			if l.GetStatus() == pb.Status_STATUS_LOST {
				t.Errorf("recovered: %v", l)
			}
		}
		if _, err := other.acquire(a); err == nil {
			t.Error("a lock that is held was had by another")
		}
		if r := g.release(false); r.GetReleased() != 2 || n.records() != 0 {
			t.Errorf("released %v, and %d records are left", r, n.records())
		}
		other.acquired(a, b)
		other.release(false)
	}
	t.Logf("last words: %v", last)
}

// killVictim has another process take and give up a guest's locks, kills it, and returns its last word.
func (n *node) killVictim(g *guest, disks ...*pb.Resource) string {
	n.Helper()
	o := orders{State: n.core.(lasting).dir, Log: filepath.Join(n.TempDir(), "log"), Config: n.config(), Owner: g.who}
	for _, d := range disks {
		o.Disks = append(o.Disks, d.GetDisk())
	}
	text, err := json.Marshal(o)
	if err != nil {
		n.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		n.Fatal(err)
	}
	victim := exec.CommandContext(n.ctx(), self, "-test.run=^TestVictim$")
	victim.Env = append(os.Environ(), victimOrders+"="+string(text))
	var said strings.Builder
	victim.Stdout, victim.Stderr = &said, &said
	if err := victim.Start(); err != nil {
		n.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = victim.Wait() // it is killed
	}()
	words := func() string { text, _ := os.ReadFile(o.Log); return string(text) }
	for len(words()) < 3 {
		select {
		case <-time.After(time.Millisecond):
		case <-ended:
			n.Fatalf("victim has ended: %s", said.String())
		}
	}
	time.Sleep(time.Duration(rand.IntN(200_000)) * time.Microsecond)
	if err := victim.Process.Kill(); err != nil {
		n.Fatal(err)
	}
	<-ended
	all := words()
	return all[len(all)-1:]
}
