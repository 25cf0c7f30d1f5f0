package door

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	libvirt "github.com/digitalocean/go-libvirt"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"

	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/hypervisor/v1"
)

// Collect says the same of every guest: one CPU, two disks, one interface.
func (f *fakeDriver) Collect(req *pb.CollectRequest, stream grpc.ServerStreamingServer[pb.CollectResponse]) error {
	for _, g := range req.Guests {
		r := &pb.CollectResponse{Uuid: g.Guest.Uuid}
		for name, n := range map[string]uint64{
			"cpu.time": 30, "cpu.user": 20, "cpu.system": 10, "balloon.current": 8192, "balloon.rss": 4096, "balloon.unused": 7,
			"vcpu.0.time": 25, "block.0.rd.bytes": 1, "block.0.wr.reqs": 2, "block.1.rd.bytes": 10, "block.0.allocation": 3,
			"block.0.capacity": 4, "block.0.physical": 5, "net.0.rx.bytes": 6,
		} {
			r.Stats = append(r.Stats, &pb.Stat{Name: name, Value: &pb.Stat_Ullong{Ullong: n}})
		}
		for name, text := range map[string]string{
			"block.0.name": "vda", "block.0.path": "/images/a", "block.1.name": "vdb", "net.0.name": "vnet0",
		} {
			r.Stats = append(r.Stats, &pb.Stat{Name: name, Value: &pb.Stat_String_{String_: text}})
		}
		for name, n := range map[string]uint32{"block.count": 2, "net.count": 1} {
			r.Stats = append(r.Stats, &pb.Stat{Name: name, Value: &pb.Stat_Uint{Uint: n}})
		}
		r.Stats = append(r.Stats, &pb.Stat{Name: "vcpu.0.state", Value: &pb.Stat_Int{Int: 1}})
		if err := stream.Send(r); err != nil {
			return err
		}
	}
	return nil
}

// running starts a guest and names it.
func (b *bench) running(name string) libvirt.Domain {
	b.t.Helper()
	d := b.define(name)
	if err := d.Start(context.Background(), 0); err != nil {
		b.t.Fatal(err)
	}
	return reference(d.View())
}

func TestFiguresOfAGuest(t *testing.T) {
	b := newBench(t, Limits{})
	dom := b.running("guest")
	c := b.open(b.ro)
	llong := func(name string, n int64) libvirt.TypedParam {
		return libvirt.TypedParam{Field: name, Value: *libvirt.NewTypedParamValueLlong(n)}
	}
	ullong := func(name string, n uint64) libvirt.TypedParam {
		return libvirt.TypedParam{Field: name, Value: *libvirt.NewTypedParamValueUllong(n)}
	}
	for name, tt := range map[string]struct {
		proc            int32
		args, got, want any
	}{
		"memory in the order of tags": {
			procDomainMemoryStats, &libvirt.DomainMemoryStatsArgs{Dom: dom, MaxStats: 13}, &libvirt.DomainMemoryStatsRet{},
			&libvirt.DomainMemoryStatsRet{Stats: []libvirt.DomainMemoryStat{{Tag: 4, Val: 7}, {Tag: 6, Val: 8192}, {Tag: 7, Val: 4096}}},
		},
		"memory as far as there is room": {
			procDomainMemoryStats, &libvirt.DomainMemoryStatsArgs{Dom: dom, MaxStats: 1}, &libvirt.DomainMemoryStatsRet{},
			&libvirt.DomainMemoryStatsRet{Stats: []libvirt.DomainMemoryStat{{Tag: 4, Val: 7}}},
		},
		"a disk by its target": {
			procDomainBlockStats, &libvirt.DomainBlockStatsArgs{Dom: dom, Path: "vda"}, &libvirt.DomainBlockStatsRet{},
			&libvirt.DomainBlockStatsRet{RdReq: -1, RdBytes: 1, WrReq: 2, WrBytes: -1, Errs: -1},
		},
		"all disks together": {
			procDomainBlockStats, &libvirt.DomainBlockStatsArgs{Dom: dom}, &libvirt.DomainBlockStatsRet{},
			&libvirt.DomainBlockStatsRet{RdReq: -1, RdBytes: 11, WrReq: 2, WrBytes: -1, Errs: -1},
		},
		"the number of a disk's parameters": {
			procDomainBlockStatsFlags, &libvirt.DomainBlockStatsFlagsArgs{Dom: dom, Path: "/images/a", Flags: typedStringsOkay},
			&libvirt.DomainBlockStatsFlagsRet{}, &libvirt.DomainBlockStatsFlagsRet{Nparams: 2},
		},
		"a disk's parameters by its path": {
			procDomainBlockStatsFlags, &libvirt.DomainBlockStatsFlagsArgs{Dom: dom, Path: "/images/a", Nparams: 16},
			&libvirt.DomainBlockStatsFlagsRet{},
			&libvirt.DomainBlockStatsFlagsRet{Params: []libvirt.TypedParam{llong("wr_operations", 2), llong("rd_bytes", 1)}},
		},
		"a disk's sizes": {
			procDomainGetBlockInfo, &libvirt.DomainGetBlockInfoArgs{Dom: dom, Path: "vda"}, &libvirt.DomainGetBlockInfoRet{},
			&libvirt.DomainGetBlockInfoRet{Allocation: 3, Capacity: 4, Physical: 5},
		},
		"an interface": {
			procDomainInterfaceStats, &libvirt.DomainInterfaceStatsArgs{Dom: dom, Device: "vnet0"}, &libvirt.DomainInterfaceStatsRet{},
			&libvirt.DomainInterfaceStatsRet{
				RxBytes: 6, RxPackets: -1, RxErrs: -1, RxDrop: -1, TxBytes: -1, TxPackets: -1, TxErrs: -1, TxDrop: -1,
			},
		},
		"CPU time": {
			procDomainGetCpuStats, &libvirt.DomainGetCPUStatsArgs{Dom: dom, Nparams: 3, StartCPU: -1, Ncpus: 1}, &libvirt.DomainGetCPUStatsRet{},
			&libvirt.DomainGetCPUStatsRet{
				Params: []libvirt.TypedParam{ullong("cpu_time", 30), ullong("user_time", 20), ullong("system_time", 10)}, Nparams: 3,
			},
		},
		"the number of CPU parameters": {
			procDomainGetCpuStats, &libvirt.DomainGetCPUStatsArgs{Dom: dom, StartCPU: -1, Ncpus: 1}, &libvirt.DomainGetCPUStatsRet{},
			&libvirt.DomainGetCPUStatsRet{Nparams: 3},
		},
		"vCPUs": {
			procDomainGetVcpus, &libvirt.DomainGetVcpusArgs{Dom: dom, Maxinfo: 5}, &libvirt.DomainGetVcpusRet{},
			&libvirt.DomainGetVcpusRet{Info: []libvirt.VcpuInfo{{State: 1, CPUTime: 25, CPU: -2}}},
		},
		"no job": {
			procDomainGetJobStats, &libvirt.DomainGetJobStatsArgs{Dom: dom}, &libvirt.DomainGetJobStatsRet{}, &libvirt.DomainGetJobStatsRet{},
		},
	} {
		t.Run(name, func(t *testing.T) {
			c.must(tt.proc, tt.args, tt.got)
			if diff := cmp.Diff(fmt.Sprintf("%+v", tt.want), fmt.Sprintf("%+v", tt.got)); diff != "" {
				t.Fatal(diff)
			}
		})
	}
}

func TestPinInfoIsAllCPUs(t *testing.T) {
	b := newBench(t, Limits{})
	dom := b.running("guest")
	c := b.open(b.ro)
	var cpus libvirt.NodeGetCPUMapRet
	c.must(procNodeGetCpuMap, &libvirt.NodeGetCPUMapArgs{NeedMap: 1}, &cpus)
	length := int32(len(cpus.Cpumap))
	var emulator libvirt.DomainGetEmulatorPinInfoRet
	c.must(procDomainGetEmulatorPinInfo, &libvirt.DomainGetEmulatorPinInfoArgs{Dom: dom, Maplen: length}, &emulator)
	var vcpu libvirt.DomainGetVcpuPinInfoRet
	c.must(procDomainGetVcpuPinInfo, &libvirt.DomainGetVcpuPinInfoArgs{Dom: dom, Ncpumaps: 4, Maplen: length + 1}, &vcpu)
	if diff := cmp.Diff(cpus.Cpumap, emulator.Cpumaps); diff != "" || emulator.Ret != 1 {
		t.Errorf("emulator: %s", diff)
	}
	if diff := cmp.Diff(append(cpus.Cpumap, 0), vcpu.Cpumaps); diff != "" || vcpu.Num != 1 {
		t.Errorf("%d vCPUs: %s", vcpu.Num, diff)
	}
}

func TestFiguresThatThereAreNone(t *testing.T) {
	b := newBench(t, Limits{})
	dom, off := b.running("guest"), reference(b.define("off").View())
	c := b.open(b.path)
	for name, tt := range map[string]struct {
		proc int32
		args any
		want int32
	}{
		"memory of a guest that is off":     {procDomainMemoryStats, &libvirt.DomainMemoryStatsArgs{Dom: off, MaxStats: 9}, 55},
		"vCPUs of a guest that is off":      {procDomainGetVcpus, &libvirt.DomainGetVcpusArgs{Dom: off, Maxinfo: 1}, 55},
		"a disk that is not there":          {procDomainBlockStats, &libvirt.DomainBlockStatsArgs{Dom: dom, Path: "vdz"}, 8},
		"a disk without a name":             {procDomainGetBlockInfo, &libvirt.DomainGetBlockInfoArgs{Dom: dom}, 8},
		"a disk whose size is not known":    {procDomainGetBlockInfo, &libvirt.DomainGetBlockInfoArgs{Dom: dom, Path: "vdb"}, 9},
		"a disk of a domain, elsewhere":     {procDomainGetBlockInfo, &libvirt.DomainGetBlockInfoArgs{Dom: off, Path: "vda"}, 55},
		"an interface that is not there":    {procDomainInterfaceStats, &libvirt.DomainInterfaceStatsArgs{Dom: dom, Device: "vnet1"}, 8},
		"an interface without a name":       {procDomainInterfaceStats, &libvirt.DomainInterfaceStatsArgs{Dom: dom}, 8},
		"time on a single CPU":              {procDomainGetCpuStats, &libvirt.DomainGetCPUStatsArgs{Dom: dom, Ncpus: 1}, 3},
		"unknown flags":                     {procDomainMemoryStats, &libvirt.DomainMemoryStatsArgs{Dom: dom, Flags: 1}, 8},
		"more maps than the wire has":       {procDomainGetVcpuPinInfo, &libvirt.DomainGetVcpuPinInfoArgs{Dom: dom, Ncpumaps: 1, Maplen: 1 << 30}, 39},
		"fewer than no maps":                {procDomainGetVcpuPinInfo, &libvirt.DomainGetVcpuPinInfoArgs{Dom: dom, Ncpumaps: -1, Maplen: 1}, 39},
		"a live pin of a guest that is off": {procDomainGetVcpuPinInfo, &libvirt.DomainGetVcpuPinInfoArgs{Dom: off, Ncpumaps: 1, Flags: impactLive}, 55},
		"live and config at once":           {procDomainGetEmulatorPinInfo, &libvirt.DomainGetEmulatorPinInfoArgs{Dom: dom, Flags: 3}, 8},
		"more parameters than the wire has": {procDomainBlockStatsFlags, &libvirt.DomainBlockStatsFlagsArgs{Dom: dom, Path: "vda", Nparams: 17}, 39},
	} {
		t.Run(name, func(t *testing.T) {
			if e := c.call(tt.proc, tt.args, nil); e == nil || e.Code != tt.want {
				t.Fatalf("error %+v, want code %d", e, tt.want)
			}
		})
	}
}

func TestBlockInfoOfADomainThatIsOff(t *testing.T) {
	b := newBench(t, Limits{})
	path := filepath.Join(b.folder, "a.img")
	if err := os.WriteFile(path, make([]byte, 8192), 0o600); err != nil {
		t.Fatal(err)
	}
	d, err := b.domains.Define(t.Context(), fmt.Sprintf(`<domain type='test'><name>off</name><memory>8192</memory><os><type>hvm</type></os>
<devices><disk type='file' device='disk'><source file='%s'/><target dev='vda'/></disk></devices></domain>`, path), 0)
	if err != nil {
		t.Fatal(err)
	}
	var ret libvirt.DomainGetBlockInfoRet
	args := &libvirt.DomainGetBlockInfoArgs{Dom: reference(d.View()), Path: "vda"}
	if b.openLocal(b.path).must(procDomainGetBlockInfo, args, &ret); ret.Capacity != 8192 || ret.Physical != 8192 {
		t.Fatalf("info %+v", ret)
	}
	if folders := b.domains.DiskFolders(); len(folders) != 1 || folders[0] != b.folder {
		t.Fatalf("folders of disks are %q", folders)
	}
}
