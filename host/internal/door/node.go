package door

import (
	"context"

	libvirt "github.com/digitalocean/go-libvirt"

	"github.com/lodgevirt/lodge/host/internal/node"
	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/hypervisor/v1"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// Node is what the door asks of this machine; *node.Host is one.
type Node interface {
	// CPUStats returns nanoseconds of one CPU, or of all for -1.
	CPUStats(cpu int) ([]node.Stat, error)
	// CPUMap tells which CPUs there are.
	CPUMap() (node.CPUMap, error)
	// MemoryStats returns KiB of one NUMA cell, or of the machine for -1.
	MemoryStats(cell int) ([]node.Stat, error)
	// Hostname returns the machine's name.
	Hostname() (string, error)
	// SysinfoXML returns the machine's SMBIOS facts.
	SysinfoXML() (string, error)
}

var _ Node = (*node.Host)(nil)

// maxCells is how many NUMA cells one reply has at most.
const maxCells = 1024

// elsewhere describes the machine that runs the connection's guests if that is another one, and is nil for this one. Only a connection
// whose guests have their disks elsewhere can have another one, and then its driver says its name.
func (s *session) elsewhere(ctx context.Context) (*pb.Node, error) {
	conn := s.connection()
	if conn.Secrets != nil {
		return nil, nil
	}
	n, err := conn.Node(ctx)
	if err != nil || n.GetHostname() == "" {
		return nil, err
	}
	own, err := s.server.cfg.Node.Hostname()
	if err != nil || n.GetHostname() == own {
		return nil, err
	}
	return n, nil
}

// isHere fails with NoSupport where the figures of this machine are not those of the connection's.
func (s *session) isHere(ctx context.Context) error {
	n, err := s.elsewhere(ctx)
	if err == nil && n != nil {
		err = verr.New(verr.NoSupport, "figures of the machine '%s'", n.Hostname)
	}
	return err
}

func connectGetHostname(ctx context.Context, s *session, _ *void) (*libvirt.ConnectGetHostnameRet, error) {
	n, err := s.elsewhere(ctx)
	if err != nil || n != nil {
		return &libvirt.ConnectGetHostnameRet{Hostname: n.GetHostname()}, err
	}
	name, err := s.server.cfg.Node.Hostname()
	return &libvirt.ConnectGetHostnameRet{Hostname: name}, err
}

func connectGetSysinfo(ctx context.Context, s *session, args *libvirt.ConnectGetSysinfoArgs) (*libvirt.ConnectGetSysinfoRet, error) {
	if err := checkFlags(args.Flags, 0, "virConnectGetSysinfo"); err != nil {
		return nil, err
	}
	if err := s.isHere(ctx); err != nil {
		return nil, err
	}
	xml, err := s.server.cfg.Node.SysinfoXML()
	return &libvirt.ConnectGetSysinfoRet{Sysinfo: xml}, err
}

func nodeGetInfo(ctx context.Context, s *session, _ *void) (*libvirt.NodeGetInfoRet, error) {
	n, err := s.connection().Node(ctx)
	if err != nil {
		return nil, err
	}
	ret := &libvirt.NodeGetInfoRet{
		Memory: n.MemoryKib, Cpus: int32(n.Cpus), Mhz: int32(n.Mhz), Nodes: int32(n.Nodes),
		Sockets: int32(n.Sockets), Cores: int32(n.Cores), Threads: int32(n.Threads),
	}
	for i := range min(len(n.Model), len(ret.Model)-1) {
		ret.Model[i] = int8(n.Model[i])
	}
	return ret, nil
}

func nodeGetSecurityModel(ctx context.Context, s *session, _ *void) (*libvirt.NodeGetSecurityModelRet, error) {
	model, doi, err := s.connection().SecurityModel(ctx)
	return &libvirt.NodeGetSecurityModelRet{Model: chars(model), Doi: chars(doi)}, err
}

// chars is a string as libvirt's counted array of char, whose count has the closing NUL.
func chars(s string) []int8 {
	out := make([]int8, len(s)+1)
	for i := range len(s) {
		out[i] = int8(s[i])
	}
	return out
}

func nodeGetCPUStats(ctx context.Context, s *session, args *libvirt.NodeGetCPUStatsArgs) (*libvirt.NodeGetCPUStatsRet, error) {
	if err := checkFlags(args.Flags, 0, "virNodeGetCPUStats"); err != nil {
		return nil, err
	}
	if err := s.isHere(ctx); err != nil {
		return nil, err
	}
	stats, err := s.server.cfg.Node.CPUStats(int(args.CPUNum))
	if err != nil {
		return nil, err
	}
	ret := &libvirt.NodeGetCPUStatsRet{Nparams: int32(len(stats))}
	for i := range firstOf(stats, args.Nparams) {
		ret.Params = append(ret.Params, libvirt.NodeGetCPUStats{Field: stats[i].Name, Value: stats[i].Value})
	}
	return ret, nil
}

func nodeGetMemoryStats(ctx context.Context, s *session, args *libvirt.NodeGetMemoryStatsArgs) (*libvirt.NodeGetMemoryStatsRet, error) {
	if err := checkFlags(args.Flags, 0, "virNodeGetMemoryStats"); err != nil {
		return nil, err
	}
	if err := s.isHere(ctx); err != nil {
		return nil, err
	}
	stats, err := s.server.cfg.Node.MemoryStats(int(args.CellNum))
	if err != nil {
		return nil, err
	}
	ret := &libvirt.NodeGetMemoryStatsRet{Nparams: int32(len(stats))}
	for i := range firstOf(stats, args.Nparams) {
		ret.Params = append(ret.Params, libvirt.NodeGetMemoryStats{Field: stats[i].Name, Value: stats[i].Value})
	}
	return ret, nil
}

// firstOf cuts a list to what a client made room for; room 0 asks for the number alone.
func firstOf[T any](list []T, room int32) []T {
	return list[:min(len(list), max(int(room), 0))]
}

// nodeGetCellsFreeMemory and nodeGetFreeMemory answer for the connection's machine, which need not be this one.
func nodeGetCellsFreeMemory(ctx context.Context, s *session, args *libvirt.NodeGetCellsFreeMemoryArgs) (*libvirt.NodeGetCellsFreeMemoryRet, error) {
	if args.Maxcells <= 0 || args.Maxcells > maxCells {
		return nil, verr.New(verr.InvalidArg, "maxcells %d is not from 1 to %d", args.Maxcells, maxCells)
	}
	n, err := s.connection().Node(ctx)
	if err != nil {
		return nil, err
	}
	if args.StartCell < 0 || int(args.StartCell) >= len(n.CellFreeKib) {
		return nil, verr.New(verr.InvalidArg, "start cell %d out of range (0-%d)", args.StartCell, len(n.CellFreeKib)-1)
	}
	ret := &libvirt.NodeGetCellsFreeMemoryRet{}
	for _, kib := range firstOf(n.CellFreeKib[args.StartCell:], args.Maxcells) {
		ret.Cells = append(ret.Cells, kib<<10)
	}
	return ret, nil
}

func nodeGetFreeMemory(ctx context.Context, s *session, _ *void) (*libvirt.NodeGetFreeMemoryRet, error) {
	n, err := s.connection().Node(ctx)
	ret := &libvirt.NodeGetFreeMemoryRet{}
	for _, kib := range n.GetCellFreeKib() {
		ret.FreeMem += kib << 10
	}
	return ret, err
}

func nodeGetCPUMap(ctx context.Context, s *session, args *libvirt.NodeGetCPUMapArgs) (*libvirt.NodeGetCPUMapRet, error) {
	if err := checkFlags(args.Flags, 0, "virNodeGetCPUMap"); err != nil {
		return nil, err
	}
	if err := s.isHere(ctx); err != nil {
		return nil, err
	}
	m, err := s.server.cfg.Node.CPUMap()
	if err != nil {
		return nil, err
	}
	mask, online := make([]byte, (len(m.Online)+7)/8), uint32(0)
	for cpu, on := range m.Online {
		if on {
			mask[cpu/8] |= 1 << (cpu % 8)
			online++
		}
	}
	ret := &libvirt.NodeGetCPUMapRet{Ret: int32(m.Total)}
	if args.NeedMap != 0 {
		ret.Cpumap = mask
	}
	if args.NeedOnline != 0 {
		ret.Online = online
	}
	return ret, nil
}
