package storagedriver

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"testing"
	"time"

	"github.com/lodgevirt/lodge/sdk/faketest"
	basev1 "github.com/lodgevirt/lodge/sdk/proto/lodge/base/v1"
	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/storage/v1"
	"github.com/lodgevirt/lodge/sdk/verr"
)

const (
	// patience is longer than any call of the contract may take.
	patience = 90 * time.Second
	// maxBatch is the most volumes that one message may have.
	maxBatch = 1024
	// maxPiece is the most bytes that one message may have.
	maxPiece = 256 << 10
)

// bench is one check's workplace: a driver and a pool in use.
type bench struct {
	*testing.T
	factory Factory
	core    *faketest.Host
	def     Pool
	pool    *pb.Pool
	names   int
	clients
}

// clients are those of the driver's services.
type clients struct {
	pools    pb.PoolServiceClient
	builder  pb.BuildServiceClient
	volumes  pb.VolumeServiceClient
	resizer  pb.ResizeServiceClient
	wiper    pb.WipeServiceClient
	transfer pb.TransferServiceClient
}

// newBench serves a driver and starts a pool.
func newBench(t *testing.T, f Factory) *bench {
	t.Helper()
	b := &bench{T: t, factory: f, def: f.Pool(t), core: faketest.StartWith(t, f.Plugin(), f.Config)}
	b.connect()
	b.pool = b.validate(b.def.XML)
	if !b.def.Built && b.has("BuildService") {
		b.must("build", drain(b.builder.Build(b.ctx(), &pb.BuildRequest{Pool: b.pool})))
	}
	b.start()
	t.Cleanup(func() {
		if b.core.Conn == nil {
			return
		}
		_, _ = b.pools.Stop(b.ctx(), &pb.StopRequest{Pool: b.pool}) // what a check has ended, it has said
	})
	return b
}

func (b *bench) connect() {
	c := b.core.Conn
	b.clients = clients{
		pb.NewPoolServiceClient(c), pb.NewBuildServiceClient(c), pb.NewVolumeServiceClient(c), pb.NewResizeServiceClient(c),
		pb.NewWipeServiceClient(c), pb.NewTransferServiceClient(c),
	}
}

// has reports whether the driver has an optional service.
func (b *bench) has(service string) bool {
	return slices.ContainsFunc(b.core.Description.GetServices(), func(s *basev1.Service) bool {
		return s.GetName() == "lodge.storage.v1."+service
	})
}

// need skips a check of services that the driver has not.
func (b *bench) need(services ...string) {
	b.Helper()
	for _, s := range services {
		if !b.has(s) {
			b.Skipf("the driver has no %s", s)
		}
	}
}

// ctx is a context for one call.
func (b *bench) ctx() context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	b.Cleanup(cancel)
	return ctx
}

func (b *bench) must(what string, err error) {
	b.Helper()
	if err != nil {
		b.Fatalf("%s: %v", what, err)
	}
}

func (b *bench) validate(text string) *pb.Pool {
	b.Helper()
	rsp, err := b.pools.Validate(b.ctx(), &pb.ValidateRequest{Xml: text})
	b.must("validate", err)
	return &pb.Pool{Uuid: rsp.GetUuid(), Name: rsp.GetName(), Type: rsp.GetType(), Xml: rsp.GetXml(), Secrets: b.def.Secrets}
}

func (b *bench) start() {
	b.Helper()
	_, err := b.pools.Start(b.ctx(), &pb.StartRequest{Pool: b.pool})
	b.must("start pool", err)
}

// stream is a stream of answers.
type stream[T any] interface{ Recv() (*T, error) }

// each reads a stream to its end.
func each[T any](s stream[T], err error, read func(*T)) error {
	for err == nil {
		var msg *T
		if msg, err = s.Recv(); err == nil {
			read(msg)
		}
	}
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

// drain reads a stream of nothing but progress.
func drain[T any, S stream[T]](s S, err error) error {
	return each(stream[T](s), err, func(*T) {})
}

// refresh returns all volumes by name, and the pool's size.
func (b *bench) refresh() (map[string]*pb.Volume, *pb.PoolSize) {
	b.Helper()
	all := map[string]*pb.Volume{}
	var size *pb.PoolSize
	s, err := b.pools.Refresh(b.ctx(), &pb.RefreshRequest{Pool: b.pool})
	b.must("refresh", each(stream[pb.RefreshResponse](s), err, func(m *pb.RefreshResponse) {
		if size != nil {
			b.Error("refresh goes on after the pool's size, which comes last")
		}
		if len(m.GetVolumes()) > maxBatch {
			b.Errorf("refresh sends %d volumes at once, at most %d are allowed", len(m.GetVolumes()), maxBatch)
		}
		for _, v := range m.GetVolumes() {
			if all[v.GetName()] != nil {
				b.Errorf("refresh tells volume %q twice", v.GetName())
			}
			all[v.GetName()] = v
		}
		size = m.GetSize()
	}))
	if size == nil {
		b.Error("refresh does not tell the pool's size")
	}
	return all, size
}

// name is the next one.
func (b *bench) name() string {
	name := b.factory.Name(b.names)
	b.names++
	return name
}

func (b *bench) definition(name string, capacity uint64) string {
	return fmt.Sprintf("<volume><name>%s</name><capacity>%d</capacity>%s</volume>", name, capacity, b.factory.Content)
}

// try makes a volume.
func (b *bench) try(ctx context.Context, req *pb.CreateRequest) (*pb.Volume, error) {
	req.Pool = b.pool
	var made *pb.Volume
	s, err := b.volumes.Create(ctx, req)
	err = each(stream[pb.CreateResponse](s), err, func(m *pb.CreateResponse) { made = m.GetVolume() })
	if err == nil && made == nil {
		b.Error("create succeeds, and does not tell the volume")
	}
	return made, err
}

// create makes the next volume, which must succeed.
func (b *bench) create() *pb.Volume {
	b.Helper()
	v, err := b.try(b.ctx(), &pb.CreateRequest{Xml: b.definition(b.name(), b.factory.Capacity)})
	b.must("create", err)
	return v
}

// some is a volume with room for content: a new one, or one that is there where none can be made.
func (b *bench) some() *pb.Volume {
	b.Helper()
	if b.has("VolumeService") {
		return b.create()
	}
	all, _ := b.refresh()
	for _, name := range b.def.Volumes {
		if v := all[name]; v != nil {
			return v
		}
	}
	b.Skip("the pool has no volumes")
	return nil
}

func (b *bench) remove(v *pb.Volume) error {
	_, err := b.volumes.Remove(b.ctx(), &pb.RemoveRequest{Pool: b.pool, Volume: v})
	return err
}

func (b *bench) look(name string) (*pb.Volume, error) {
	rsp, err := b.volumes.Look(b.ctx(), &pb.LookRequest{Pool: b.pool, Name: name})
	return rsp.GetVolume(), err
}

// wantCode checks with which code something is refused.
func (b *bench) wantCode(what string, err error, codes ...verr.Code) {
	b.Helper()
	switch {
	case err == nil:
		b.Errorf("%s: it is not refused, want code %v", what, codes)
	case !slices.Contains(codes, verr.From(err).Code):
		b.Errorf("%s: refused with code %d (%v), want %v", what, verr.From(err).Code, err, codes)
	}
}

// wantNames checks which volumes there are.
func (b *bench) wantNames(when string, want ...string) {
	b.Helper()
	all, _ := b.refresh()
	var got []string
	for name := range all {
		got = append(got, name)
	}
	want = append(slices.Clone(want), b.def.Volumes...)
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		b.Errorf("%s: volumes are %q, want %q", when, got, want)
	}
}

// upload writes pieces to a volume: bytes, or as many zeros as a hole has.
func (b *bench) upload(ctx context.Context, begin *pb.UploadBegin, pieces ...*pb.UploadRequest) (uint64, error) {
	begin.Pool = b.pool
	up, err := b.transfer.Upload(ctx)
	if err != nil {
		return 0, err
	}
	for _, p := range append([]*pb.UploadRequest{{Begin: begin}}, pieces...) {
		if up.Send(p) != nil {
			break // the reason is what Recv tells
		}
	}
	_ = up.CloseSend() // never fails
	written := uint64(0)
	err = each(stream[pb.UploadResponse](up), nil, func(m *pb.UploadResponse) { written = m.GetWritten() })
	return written, err
}

// write writes all of data to a volume, which must succeed.
func (b *bench) write(v *pb.Volume, data []byte) {
	b.Helper()
	var pieces []*pb.UploadRequest
	for p := range slices.Chunk(data, maxPiece) {
		pieces = append(pieces, &pb.UploadRequest{Data: p})
	}
	written, err := b.upload(b.ctx(), &pb.UploadBegin{Volume: v}, pieces...)
	b.must("upload", err)
	if written != uint64(len(data)) {
		b.Errorf("upload tells of %d bytes, %d were sent", written, len(data))
	}
}

// read downloads a part of a volume, and returns how many of the bytes were told as holes.
func (b *bench) read(req *pb.DownloadRequest) (data []byte, holes uint64, err error) {
	req.Pool = b.pool
	down, err := b.transfer.Download(b.ctx(), req)
	err = each(stream[pb.DownloadResponse](down), err, func(m *pb.DownloadResponse) {
		if len(m.GetData()) > maxPiece {
			b.Errorf("download sends %d bytes at once, at most %d are allowed", len(m.GetData()), maxPiece)
		}
		data = append(append(data, m.GetData()...), make([]byte, m.GetHole())...)
		holes += m.GetHole()
	})
	return data, holes, err
}

// wantContent checks with what a volume begins; what comes after it is zeros.
func (b *bench) wantContent(when string, v *pb.Volume, want []byte) {
	b.Helper()
	got, _, err := b.read(&pb.DownloadRequest{Volume: v})
	b.must(when+": download", err)
	if len(got) < len(want) || !bytes.Equal(got[:len(want)], want) || len(bytes.Trim(got[len(want):], "\x00")) > 0 {
		b.Errorf("%s: %d bytes came back that are not the %d that were written and zeros", when, len(got), len(want))
	}
}

// pattern is content that differs everywhere.
func pattern(n uint64, seed byte) []byte {
	data := make([]byte, n)
	for i := range data {
		data[i] = byte(i) ^ byte(i>>8)*3 ^ byte(i>>16)*5 ^ seed
	}
	return data
}
