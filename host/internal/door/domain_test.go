package door

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	libvirt "github.com/digitalocean/go-libvirt"

	"github.com/lodgevirt/lodge/host/internal/domain"
	"github.com/lodgevirt/lodge/host/internal/rpc"
)

func TestLifeOfADomain(t *testing.T) {
	b := newBench(t, Limits{})
	c := b.open(b.path)
	var defined libvirt.DomainDefineXMLFlagsRet
	c.must(procDomainDefineXmlFlags, &libvirt.DomainDefineXMLFlagsArgs{XML: guestXML("guest")}, &defined)
	dom := defined.Dom
	if dom.Name != "guest" || dom.ID != -1 {
		t.Fatalf("defined %+v", dom)
	}
	c.must(procDomainCreate, &libvirt.DomainCreateArgs{Dom: dom}, nil)
	var found libvirt.DomainLookupByUUIDRet
	c.must(procDomainLookupByUuid, &libvirt.DomainLookupByUUIDArgs{UUID: dom.UUID}, &found)
	if found.Dom.ID < 1 {
		t.Fatalf("started with id %d", found.Dom.ID)
	}
	var byID libvirt.DomainLookupByIDRet
	if c.must(procDomainLookupById, &libvirt.DomainLookupByIDArgs{ID: found.Dom.ID}, &byID); byID.Dom != found.Dom {
		t.Fatalf("by id %+v", byID.Dom)
	}
	var state libvirt.DomainGetStateRet
	if c.must(procDomainGetState, &libvirt.DomainGetStateArgs{Dom: dom}, &state); state.State != 1 || state.Reason != 1 {
		t.Fatalf("state %+v", state)
	}
	var info libvirt.DomainGetInfoRet
	if c.must(procDomainGetInfo, &libvirt.DomainGetInfoArgs{Dom: dom}, &info); info.State != 1 || info.MaxMem != 8192 || info.NrVirtCPU != 1 {
		t.Fatalf("info %+v", info)
	}
	var xml libvirt.DomainGetXMLDescRet
	if c.must(procDomainGetXmlDesc, &libvirt.DomainGetXMLDescArgs{Dom: dom}, &xml); !strings.Contains(xml.XML, "<name>guest</name>") {
		t.Fatalf("xml %s", xml.XML)
	}
	c.must(procDomainSetAutostart, &libvirt.DomainSetAutostartArgs{Dom: dom, Autostart: 1}, nil)
	var auto libvirt.DomainGetAutostartRet
	if c.must(procDomainGetAutostart, &libvirt.DomainGetAutostartArgs{Dom: dom}, &auto); auto.Autostart != 1 {
		t.Fatal("autostart is off")
	}
	c.must(procDomainDestroyFlags, &libvirt.DomainDestroyFlagsArgs{Dom: dom}, nil)
	if e := c.call(procDomainDestroy, &libvirt.DomainDestroyArgs{Dom: dom}, nil); e == nil || e.Code != 55 {
		t.Fatalf("second destroy: %+v", e)
	}
	var created libvirt.DomainCreateWithFlagsRet
	if c.must(procDomainCreateWithFlags, &libvirt.DomainCreateWithFlagsArgs{Dom: dom}, &created); created.Dom.ID < 1 {
		t.Fatalf("created %+v", created.Dom)
	}
	c.must(procDomainDestroy, &libvirt.DomainDestroyArgs{Dom: dom}, nil)
	c.must(procDomainUndefineFlags, &libvirt.DomainUndefineFlagsArgs{Dom: dom}, nil)
	if e := c.call(procDomainGetState, &libvirt.DomainGetStateArgs{Dom: dom}, nil); e == nil || e.Code != 42 {
		t.Fatalf("after undefine: %+v", e)
	}
}

func TestLists(t *testing.T) {
	b := newBench(t, Limits{})
	for _, name := range []string{"b", "a", "c"} {
		b.define(name)
	}
	d, err := b.domains.ByName("c")
	if err != nil || d.Start(context.Background(), 0) != nil {
		t.Fatal("cannot start c")
	}
	c := b.open(b.path)
	for _, tc := range []struct {
		name  string
		flags domain.ListFlags
		want  []string
	}{
		{"no flags mean all", 0, []string{"a", "b", "c"}},
		{"active ones", domain.ListActive, []string{"c"}},
		{"inactive ones", domain.ListInactive, []string{"a", "b"}},
		{"transient ones", domain.ListTransient, nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var ret libvirt.ConnectListAllDomainsRet
			args := libvirt.ConnectListAllDomainsArgs{NeedResults: 1, Flags: libvirt.ConnectListAllDomainsFlags(tc.flags)}
			c.must(procConnectListAllDomains, &args, &ret)
			var names []string
			for _, d := range ret.Domains {
				names = append(names, d.Name)
			}
			slices.Sort(names)
			if !slices.Equal(names, tc.want) || int(ret.Ret) != len(tc.want) {
				t.Fatalf("got %v (%d), want %v", names, ret.Ret, tc.want)
			}
			args.NeedResults = 0
			if c.must(procConnectListAllDomains, &args, &ret); len(ret.Domains) != 0 || int(ret.Ret) != len(tc.want) {
				t.Fatalf("count alone: %+v", ret)
			}
		})
	}
	var defined libvirt.ConnectListDefinedDomainsRet
	c.must(procConnectListDefinedDomains, &libvirt.ConnectListDefinedDomainsArgs{Maxnames: 1}, &defined)
	if len(defined.Names) != 1 {
		t.Fatalf("one defined domain: %v", defined.Names)
	}
	var ids libvirt.ConnectListDomainsRet
	if c.must(procConnectListDomains, &libvirt.ConnectListDomainsArgs{Maxids: 10}, &ids); len(ids.Ids) != 1 {
		t.Fatalf("ids %v", ids.Ids)
	}
}

func TestStatistics(t *testing.T) {
	b := newBench(t, Limits{})
	b.define("guest")
	c := b.open(b.path)
	var ret libvirt.ConnectGetAllDomainStatsRet
	c.must(procConnectGetAllDomainStats, &libvirt.ConnectGetAllDomainStatsArgs{Stats: 1}, &ret)
	if len(ret.RetStats) != 1 || ret.RetStats[0].Dom.Name != "guest" {
		t.Fatalf("records %+v", ret.RetStats)
	}
	got := map[string]any{}
	for _, p := range ret.RetStats[0].Params {
		got[p.Field] = p.Value.I
	}
	if got["state.state"] != int32(5) {
		t.Fatalf("figures %v", got)
	}
	e := c.call(procConnectGetAllDomainStats, &libvirt.ConnectGetAllDomainStatsArgs{Stats: 1 << 20, Flags: 1 << 31}, nil)
	if e == nil || e.Code != 74 {
		t.Fatalf("an enforced group that is not known: %+v", e)
	}
	none := libvirt.ConnectGetAllDomainStatsArgs{Doms: []libvirt.Domain{{Name: "nobody"}}}
	if e := c.call(procConnectGetAllDomainStats, &none, nil); e == nil || e.Code != 42 {
		t.Fatalf("a domain that is not there: %+v", e)
	}
}

func TestNodeQueries(t *testing.T) {
	b := newBench(t, Limits{})
	c := b.open(b.path)
	h := c.send(procNodeGetInfo, &void{})
	if f := c.recv(); f.Header != h.Answer(rpc.OK) || len(f.Payload) != 160 {
		t.Fatalf("node info of %d bytes", len(f.Payload))
	}
	var count, stats libvirt.NodeGetCPUStatsRet
	c.must(procNodeGetCpuStats, &libvirt.NodeGetCPUStatsArgs{CPUNum: -1}, &count)
	if count.Nparams == 0 || len(count.Params) != 0 {
		t.Fatalf("count alone: %+v", count)
	}
	c.must(procNodeGetCpuStats, &libvirt.NodeGetCPUStatsArgs{CPUNum: -1, Nparams: count.Nparams}, &stats)
	if len(stats.Params) != int(count.Nparams) {
		t.Fatalf("%d of %d figures", len(stats.Params), count.Nparams)
	}
	var cpus libvirt.NodeGetCPUMapRet
	if c.must(procNodeGetCpuMap, &libvirt.NodeGetCPUMapArgs{NeedMap: 1, NeedOnline: 1}, &cpus); cpus.Online == 0 || len(cpus.Cpumap) == 0 {
		t.Fatalf("cpu map %+v", cpus)
	}
	var cells libvirt.NodeGetCellsFreeMemoryRet
	c.must(procNodeGetCellsFreeMemory, &libvirt.NodeGetCellsFreeMemoryArgs{Maxcells: 1}, &cells)
	if len(cells.Cells) != 1 || cells.Cells[0] == 0 {
		t.Fatalf("free memory of one cell %v", cells.Cells)
	}
	far := &libvirt.NodeGetCellsFreeMemoryArgs{StartCell: 1000, Maxcells: 1}
	if e := c.call(procNodeGetCellsFreeMemory, far, nil); e == nil || e.Code != 8 {
		t.Fatalf("a cell that is not there: %+v", e)
	}
	var version libvirt.ConnectGetLibVersionRet
	if c.must(procConnectGetLibVersion, &void{}, &version); version.LibVer != 9000000 {
		t.Fatalf("version %d", version.LibVer)
	}
}

func TestCallsOvertakeThoseThatWait(t *testing.T) {
	b := newBench(t, Limits{InFlight: 2, Queued: 4})
	gate := make(chan struct{})
	b.driver.gate = gate
	c := b.open(b.path)
	const starts = 5
	for i := range starts {
		b.define(fmt.Sprintf("guest%d", i))
		d, err := b.domains.ByName(fmt.Sprintf("guest%d", i))
		if err != nil {
			t.Fatal(err)
		}
		c.send(procDomainCreate, &libvirt.DomainCreateArgs{Dom: reference(d.View())})
	}
	for range 2 {
		<-b.driver.starting
	}
	c.must(procConnectGetType, &void{}, nil)
	c.frame(keepaliveHeader(rpc.KeepalivePing), nil)
	if f := c.recv(); f.Header != keepaliveHeader(rpc.KeepalivePong) {
		t.Fatalf("a throttled client's ping got %+v", f.Header)
	}
	select {
	case <-b.driver.starting:
		t.Fatal("a third call runs")
	default:
	}
	close(gate)
	for range starts {
		if f := c.recv(); f.Status != rpc.OK || f.Procedure != procDomainCreate {
			t.Fatalf("start: %+v", f.Header)
		}
	}
}

func TestGoLibvirtWorks(t *testing.T) {
	b := newBench(t, Limits{})
	b.define("guest")
	l := libvirt.NewWithDialer(unixDialer(b.path))
	if err := l.ConnectToURI("test:///default"); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Disconnect() }()
	domains, _, err := l.ConnectListAllDomains(1, 0)
	if err != nil || len(domains) != 1 {
		t.Fatalf("domains %v, error %v", domains, err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	events, err := l.LifecycleEvents(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := l.DomainCreate(domains[0]); err != nil {
		t.Fatal(err)
	}
	for _, want := range []int32{4, 2} {
		if got := <-events; got.Event != want || got.Dom.Name != "guest" {
			t.Fatalf("event %+v, want %d", got, want)
		}
	}
	cancel()
	for range events {
	}
}
