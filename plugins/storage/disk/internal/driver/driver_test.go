package driver

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc"

	"github.com/lodgevirt/lodge/plugins/storage/disk/internal/define"
	"github.com/lodgevirt/lodge/plugins/storage/disk/internal/parted"
	"github.com/lodgevirt/lodge/sdk/faketest"
	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/storage/v1"
	"github.com/lodgevirt/lodge/sdk/verr"
	"github.com/lodgevirt/lodge/tests/fakelvm"
)

const mib = 1 << 20

// bench is a driver behind the SDK's real server, and a pool that is a loop device.
type bench struct {
	*testing.T
	conn   grpc.ClientConnInterface
	device string
	pool   *pb.Pool
}

// newBench makes one of a format, with a disk of a size in bytes and no label.
func newBench(t *testing.T, format string, size int64) *bench {
	t.Helper()
	if !parted.Available() {
		t.Skip("parted is not installed")
	}
	b := &bench{T: t, device: fakelvm.Loop(t, filepath.Join(t.TempDir(), "disk"), size)}
	b.conn = faketest.Client(t, Plugin("1.0.0"))
	b.pool = b.define(format)
	return b
}

// built makes one whose pool is in use.
func built(t *testing.T, format string, size int64) *bench {
	t.Helper()
	b := newBench(t, format, size)
	if err := errors.Join(b.build(0), b.start()); err != nil {
		t.Fatal(err)
	}
	return b
}

func (b *bench) define(format string) *pb.Pool {
	b.Helper()
	rsp, err := pb.NewPoolServiceClient(b.conn).Validate(b.Context(), &pb.ValidateRequest{Xml: fmt.Sprintf(
		"<pool type='disk'><name>p</name><source><device path='%s'/><format type='%s'/></source></pool>", b.device, format)})
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

// part is a partition's name.
func (b *bench) part(n int) string { return fmt.Sprintf("%sp%d", filepath.Base(b.device), n) }

func (b *bench) create(n int, size int, format string, from *pb.Volume) (*pb.Volume, error) {
	b.Helper()
	req := &pb.CreateRequest{Pool: b.pool, From: from, Xml: fmt.Sprintf(
		"<volume><name>%s</name><capacity>%d</capacity><target><format type='%s'/></target></volume>", b.part(n), size, format)}
	s, err := pb.NewVolumeServiceClient(b.conn).Create(b.Context(), req)
	if err != nil {
		return nil, err
	}
	last, err := drain(s.Recv, nil)
	return last.GetVolume(), err
}

func (b *bench) must(n int, size int, format string) *pb.Volume {
	b.Helper()
	v, err := b.create(n, size, format, nil)
	if err != nil {
		b.Fatal(err)
	}
	return v
}

func (b *bench) remove(v *pb.Volume) error {
	_, err := pb.NewVolumeServiceClient(b.conn).Remove(b.Context(), &pb.RemoveRequest{Pool: b.pool, Volume: v})
	return err
}

func (b *bench) refresh() ([]*pb.Volume, *pb.PoolSize) {
	b.Helper()
	s, err := pb.NewPoolServiceClient(b.conn).Refresh(b.Context(), &pb.RefreshRequest{Pool: b.pool})
	if err != nil {
		b.Fatal(err)
	}
	var all []*pb.Volume
	last, err := drain(func() (*pb.RefreshResponse, error) {
		msg, err := s.Recv()
		all = append(all, msg.GetVolumes()...)
		return msg, err
	}, nil)
	if err != nil {
		b.Fatal(err)
	}
	return all, last.GetSize()
}

// told describes all volumes in short.
func (b *bench) told() []string {
	b.Helper()
	all, _ := b.refresh()
	var out []string
	for _, v := range all {
		e := v.Extents[0]
		if v.Trouble != "" || e.Device != b.device || e.End-e.Start != v.Capacity || v.Path != "/dev/"+v.Name {
			b.Errorf("volume %v", v)
		}
		out = append(out, fmt.Sprintf("%s %s %d-%d", strings.TrimPrefix(v.Name, filepath.Base(b.device)), v.Format, e.Start/1024, e.End/1024))
	}
	return out
}

func TestLifeOfADisk(t *testing.T) {
	for _, format := range []string{"dos", "gpt"} {
		t.Run(format, func(t *testing.T) {
			b := newBench(t, format, 16*mib)
			if b.active() {
				t.Error("active without a label")
			}
			if err := b.start(); !is(err, verr.StorageProbeFailed) || !strings.Contains(err.Error(), "requires build") {
				t.Errorf("started without a label: %v", err)
			}
			if err := errors.Join(b.build(0), b.start(), b.start()); err != nil {
				t.Fatal(err)
			}
			for _, flags := range []uint32{0, buildNoOverwrite} {
				if err := b.build(flags); !is(err, verr.StoragePoolBuilt) {
					t.Errorf("flags %d: built over a label: %v", flags, err)
				}
			}
			if err := b.build(buildOverwrite); err != nil || !b.active() {
				t.Errorf("built anew: %v", err)
			}
			all, size := b.refresh()
			if len(all) != 0 || len(size.GetFree()) != 1 || size.GetFree()[0].Device != b.device || size.GetAllocation() != 0 || !size.GetEntangled() {
				t.Errorf("volumes %v, size %v", all, size)
			}
			b.pool = b.define("mac")
			if err := b.start(); !is(err, verr.OperationInvalid) || b.active() {
				t.Errorf("started with another label: %v", err)
			}
			if err := b.build(buildNoOverwrite); !is(err, verr.OperationInvalid) {
				t.Errorf("built over another label: %v", err)
			}
			b.pool = b.define("unknown")
			if err := b.start(); err != nil || !b.active() {
				t.Errorf("started with any label: %v", err)
			}
		})
	}
}

func TestWhatIsOnADiskIsKept(t *testing.T) {
	b := newBench(t, "gpt", 16*mib)
	if out, err := exec.Command("mkswap", b.device).CombinedOutput(); err != nil {
		t.Skipf("no swap space can be made: %s", out)
	}
	if err := b.build(0); !is(err, verr.OperationInvalid) || !strings.Contains(err.Error(), "swap") {
		t.Errorf("built over a swap space: %v", err)
	}
	if err := b.build(buildOverwrite); err != nil {
		t.Error(err)
	}
	b.pool = b.define("lvm2")
	if err := b.build(buildOverwrite); !is(err, verr.ConfigUnsupported) {
		t.Errorf("built as a volume group: %v", err)
	}
	b.device = "/dev/null"
	b.pool = b.define("gpt")
	if err := b.build(0); !is(err, verr.OperationFailed) {
		t.Errorf("built on what is no disk: %v", err)
	}
	b.device = "/nowhere"
	b.pool = b.define("gpt")
	if err := b.start(); !is(err, verr.InvalidArg) || b.active() {
		t.Errorf("started a disk that is not there: %v", err)
	}
}

func TestPartitionsOfAPC(t *testing.T) {
	b := built(t, "dos", 64*mib)
	b.must(1, 4*mib, "linux")
	b.must(2, 4*mib, "linux-swap")
	if _, err := b.create(7, mib, "none", nil); !is(err, verr.InvalidArg) || !strings.Contains(err.Error(), "expected '"+b.part(3)+"'") {
		t.Errorf("a wrong name: %v", err)
	}
	if _, err := b.create(1, mib, "none", nil); !is(err, verr.StorageVolExist) {
		t.Errorf("a name that is taken: %v", err)
	}
	b.must(3, 24*mib, "extended")
	if _, err := b.create(4, mib, "extended", nil); !is(err, verr.OperationFailed) {
		t.Errorf("a second extended one: %v", err)
	}
	b.must(4, 4*mib, "fat16")
	b.must(5, 4*mib, "linux-lvm")
	b.must(6, 4*mib, "linux-raid")
	b.must(7, 4*mib, "fat32")
	want := []string{
		"p1 linux 1024-5120", "p2 linux-swap 5120-9216", "p3 extended 9216-33792", "p5 linux-lvm 10240-14336", "p6 linux-raid 15360-19456",
		"p7 fat32 20480-24576", "p4 fat16 33792-37888",
	}
	if got := b.told(); !slices.Equal(got, want) {
		t.Errorf("volumes are %q, want %q", got, want)
	}
	all, size := b.refresh()
	if extended := all[2]; extended.Capacity != 24*mib || extended.Allocation != 12*mib || size.Allocation != 24*mib {
		t.Errorf("extended partition is %v, size %v", extended, size)
	}
	if err := b.remove(all[2]); !is(err, verr.OperationInvalid) {
		t.Errorf("an extended partition with others in it is removed: %v", err)
	}
	if err := b.remove(all[3]); err != nil { // 5: then 6 and 7 are 5 and 6
		t.Fatal(err)
	}
	if err := b.remove(all[4]); !is(err, verr.OperationInvalid) || !strings.Contains(err.Error(), "must be refreshed") {
		t.Errorf("another partition than the one that was meant is removed: %v", err)
	}
	want = []string{
		"p1 linux 1024-5120", "p2 linux-swap 5120-9216", "p3 extended 9216-33792", "p5 linux-raid 15360-19456", "p6 fat32 20480-24576",
		"p4 fat16 33792-37888",
	}
	if got := b.told(); !slices.Equal(got, want) {
		t.Errorf("volumes are %q, want %q", got, want)
	}
	for range 3 {
		all, _ = b.refresh()
		if err := b.remove(all[len(all)-2]); err != nil {
			t.Fatal(err)
		}
	}
	if got := b.told(); !slices.Equal(got, []string{want[0], want[1], want[5]}) {
		t.Errorf("volumes are %q", got)
	}
	if err := b.remove(all[0]); err != nil {
		t.Fatal(err)
	}
	if err := b.remove(all[0]); !is(err, verr.NoStorageVol) {
		t.Errorf("removed twice: %v", err)
	}
}

func TestAFullTable(t *testing.T) {
	b := built(t, "dos", 32*mib)
	for n := 1; n <= 4; n++ {
		b.must(n, 2*mib, "none")
	}
	if _, err := b.create(5, mib, "none", nil); !is(err, verr.OperationFailed) || !strings.Contains(err.Error(), "no extended partition") {
		t.Errorf("a fifth: %v", err)
	}
	if len(b.told()) != 4 {
		t.Error("there are others than four")
	}
}

func TestAFullDisk(t *testing.T) {
	b := built(t, "gpt", 16*mib)
	_, size := b.refresh()
	if _, err := b.create(1, int(size.Available)+512, "none", nil); !is(err, verr.OperationFailed) || !strings.Contains(err.Error(), "no large enough") {
		t.Errorf("more than there is: %v", err)
	}
	v := b.must(1, int(size.Available), "none") // to the last block, so it cannot begin at a whole MiB
	if v.Capacity != size.Available {
		t.Errorf("made %v of %v", v, size)
	}
	if _, size = b.refresh(); size.Available != 0 || len(size.Free) != 0 {
		t.Errorf("size is %v", size)
	}
	if _, err := b.create(2, 1, "none", nil); !is(err, verr.OperationFailed) {
		t.Errorf("something in nothing: %v", err)
	}
}

// TestTheSmallestPieceIsTaken holds what libvirt does: what is big enough and smallest.
func TestTheSmallestPieceIsTaken(t *testing.T) {
	b := built(t, "gpt", 32*mib)
	for n := 1; n <= 5; n++ {
		b.must(n, n*mib, "none")
	}
	all, _ := b.refresh()
	if err := errors.Join(b.remove(all[1]), b.remove(all[3])); err != nil { // two pieces, of 2 and 4 MiB
		t.Fatal(err)
	}
	if v := b.must(2, 3*mib, "none"); v.Extents[0].Start != all[3].Extents[0].Start {
		t.Errorf("made at %v", v.Extents)
	}
	if v := b.must(4, 2*mib, "none"); v.Extents[0].Start != all[1].Extents[0].Start {
		t.Errorf("made at %v", v.Extents)
	}
}

// TestManyPartitions also holds that the kernel is told of partitions that it does not know.
func TestManyPartitions(t *testing.T) {
	const most, size = 128, 140 * mib
	b := newBench(t, "gpt", size)
	img := filepath.Join(t.TempDir(), "image") // on a file parted is quick
	if err := errors.Join(os.WriteFile(img, nil, 0o600), os.Truncate(img, size)); err != nil {
		t.Fatal(err)
	}
	args := []string{"--script", "--align", "none", img, "mklabel", "gpt", "unit", "MiB"}
	for n := 1; n < most; n++ {
		args = append(args, "mkpart", fmt.Sprint("n:", n), fmt.Sprint(n), fmt.Sprint(n+1))
	}
	if out, err := exec.Command("parted", args...).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if out, err := exec.Command("dd", "if="+img, "of="+b.device, "bs=1M", "conv=fsync").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if err := b.start(); err != nil {
		t.Fatal(err)
	}
	b.must(most, mib, "none")
	if got := b.told(); len(got) != most || got[most-1] != fmt.Sprintf("p128 none %d-%d", most*1024, (most+1)*1024) {
		t.Errorf("%d volumes, the last is %q", len(got), got[len(got)-1])
	}
	if _, err := b.create(most+1, mib, "none", nil); !is(err, verr.OperationFailed) {
		t.Errorf("one more than there can be: %v", err)
	}
}

func TestContent(t *testing.T) {
	b := built(t, "gpt", 64*mib)
	v := b.must(1, 2*mib+512, "none")
	client := pb.NewTransferServiceClient(b.conn)
	up, err := client.Upload(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, msg := range []*pb.UploadRequest{
		{Begin: &pb.UploadBegin{Pool: b.pool, Volume: v}}, {Data: []byte("head")}, {Hole: mib + 1}, {Data: []byte("tail")}, {Hole: 65536},
	} {
		if err := up.Send(msg); err != nil {
			t.Fatal(err)
		}
	}
	if err := up.CloseSend(); err != nil {
		t.Fatal(err)
	}
	if last, err := drain(up.Recv, nil); err != nil || last.GetWritten() != mib+9+65536 {
		t.Fatalf("written %v, error %v", last, err)
	}
	want := "head" + strings.Repeat("\x00", mib+1) + "tail"
	read := func(v *pb.Volume) string {
		down, err := client.Download(t.Context(), &pb.DownloadRequest{Pool: b.pool, Volume: v})
		if err != nil {
			t.Fatal(err)
		}
		var got bytes.Buffer
		for err == nil {
			var msg *pb.DownloadResponse
			msg, err = down.Recv()
			got.Write(msg.GetData())
		}
		if got.Len() != int(v.Capacity) || !errors.Is(err, io.EOF) {
			t.Errorf("%d bytes of %v, error %v", got.Len(), v, err)
		}
		return strings.TrimRight(got.String(), "\x00")
	}
	if got := read(v); got != want {
		t.Errorf("%d bytes came back changed", len(got))
	}
	// What a copy's place had before shows nowhere in it.
	if err := exec.Command("dd", "if=/dev/urandom", "of="+b.device, "bs=1M", "seek=4", "count=16", "conv=notrunc").Run(); err != nil {
		t.Fatal(err)
	}
	copied, err := b.create(2, 6*mib, "none", v)
	if err != nil || copied.Capacity != 6*mib {
		t.Fatalf("made %v, error %v", copied, err)
	}
	if got := read(copied); got != want {
		t.Errorf("the copy of %d bytes is not the same", len(got))
	}
	wiped, err := pb.NewWipeServiceClient(b.conn).Wipe(t.Context(), &pb.WipeRequest{Pool: b.pool, Volume: v})
	if err == nil {
		_, err = drain(wiped.Recv, nil)
	}
	if got := read(v); err != nil || got != "" {
		t.Errorf("wiped to %d bytes, error %v", len(got), err)
	}
	if got := read(copied); got != want {
		t.Error("wiping one has changed the other")
	}
	if _, err := pb.NewWipeServiceClient(b.conn).Wipe(t.Context(), &pb.WipeRequest{Pool: b.pool, Volume: &pb.Volume{Name: filepath.Base(b.device)}}); err != nil {
		t.Fatal(err)
	}
	s, _ := pb.NewWipeServiceClient(b.conn).Wipe(t.Context(), &pb.WipeRequest{Pool: b.pool, Volume: &pb.Volume{Name: filepath.Base(b.device), Path: b.device}})
	if _, err := drain(s.Recv, nil); !is(err, verr.NoStorageVol) {
		t.Errorf("the disk itself is wiped: %v", err)
	}
}

// TestOddLabels makes a partition in each kind of table, where parted can.
func TestOddLabels(t *testing.T) {
	first := map[string]int{"mac": 2} // its first is the map itself
	for _, format := range []string{"dvh", "mac", "bsd", "sun", "pc98"} {
		t.Run(format, func(t *testing.T) {
			b := built(t, format, 64*mib)
			n := max(first[format], 1)
			before := len(b.told())
			_, err := b.create(n, 4*mib, "linux", nil)
			if after := len(b.told()); err == nil && after != before+1 || err != nil && after != before {
				t.Errorf("%d partitions, then %d, error %v", before, after, err)
			}
			if err != nil && format != "pc98" && format != "sun" { // whose partitions begin at cylinders
				t.Error(err)
			}
			if format != "mac" {
				if _, err := b.create(n+1, 4*mib, "linux-lvm", nil); !is(err, verr.ConfigUnsupported) && !is(err, verr.InvalidArg) {
					t.Errorf("a kind that is not there: %v", err)
				}
			}
			if _, err := b.create(n+1, 4*mib, "extended", nil); !is(err, verr.ConfigUnsupported) {
				t.Errorf("an extended partition: %v", err)
			}
		})
	}
}

func TestNodesAreNamedAsTheirDisks(t *testing.T) {
	dir := t.TempDir()
	plain, digit, link := filepath.Join(dir, "sda"), filepath.Join(dir, "loop0"), filepath.Join(dir, "by-id1")
	if err := errors.Join(os.WriteFile(plain, nil, 0o600), os.WriteFile(digit, nil, 0o600), os.Symlink("sda", link)); err != nil {
		t.Fatal(err)
	}
	d := &Driver{core: faketest.NewCore(t)}
	for device, want := range map[string]string{
		plain + "'": plain + "7", digit + "'": digit + "p7", link + "'": plain + "7",
		"/dev/mapper/mpatha'": "/dev/mapper/mpathap7", "/dev/mapper/mpatha' part_separator='no'": "/dev/mapper/mpatha7",
		"/dev/mapper/mpath1' part_separator='no'": "/dev/mapper/mpath1p7",
	} {
		p, err := d.open(&pb.Pool{Xml: "<pool type='disk'><name>p</name><source><device path='" + device + "/></source></pool>"})
		if err != nil || p.node(parted.Part{Number: 7}) != want {
			t.Errorf("%s: %+v, want %s, error %v", device, p, want, err)
		}
	}
}

func TestLinksOfTheTargetAreUsed(t *testing.T) {
	b := built(t, "gpt", 16*mib)
	b.must(1, mib, define.Linux)
	b.must(2, mib, define.Linux)
	dir := t.TempDir()
	if err := os.Symlink("/dev/"+b.part(2), filepath.Join(dir, "disk-part2")); err != nil {
		t.Fatal(err)
	}
	b.pool.Xml = strings.Replace(b.pool.Xml, "<path>/dev</path>", "<path>"+dir+"</path>", 1)
	all, _ := b.refresh()
	if len(all) != 2 || all[0].Path != "/dev/"+b.part(1) || all[1].Path != filepath.Join(dir, "disk-part2") || all[1].Name != b.part(2) {
		t.Errorf("volumes %v", all)
	}
}
