package lockmanager

import (
	"context"
	"fmt"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/lodgevirt/lodge/sdk/faketest"
	"github.com/lodgevirt/lodge/sdk/procfs"
	lockv1 "github.com/lodgevirt/lodge/sdk/proto/lodge/lock/v1"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// patience is the longest that any call of the contract may take, and some more.
const patience = 30 * time.Second

// bench is one check's workplace: hosts, and the guests on them.
type bench struct {
	*testing.T
	factory Factory
	hosts   []*host
	guests  []*guest // to be released at the end
	names   atomic.Int64
	swept   bool
}

// host is one of them.
type host struct {
	b       *bench
	core    *faketest.Host
	config  []byte
	manager lockv1.ManagerServiceClient
}

// newBench makes the hosts of a check.
func newBench(t *testing.T, f Factory) *bench {
	t.Helper()
	b := &bench{T: t, factory: f}
	for _, config := range f.Hosts(t) {
		h := &host{b: b, config: config, core: faketest.StartWith(t, f.Plugin(), config)}
		h.manager = lockv1.NewManagerServiceClient(h.core.Conn)
		b.hosts = append(b.hosts, h)
	}
	if len(b.hosts) == 0 {
		t.Fatal("the factory has no host")
	}
	t.Cleanup(b.sweep)
	return b
}

// restart starts the host's plugin anew, in the same folders and with the same state.
func (h *host) restart() {
	h.b.Helper()
	h.core.Restart(h.b.T, h.b.factory.Plugin(), h.config)
	h.manager = lockv1.NewManagerServiceClient(h.core.Conn)
}

// here and there are the hosts; they are the same where there can be only one.
func (b *bench) here() *host { return b.hosts[0] }

func (b *bench) there() *host { return b.hosts[len(b.hosts)-1] }

// ctx is a context for one call.
func (b *bench) ctx() context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	b.Cleanup(cancel)
	return ctx
}

// disk is a new disk.
func (b *bench) disk() *lockv1.Resource {
	b.Helper()
	return b.named(fmt.Sprintf("disk-%d", b.names.Add(1)))
}

// named is a new disk of a name.
func (b *bench) named(name string) *lockv1.Resource {
	b.Helper()
	return &lockv1.Resource{Disk: b.factory.Disk(b.T, name)}
}

// sharing is the same resource for one that shares it.
func sharing(r *lockv1.Resource) *lockv1.Resource {
	return &lockv1.Resource{Disk: r.GetDisk(), Lockspace: r.GetLockspace(), Key: r.GetKey(), Path: r.GetPath(), Offset: r.GetOffset(), Shared: true}
}

// guest is one life of a guest on a host.
type guest struct {
	h       *host
	owner   *lockv1.Owner
	process *Process
	// registered says that the process has made the registrations.
	registered bool
}

// guest makes a guest, whose locks are released at the end, whatever becomes of it.
func (h *host) guest(name string) *guest {
	h.b.Helper()
	n := h.b.names.Add(1)
	g := &guest{h: h, owner: &lockv1.Owner{
		Uuid: uuid.NewString(), Name: fmt.Sprintf("%s-%d", name, n), Id: int32(n), Generation: 1, Uri: "test:///default",
	}}
	h.b.guests = append(h.b.guests, g)
	return g
}

// nextLife is the same guest, started once more.
func (g *guest) nextLife() *guest {
	g.h.b.Helper()
	next := g.h.guest("next")
	next.owner.Uuid, next.owner.Name, next.owner.Generation = g.owner.GetUuid(), g.owner.GetName(), g.owner.GetGeneration()+1
	return next
}

// moved is the same guest on another host.
func (g *guest) moved(h *host) *guest {
	g.h.b.Helper()
	next := h.guest("moved")
	next.owner.Uuid, next.owner.Name, next.owner.Generation = g.owner.GetUuid(), g.owner.GetName(), g.owner.GetGeneration()
	return next
}

// prepare prepares a guest's resources, and starts its process where the manager needs it.
func (g *guest) prepare(resources ...*lockv1.Resource) error {
	b := g.h.b
	rsp, err := g.h.manager.Prepare(b.ctx(), &lockv1.PrepareRequest{Owner: g.owner, Resources: resources})
	if err != nil {
		return err
	}
	if !rsp.GetNeedsProcess() || g.registered {
		return nil
	}
	if b.factory.Process == nil {
		b.Fatal("the manager needs processes that have registered, and the factory cannot make them")
	}
	g.endProcess()
	g.adopt(b.factory.Process(b.T, rsp.GetRegistrations()))
	g.registered = true
	return nil
}

// adopt gives a guest its process.
func (g *guest) adopt(p *Process) {
	g.process = p
	g.owner.Pid, g.owner.StartTime = p.PID, p.StartTime
}

// start starts a process for a guest that has none.
func (g *guest) start() {
	g.h.b.Helper()
	if g.process == nil {
		g.adopt(sleeper(g.h.b.T))
	}
}

func (g *guest) endProcess() {
	if g.process != nil {
		g.process.End()
		g.process = nil
		g.owner.Pid, g.owner.StartTime = 0, 0
	}
}

// try prepares and acquires.
func (g *guest) try(resources ...*lockv1.Resource) ([]*lockv1.Lease, error) {
	if err := g.prepare(resources...); err != nil {
		return nil, err
	}
	return g.acquire(nil, resources...)
}

// acquire acquires alone.
func (g *guest) acquire(state []byte, resources ...*lockv1.Resource) ([]*lockv1.Lease, error) {
	rsp, err := g.h.manager.Acquire(g.h.b.ctx(), &lockv1.AcquireRequest{Owner: g.owner, Resources: resources, State: state})
	return rsp.GetLeases(), err
}

// take prepares and acquires, which must succeed.
func (g *guest) take(resources ...*lockv1.Resource) []*lockv1.Lease {
	g.h.b.Helper()
	leases, err := g.try(resources...)
	if err != nil {
		g.h.b.Fatalf("guest %q locks %v: %v", g.owner.GetName(), resources, err)
	}
	if len(leases) != len(resources) {
		g.h.b.Fatalf("guest %q wanted %d locks and was told of %d", g.owner.GetName(), len(resources), len(leases))
	}
	return leases
}

// release releases, which must succeed.
func (g *guest) release(resources ...*lockv1.Resource) uint32 {
	g.h.b.Helper()
	rsp, err := g.h.manager.Release(g.h.b.ctx(), &lockv1.ReleaseRequest{Owner: g.owner, Resources: resources})
	if err != nil {
		g.h.b.Fatalf("guest %q releases %v: %v", g.owner.GetName(), resources, err)
	}
	return rsp.GetReleased()
}

// suspend releases for a while, and returns the state.
func (g *guest) suspend() []byte {
	g.h.b.Helper()
	rsp, err := g.h.manager.Release(g.h.b.ctx(), &lockv1.ReleaseRequest{Owner: g.owner, Suspend: true})
	if err != nil {
		g.h.b.Fatalf("guest %q is suspended: %v", g.owner.GetName(), err)
	}
	if n := len(rsp.GetState()); n > 64<<10 {
		g.h.b.Errorf("the state has %d bytes, more than 64 KiB", n)
	}
	return rsp.GetState()
}

// recover recovers, which must succeed.
func (g *guest) recover(resources ...*lockv1.Resource) []*lockv1.Lease {
	g.h.b.Helper()
	rsp, err := g.h.manager.Recover(g.h.b.ctx(), &lockv1.RecoverRequest{Owner: g.owner, Resources: resources})
	if err != nil {
		g.h.b.Fatalf("recover guest %q: %v", g.owner.GetName(), err)
	}
	if len(rsp.GetLeases()) != len(resources) {
		g.h.b.Fatalf("recover guest %q: %d leases for %d resources", g.owner.GetName(), len(rsp.GetLeases()), len(resources))
	}
	return rsp.GetLeases()
}

// list returns the locks that a host tells of.
func (h *host) list() []*lockv1.Lease {
	h.b.Helper()
	rsp, err := h.manager.List(h.b.ctx(), &lockv1.ListRequest{})
	if err != nil {
		h.b.Fatalf("list: %v", err)
	}
	return rsp.GetLeases()
}

// of returns those of some leases that a guest has.
func (g *guest) of(leases []*lockv1.Lease) []*lockv1.Lease {
	return slices.DeleteFunc(slices.Clone(leases), func(l *lockv1.Lease) bool {
		return l.GetOwner().GetUuid() != g.owner.GetUuid() || l.GetOwner().GetGeneration() != g.owner.GetGeneration()
	})
}

// wantBusy fails unless an error says that somebody has a lock, and names the resource and who has it.
func (b *bench) wantBusy(what string, err error, r *lockv1.Resource, holder *guest) {
	b.Helper()
	b.wantCode(what, err, verr.ResourceBusy)
	if err == nil {
		return
	}
	name := r.GetDisk()
	if name == "" {
		name = r.GetKey()
	}
	message := verr.From(err).Message
	if !strings.Contains(message, name) {
		b.Errorf("%s: the error %q does not name %q", what, message, name)
	}
	names := []string{holder.owner.GetName()}
	if pid := holder.owner.GetPid(); pid != 0 {
		names = append(names, strconv.Itoa(int(pid)))
	}
	if b.factory.HostName != nil {
		names = append(names, b.factory.HostName(slices.Index(b.hosts, holder.h)))
	}
	if !slices.ContainsFunc(names, func(name string) bool { return strings.Contains(message, name) }) {
		b.Errorf("%s: the error %q names none of %q", what, message, names)
	}
}

// wantCode fails unless an error has one of libvirt's codes.
func (b *bench) wantCode(what string, err error, codes ...verr.Code) {
	b.Helper()
	if err == nil || !slices.Contains(codes, verr.From(err).Code) {
		b.Errorf("%s: got %v, want an error of code %v", what, err, codes)
	}
}

// wantTaken fails unless somebody has a lock of a resource.
func (b *bench) wantTaken(what string, r *lockv1.Resource) {
	b.Helper()
	other := b.there().guest("probe")
	if _, err := other.try(r); err == nil {
		b.Errorf("%s: somebody else could lock %v", what, r)
	} else {
		b.wantCode(what, err, verr.ResourceBusy)
	}
	other.done()
}

// wantFree fails unless a resource can be locked.
func (b *bench) wantFree(what string, r *lockv1.Resource) {
	b.Helper()
	other := b.there().guest("probe")
	if _, err := other.try(r); err != nil {
		b.Errorf("%s: nobody can lock %v: %v", what, r, err)
	}
	other.done()
}

// done releases what a guest has, and ends it.
func (g *guest) done() {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if _, err := g.h.manager.Release(ctx, &lockv1.ReleaseRequest{Owner: g.owner}); err != nil {
		g.h.b.Errorf("release guest %q after the check: %v", g.owner.GetName(), err)
	}
	g.endProcess()
}

// sweep ends all guests, and looks whether something is left. It does so once.
func (b *bench) sweep() {
	if b.swept {
		return
	}
	b.swept = true
	for _, g := range b.guests {
		g.done()
	}
	for i, h := range b.hosts {
		if left := h.list(); len(left) > 0 {
			b.Errorf("host %d has locks after everything was released: %v", i, left)
		}
	}
}

// sleeper starts a process that sleeps.
func sleeper(t *testing.T) *Process {
	t.Helper()
	cmd := exec.CommandContext(context.Background(), "sleep", "3600")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	start, err := procfs.StartTime(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	return &Process{PID: int32(cmd.Process.Pid), StartTime: start, End: func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}}
}
