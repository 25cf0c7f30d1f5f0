package driver

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc"

	"github.com/lodgevirt/lodge/sdk/faketest"
	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/storage/v1"
	"github.com/lodgevirt/lodge/sdk/verr"
	"github.com/lodgevirt/lodge/tests/fakelvm"
)

const mib = 1 << 20

// bench is a driver behind the SDK's real server, an LVM of its own, and a pool on two devices.
type bench struct {
	*testing.T
	*fakelvm.LVM
	conn grpc.ClientConnInterface
	pool *pb.Pool
}

// group is the group of a bench: its name has what names may have.
const group = "lodge-test+vg.1"

// newBench makes one without the group.
func newBench(t *testing.T) *bench {
	t.Helper()
	b := &bench{T: t, LVM: fakelvm.Start(t, 200*mib, 100*mib)}
	b.conn = faketest.StartWith(t, Plugin("1.0.0"), b.config()).Conn
	b.pool = b.define(b.definition(b.Devices...))
	return b
}

// built makes one whose pool is in use.
func built(t *testing.T) *bench {
	t.Helper()
	b := newBench(t)
	if err := errors.Join(b.build(0), b.start()); err != nil {
		t.Fatal(err)
	}
	return b
}

// config is the plugin's configuration.
func (b *bench) config() []byte { return fmt.Appendf(nil, `{"program":%q}`, b.Program()) }

func (b *bench) definition(devices ...string) string {
	var source strings.Builder
	for _, d := range devices {
		fmt.Fprintf(&source, "<device path='%s'/>", d)
	}
	return fmt.Sprintf("<pool type='logical'><name>p</name><source>%s<name>%s</name></source><target><path>%s</path></target></pool>",
		source.String(), group, b.Target(group))
}

func (b *bench) define(text string) *pb.Pool {
	b.Helper()
	rsp, err := pb.NewPoolServiceClient(b.conn).Validate(b.Context(), &pb.ValidateRequest{Xml: text})
	if err != nil {
		b.Fatal(err)
	}
	return &pb.Pool{Uuid: rsp.Uuid, Name: rsp.Name, Type: rsp.Type, Xml: rsp.Xml}
}

// drain reads a stream to its end, and returns its last message.
func drain[M any](recv func() (M, error), err error) (M, error) {
	var last M
	for err == nil {
		var next M
		if next, err = recv(); err == nil {
			last = next
		}
	}
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return last, err
}

// is reports whether an answer is an error of a code.
func is(err error, code verr.Code) bool { return err != nil && verr.From(err).Code == code }

func (b *bench) build(flags uint32) error {
	b.Helper()
	s, err := pb.NewBuildServiceClient(b.conn).Build(b.Context(), &pb.BuildRequest{Pool: b.pool, Flags: flags})
	if err != nil {
		return err
	}
	_, err = drain(s.Recv, nil)
	return err
}

func (b *bench) delete() error {
	b.Helper()
	s, err := pb.NewBuildServiceClient(b.conn).Delete(b.Context(), &pb.DeleteRequest{Pool: b.pool})
	if err != nil {
		return err
	}
	_, err = drain(s.Recv, nil)
	return err
}

func (b *bench) start() error {
	_, err := pb.NewPoolServiceClient(b.conn).Start(b.Context(), &pb.StartRequest{Pool: b.pool})
	return err
}

func (b *bench) active() bool {
	b.Helper()
	rsp, err := pb.NewPoolServiceClient(b.conn).Check(b.Context(), &pb.CheckRequest{Pool: b.pool})
	if err != nil {
		b.Error(err)
	}
	return rsp.GetActive()
}

func (b *bench) create(xml string, from *pb.Volume) (*pb.Volume, error) {
	b.Helper()
	req := &pb.CreateRequest{Pool: b.pool, Xml: "<volume>" + xml + "</volume>", From: from}
	s, err := pb.NewVolumeServiceClient(b.conn).Create(b.Context(), req)
	if err != nil {
		return nil, err
	}
	last, err := drain(s.Recv, nil)
	return last.GetVolume(), err
}

func (b *bench) must(name string, size int) *pb.Volume {
	b.Helper()
	v, err := b.create(fmt.Sprintf("<name>%s</name><capacity>%d</capacity>", name, size), nil)
	if err != nil {
		b.Fatal(err)
	}
	return v
}

func (b *bench) remove(v *pb.Volume) error {
	_, err := pb.NewVolumeServiceClient(b.conn).Remove(b.Context(), &pb.RemoveRequest{Pool: b.pool, Volume: v})
	return err
}

func (b *bench) refresh() (map[string]*pb.Volume, *pb.PoolSize) {
	b.Helper()
	s, err := pb.NewPoolServiceClient(b.conn).Refresh(b.Context(), &pb.RefreshRequest{Pool: b.pool})
	if err != nil {
		b.Fatal(err)
	}
	all := map[string]*pb.Volume{}
	last, err := drain(func() (*pb.RefreshResponse, error) {
		msg, err := s.Recv()
		for _, v := range msg.GetVolumes() {
			all[v.Name] = v
		}
		return msg, err
	}, nil)
	if err != nil {
		b.Fatal(err)
	}
	return all, last.GetSize()
}

// names are the volumes that LVM has, hidden ones and those that are being made included.
func (b *bench) names() []string {
	b.Helper()
	return strings.Fields(b.Do(b, "lvs", "--all", "--noheadings", "-o", "lv_name", group))
}

func TestLifeOfAGroup(t *testing.T) {
	b := newBench(t)
	if b.active() {
		t.Error("active before it is there")
	}
	if err := b.start(); !is(err, verr.OperationFailed) {
		t.Errorf("started before it is there: %v", err)
	}
	if err := errors.Join(b.build(0), b.start(), b.start()); err != nil {
		t.Fatal(err)
	}
	if err := b.build(buildOverwrite); !is(err, verr.OperationInvalid) {
		t.Errorf("built twice: %v", err)
	}
	all, size := b.refresh()
	if len(all) != 0 || size.GetCapacity() != (196+96)*mib || size.GetAvailable() != size.GetCapacity() || !b.active() {
		t.Errorf("volumes %v, size %v", all, size)
	}
	found, err := pb.NewSourceServiceClient(b.conn).FindSources(t.Context(), &pb.FindSourcesRequest{Type: "logical"})
	want := fmt.Sprintf("<sources>\n  <source>\n    <device path='%s'/>\n    <device path='%s'/>\n    <name>%s</name>\n    <format type='lvm2'/>\n  </source>\n</sources>\n",
		b.Devices[0], b.Devices[1], group)
	if err != nil || found.GetSourcesXml() != want {
		t.Errorf("sources are %s, want %s, error %v", found.GetSourcesXml(), want, err)
	}
	b.must("a", mib)
	for range 2 {
		if _, err := pb.NewPoolServiceClient(b.conn).Stop(t.Context(), &pb.StopRequest{Pool: b.pool}); err != nil {
			t.Error(err)
		}
	}
	if err := b.delete(); err != nil {
		t.Fatal(err)
	}
	if left := b.Do(t, "pvs", "--noheadings"); left != "" {
		t.Errorf("physical volumes are left: %s", left)
	}
	if err := b.delete(); err != nil {
		t.Errorf("deleted again: %v", err)
	}
}

func TestNothingIsOverwrittenUnasked(t *testing.T) {
	b := newBench(t)
	if out, err := exec.Command("mkswap", b.Devices[1]).CombinedOutput(); err != nil {
		t.Skipf("no swap space can be made: %s", out)
	}
	for _, flags := range []uint32{0, buildNoOverwrite} {
		if err := b.build(flags); !is(err, verr.OperationInvalid) || !strings.Contains(err.Error(), "swap found on device '"+b.Devices[1]) {
			t.Errorf("flags %d: a swap space is overwritten: %v", flags, err)
		}
	}
	if left := b.Do(t, "pvs", "--noheadings"); left != "" {
		t.Errorf("physical volumes are made: %s", left)
	}
	if err := errors.Join(b.build(buildOverwrite), b.delete()); err != nil {
		t.Fatal(err)
	}
	other := "other"
	b.Do(t, "vgcreate", other, b.Devices[0])
	b.pool = b.define(b.definition(b.Devices[0]))
	for _, flags := range []uint32{0, buildNoOverwrite, buildOverwrite} {
		if err := b.build(flags); !is(err, verr.OperationInvalid) || !strings.Contains(err.Error(), other) {
			t.Errorf("flags %d: another group's device is taken: %v", flags, err)
		}
	}
	b.pool = b.define(b.definition("/dev/null"))
	if err := b.build(0); !is(err, verr.OperationFailed) {
		t.Errorf("built on what is no block device: %v", err)
	}
	b.pool = b.define(b.definition())
	if err := b.build(0); !is(err, verr.ConfigUnsupported) {
		t.Errorf("built on nothing: %v", err)
	}
}

func TestAGroupOnOtherDevicesIsNotStarted(t *testing.T) {
	b := newBench(t)
	b.Do(t, "vgcreate", group, b.Devices[0])
	if err := b.start(); !is(err, verr.OperationFailed) || !strings.Contains(err.Error(), b.Devices[1]) {
		t.Errorf("started: %v", err)
	}
	b.pool = b.define(b.definition(b.Devices[0]))
	if err := b.start(); err != nil {
		t.Error(err)
	}
}

func TestVolumes(t *testing.T) {
	b := built(t)
	a := b.must("a-b.c+d_e", 5*mib)
	if a.Capacity != 8*mib || a.Allocation != 8*mib || a.Path != b.Target(group)+"/a-b.c+d_e" || a.Trouble != "" || a.Backing != nil ||
		len(a.Extents) != 1 || a.Extents[0].End-a.Extents[0].Start != 8*mib || len(a.Key) != 38 {
		t.Errorf("made %v", a)
	}
	if _, err := b.create("<name>a-b.c+d_e</name><capacity>1</capacity>", nil); !is(err, verr.StorageVolExist) {
		t.Errorf("made twice: %v", err)
	}
	if _, err := b.create("<name>big</name><capacity unit='T'>1</capacity>", nil); !is(err, verr.OperationFailed) {
		t.Errorf("made without room: %v", err)
	}
	if _, err := b.create("<name>"+makingPrefix+"x</name><capacity>1</capacity>", nil); !is(err, verr.XMLError) {
		t.Errorf("made under a name that nobody sees: %v", err)
	}
	owned, err := b.create("<name>owned</name><capacity>1</capacity><target><permissions><mode>0640</mode><owner>7</owner><group>8</group></permissions></target>", nil)
	if p := owned.GetPermissions(); err != nil || p.GetMode() != 0o640 || p.GetOwner() != 7 || p.GetGroup() != 8 {
		t.Errorf("made %v, error %v", owned, err)
	}
	if err := os.WriteFile(a.Path, bytes.Repeat([]byte("data"), 2*mib), 0); err != nil {
		t.Fatal(err)
	}
	copied, err := b.create("<name>copy</name><capacity>1</capacity>", a)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(copied.Path); err != nil || !bytes.HasPrefix(got, bytes.Repeat([]byte("data"), 2*mib)) {
		t.Errorf("the copy of %d bytes is not the same, error %v", len(got), err)
	}
	resize := func(size uint64, flags uint32) (*pb.Volume, error) {
		rsp, err := pb.NewResizeServiceClient(b.conn).Resize(t.Context(), &pb.ResizeRequest{Pool: b.pool, Volume: a, Capacity: size, Flags: flags})
		return rsp.GetVolume(), err
	}
	if v, err := resize(17*mib, 0); err != nil || v.Capacity != 20*mib {
		t.Errorf("grown to %v, error %v", v, err)
	}
	if v, err := resize(18*mib, 0); err != nil || v.Capacity != 20*mib {
		t.Errorf("grown within its last extent to %v, error %v", v, err)
	}
	if _, err := resize(mib, 0); !is(err, verr.InvalidArg) {
		t.Errorf("shrunk unasked: %v", err)
	}
	if v, err := resize(mib, 1<<2); err != nil || v.Capacity != 4*mib {
		t.Errorf("shrunk to %v, error %v", v, err)
	}
	all, size := b.refresh()
	if len(all) != 3 || size.GetAllocation() != (4+4+8)*mib || size.GetEntangled() {
		t.Errorf("volumes %v, size %v", all, size)
	}
	if err := errors.Join(b.remove(a), b.remove(copied), b.remove(owned)); err != nil {
		t.Error(err)
	}
	if err := b.remove(a); !is(err, verr.NoStorageVol) {
		t.Errorf("removed twice: %v", err)
	}
	if left := b.names(); len(left) > 0 {
		t.Errorf("volumes are left: %v", left)
	}
}

func TestSnapshotsAndSparseVolumes(t *testing.T) {
	b := built(t)
	a := b.must("a", 4*mib)
	snapshot, errSnapshot := b.create("<name>s</name><capacity unit='M'>4</capacity><backingStore><path>"+a.Path+"</path></backingStore>", nil)
	sparse, errSparse := b.create("<name>t</name><capacity unit='M'>40</capacity><allocation>0</allocation>", nil)
	if b.Emulated {
		for _, err := range []error{errSnapshot, errSparse} {
			if !is(err, verr.ConfigUnsupported) || !strings.Contains(err.Error(), "device-mapper") {
				t.Errorf("made without device-mapper: %v", err)
			}
		}
		if left := b.names(); !slices.Equal(left, []string{"a"}) {
			t.Errorf("volumes are left: %v", left)
		}
		t.Skip("the kernel has no device-mapper, so snapshots are refused")
	}
	if err := errors.Join(errSnapshot, errSparse); err != nil {
		t.Fatal(err)
	}
	if snapshot.Backing.GetPath() != a.Path || snapshot.Capacity != a.Capacity || sparse.Capacity != 40*mib || sparse.Allocation != 4*mib {
		t.Errorf("made %v and %v", snapshot, sparse)
	}
	if err := b.remove(a); !is(err, verr.OperationInvalid) {
		t.Errorf("removed with its snapshot: %v", err)
	}
}

func TestUpDownAndWipe(t *testing.T) {
	b := built(t)
	v := b.must("a", 4*mib)
	client := pb.NewTransferServiceClient(b.conn)
	up, err := client.Upload(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, msg := range []*pb.UploadRequest{
		{Begin: &pb.UploadBegin{Pool: b.pool, Volume: v}}, {Data: []byte("head")}, {Hole: mib + 1}, {Data: []byte("tail")},
	} {
		if err := up.Send(msg); err != nil {
			t.Fatal(err)
		}
	}
	if err := up.CloseSend(); err != nil {
		t.Fatal(err)
	}
	if last, err := drain(up.Recv, nil); err != nil || last.GetWritten() != mib+9 {
		t.Fatalf("written %v, error %v", last, err)
	}
	down, err := client.Download(t.Context(), &pb.DownloadRequest{Pool: b.pool, Volume: v, Length: mib + 9})
	if err != nil {
		t.Fatal(err)
	}
	var got []byte
	for err == nil {
		var msg *pb.DownloadResponse
		msg, err = down.Recv()
		got = append(got, msg.GetData()...)
	}
	if want := "head" + strings.Repeat("\x00", mib+1) + "tail"; string(got) != want {
		t.Errorf("%d bytes came back changed", len(got))
	}
	wiped, err := pb.NewWipeServiceClient(b.conn).Wipe(t.Context(), &pb.WipeRequest{Pool: b.pool, Volume: v})
	if err == nil {
		_, err = drain(wiped.Recv, nil)
	}
	if text, errRead := os.ReadFile(v.Path); err != nil || errRead != nil || len(bytes.Trim(text, "\x00")) > 0 {
		t.Errorf("wiped to something else than zeros, errors %v, %v", err, errRead)
	}
}

// TestWhatACrashLeftIsSwept holds that volumes that nobody makes any more go, and others stay.
func TestWhatACrashLeftIsSwept(t *testing.T) {
	b := built(t)
	here, err := thisMaker()
	if err != nil {
		t.Fatal(err)
	}
	dead, booted, elsewhere := here, here, here
	dead.start++
	booted.boot = "otherbot"
	elsewhere.host, elsewhere.boot = "otherone", "otherbot"
	for _, m := range []maker{here, dead, booted, elsewhere} {
		if got, ok := parseMaking(m.name(5)); !ok || got != m {
			t.Errorf("%q is read as %v", m.name(5), got)
		}
		b.Do(t, "lvcreate", "--yes", "--name", m.name(5), "--size", "4m", group)
	}
	b.must("a", mib)
	if all, _ := b.refresh(); len(all) != 1 || all["a"] == nil {
		t.Errorf("seen: %v", all)
	}
	want := []string{"a", here.name(5), elsewhere.name(5)}
	slices.Sort(want)
	got := b.names()
	slices.Sort(got)
	if !slices.Equal(got, want) {
		t.Errorf("left: %q, want %q", got, want)
	}
	if err := b.remove(&pb.Volume{Name: here.name(5)}); !is(err, verr.NoStorageVol) {
		t.Errorf("a volume that is being made is removed: %v", err)
	}
}
