package driver

import (
	"context"
	"fmt"
	"time"

	"github.com/lodgevirt/lodge/plugins/test/internal/record"
	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/hypervisor/v1"
)

// rate is a pretended counter: so much for each second that the guest's vCPUs ran.
type rate struct {
	name      string
	perSecond uint64
}

var (
	blockRates = []rate{
		{"rd.reqs", 10}, {"rd.bytes", 40960}, {"rd.times", 1000000}, {"wr.reqs", 5}, {"wr.bytes", 20480}, {"wr.times", 2000000},
	}
	netRates = []rate{
		{"rx.bytes", 1500},
		{"rx.pkts", 10},
		{"rx.errs", 0},
		{"rx.drop", 0},
		{"tx.bytes", 1000},
		{"tx.pkts", 8},
		{"tx.errs", 0},
		{"tx.drop", 0},
	}
)

// vcpuRunning is VIR_VCPU_RUNNING.
const vcpuRunning = 1

// groups are the groups of figures in libvirt's order.
var groups = []struct {
	bit     pb.StatsGroup
	figures func(r *record.Record, ran time.Duration) []*pb.Stat
}{
	{pb.StatsGroup_STATS_GROUP_CPU_TOTAL, cpuFigures},
	{pb.StatsGroup_STATS_GROUP_BALLOON, balloonFigures},
	{pb.StatsGroup_STATS_GROUP_VCPU, vcpuFigures},
	{pb.StatsGroup_STATS_GROUP_INTERFACE, interfaceFigures},
	{pb.StatsGroup_STATS_GROUP_BLOCK, blockFigures},
}

// GuestStats makes all figures up from how long the guest's vCPUs ran, so that counters only ever grow.
func (d *Driver) GuestStats(ctx context.Context, guest *pb.GuestHandle, wanted uint32) ([]*pb.Stat, error) {
	g, err := d.find(guest.GetGuest())
	if err != nil {
		return nil, err
	}
	if err := d.pass(ctx, g, "stats"); err != nil {
		return nil, err
	}
	r := g.snapshot()
	ran := r.Uptime(time.Now())
	var stats []*pb.Stat
	for _, group := range groups {
		if wanted&uint32(group.bit) != 0 {
			stats = append(stats, group.figures(&r, ran)...)
		}
	}
	return stats, nil
}

func cpuFigures(r *record.Record, ran time.Duration) []*pb.Stat {
	total := uint64(ran) * uint64(r.Shape.VCPUs)
	return []*pb.Stat{ullong("cpu.time", total), ullong("cpu.user", total/2), ullong("cpu.system", total-total/2)}
}

func balloonFigures(r *record.Record, _ time.Duration) []*pb.Stat {
	return []*pb.Stat{ullong("balloon.current", r.Shape.MemoryKiB), ullong("balloon.maximum", r.Shape.MaxMemoryKiB)}
}

func vcpuFigures(r *record.Record, ran time.Duration) []*pb.Stat {
	stats := []*pb.Stat{number("vcpu.current", r.Shape.VCPUs), number("vcpu.maximum", r.Shape.MaxVCPUs)}
	for n := range r.Shape.VCPUs {
		stats = append(stats,
			&pb.Stat{Name: fmt.Sprintf("vcpu.%d.state", n), Value: &pb.Stat_Int{Int: vcpuRunning}},
			ullong(fmt.Sprintf("vcpu.%d.time", n), uint64(ran)))
	}
	return stats
}

func interfaceFigures(r *record.Record, ran time.Duration) []*pb.Stat {
	stats := []*pb.Stat{number("net.count", uint32(len(r.Shape.Interfaces)))}
	for n, name := range r.Shape.Interfaces {
		prefix := fmt.Sprintf("net.%d.", n)
		stats = append(stats, text(prefix+"name", name))
		stats = append(stats, counters(prefix, netRates, ran)...)
	}
	return stats
}

func blockFigures(r *record.Record, ran time.Duration) []*pb.Stat {
	stats := []*pb.Stat{number("block.count", uint32(len(r.Shape.Disks)))}
	for n, disk := range r.Shape.Disks {
		prefix := fmt.Sprintf("block.%d.", n)
		stats = append(stats, text(prefix+"name", disk.Target))
		if disk.Path != "" {
			stats = append(stats, text(prefix+"path", disk.Path))
		}
		stats = append(stats, counters(prefix, blockRates, ran)...)
	}
	return stats
}

func counters(prefix string, rates []rate, ran time.Duration) []*pb.Stat {
	stats := make([]*pb.Stat, len(rates))
	for i, r := range rates {
		stats[i] = ullong(prefix+r.name, r.perSecond*uint64(ran/time.Millisecond)/1000)
	}
	return stats
}

func ullong(name string, v uint64) *pb.Stat {
	return &pb.Stat{Name: name, Value: &pb.Stat_Ullong{Ullong: v}}
}

func number(name string, v uint32) *pb.Stat {
	return &pb.Stat{Name: name, Value: &pb.Stat_Uint{Uint: v}}
}

func text(name, v string) *pb.Stat { return &pb.Stat{Name: name, Value: &pb.Stat_String_{String_: v}} }
