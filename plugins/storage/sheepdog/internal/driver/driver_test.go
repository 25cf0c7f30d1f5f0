package driver

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"

	"github.com/lodgevirt/lodge/plugins/storage/sheepdog/internal/dog"
	"github.com/lodgevirt/lodge/plugins/storage/sheepdog/internal/dogtest"
	"github.com/lodgevirt/lodge/sdk/faketest"
	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/storage/v1"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// bench is a driver behind the SDK's real server, with an emulated cluster.
type bench struct {
	*testing.T
	fake *dogtest.Cluster
	conn *grpc.ClientConn
	pool *pb.Pool
}

func newBench(t *testing.T) *bench {
	t.Helper()
	fake := dogtest.Start(t)
	b := &bench{T: t, fake: fake, conn: faketest.StartWith(t, Plugin("1.0.0"), fake.Config(`, "timeout_seconds": 1`)).Conn}
	b.pool = b.define(poolXML)
	return b
}

func (b *bench) define(text string) *pb.Pool {
	b.Helper()
	rsp, err := pb.NewPoolServiceClient(b.conn).Validate(b.Context(), &pb.ValidateRequest{Xml: text})
	if err != nil {
		b.Fatal(err)
	}
	return &pb.Pool{Uuid: rsp.Uuid, Name: rsp.Name, Type: rsp.Type, Xml: rsp.Xml}
}

// refresh returns all volumes by name, and the size.
func (b *bench) refresh() (map[string]*pb.Volume, *pb.PoolSize, error) {
	stream, err := pb.NewPoolServiceClient(b.conn).Refresh(b.Context(), &pb.RefreshRequest{Pool: b.pool})
	if err != nil {
		return nil, nil, err
	}
	all := map[string]*pb.Volume{}
	var size *pb.PoolSize
	for {
		msg, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return all, size, nil
		}
		if err != nil {
			return nil, nil, err
		}
		for _, v := range msg.Volumes {
			all[v.Name] = v
		}
		size = msg.Size
	}
}

func (b *bench) names() []string {
	b.Helper()
	all, _, err := b.refresh()
	if err != nil {
		b.Fatal(err)
	}
	return slices.Sorted(maps.Keys(all))
}

func (b *bench) create(name string, size int, from *pb.Volume, fromPool *pb.Pool) (*pb.Volume, error) {
	stream, err := pb.NewVolumeServiceClient(b.conn).Create(b.Context(), &pb.CreateRequest{
		Pool: b.pool, Xml: fmt.Sprintf("<volume><name>%s</name><capacity>%d</capacity></volume>", name, size), From: from, FromPool: fromPool,
	})
	var made *pb.Volume
	for err == nil {
		var msg *pb.CreateResponse
		if msg, err = stream.Recv(); err == nil {
			made = msg.Volume
		}
	}
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return made, err
}

// lines is a recorded run of our own words.
func (b *bench) lines(exit int, out, err string) dogtest.Run { return b.fake.Text(exit, out, err) }

func code(err error) verr.Code {
	if e := verr.From(err); e != nil {
		return e.Code
	}
	return 0
}

const totals = "0 1000 400 600 40%\nTotal 1000 400 600 40% 2048\n"

func TestWhatIsAVolume(t *testing.T) {
	b := newBench(t)
	old := time.Now().Add(-2 * time.Hour).Unix()
	b.fake.Replay(b.lines(0, totals, ""), b.lines(0, fmt.Sprintf("s a 1 10 2 0 %d e 2 lodge-clone-1 22\ns a 2 10 2 0 %d e 2 mine 22\n"+
		"= a 0 20 4 0 1 e 2  22\nc b\\ b 0 30 0 4 1 f 2  22\nodd line\n= bad\x01name 0 1 0 0 1 e 2  22\n", old, old), ""), b.lines(0, "", ""))
	all, size, err := b.refresh()
	if err != nil {
		t.Fatal(err)
	}
	if size.Capacity != 1000 || size.Allocation != 400 || size.Available != 600 || len(all) != 2 {
		t.Errorf("volumes %v, size %v", all, size)
	}
	a := all["a"]
	if a.GetCapacity() != 20 || a.GetAllocation() != 4 || a.GetKey() != "herd/a" || a.GetPath() != "a" || a.GetType() != pb.VolumeType_VOLUME_TYPE_NETWORK {
		t.Errorf("volume %v", a)
	}
	if n := all["b b"].GetNetwork(); n.GetProtocol() != "sheepdog" || n.GetName() != "b b" || n.GetHosts()[0].GetPort() != 7000 {
		t.Errorf("network source %v", n)
	}
	if n := b.fake.Unanswered(); n != 0 {
		t.Errorf("the snapshot that a clone had left was not deleted: %d runs were not asked for", n)
	}
	if got := b.names(); len(got) != 0 {
		t.Errorf("volumes of the empty cluster %q", got)
	}
}

func TestClustersThatCannotBeUsed(t *testing.T) {
	b := newBench(t)
	for state, c := range map[string]struct {
		say  string
		want verr.Code
	}{
		"unformatted": {"dog cluster format", verr.OperationFailed}, "down": {"no node of the cluster answers", verr.OperationFailed},
		"hang": {"deadline exceeded", verr.OperationTimeout},
	} {
		b.fake.Set(state, true)
		_, start := pb.NewPoolServiceClient(b.conn).Start(t.Context(), &pb.StartRequest{Pool: b.pool})
		_, _, refresh := b.refresh()
		_, create := b.create("v", 10, nil, nil)
		for what, err := range map[string]error{"start": start, "refresh": refresh, "create": create} {
			if code(err) != c.want || !strings.Contains(err.Error(), c.say) || !strings.Contains(err.Error(), "127.0.0.1:7000") {
				t.Errorf("%s, %s: %v", state, what, err)
			}
		}
		b.fake.Set(state, false)
	}
	if got := b.names(); len(got) != 0 {
		t.Errorf("volumes %q", got)
	}
}

func TestADeletionThatDogOnlyTells(t *testing.T) {
	b := newBench(t)
	there := b.lines(0, "= v 0 20 4 0 1 e 2  22\n", "")
	b.fake.Replay(there, there, b.lines(0, "", ""), there)
	remove := func(name string, flags uint32) error {
		_, err := pb.NewVolumeServiceClient(b.conn).Remove(t.Context(), &pb.RemoveRequest{Pool: b.pool, Volume: &pb.Volume{Name: name}, Flags: flags})
		return err
	}
	if err := remove("v", 0); code(err) != verr.OperationFailed || !strings.Contains(err.Error(), "still there") {
		t.Errorf("deleted: %v", err)
	}
	b.fake.Replay()
	if err := remove("v", 0); code(err) != verr.NoStorageVol {
		t.Errorf("deleted what is not there: %v", err)
	}
	if err := remove("v", 1); code(err) != verr.InvalidArg {
		t.Errorf("deleted with zeros: %v", err)
	}
}

func TestSnapshotsGoWithTheirImage(t *testing.T) {
	b := newBench(t)
	v, err := b.create("v", 8<<20, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	cluster := dog.Cluster{Program: b.fake.Program(), Host: "127.0.0.1", Port: 7000, Timeout: 10 * time.Second}
	if err := errors.Join(cluster.Snapshot(t.Context(), "v", "one"), cluster.Snapshot(t.Context(), "v", "two")); err != nil {
		t.Fatal(err)
	}
	copied, err := b.create("copy", 8<<20, v, b.pool)
	if err != nil || copied.Capacity != 8<<20 {
		t.Errorf("the copy is %v, error %v", copied, err)
	}
	if left, err := cluster.Snapshots(t.Context(), "v"); err != nil || len(left) != 2 {
		t.Errorf("snapshots after the copy: %v, error %v", left, err)
	}
	if _, err := b.create("bigger", 9<<20, v, b.pool); code(err) != verr.ConfigUnsupported {
		t.Errorf("a copy of another size: %v", err)
	}
	if _, err := b.create("far", 8<<20, v, b.define(strings.Replace(poolXML, "127.0.0.1", "127.0.0.2", 1))); code(err) != verr.NoSupport {
		t.Errorf("a copy from another cluster: %v", err)
	}
	if _, err := b.create("copy", 8<<20, v, b.pool); code(err) != verr.StorageVolExist {
		t.Errorf("a copy with a name that is taken: %v", err)
	}
	_, err = pb.NewVolumeServiceClient(b.conn).Remove(t.Context(), &pb.RemoveRequest{Pool: b.pool, Volume: v, Flags: withSnapshots})
	if left, listErr := cluster.Snapshots(t.Context(), "v"); err != nil || listErr != nil || len(left) != 0 {
		t.Errorf("snapshots after the deletion: %v, errors %v, %v", left, err, listErr)
	}
	if got := b.names(); !slices.Equal(got, []string{"copy"}) {
		t.Errorf("volumes %q", got)
	}
}

func TestCreatedVolumesAreRefusedAsDogWould(t *testing.T) {
	b := newBench(t)
	for name, c := range map[string]struct {
		name string
		size int
		want verr.Code
	}{
		"a long name": {strings.Repeat("n", 256), 1, verr.XMLError}, "an option": {"--prealloc", 1, verr.XMLError},
		"no size": {"a", 0, verr.NoSupport}, "too big": {"a", 1 << 50, verr.OperationFailed},
	} {
		if _, err := b.create(c.name, c.size, nil, nil); code(err) != c.want {
			t.Errorf("%s: %v", name, err)
		}
	}
	v, err := b.create("a", 10, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	_, err = pb.NewResizeServiceClient(b.conn).Resize(t.Context(), &pb.ResizeRequest{Pool: b.pool, Volume: v, Capacity: 5, Flags: shrink})
	if code(err) != verr.OperationUnsupported {
		t.Errorf("made smaller: %v", err)
	}
	if got := b.names(); !slices.Equal(got, []string{"a"}) {
		t.Errorf("volumes %q", got)
	}
}
