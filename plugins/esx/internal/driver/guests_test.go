package driver_test

import (
	"bytes"
	"errors"
	"fmt"
	"image/png"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/lodgevirt/lodge/plugins/esx/internal/vimtest"
	hv "github.com/lodgevirt/lodge/sdk/proto/lodge/hypervisor/v1"
	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/inventory/v1"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// first is the name of a machine that every simulated endpoint has.
func first(o vimtest.Options) string {
	if o.VPX {
		return "DC0_H0_VM0"
	}
	return "ha-host_VM0"
}

func TestPowerIsChangedAndSeenInTheAnswersMessage(t *testing.T) {
	both(t, func(t *testing.T, o vimtest.Options) {
		r, _, p := lab(t, o)
		name := first(o)
		life, guests := hv.NewLifecycleServiceClient(r.conn), pb.NewGuestServiceClient(r.conn)
		ref := p.ref(name)

		_, err := guests.Start(r.ctx(), &pb.StartRequest{Guest: ref})
		refused(t, err, verr.OperationInvalid, "not powered off")
		if _, err := life.Suspend(r.ctx(), &hv.SuspendRequest{Guest: ref}); err != nil {
			t.Fatal(err)
		}
		p.until("the suspension", func() bool { return p.guest(name).GetState() == hv.State_STATE_PAUSED })
		_, err = life.Suspend(r.ctx(), &hv.SuspendRequest{Guest: ref})
		refused(t, err, verr.OperationInvalid, "not powered on")
		if _, err := life.Resume(r.ctx(), &hv.ResumeRequest{Guest: ref}); err != nil {
			t.Fatal(err)
		}
		p.until("the resumption", func() bool { return p.guest(name).GetState() == hv.State_STATE_RUNNING })
		if _, err := life.Reset(r.ctx(), &hv.ResetRequest{Guest: ref}); err != nil {
			t.Fatal(err)
		}
		stopped, err := guests.Stop(r.ctx(), &pb.StopRequest{Guest: ref})
		if err != nil {
			t.Fatal(err)
		}
		p.at(stopped.GetSeq())
		if g := p.guest(name); g.GetState() != hv.State_STATE_SHUTOFF || g.GetId() != -1 {
			t.Errorf("after the stop the guest is %v", g)
		}
		_, err = guests.Stop(r.ctx(), &pb.StopRequest{Guest: ref})
		refused(t, err, verr.OperationInvalid, "not powered on")
		started, err := guests.Start(r.ctx(), &pb.StartRequest{Guest: ref})
		if err != nil {
			t.Fatal(err)
		}
		p.at(started.GetSeq())
		if g := p.guest(name); g.GetState() != hv.State_STATE_RUNNING || g.GetId() <= 0 {
			t.Errorf("after the start the guest is %v", g)
		}
		for _, want := range []string{"suspended", "resumed", "stopped", "started"} {
			if !strings.Contains(strings.Join(p.events, ","), name+" "+want) {
				t.Errorf("events are %v, without %s", p.events, want)
			}
		}
	})
}

func TestGuestsAreAskedByTheirTools(t *testing.T) {
	r, s, p := lab(t, vimtest.Options{})
	name := first(vimtest.Options{})
	life := hv.NewLifecycleServiceClient(r.conn)
	_, err := life.Reboot(r.ctx(), &hv.RebootRequest{Guest: p.ref(name)})
	refused(t, err, verr.AgentUnresponsive, name, "VMware Tools")
	s.Tools(name, true)
	if _, err := life.Reboot(r.ctx(), &hv.RebootRequest{Guest: p.ref(name)}); err != nil {
		t.Error(err)
	}
	if _, err := life.Shutdown(r.ctx(), &hv.ShutdownRequest{Guest: p.ref(name)}); err != nil {
		t.Error(err)
	}
	p.until("the shutdown", func() bool { return p.guest(name).GetState() == hv.State_STATE_SHUTOFF })
	_, err = life.Shutdown(r.ctx(), &hv.ShutdownRequest{Guest: p.ref(name)})
	refused(t, err, verr.OperationInvalid, "not powered on")
	_, err = life.Reboot(r.ctx(), &hv.RebootRequest{Guest: &hv.Guest{Connection: p.connection, Uuid: newID, Name: "x"}})
	refused(t, err, verr.NoDomain, newID)
}

// definition is a domain for the simulator, with a disk or without.
func definition(name, uuid, devices string) string {
	return fmt.Sprintf(`<domain type='vmware'>
  <name>%s</name>
  <uuid>%s</uuid>
  <description>made by a test</description>
  <memory unit='MiB'>256</memory>
  <vcpu>2</vcpu>
  <os><type arch='x86_64'>hvm</type></os>
  <devices>%s
  </devices>
</domain>`, name, uuid, devices)
}

const newID = "564d9bef-acd9-b4e0-c8f0-aea8b9103515"

// disk is a disk of a definition.
func disk(file, target string) string {
	return fmt.Sprintf("<disk type='file' device='disk'><source file='%s'/><target dev='%s' bus='scsi'/></disk>"+
		"<controller type='scsi' index='0' model='lsisas1068'/>", file, target)
}

const nic = "<interface type='bridge'><source bridge='VM Network'/><model type='vmxnet3'/></interface>"

func TestGuestsAreDefinedChangedAndUndefined(t *testing.T) {
	both(t, func(t *testing.T, o vimtest.Options) {
		r, s, p := lab(t, o)
		guests := pb.NewGuestServiceClient(r.conn)
		define := func(doc string) (*pb.DefineResponse, error) {
			return guests.Define(r.ctx(), &pb.DefineRequest{Connection: p.connection, Xml: doc})
		}
		s.MakeDisk("[LocalDS_0] new/new.vmdk")
		doc := definition("new 100%", newID, disk("[LocalDS_0] new/new.vmdk", "sda")+nic+"<video><model type='vmvga' vram='8192'/></video>")
		made, err := define(doc)
		if err != nil {
			t.Fatal(err)
		}
		p.at(made.GetSeq())
		g := p.guest("new 100%")
		if made.GetUuid() != newID || g.GetUuid() != newID || g.GetState() != hv.State_STATE_SHUTOFF || g.GetMaxMemoryKib() != 256<<10 ||
			g.GetVcpus() != 2 {
			t.Fatalf("made is %v: %v", made, g)
		}
		for _, part := range []string{
			"<name>new 100%</name>", "<description>made by a test</description>", "[LocalDS_0] new/new.vmdk", "model='lsisas1068'",
			"<source bridge='VM Network'/>", "<model type='vmxnet3'/>", "vram='8192'", "arch='x86_64'",
		} {
			if !strings.Contains(g.GetXml(), part) {
				t.Errorf("the definition has no %s:\n%s", part, g.GetXml())
			}
		}
		if file := s.Config("new 100%25").Files.VmPathName; file != "[LocalDS_0] new/new 100%25.vmx" {
			t.Errorf("the machine's file is %q", file)
		}

		_, err = define(definition("new 100%", "564d9bef-acd9-b4e0-c8f0-aea8b9103516", ""))
		refused(t, err, verr.OperationFailed, "new 100%", newID)
		_, err = define(definition("other", newID, ""))
		refused(t, err, verr.OperationFailed, "new 100%", newID)

		changed, err := define(strings.Replace(g.GetXml(), "<description>made by a test", "<description>changed", 1))
		if err != nil {
			t.Fatal(err)
		}
		p.at(changed.GetSeq())
		if xml := p.guest("new 100%").GetXml(); !strings.Contains(xml, "<description>changed</description>") {
			t.Errorf("after the change the definition is\n%s", xml)
		}
		same, err := define(p.guest("new 100%").GetXml())
		if err != nil || same.GetSeq() < changed.GetSeq() {
			t.Errorf("what is there already is defined as %v, %v", same, err)
		}
		without := p.guest("new 100%").GetXml()
		cut := strings.Index(without, "    <disk ")
		without = without[:cut] + without[strings.Index(without, "</disk>\n")+len("</disk>\n"):]
		changed, err = define(without)
		if err != nil {
			t.Fatal(err)
		}
		p.at(changed.GetSeq())
		if xml := p.guest("new 100%").GetXml(); strings.Contains(xml, "<disk ") {
			t.Errorf("the disk is still there:\n%s", xml)
		}

		gone, err := guests.Undefine(r.ctx(), &pb.UndefineRequest{Guest: p.ref("new 100%")})
		if err != nil {
			t.Fatal(err)
		}
		p.at(gone.GetSeq())
		if p.names()["new 100%"] != nil {
			t.Error("the guest is still told")
		}
		_, err = guests.Undefine(r.ctx(), &pb.UndefineRequest{Guest: p.ref(first(o))})
		refused(t, err, verr.OperationInvalid, "not suspended or powered off")
		// The image of the disk is there still, and so is the file of the machine that is gone.
		again, err := define(doc)
		if err != nil {
			t.Fatal(err)
		}
		p.at(again.GetSeq())
		if file := s.Config("new 100%25").Files.VmPathName; file != "[LocalDS_0] new/new 100%25_1.vmx" {
			t.Errorf("the machine's file is %q", file)
		}
	})
}

func TestWhatCannotBeDefinedIsRefusedAndLeavesNothing(t *testing.T) {
	r, s, p := lab(t, vimtest.Options{})
	guests := pb.NewGuestServiceClient(r.conn)
	before := s.Machines()
	for _, c := range []struct {
		name, doc string
		code      verr.Code
		names     string
	}{
		{"no file", definition("a", newID, disk("[LocalDS_0] none/none.vmdk", "sda")), verr.OperationFailed, "none.vmdk"},
		{"no datastore", definition("a", newID, disk("[nowhere] a.vmdk", "sda")), verr.OperationFailed, "nowhere"},
		{"a path out", definition("a", newID, disk("[LocalDS_0] ../../etc/a.vmdk", "sda")), verr.Internal, "[LocalDS_0] ../../etc/a.vmdk"},
		{"no network", definition("a", newID, strings.Replace(nic, "VM Network", "no such", 1)), verr.NoNetwork, "no such"},
		{"a sound card", definition("a", newID, "<sound model='ich6'/>"), verr.ConfigUnsupported, "<sound>"},
		{"another hypervisor", strings.Replace(definition("a", newID, ""), "vmware", "kvm", 1), verr.Internal, "vmware"},
		{"no XML", "<domain", verr.XMLError, ""},
		{"too many vCPUs", strings.Replace(definition("a", newID, ""), "<vcpu>2", "<vcpu>129", 1), verr.ConfigUnsupported, "<vcpu>"},
		{"a long name", definition(strings.Repeat("n", 200), newID, ""), verr.InvalidArg, "80 bytes"},
	} {
		_, err := guests.Define(r.ctx(), &pb.DefineRequest{Connection: p.connection, Xml: c.doc})
		if e := verr.From(err); e == nil || e.Code != c.code || !strings.Contains(e.Message, c.names) {
			t.Errorf("%s: error is %v, want code %d and %q", c.name, err, c.code, c.names)
		}
	}
	if after := s.Machines(); len(after) != len(before) {
		t.Errorf("machines are %v", after)
	}
}

func TestSizesAndSchedulerAreChanged(t *testing.T) {
	r, s, p := lab(t, vimtest.Options{})
	name := first(vimtest.Options{})
	s.PowerOff(name)
	p.until("off", func() bool { return p.guest(name).GetState() == hv.State_STATE_SHUTOFF })
	tuning := pb.NewTuningServiceClient(r.conn)
	res, err := tuning.SetVCPUs(r.ctx(), &pb.SetVCPUsRequest{Guest: p.ref(name), Vcpus: 4})
	if err != nil {
		t.Fatal(err)
	}
	p.at(res.GetSeq())
	if g := p.guest(name); g.GetVcpus() != 4 || !strings.Contains(g.GetXml(), ">4</vcpu>") {
		t.Errorf("guest is %v", g)
	}
	_, err = tuning.SetVCPUs(r.ctx(), &pb.SetVCPUsRequest{Guest: p.ref(name)})
	refused(t, err, verr.InvalidArg, "at least be 1")
	_, err = tuning.SetVCPUs(r.ctx(), &pb.SetVCPUsRequest{Guest: p.ref(name), Vcpus: 129})
	refused(t, err, verr.InvalidArg, "129 > 128")

	size, err := tuning.SetMemory(r.ctx(), &pb.SetMemoryRequest{Guest: p.ref(name), Kib: 100001, Maximum: true})
	if err != nil {
		t.Fatal(err)
	}
	p.at(size.GetSeq())
	if g := p.guest(name); g.GetMaxMemoryKib() != 100<<10 {
		t.Errorf("memory is %d KiB", g.GetMaxMemoryKib())
	}
	size, err = tuning.SetMemory(r.ctx(), &pb.SetMemoryRequest{Guest: p.ref(name), Kib: 65536})
	if err != nil {
		t.Fatal(err)
	}
	p.at(size.GetSeq())
	if g := p.guest(name); g.GetMemoryKib() != 65536 || !strings.Contains(g.GetXml(), "<currentMemory unit='KiB'>65536<") {
		t.Errorf("guest is %v", g)
	}

	params := []*hv.Stat{
		{Name: "reservation", Value: &hv.Stat_Llong{Llong: 100}},
		{Name: "limit", Value: &hv.Stat_Llong{Llong: 2000}},
		{Name: "shares", Value: &hv.Stat_Int{Int: -3}},
	}
	set, err := tuning.SetScheduler(r.ctx(), &pb.SetSchedulerRequest{Guest: p.ref(name), Parameters: params})
	if err != nil {
		t.Fatal(err)
	}
	p.at(set.GetSeq())
	if got := fmt.Sprint(p.guest(name).GetSchedulerParameters()); got != fmt.Sprint(params) {
		t.Errorf("parameters are %v", got)
	}
	if !strings.Contains(p.guest(name).GetXml(), "<shares>8000</shares>") {
		t.Errorf("definition is\n%s", p.guest(name).GetXml())
	}
	for _, bad := range []*hv.Stat{
		{Name: "reservation", Value: &hv.Stat_Llong{Llong: -1}},
		{Name: "limit", Value: &hv.Stat_Llong{Llong: -2}},
		{Name: "shares", Value: &hv.Stat_Int{Int: -4}},
		{Name: "shares", Value: &hv.Stat_String_{String_: "x"}},
		{Name: "other", Value: &hv.Stat_Int{Int: 1}},
	} {
		_, err := tuning.SetScheduler(r.ctx(), &pb.SetSchedulerRequest{Guest: p.ref(name), Parameters: []*hv.Stat{bad}})
		refused(t, err, verr.InvalidArg, bad.GetName())
	}
	s.PowerOn(name)
	p.until("on", func() bool { return p.guest(name).GetState() == hv.State_STATE_RUNNING })
	_, err = tuning.SetMemory(r.ctx(), &pb.SetMemoryRequest{Guest: p.ref(name), Kib: 4096, Maximum: true})
	refused(t, err, verr.OperationInvalid, "not powered off")
}

func TestAutostart(t *testing.T) {
	r, s, p := lab(t, vimtest.Options{})
	name := first(vimtest.Options{})
	guests := pb.NewGuestServiceClient(r.conn)
	for _, on := range []bool{true, false} {
		res, err := guests.SetAutostart(r.ctx(), &pb.SetAutostartRequest{Guest: p.ref(name), Autostart: on})
		if err != nil {
			t.Fatal(err)
		}
		p.at(res.GetSeq())
		if p.guest(name).GetAutostart() != on {
			t.Errorf("autostart is %v", !on)
		}
	}
	s.Autostart("ha-host_VM1", true)
	p.until("the other's autostart", func() bool { return p.guest("ha-host_VM1").GetAutostart() })
	s.AutostartEnabled(false)
	_, err := guests.SetAutostart(r.ctx(), &pb.SetAutostartRequest{Guest: p.ref(name), Autostart: true})
	refused(t, err, verr.OperationInvalid, name, "without affecting other domains")
}

func TestSnapshotsMakeTrees(t *testing.T) {
	r, s, p := lab(t, vimtest.Options{})
	name := first(vimtest.Options{})
	snapshots := pb.NewSnapshotServiceClient(r.conn)
	create := func(snapshot string, diskOnly bool) error {
		res, err := snapshots.CreateSnapshot(r.ctx(), &pb.CreateSnapshotRequest{
			Guest: p.ref(name), Name: snapshot, Description: "of " + snapshot, DiskOnly: diskOnly,
		})
		if err == nil {
			p.at(res.GetSeq())
		}
		return err
	}
	tree := func() string {
		var words []string
		for _, n := range p.guest(name).GetSnapshots() {
			words = append(words, n.GetName()+"<"+n.GetParent()+":"+n.GetState().String()[len("STATE_"):])
		}
		return strings.Join(words, " ") + " current " + p.guest(name).GetCurrentSnapshot()
	}
	expect := func(want string) {
		t.Helper()
		if got := tree(); got != want {
			t.Errorf("snapshots are %q, want %q", got, want)
		}
	}
	if err := create("a", false); err != nil {
		t.Fatal(err)
	}
	if err := create("b", true); err != nil {
		t.Fatal(err)
	}
	expect("a<:RUNNING b<a:SHUTOFF current b")
	if n := p.guest(name).GetSnapshots()[0]; n.GetDescription() != "of a" || time.Since(n.GetCreated().AsTime()) > time.Minute {
		t.Errorf("snapshot is %v", n)
	}
	refused(t, create("b", false), verr.OperationInvalid, "'b' already exists")
	refused(t, create(strings.Repeat("x", 81), false), verr.InvalidArg, "81")

	vcpus := p.guest(name).GetVcpus()
	tuning := pb.NewTuningServiceClient(r.conn)
	if _, err := tuning.SetVCPUs(r.ctx(), &pb.SetVCPUsRequest{Guest: p.ref(name), Vcpus: vcpus + 1}); err != nil {
		t.Fatal(err)
	}
	res, err := snapshots.RevertToSnapshot(r.ctx(), &pb.RevertToSnapshotRequest{Guest: p.ref(name), Name: "a"})
	if err != nil {
		t.Fatal(err)
	}
	p.at(res.GetSeq())
	expect("a<:RUNNING b<a:SHUTOFF current a")
	if g := p.guest(name); g.GetVcpus() != vcpus || g.GetState() != hv.State_STATE_RUNNING ||
		!strings.Contains(g.GetXml(), fmt.Sprintf(">%d</vcpu>", vcpus)) {
		t.Errorf("after the return the guest is %v", g)
	}
	if err := create("c", false); err != nil {
		t.Fatal(err)
	}
	expect("a<:RUNNING b<a:SHUTOFF c<a:RUNNING current c")
	res, err = snapshots.RevertToSnapshot(r.ctx(), &pb.RevertToSnapshotRequest{Guest: p.ref(name), Name: "b", Running: true})
	if err != nil {
		t.Fatal(err)
	}
	p.at(res.GetSeq())
	if g := p.guest(name); g.GetState() != hv.State_STATE_RUNNING {
		t.Errorf("the guest is %v", g.GetState())
	}
	_, err = snapshots.RevertToSnapshot(r.ctx(), &pb.RevertToSnapshotRequest{Guest: p.ref(name), Name: "none"})
	refused(t, err, verr.NoDomainSnapshot, "none")
	_, err = snapshots.DeleteSnapshot(r.ctx(), &pb.DeleteSnapshotRequest{Guest: p.ref(name), Name: "none"})
	refused(t, err, verr.NoDomainSnapshot, "none")

	guests := pb.NewGuestServiceClient(r.conn)
	s.PowerOff(name)
	p.until("off", func() bool { return p.guest(name).GetState() == hv.State_STATE_SHUTOFF })
	_, err = guests.Undefine(r.ctx(), &pb.UndefineRequest{Guest: p.ref(name)})
	refused(t, err, verr.OperationInvalid, "3 snapshots")
	gone, err := snapshots.DeleteSnapshot(r.ctx(), &pb.DeleteSnapshotRequest{Guest: p.ref(name), Name: "c"})
	if err != nil {
		t.Fatal(err)
	}
	p.at(gone.GetSeq())
	expect("a<:RUNNING b<a:SHUTOFF current b")
	gone, err = snapshots.DeleteSnapshot(r.ctx(), &pb.DeleteSnapshotRequest{Guest: p.ref(name), Name: "a", Children: true})
	if err != nil {
		t.Fatal(err)
	}
	p.at(gone.GetSeq())
	expect(" current ")
}

func TestScreensAreRead(t *testing.T) {
	r, s, p := lab(t, vimtest.Options{})
	name := first(vimtest.Options{})
	shoot := func(guest *hv.Guest, screen uint32) (string, []byte, error) {
		stream, err := hv.NewConsoleServiceClient(r.conn).Screenshot(r.ctx(), &hv.ScreenshotRequest{Guest: guest, Screen: screen})
		if err != nil {
			return "", nil, err
		}
		kind, data := "", []byte(nil)
		for {
			m, err := stream.Recv()
			if errors.Is(err, io.EOF) {
				return kind, data, nil
			}
			if err != nil {
				return "", nil, err
			}
			kind, data = kind+m.GetMimeType(), append(data, m.GetData()...)
		}
	}
	kind, data, err := shoot(p.ref(name), 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := png.Decode(bytes.NewReader(data)); err != nil || kind != "image/png" {
		t.Errorf("picture is %s: %v", kind, err)
	}
	_, _, err = shoot(p.ref(name), 1)
	refused(t, err, verr.InvalidArg, "Screen cannot be selected")
	s.PowerOff(name)
	p.until("off", func() bool { return p.guest(name).GetState() == hv.State_STATE_SHUTOFF })
	_, _, err = shoot(p.ref(name), 0)
	refused(t, err, verr.OperationInvalid, "not powered on")
}

func TestFiguresOfManyGuestsAreReadTogether(t *testing.T) {
	s := vimtest.Start(t, vimtest.Options{Machines: 20})
	r := start(t, map[string]any{"lab": table(s, "esx")})
	p := r.follow("esx:///lab")
	p.synced()
	for _, name := range s.Machines() {
		p.until("the definition of "+name, func() bool { return p.guest(name).GetXml() != "" })
	}
	before := s.Spoiler.Calls("RetrievePropertiesEx") + s.Spoiler.Calls("RetrieveProperties")
	var all []*hv.GuestHandle
	for name := range p.names() {
		all = append(all, &hv.GuestHandle{Guest: p.ref(name)})
	}
	stream, err := hv.NewStatsServiceClient(r.conn).Collect(r.ctx(), &hv.CollectRequest{Guests: all, Groups: 2 | 4 | 8})
	if err != nil {
		t.Fatal(err)
	}
	answers := 0
	for {
		m, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		answers++
		values := map[string]*hv.Stat{}
		for _, stat := range m.GetStats() {
			values[stat.GetName()] = stat
		}
		if values["balloon.rss"].GetUllong() != 16<<10 || values["balloon.maximum"].GetUllong() == 0 || values["vcpu.current"].GetUint() == 0 ||
			values["cpu.time"] == nil {
			t.Errorf("figures are %v", m.GetStats())
		}
	}
	calls := s.Spoiler.Calls("RetrievePropertiesEx") + s.Spoiler.Calls("RetrieveProperties") - before
	if answers != 20 || calls > 5 {
		t.Errorf("%d answers by %d calls", answers, calls)
	}
}

func TestGuestsMoveBetweenHostsOfOneServer(t *testing.T) {
	s := vimtest.Start(t, vimtest.Options{VPX: true})
	r := start(t, map[string]any{"lab": table(s, "vpx")})
	from, to := r.follow("vpx:///lab/DC0/DC0_H0"), r.follow("vpx:///lab/DC0/DC0_C0/DC0_C0_H0")
	from.synced()
	to.synced()
	const name = "DC0_H0_VM0"
	migration := pb.NewMigrationServiceClient(r.conn)
	prepared, err := migration.PrepareMigration(r.ctx(), &pb.PrepareMigrationRequest{Connection: to.connection, Flags: 1})
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(prepared.GetUri(), "vpxmigr://127.0.0.1/resgroup-") {
		t.Errorf("URI is %q", prepared.GetUri())
	}
	moved, err := migration.PerformMigration(r.ctx(), &pb.PerformMigrationRequest{Guest: from.ref(name), Uri: prepared.GetUri(), Flags: 1})
	if err != nil {
		t.Fatal(err)
	}
	from.at(moved.GetSeq())
	if from.names()[name] != nil {
		t.Error("the guest is still at the source")
	}
	arrived, err := migration.FinishMigration(r.ctx(), &pb.FinishMigrationRequest{Connection: to.connection, Name: name, Uri: prepared.GetUri()})
	if err != nil {
		t.Fatal(err)
	}
	to.at(arrived.GetSeq())
	if g := to.guest(name); g.GetUuid() != arrived.GetUuid() || g.GetState() != hv.State_STATE_RUNNING {
		t.Errorf("the guest is %v", g)
	}
	for side, want := range map[*picture]string{from: name + " stopped," + name + " undefined", to: name + " defined," + name + " started"} {
		if got := strings.Join(side.events, ","); got != want {
			t.Errorf("events are %q, want %q", got, want)
		}
	}
	_, err = migration.FinishMigration(shortly(t), &pb.FinishMigrationRequest{Connection: to.connection, Name: "nobody"})
	refused(t, err, verr.NoDomain, "nobody")
	for uri, says := range map[string]string{
		"http://127.0.0.1/a/b":      "vpxmigr",
		"vpxmigr://elsewhere/a/b":   "same vCenter",
		"vpxmigr://127.0.0.1/a":     "resource pool and host",
		"vpxmigr://127.0.0.1/a/b/c": "resource pool and host",
	} {
		_, err := migration.PerformMigration(r.ctx(), &pb.PerformMigrationRequest{Guest: to.ref(name), Uri: uri})
		refused(t, err, verr.InvalidArg, says)
	}
	_, err = migration.PerformMigration(r.ctx(), &pb.PerformMigrationRequest{Guest: to.ref(name), Uri: prepared.GetUri(), Name: "x"})
	refused(t, err, verr.ArgumentUnsupported, "Renaming")
}

func TestAHostAloneMovesNothing(t *testing.T) {
	r, _, p := lab(t, vimtest.Options{})
	_, err := pb.NewMigrationServiceClient(r.conn).PrepareMigration(r.ctx(), &pb.PrepareMigrationRequest{Connection: p.connection})
	refused(t, err, verr.OperationUnsupported, "vCenter")
}

func TestNativeDefinitionsAreTranslated(t *testing.T) {
	r, _, p := lab(t, vimtest.Options{})
	natives := pb.NewNativeServiceClient(r.conn)
	res, err := natives.ToNative(r.ctx(), &pb.ToNativeRequest{
		Connection: p.connection, Format: "vmware-vmx", Xml: definition("n", newID, disk("[ds] n/n.vmdk", "sda")),
	})
	if err != nil || !strings.Contains(res.GetNative(), `displayName = "n"`) || !strings.Contains(res.GetNative(), `virtualHW.version = "`) {
		t.Fatalf("native is %v, %v", res, err)
	}
	back, err := natives.FromNative(r.ctx(), &pb.FromNativeRequest{Connection: p.connection, Format: "vmware-vmx", Native: res.GetNative()})
	if err != nil || !strings.Contains(back.GetXml(), "<source file='[ds] n/n.vmdk'/>") {
		t.Errorf("domain is %v, %v", back, err)
	}
	_, err = natives.FromNative(r.ctx(), &pb.FromNativeRequest{Connection: p.connection, Format: "qemu-argv"})
	refused(t, err, verr.InvalidArg, "qemu-argv")
}

func TestDomainCapabilities(t *testing.T) {
	r, _, p := lab(t, vimtest.Options{})
	res, err := hv.NewCapabilityServiceClient(r.conn).DomainCapabilities(r.ctx(), &hv.DomainCapabilitiesRequest{Connection: p.connection})
	if err != nil || !strings.Contains(res.GetXml(), "<vcpu max='128'/>") {
		t.Errorf("capabilities are %v, %v", res, err)
	}
	_, err = hv.NewCapabilityServiceClient(r.conn).DomainCapabilities(r.ctx(), &hv.DomainCapabilitiesRequest{
		Connection: p.connection, VirtType: "kvm",
	})
	refused(t, err, verr.InvalidArg, "kvm")
}
