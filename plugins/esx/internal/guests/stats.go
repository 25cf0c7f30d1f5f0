package guests

import (
	"context"
	"sync"
	"time"

	"github.com/vmware/govmomi/property"
	"github.com/vmware/govmomi/vim25"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/lodgevirt/lodge/plugins/esx/internal/endpoint"
	"github.com/lodgevirt/lodge/plugins/esx/internal/inventory"
	hv "github.com/lodgevirt/lodge/sdk/proto/lodge/hypervisor/v1"
)

const (
	// gather is how long a question about figures waits for others to go with it.
	gather = 10 * time.Millisecond
	// maxAsked is how many machines one call asks about.
	maxAsked = 500
)

// meter reads the figures of machines, those of many in one call.
type meter struct {
	endpoint *endpoint.Endpoint

	mu sync.Mutex // guards all below; not held across calls
	// next is the question that is being gathered, or nil.
	next *question
	// used are the estimates of CPU time.
	used map[types.ManagedObjectReference]usage
}

// usage is the estimate of a machine's CPU time at one moment of a life, which begins with a boot.
type usage struct {
	boot int64
	at   time.Time
	cpu  time.Duration
}

// question is a call about several machines.
type question struct {
	refs map[types.ManagedObjectReference]struct{}
	// done is closed when the answer is there.
	done   chan struct{}
	answer map[types.ManagedObjectReference]types.VirtualMachineQuickStats
	err    error
}

func newMeter(e *endpoint.Endpoint) *meter {
	return &meter{endpoint: e, used: map[types.ManagedObjectReference]usage{}}
}

// estimate is the CPU time of a machine that uses so many MHz of a core of the host now: what it would have used since its start with this
// load, when it is asked for the first time, and from then on with the load at each time of asking. It never goes back within a life.
func (m *meter) estimate(vm inventory.VM, quick types.VirtualMachineQuickStats, mhz int32, now time.Time) time.Duration {
	load := float64(max(0, quick.OverallCpuUsage)) / float64(mhz)
	m.mu.Lock()
	defer m.mu.Unlock()
	u, known := m.used[vm.Ref]
	if !known || u.boot != vm.Boot {
		u = usage{boot: vm.Boot, at: now.Add(-time.Duration(max(0, quick.UptimeSeconds)) * time.Second)}
	}
	u.cpu += time.Duration(load * float64(max(0, now.Sub(u.at))))
	u.at = now
	m.used[vm.Ref] = u
	return u.cpu
}

// forget drops what is known of a machine.
func (m *meter) forget(ref types.ManagedObjectReference) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.used, ref)
}

// read returns the figures of a machine.
func (m *meter) read(ctx context.Context, ref types.ManagedObjectReference) (types.VirtualMachineQuickStats, error) {
	q := m.join(ctx, ref)
	select {
	case <-q.done:
		return q.answer[ref], q.err
	case <-ctx.Done():
		return types.VirtualMachineQuickStats{}, ctx.Err()
	}
}

// join adds a machine to the question that is being gathered, and begins one if there is none.
func (m *meter) join(ctx context.Context, ref types.ManagedObjectReference) *question {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.next == nil {
		q := &question{refs: map[types.ManagedObjectReference]struct{}{}, done: make(chan struct{})}
		m.next = q
		ctx := context.WithoutCancel(ctx) // others may wait for the answer longer; it is bounded by the endpoint's time-out
		time.AfterFunc(gather, func() { m.ask(ctx, q) })
	}
	q := m.next
	q.refs[ref] = struct{}{}
	if len(q.refs) >= maxAsked {
		m.next = nil
	}
	return q
}

// ask makes the call.
func (m *meter) ask(ctx context.Context, q *question) {
	m.mu.Lock()
	if m.next == q {
		m.next = nil
	}
	refs := make([]types.ManagedObjectReference, 0, len(q.refs))
	for ref := range q.refs {
		refs = append(refs, ref)
	}
	m.mu.Unlock()
	defer close(q.done)
	q.err = m.endpoint.Do(ctx, func(ctx context.Context, client *vim25.Client) error {
		var read []mo.VirtualMachine
		if err := property.DefaultCollector(client).Retrieve(ctx, refs, []string{"summary.quickStats"}, &read); err != nil {
			return err
		}
		q.answer = map[types.ManagedObjectReference]types.VirtualMachineQuickStats{}
		for _, vm := range read {
			q.answer[vm.Self] = vm.Summary.QuickStats
		}
		return nil
	})
}

// Stats are the figures of a guest: those that hosts keep current. Hosts keep no sum of CPU time, so cpu.time is an estimate.
func (g *Guests) Stats(ctx context.Context, guest *hv.Guest, groups uint32) ([]*hv.Stat, error) {
	vm, err := g.find(guest)
	if err != nil {
		return nil, err
	}
	var stats []*hv.Stat
	add := func(name string, value uint64) {
		stats = append(stats, &hv.Stat{Name: name, Value: &hv.Stat_Ullong{Ullong: value}})
	}
	kib := func(mib int32) uint64 { return uint64(max(0, mib)) << 10 }
	quick, err := g.meter.read(ctx, vm.Ref)
	if err != nil {
		return nil, err
	}
	if groups&uint32(hv.StatsGroup_STATS_GROUP_CPU_TOTAL) != 0 && vm.State() == hv.State_STATE_RUNNING {
		mhz := g.mirror.Snapshot().Host.MHz
		if mhz > 0 {
			add("cpu.time", uint64(g.meter.estimate(vm, quick, mhz, time.Now())))
		}
	}
	if groups&uint32(hv.StatsGroup_STATS_GROUP_BALLOON) != 0 {
		size := kib(vm.MemoryMiB)
		add("balloon.current", size-min(size, kib(quick.BalloonedMemory)))
		add("balloon.maximum", size)
		if vm.Active() {
			add("balloon.swap_out", kib(quick.SwappedMemory))
			add("balloon.usable", size-min(size, kib(quick.GuestMemoryUsage)))
			add("balloon.rss", kib(quick.HostMemoryUsage))
		}
	}
	if groups&uint32(hv.StatsGroup_STATS_GROUP_VCPU) != 0 {
		for _, name := range []string{"vcpu.current", "vcpu.maximum"} {
			stats = append(stats, &hv.Stat{Name: name, Value: &hv.Stat_Uint{Uint: uint32(max(0, vm.VCPUs))}})
		}
	}
	return stats, nil
}
