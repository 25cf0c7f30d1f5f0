package domain

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/hashicorp/go-hclog"
	"google.golang.org/grpc"

	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/hypervisor/v1"
)

// statsWait is how long a bulk query waits for guests; those that have not answered are left without figures.
const statsWait = 10 * time.Second

// maxCollect is the largest number of guests of one call.
const maxCollect = 16384

// StatsRecord is one domain's figures with libvirt's names, in libvirt's order.
type StatsRecord struct {
	View *View
	// Stats may be shared with other records and must not be changed.
	Stats []*pb.Stat
}

// Stats collects figures of domains, in their order; groups are bits of virDomainStatsTypes, 0 for all. The state of a domain and all
// that is known of an inactive one come from memory; a driver that does not answer in time costs its guests' figures, not the call.
func (i *Inventory) Stats(ctx context.Context, domains []*Domain, groups uint32) ([]StatsRecord, error) {
	views, handles := make([]*View, len(domains)), make([]*pb.GuestHandle, len(domains))
	for n, d := range domains {
		s := d.state.Load()
		views[n] = &s.View
		if s.Active() {
			handles[n] = &pb.GuestHandle{Guest: s.guest(i.cfg.Connection), Handle: s.handle}
		}
	}
	return CollectStats(ctx, i.cfg.Plugin, views, handles, groups, i.cfg.Log), nil
}

// CollectStats collects figures of guests, in their order, as Inventory.Stats does; handles are theirs for the driver, nil for one that is
// not to be asked.
func CollectStats(
	ctx context.Context, driver grpc.ClientConnInterface, views []*View, handles []*pb.GuestHandle, groups uint32, log hclog.Logger,
) []StatsRecord {
	if groups == 0 {
		groups = allStats
	}
	records := make([]StatsRecord, len(views))
	known := map[figures][]*pb.Stat{} // thousands of domains mostly have the same ones
	byUUID := make(map[string]*StatsRecord)
	var guests []*pb.GuestHandle
	for n, v := range views {
		f := v.figures(groups)
		stats, ok := known[f]
		if !ok {
			stats = slices.Clip(f.stats(groups))
			known[f] = stats
		}
		records[n] = StatsRecord{View: v, Stats: stats}
		if handles[n] != nil && v.Active() && groups&^uint32(pb.StatsGroup_STATS_GROUP_STATE) != 0 && len(guests) < maxCollect {
			guests = append(guests, handles[n])
			byUUID[v.UUID.String()] = &records[n]
		}
	}
	if len(guests) == 0 {
		return records
	}
	ctx, cancel := context.WithTimeout(ctx, statsWait)
	defer cancel()
	err := collect(ctx, driver, guests, groups&^uint32(pb.StatsGroup_STATS_GROUP_STATE), func(r *pb.CollectResponse) {
		if rec := byUUID[r.Uuid]; rec != nil {
			rec.Stats = append(rec.Stats, r.Stats...)
		}
	})
	if err != nil {
		log.Debug("statistics are not complete", "error", err)
	}
	return records
}

// allStats are the groups that a driver or the core can answer.
const allStats = uint32(pb.StatsGroup_STATS_GROUP_STATE | pb.StatsGroup_STATS_GROUP_CPU_TOTAL | pb.StatsGroup_STATS_GROUP_BALLOON |
	pb.StatsGroup_STATS_GROUP_VCPU | pb.StatsGroup_STATS_GROUP_INTERFACE | pb.StatsGroup_STATS_GROUP_BLOCK)

// figures are what the core itself knows of a domain, as far as it was asked for.
type figures struct {
	active          bool
	state           State
	reason          int32
	maxMemoryKiB    uint64
	vcpus, maxVCPUs uint32
}

// figures leaves out what was not asked for, so that more domains have the same ones.
func (v *View) figures(groups uint32) figures {
	f := figures{active: v.Active()}
	if groups&uint32(pb.StatsGroup_STATS_GROUP_STATE) != 0 {
		f.state, f.reason = v.State, v.Reason
	}
	if f.active {
		return f
	}
	if groups&uint32(pb.StatsGroup_STATS_GROUP_BALLOON) != 0 {
		f.maxMemoryKiB = v.MaxMemoryKiB
	}
	if groups&uint32(pb.StatsGroup_STATS_GROUP_VCPU) != 0 {
		f.vcpus, f.maxVCPUs = v.VCPUs, v.MaxVCPUs
	}
	return f
}

// stats are the figures with libvirt's names.
func (f figures) stats(groups uint32) []*pb.Stat {
	var stats []*pb.Stat
	if groups&uint32(pb.StatsGroup_STATS_GROUP_STATE) != 0 {
		stats = append(stats, intStat("state.state", int32(f.state)), intStat("state.reason", f.reason))
	}
	if f.active {
		return stats
	}
	if groups&uint32(pb.StatsGroup_STATS_GROUP_BALLOON) != 0 {
		stats = append(stats, &pb.Stat{Name: "balloon.maximum", Value: &pb.Stat_Ullong{Ullong: f.maxMemoryKiB}})
	}
	if groups&uint32(pb.StatsGroup_STATS_GROUP_VCPU) != 0 {
		stats = append(stats, uintStat("vcpu.current", f.vcpus), uintStat("vcpu.maximum", f.maxVCPUs))
	}
	return stats
}

func intStat(name string, v int32) *pb.Stat { return &pb.Stat{Name: name, Value: &pb.Stat_Int{Int: v}} }

func uintStat(name string, v uint32) *pb.Stat {
	return &pb.Stat{Name: name, Value: &pb.Stat_Uint{Uint: v}}
}

// collect has the driver measure guests.
func collect(
	ctx context.Context, driver grpc.ClientConnInterface, guests []*pb.GuestHandle, groups uint32, take func(*pb.CollectResponse),
) error {
	stream, err := pb.NewStatsServiceClient(driver).Collect(ctx, &pb.CollectRequest{Guests: guests, Groups: groups})
	if err != nil {
		return fmt.Errorf("collect statistics of %d guests: %w", len(guests), err)
	}
	for {
		r, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("collect statistics of %d guests: %w", len(guests), err)
		}
		take(r)
	}
}

// cpuTimeWait bounds the question for the CPU time of a guest without a process on this machine.
const cpuTimeWait = 2 * time.Second

// CPUTime returns the CPU time of an active guest in nanoseconds, 0 for an inactive one. That of a process on this machine is read
// from the kernel, so a driver that hangs does not matter.
func (d *Domain) CPUTime(ctx context.Context) (uint64, error) {
	s := d.state.Load()
	if !s.Active() {
		return 0, nil
	}
	if s.PID > 0 {
		return d.inv.cfg.ProcessCPUTime(s.PID, s.handle.GetStartTime())
	}
	guest := &pb.GuestHandle{Guest: s.guest(d.inv.cfg.Connection), Handle: s.handle}
	return CPUTimeOf(ctx, d.inv.cfg.Plugin, guest, d.inv.cfg.Log), nil
}

// CPUTimeOf asks a driver for the CPU time of a guest in nanoseconds; 0 is the answer of one that does not tell it in time.
func CPUTimeOf(ctx context.Context, driver grpc.ClientConnInterface, guest *pb.GuestHandle, log hclog.Logger) uint64 {
	ctx, cancel := context.WithTimeout(ctx, cpuTimeWait)
	defer cancel()
	var nanoseconds uint64
	err := collect(ctx, driver, []*pb.GuestHandle{guest}, uint32(pb.StatsGroup_STATS_GROUP_CPU_TOTAL), func(r *pb.CollectResponse) {
		for _, st := range r.Stats {
			if st.Name == "cpu.time" {
				nanoseconds = st.GetUllong()
			}
		}
	})
	if err != nil {
		log.Debug("cpu time is not known", "guest", guest.GetGuest().GetName(), "error", err)
	}
	return nanoseconds
}
