package client_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/lodgevirt/lodge/plugins/lock/sanlock/internal/client"
	"github.com/lodgevirt/lodge/plugins/lock/sanlock/internal/sanlocktest"
)

func TestMain(m *testing.M) {
	sanlocktest.RunOwner()
	goleak.VerifyTestMain(m)
}

func within(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// space is a lockspace that a host has joined, with a lease for each name.
type space struct {
	*testing.T
	host *sanlocktest.Host
	dir  string
	ls   client.Lockspace
}

func newSpace(t *testing.T, names ...string) *space {
	t.Helper()
	s := &space{T: t, host: sanlocktest.NewHost(t, "first"), dir: t.TempDir()}
	s.ls = client.Lockspace{Name: "LS", HostID: 1, Disk: client.Disk{Path: s.file("space")}}
	if err := s.host.Client.InitLockspace(within(t), s.ls, sanlocktest.IOTimeout); err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		s.file(name)
		if err := s.host.Client.InitResource(within(t), s.lease(name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.host.Client.Join(within(t), s.ls, sanlocktest.IOTimeout); err != nil {
		t.Fatal(err)
	}
	return s
}

func (s *space) file(name string) string {
	s.Helper()
	path := filepath.Join(s.dir, name)
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		s.Fatal(err)
	}
	size, err := s.host.Client.Align(within(s.T), client.Disk{Path: path})
	if err != nil || size != 1<<20 {
		s.Fatalf("size of a lease is %d, %v", size, err)
	}
	if err := os.Truncate(path, size); err != nil {
		s.Fatal(err)
	}
	return path
}

func (s *space) lease(name string) client.Resource {
	return client.Resource{Lockspace: s.ls.Name, Name: name, Disks: []client.Disk{{Path: filepath.Join(s.dir, name)}}}
}

func (s *space) status() *client.Status {
	s.Helper()
	status, err := s.host.Client.Status(within(s.T))
	if err != nil {
		s.Fatal(err)
	}
	return status
}

func TestLeasesAreTakenAndGivenUp(t *testing.T) {
	s := newSpace(t, "a", "b:c d")
	c, owner, other := s.host.Client, s.host.NewOwner(t, ""), s.host.NewOwner(t, "/bin/true")
	if err := c.Acquire(within(t), owner.PID, "guest", []client.Resource{s.lease("a"), s.lease("b:c d")}); err != nil {
		t.Fatal(err)
	}
	status := s.status()
	for _, name := range []string{"a", "b:c d"} {
		got := status.Of(owner.PID, "LS", name)
		if got == nil || got.Version != 1 || got.Shared || len(got.Disks) != 1 || got.Disks[0].Path != filepath.Join(s.dir, name) {
			t.Errorf("lease %q is %+v", name, got)
		}
	}
	if l := status.Lockspace("LS"); l == nil || l.Lockspace != s.ls || l.List != client.ListJoined || l.IOTimeout != 1 ||
		l.Failed || l.Corrupt != 0 || l.Result != 1 || l.Renewed == 0 || l.Renewed > status.Now {
		t.Errorf("lockspace is %+v at %d", l, status.Now)
	}
	if status.Grace != 40 || status.Process(owner.PID) == nil || status.Process(other.PID) == nil || status.Process(os.Getpid()) != nil {
		t.Errorf("status is %+v", status)
	}
	if owners, err := c.Owners(within(t), s.lease("a")); err != nil || len(owners) != 1 || owners[0].HostID != 1 || owners[0].Generation != 1 {
		t.Errorf("owners are %v, %v", owners, err)
	}
	if err := c.Acquire(within(t), other.PID, "other", []client.Resource{s.lease("a")}); !errors.Is(err, client.Held) {
		t.Errorf("taking it twice: %v", err)
	}
	if err := c.Release(within(t), owner.PID, []client.Resource{s.lease("a")}); err != nil {
		t.Error(err)
	}
	if owners, err := c.Owners(within(t), s.lease("a")); err != nil || len(owners) != 0 {
		t.Errorf("owners are %v, %v", owners, err)
	}
	stale := s.lease("a")
	stale.Version = 7
	if err := c.Acquire(within(t), other.PID, "other", []client.Resource{stale}); !errors.Is(err, client.OtherVersion) {
		t.Errorf("taking another version: %v", err)
	}
	if version, err := c.ReadResource(within(t), s.lease("a")); err != nil || version != 1 {
		t.Errorf("version is %d, %v", version, err)
	}
	stale.Version = 1
	if err := c.Acquire(within(t), other.PID, "other", []client.Resource{stale}); err != nil {
		t.Error(err)
	}
}

func TestSharedLeasesAreShared(t *testing.T) {
	s := newSpace(t, "a")
	shared := s.lease("a")
	shared.Shared = true
	one, two := s.host.NewOwner(t, ""), s.host.NewOwner(t, "")
	for _, o := range []*sanlocktest.Owner{one, two} {
		if err := s.host.Client.Acquire(within(t), o.PID, "guest", []client.Resource{shared}); err != nil {
			t.Fatal(err)
		}
		if l := s.status().Of(o.PID, "LS", "a"); l == nil || !l.Shared {
			t.Errorf("lease is %+v", l)
		}
	}
	if owners, err := s.host.Client.Owners(within(t), s.lease("a")); err != nil || len(owners) != 1 || owners[0].HostID != 1 {
		t.Errorf("owners are %v, %v", owners, err)
	}
	three := s.host.NewOwner(t, "")
	if err := s.host.Client.Acquire(within(t), three.PID, "guest", []client.Resource{s.lease("a")}); !errors.Is(err, client.Held) {
		t.Errorf("taking it alone: %v", err)
	}
}

func TestRefusalsAreTold(t *testing.T) {
	s := newSpace(t, "a")
	c, owner, ctx := s.host.Client, s.host.NewOwner(t, ""), within(t)
	stranger := sanlocktest.NewStranger(t)
	other := func(change func(*client.Resource)) []client.Resource {
		r := s.lease("a")
		change(&r)
		return []client.Resource{r}
	}
	read := func(change func(*client.Resource)) error {
		_, err := c.ReadResource(ctx, other(change)[0])
		return err
	}
	for name, step := range map[string]struct {
		err  error
		want client.Result
	}{
		"a process that did not register": {c.Acquire(ctx, stranger.PID, "guest", []client.Resource{s.lease("a")}), client.NotRegistered},
		"giving up for it":                {c.Release(ctx, stranger.PID, []client.Resource{s.lease("a")}), client.NotRegistered},
		"giving up what is not had":       {c.Release(ctx, owner.PID, []client.Resource{s.lease("a")}), -1},
		"a lockspace that is not joined":  {c.Acquire(ctx, owner.PID, "guest", other(func(r *client.Resource) { r.Lockspace = "other" })), client.NoLockspace},
		"a missing file":                  {c.Acquire(ctx, owner.PID, "guest", other(func(r *client.Resource) { r.Disks[0].Path += "x" })), client.Missing},
		"a place without a lease":         {c.Acquire(ctx, owner.PID, "guest", other(func(r *client.Resource) { r.Disks[0].Path = s.file("empty") })), client.NoLease},
		"reading another lockspace's":     {read(func(r *client.Resource) { r.Lockspace = "other" }), client.OtherLockspace},
		"reading another lease":           {read(func(r *client.Resource) { r.Name = "other" }), client.OtherName},
		"joining twice":                   {c.Join(ctx, s.ls, 1), client.Exists},
		"joining under another number":    {c.Join(ctx, client.Lockspace{Name: "LS", HostID: 2, Disk: s.ls.Disk}, 1), client.Invalid},
		"hosts of a lockspace not joined": {func() error { _, err := c.Hosts(ctx, "other"); return err }(), client.NoLockspace},
	} {
		if !errors.Is(step.err, step.want) {
			t.Errorf("%s: %v", name, step.err)
		}
	}
	if err := c.ReadLockspace(ctx, s.ls); err != nil {
		t.Error(err)
	}
	// Hosts are seen when this host renews its own lease.
	hosts, err := c.Hosts(ctx, "LS")
	for ; err == nil && len(hosts) == 0; hosts, err = c.Hosts(ctx, "LS") {
		time.Sleep(50 * time.Millisecond)
	}
	if err != nil || len(hosts) != 1 || hosts[0].ID != 1 || hosts[0].Name != "first" || hosts[0].IOTimeout != 1 {
		t.Errorf("hosts are %+v, %v", hosts, err)
	}
}

func TestWhatDoesNotFitIsRefusedBeforeItIsSent(t *testing.T) {
	c, ctx := client.New("/nonexistent"), within(t)
	fits := client.Resource{Lockspace: "LS", Name: "a", Disks: []client.Disk{{Path: "/a"}}}
	for name, change := range map[string]func(*client.Resource){
		"an empty name":            func(r *client.Resource) { r.Name = "" },
		"a long name":              func(r *client.Resource) { r.Name = strings.Repeat("n", 49) },
		"a long lockspace":         func(r *client.Resource) { r.Lockspace = strings.Repeat("n", 49) },
		"a long path":              func(r *client.Resource) { r.Disks[0].Path = "/" + strings.Repeat("p", 1023) },
		"a path with many a space": func(r *client.Resource) { r.Disks[0].Path = "/" + strings.Repeat(" ", 512) },
		"a path with a zero":       func(r *client.Resource) { r.Disks[0].Path = "/a\x00b" },
		"no place":                 func(r *client.Resource) { r.Disks = nil },
		"five places":              func(r *client.Resource) { r.Disks = make([]client.Disk, 5) },
	} {
		r := fits
		r.Disks = append([]client.Disk(nil), fits.Disks...)
		change(&r)
		if err := c.Acquire(ctx, 1, "guest", []client.Resource{r}); err == nil || errors.Is(err, client.ErrNotRunning) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := c.Acquire(ctx, 1, "guest", make([]client.Resource, 9)); err == nil || errors.Is(err, client.ErrNotRunning) {
		t.Errorf("nine leases: %v", err)
	}
	if err := c.Acquire(ctx, 1, "guest", []client.Resource{fits}); !errors.Is(err, client.ErrNotRunning) {
		t.Errorf("what fits: %v", err)
	}
}

func TestDaemonThatHangsCostsTheDeadline(t *testing.T) {
	h := sanlocktest.NewHost(t, "first")
	h.Signal(t, 19) // SIGSTOP
	defer h.Signal(t, 18)
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := h.Client.Status(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error is %v", err)
	}
}
