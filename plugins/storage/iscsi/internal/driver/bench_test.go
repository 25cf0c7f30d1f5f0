package driver

import (
	"errors"
	"io"
	"testing"

	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/storage/v1"
	"github.com/lodgevirt/lodge/sdk/verr"

	"google.golang.org/grpc"
)

const (
	targetName = "iqn.2012-11.org.lodge.test:disks"
	selfName   = "iqn.2012-11.org.lodge.test:self"
)

// bench is a driver behind the SDK's real server.
type bench struct {
	*testing.T
	conn *grpc.ClientConn
}

// auth is what a pool has whose target asks for a password.
const auth = "<auth type='chap' username='me'><secret usage='u'/></auth>"

func (b *bench) define(text string, secrets ...*pb.Secret) *pb.Pool {
	b.Helper()
	rsp, err := pb.NewPoolServiceClient(b.conn).Validate(b.Context(), &pb.ValidateRequest{Xml: text})
	if err != nil {
		b.Fatal(err)
	}
	return &pb.Pool{Uuid: rsp.Uuid, Name: rsp.Name, Type: rsp.Type, Xml: rsp.Xml, Secrets: secrets}
}

func (b *bench) start(p *pb.Pool) error {
	_, err := pb.NewPoolServiceClient(b.conn).Start(b.Context(), &pb.StartRequest{Pool: p})
	return err
}

// refresh returns all volumes by name, and the size.
func (b *bench) refresh(p *pb.Pool) (map[string]*pb.Volume, *pb.PoolSize, error) {
	stream, err := pb.NewPoolServiceClient(b.conn).Refresh(b.Context(), &pb.RefreshRequest{Pool: p})
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

func (b *bench) mustRefresh(p *pb.Pool) (map[string]*pb.Volume, *pb.PoolSize) {
	b.Helper()
	all, size, err := b.refresh(p)
	if err != nil {
		b.Fatal(err)
	}
	return all, size
}

// upload writes pieces, of which nil ones are holes of 1 MiB.
func (b *bench) upload(p *pb.Pool, v *pb.Volume, offset, length uint64, pieces ...[]byte) (uint64, error) {
	up, err := pb.NewTransferServiceClient(b.conn).Upload(b.Context())
	if err != nil {
		return 0, err
	}
	msgs := []*pb.UploadRequest{{Begin: &pb.UploadBegin{Pool: p, Volume: v, Offset: offset, Length: length}}}
	for _, data := range pieces {
		msg := &pb.UploadRequest{Data: data}
		if data == nil {
			msg.Hole = 1 << 20
		}
		msgs = append(msgs, msg)
	}
	for _, msg := range msgs {
		if err := up.Send(msg); err != nil && !errors.Is(err, io.EOF) {
			return 0, err
		}
	}
	if err := up.CloseSend(); err != nil {
		return 0, err
	}
	var written uint64
	for {
		msg, err := up.Recv()
		if errors.Is(err, io.EOF) {
			return written, nil
		}
		if err != nil {
			return written, err
		}
		written = msg.Written
	}
}

func (b *bench) download(req *pb.DownloadRequest) (data []byte, holes uint64, err error) {
	down, err := pb.NewTransferServiceClient(b.conn).Download(b.Context(), req)
	if err != nil {
		return nil, 0, err
	}
	for {
		msg, err := down.Recv()
		if errors.Is(err, io.EOF) {
			return data, holes, nil
		}
		if err != nil {
			return data, holes, err
		}
		data = append(data, msg.Data...)
		data = append(data, make([]byte, msg.Hole)...)
		holes += msg.Hole
	}
}

func (b *bench) wipe(p *pb.Pool, v *pb.Volume, algorithm uint32) error {
	stream, err := pb.NewWipeServiceClient(b.conn).Wipe(b.Context(), &pb.WipeRequest{Pool: p, Volume: v, Algorithm: algorithm})
	for err == nil {
		_, err = stream.Recv()
	}
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

func code(err error) verr.Code {
	if e := verr.From(err); e != nil {
		return e.Code
	}
	return 0
}
