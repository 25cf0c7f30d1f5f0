//go:build cgo && pacific

package driver

import (
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"testing"

	"google.golang.org/grpc"

	"github.com/lodgevirt/lodge/plugins/storage/rbd/cephtest"
	"github.com/lodgevirt/lodge/plugins/storage/rbd/internal/define"
	"github.com/lodgevirt/lodge/plugins/storage/rbd/internal/journal"
	"github.com/lodgevirt/lodge/plugins/storage/rbd/internal/librados"
	"github.com/lodgevirt/lodge/sdk/faketest"
	"github.com/lodgevirt/lodge/sdk/plugin"
	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/storage/v1"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// shared is the Ceph of all tests of the package.
var shared struct {
	once    sync.Once
	dir     string
	cluster *cephtest.Cluster
	err     error
}

// serveKey makes the test binary the plugin.
const serveKey = "LODGE_TEST_SERVE"

func TestMain(m *testing.M) {
	if os.Getenv(serveKey) != "" {
		plugin.Serve(Plugin("1.0.0", librados.Dial, librados.Available()))
		return
	}
	code := m.Run()
	if shared.cluster != nil {
		shared.cluster.Stop()
	}
	if shared.dir != "" {
		_ = os.RemoveAll(shared.dir) // A temporary folder.
	}
	os.Exit(code)
}

// cluster returns the Ceph of all tests, or skips the test.
func cluster(t testing.TB) *cephtest.Cluster {
	t.Helper()
	if p := cephtest.Missing(); p != "" {
		t.Skipf("%s is not installed: no Ceph to test with (make deps)", p)
	}
	if testing.Short() {
		t.Skip("starts a Ceph")
	}
	shared.once.Do(func() {
		if shared.dir, shared.err = os.MkdirTemp("", "ceph"); shared.err == nil {
			shared.cluster, shared.err = cephtest.Start(shared.dir)
		}
	})
	if shared.err != nil {
		t.Fatal(shared.err)
	}
	return shared.cluster
}

// bench is a driver behind the SDK's real server, and a pool.
type bench struct {
	testing.TB
	ceph *cephtest.Cluster
	conn *grpc.ClientConn
	pool *pb.Pool
}

func newBench(t testing.TB) *bench {
	t.Helper()
	b := &bench{TB: t, ceph: cluster(t)}
	b.conn = faketest.Client(t, Plugin("1.0.0", librados.Dial, librados.Available()))
	b.pool = b.define(b.ceph.Source(cephtest.Pool, cephtest.User, "u"), b.key(b.ceph.Key))
	t.Cleanup(b.clear)
	return b
}

// clear removes all images and ends the connection.
func (b *bench) clear() {
	for pass := 0; pass < 4; pass++ { // clones go before what they are made of
		names, err := b.ceph.Run(b.ended(), "rbd", "ls")
		if err != nil {
			b.Error(err)
		}
		if names == "" {
			break
		}
		for _, name := range strings.Fields(names) {
			_, _ = b.ceph.Run(b.ended(), "sh", "-c", fmt.Sprintf("for s in $(rbd snap ls %[1]s | awk 'NR>1{print $2}'); do rbd snap unprotect %[1]s@$s; done; rbd snap purge %[1]s; rbd rm %[1]s", name))
		}
	}
}

func (b *bench) key(text string) []byte {
	b.Helper()
	key, err := base64.StdEncoding.DecodeString(text)
	if err != nil {
		b.Fatal(err)
	}
	return key
}

// define has the driver complete a definition.
func (b *bench) define(source string, key []byte) *pb.Pool {
	b.Helper()
	rsp, err := pb.NewPoolServiceClient(b.conn).Validate(b.Context(), &pb.ValidateRequest{Xml: "<pool type='rbd'><name>p</name>" + source + "</pool>"})
	if err != nil {
		b.Fatal(err)
	}
	return &pb.Pool{Uuid: rsp.Uuid, Name: rsp.Name, Type: rsp.Type, Xml: rsp.Xml, Secrets: []*pb.Secret{{Usage: "u", Value: key}}}
}

// create makes a volume.
func (b *bench) create(req *pb.CreateRequest) (*pb.Volume, error) {
	b.Helper()
	if req.Pool == nil {
		req.Pool = b.pool
	}
	stream, err := pb.NewVolumeServiceClient(b.conn).Create(b.Context(), req)
	if err != nil {
		return nil, err
	}
	var made *pb.Volume
	for {
		msg, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return made, nil
		}
		if err != nil {
			return nil, err
		}
		made = msg.Volume
	}
}

func (b *bench) must(req *pb.CreateRequest) *pb.Volume {
	b.Helper()
	v, err := b.create(req)
	if err != nil {
		b.Fatal(err)
	}
	return v
}

func vol(name string, size int) string {
	return fmt.Sprintf("<volume><name>%s</name><capacity>%d</capacity></volume>", name, size)
}

// refresh returns all volumes by name, and the size.
func (b *bench) refresh(pool *pb.Pool) (map[string]*pb.Volume, *pb.PoolSize, error) {
	stream, err := pb.NewPoolServiceClient(b.conn).Refresh(b.Context(), &pb.RefreshRequest{Pool: pool})
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

func (b *bench) remove(v *pb.Volume, flags uint32) error {
	_, err := pb.NewVolumeServiceClient(b.conn).Remove(b.Context(), &pb.RemoveRequest{Pool: b.pool, Volume: v, Flags: flags})
	return err
}

func (b *bench) upload(v *pb.Volume, offset uint64, pieces ...any) error {
	stream, err := pb.NewTransferServiceClient(b.conn).Upload(b.Context())
	if err != nil {
		return err
	}
	if err := stream.Send(&pb.UploadRequest{Begin: &pb.UploadBegin{Pool: b.pool, Volume: v, Offset: offset}}); err != nil {
		return err
	}
	if _, err := stream.Recv(); err != nil {
		return err
	}
	for _, p := range pieces {
		req := &pb.UploadRequest{}
		switch p := p.(type) {
		case []byte:
			for len(p) > 256<<10 {
				if err := stream.Send(&pb.UploadRequest{Data: p[:256<<10]}); err != nil {
					break // what went wrong is received
				}
				p = p[256<<10:]
			}
			req.Data = p
		case int:
			req.Hole = uint64(p)
		}
		if err := stream.Send(req); err != nil {
			break
		}
	}
	_ = stream.CloseSend()
	_, err = stream.Recv()
	return err
}

// download returns what is in a volume, and how much of it was told as holes.
func (b *bench) download(v *pb.Volume, offset, length uint64, sparse bool) (data []byte, holes uint64, err error) {
	stream, err := pb.NewTransferServiceClient(b.conn).Download(b.Context(), &pb.DownloadRequest{Pool: b.pool, Volume: v, Offset: offset, Length: length, Sparse: sparse})
	if err != nil {
		return nil, 0, err
	}
	for {
		msg, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return data, holes, nil
		}
		if err != nil {
			return nil, 0, err
		}
		data = append(append(data, msg.Data...), make([]byte, msg.Hole)...)
		holes += msg.Hole
	}
}

func code(err error) verr.Code {
	if e := verr.From(err); e != nil {
		return e.Code
	}
	return 0
}

// nothingLeft fails if half an image or an entry of the journal is left.
func (b *bench) nothingLeft() {
	b.Helper()
	objects, err := b.ceph.Run(b.ended(), "rados", "-p", cephtest.Pool, "ls")
	if err != nil {
		b.Fatal(err)
	}
	if strings.Contains(objects, define.Hidden) {
		b.Errorf("hidden images are left: %s", objects)
	}
	for _, o := range strings.Fields(objects) {
		if o != journal.Object {
			continue
		}
		values, err := b.ceph.Run(b.ended(), "rados", "-p", cephtest.Pool, "listomapvals", o)
		if err != nil || strings.Contains(values, "work.") {
			b.Errorf("the journal has entries: %s, error %v", values, err)
		}
	}
}
