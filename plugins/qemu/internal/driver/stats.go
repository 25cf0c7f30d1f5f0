package driver

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"libvirt.org/go/libvirtxml"

	"github.com/lodgevirt/lodge/plugins/qemu/internal/guest"
	"github.com/lodgevirt/lodge/plugins/qemu/internal/qmp"
	"github.com/lodgevirt/lodge/sdk/cgroup"
	"github.com/lodgevirt/lodge/sdk/hypervisor"
	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/hypervisor/v1"
)

var _ hypervisor.Stats = (*Driver)(nil)

// GuestStats implements hypervisor.Stats. What the kernel knows is given even if QEMU does not answer before the deadline.
func (d *Driver) GuestStats(ctx context.Context, ref *pb.GuestHandle, groups uint32) ([]*pb.Stat, error) {
	l, g, err := d.living(ref.GetGuest())
	if err != nil {
		return nil, err
	}
	m := &measurement{life: l, guest: g, wants: groups}
	if err := m.ask(ctx); err != nil {
		l.log.Debug("qemu gave no figures", "error", err)
	}
	for _, group := range measures {
		if m.wants&uint32(group.bit) != 0 {
			group.measure(m)
		}
	}
	return m.stats, nil
}

// measures are the groups of figures, in libvirt's order.
var measures = []struct {
	bit     pb.StatsGroup
	measure func(*measurement)
}{
	{pb.StatsGroup_STATS_GROUP_CPU_TOTAL, (*measurement).cpu},
	{pb.StatsGroup_STATS_GROUP_BALLOON, (*measurement).balloon},
	{pb.StatsGroup_STATS_GROUP_VCPU, (*measurement).vcpus},
	{pb.StatsGroup_STATS_GROUP_INTERFACE, (*measurement).interfaces},
	{pb.StatsGroup_STATS_GROUP_BLOCK, (*measurement).blocks},
}

// measurement is the figures of one guest being gathered.
type measurement struct {
	life  *life
	guest *guest.Guest
	wants uint32
	stats []*pb.Stat

	// Answers of QEMU's; one that failed stays nil.
	balloonSize *balloonInfo
	guestStats  *guestMemory
	cpus        []cpuInfo
	blockStats  []blockStats
	images      []blockInfo
}

// The parts of QEMU's answers that are used, see qapi/machine.json and qapi/block-core.json.
type (
	balloonInfo struct {
		Actual uint64 `json:"actual"`
	}
	guestMemory struct {
		LastUpdate int64            `json:"last-update"`
		Stats      map[string]int64 `json:"stats"`
	}
	cpuInfo struct {
		Index  int `json:"cpu-index"`
		Thread int `json:"thread-id"`
	}
	blockStats struct {
		QDev  string  `json:"qdev"`
		Stats figures `json:"stats"`
	}
	blockInfo struct {
		QDev     string `json:"qdev"`
		Inserted *struct {
			NodeName string `json:"node-name"`
			Image    struct {
				Virtual uint64 `json:"virtual-size"`
				Actual  uint64 `json:"actual-size"`
			} `json:"image"`
		} `json:"inserted"`
	}
)

// figures are the whole numbers among the members of an object.
type figures map[string]uint64

// UnmarshalJSON implements json.Unmarshaler.
func (f *figures) UnmarshalJSON(text []byte) error {
	var members map[string]json.RawMessage
	if err := json.Unmarshal(text, &members); err != nil {
		return err
	}
	*f = figures{}
	for name, value := range members {
		if n, err := strconv.ParseUint(string(value), 10, 64); err == nil {
			(*f)[name] = n
		}
	}
	return nil
}

// ask gets everything from QEMU in one round trip. QEMU refuses what a guest doesn't have, which is no error.
func (m *measurement) ask(ctx context.Context) error {
	var cmds []*qmp.Command
	add := func(group pb.StatsGroup, cmd *qmp.Command) {
		if m.wants&uint32(group) != 0 {
			cmds = append(cmds, cmd)
		}
	}
	if m.life.hasBalloon() {
		add(pb.StatsGroup_STATS_GROUP_BALLOON, &qmp.Command{Name: "query-balloon", Reply: &m.balloonSize})
		add(pb.StatsGroup_STATS_GROUP_BALLOON, &qmp.Command{Name: "qom-get", Reply: &m.guestStats, Args: map[string]any{
			"path": balloonPath, "property": "guest-stats",
		}})
	}
	add(pb.StatsGroup_STATS_GROUP_VCPU, &qmp.Command{Name: "query-cpus-fast", Reply: &m.cpus})
	add(pb.StatsGroup_STATS_GROUP_BLOCK, &qmp.Command{Name: "query-blockstats", Reply: &m.blockStats})
	add(pb.StatsGroup_STATS_GROUP_BLOCK, &qmp.Command{Name: "query-block", Reply: &m.images})
	if len(cmds) == 0 {
		return nil
	}
	err := m.guest.Query(ctx, cmds...)
	var refused *qmp.Error
	if errors.As(err, &refused) {
		return nil
	}
	return err
}

// balloonPath is where QEMU has the balloon device, which libvirt's alias names.
const balloonPath = "/machine/peripheral/balloon0"

func (l *life) hasBalloon() bool {
	return l.live().Devices != nil && l.live().Devices.MemBalloon != nil && l.live().Devices.MemBalloon.Model != "none"
}

func (m *measurement) number(value uint64, format string, args ...any) {
	m.stats = append(m.stats, &pb.Stat{Name: fmt.Sprintf(format, args...), Value: &pb.Stat_Ullong{Ullong: value}})
}

func (m *measurement) count(value int, name string) {
	m.stats = append(m.stats, &pb.Stat{Name: name, Value: &pb.Stat_Uint{Uint: uint32(value)}})
}

func (m *measurement) text(value, format string, args ...any) {
	m.stats = append(m.stats, &pb.Stat{Name: fmt.Sprintf(format, args...), Value: &pb.Stat_String_{String_: value}})
}

func (m *measurement) cpu() {
	pid := m.guest.Process().PID
	times, err := readTimes(pid)
	if err != nil {
		return
	}
	total := times.user + times.system
	if used, ok := m.groupTime(); ok {
		total = used
	}
	m.number(uint64(total), "cpu.time")
	m.number(uint64(times.user), "cpu.user")
	m.number(uint64(times.system), "cpu.system")
}

// groupTime is the finer figure of the control group, if there is one.
func (m *measurement) groupTime() (time.Duration, bool) {
	if m.life.cgroup == "" {
		return 0, false
	}
	group, err := cgroup.Open(m.life.cgroup)
	if err != nil {
		return 0, false
	}
	return group.CPUTime()
}

// memoryStats are QEMU's names of guest statistics, and libvirt's with the divisor to its unit, in libvirt's order.
var memoryStats = []struct {
	qemu, libvirt string
	divisor       int64
}{
	{"stat-swap-in", "swap_in", 1024},
	{"stat-swap-out", "swap_out", 1024},
	{"stat-major-faults", "major_fault", 1},
	{"stat-minor-faults", "minor_fault", 1},
	{"stat-free-memory", "unused", 1024},
	{"stat-total-memory", "available", 1024},
	{"stat-available-memory", "usable", 1024},
	{"stat-disk-caches", "disk_caches", 1024},
	{"stat-htlb-pgalloc", "hugetlb_pgalloc", 1},
	{"stat-htlb-pgfail", "hugetlb_pgfail", 1},
}

func (m *measurement) balloon() {
	live := m.life.live()
	var maximum uint64
	if live.Memory != nil {
		maximum = uint64(live.Memory.Value)
	}
	current := maximum
	if m.balloonSize != nil {
		current = m.balloonSize.Actual >> 10
	}
	m.number(current, "balloon.current")
	m.number(maximum, "balloon.maximum")
	if m.guestStats != nil && m.guestStats.LastUpdate > 0 {
		for _, s := range memoryStats {
			if v, ok := m.guestStats.Stats[s.qemu]; ok && v >= 0 {
				m.number(uint64(v/s.divisor), "balloon.%s", s.libvirt)
			}
		}
		m.number(uint64(m.guestStats.LastUpdate), "balloon.last-update")
	}
	if rss, err := readRSS(m.guest.Process().PID); err == nil {
		m.number(rss, "balloon.rss")
	}
}

func (m *measurement) vcpus() {
	current, maximum := len(m.cpus), len(m.cpus)
	if v := m.life.live().VCPU; v != nil {
		maximum = int(v.Value)
	}
	m.count(current, "vcpu.current")
	m.count(maximum, "vcpu.maximum")
	for _, c := range m.cpus {
		run, wait, err := readSchedule(m.guest.Process().PID, c.Thread)
		if err != nil {
			continue
		}
		const running = 1
		m.stats = append(m.stats, &pb.Stat{Name: fmt.Sprintf("vcpu.%d.state", c.Index), Value: &pb.Stat_Int{Int: running}})
		m.number(run, "vcpu.%d.time", c.Index)
		m.number(wait, "vcpu.%d.wait", c.Index)
	}
}

// interfaces are those with a device on the host; what the host has sent the guest has received.
func (m *measurement) interfaces() {
	var devices []string
	if dev := m.life.live().Devices; dev != nil {
		for i := range dev.Interfaces {
			if t := dev.Interfaces[i].Target; t != nil && t.Dev != "" {
				devices = append(devices, t.Dev)
			}
		}
	}
	m.count(len(devices), "net.count")
	for i, dev := range devices {
		m.text(dev, "net.%d.name", i)
		for _, s := range interfaceStats {
			if v, err := readInterface(dev, s.kernel); err == nil {
				m.number(v, "net.%d.%s", i, s.libvirt)
			}
		}
	}
}

var interfaceStats = []struct{ kernel, libvirt string }{
	{"tx_bytes", "rx.bytes"},
	{"tx_packets", "rx.pkts"},
	{"tx_errors", "rx.errs"},
	{"tx_dropped", "rx.drop"},
	{"rx_bytes", "tx.bytes"},
	{"rx_packets", "tx.pkts"},
	{"rx_errors", "tx.errs"},
	{"rx_dropped", "tx.drop"},
}

// diskStats are QEMU's names of a disk's figures and libvirt's, in libvirt's order.
var diskStats = []struct{ qemu, libvirt string }{
	{"rd_operations", "rd.reqs"},
	{"rd_bytes", "rd.bytes"},
	{"rd_total_time_ns", "rd.times"},
	{"wr_operations", "wr.reqs"},
	{"wr_bytes", "wr.bytes"},
	{"wr_total_time_ns", "wr.times"},
	{"flush_operations", "fl.reqs"},
	{"flush_total_time_ns", "fl.times"},
	{"wr_highest_offset", "allocation"},
}

func (m *measurement) blocks() {
	var disks []libvirtxml.DomainDisk
	if dev := m.life.live().Devices; dev != nil {
		disks = dev.Disks
	}
	m.count(len(disks), "block.count")
	for i := range disks {
		m.block(i, &disks[i])
	}
}

func (m *measurement) block(i int, disk *libvirtxml.DomainDisk) {
	if disk.Target != nil {
		m.text(disk.Target.Dev, "block.%d.name", i)
	}
	path := diskPath(disk)
	if path != "" {
		m.text(path, "block.%d.path", i)
	}
	if disk.Alias == nil {
		return
	}
	for _, s := range m.blockStats {
		if !isDevice(s.QDev, disk.Alias.Name) {
			continue
		}
		for _, name := range diskStats {
			if v, ok := s.Stats[name.qemu]; ok {
				m.number(v, "block.%d.%s", i, name.libvirt)
			}
		}
	}
	for _, b := range m.images {
		if isDevice(b.QDev, disk.Alias.Name) && b.Inserted != nil {
			m.number(b.Inserted.Image.Virtual, "block.%d.capacity", i)
			m.number(physical(path, b.Inserted.Image.Actual), "block.%d.physical", i)
		}
	}
}

// isDevice reports whether QEMU's path of a device is that of the alias: the alias itself, or an element of the path.
func isDevice(qdev, alias string) bool {
	return qdev == alias || slices.Contains(strings.Split(qdev, "/"), alias)
}
