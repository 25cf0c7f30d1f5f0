package pool

import (
	"context"
	"errors"
	"io"
	"sync"

	"google.golang.org/grpc"

	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/storage/v1"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// Download is a volume that is being read. Next is called by one goroutine; Close ends it, from any.
type Download struct {
	stream  grpc.ServerStreamingClient[pb.DownloadResponse]
	cancel  context.CancelFunc
	release func()
}

// Download opens a volume to read length bytes from an offset, or all from there if length is 0; sparse tells holes as holes.
func (v Volume) Download(ctx context.Context, offset, length uint64, sparse bool) (*Download, error) {
	release, err := v.Pool.take(v.Name)
	if err != nil {
		return nil, err
	}
	d := &Download{release: sync.OnceFunc(release)}
	ctx, d.cancel = context.WithCancel(context.WithoutCancel(ctx))
	conn, ref, err := v.Pool.driver(ctx)
	if err == nil {
		d.stream, err = pb.NewTransferServiceClient(conn).Download(ctx, &pb.DownloadRequest{
			Pool: ref, Volume: v.Volume, Offset: offset, Length: length, Sparse: sparse,
		})
	}
	if err == nil {
		_, err = d.stream.Recv()
	}
	if err != nil {
		d.Close()
		return nil, err
	}
	return d, nil
}

// Next returns the next bytes and the length of a hole after them; io.EOF at the end.
func (d *Download) Next() (data []byte, hole uint64, err error) {
	msg, err := d.stream.Recv()
	if err != nil {
		return nil, 0, err
	}
	return msg.GetData(), msg.GetHole(), nil
}

// Close ends the reading, and a Next under way. It may be repeated.
func (d *Download) Close() {
	d.cancel()
	d.release()
}

// Upload is a volume that is being written. Its other methods are called by one goroutine; Finish or Abort ends it,
// Abort from any.
type Upload struct {
	volume  Volume
	stream  grpc.BidiStreamingClient[pb.UploadRequest, pb.UploadResponse]
	cancel  context.CancelFunc
	release func()
}

// Upload opens a volume to write at most length bytes from an offset, or as many as fit if length is 0.
func (v Volume) Upload(ctx context.Context, offset, length uint64) (*Upload, error) {
	release, err := v.Pool.take(v.Name)
	if err != nil {
		return nil, err
	}
	u := &Upload{volume: v, release: sync.OnceFunc(release)}
	ctx, u.cancel = context.WithCancel(context.WithoutCancel(ctx))
	conn, ref, err := v.Pool.driver(ctx)
	if err == nil {
		u.stream, err = pb.NewTransferServiceClient(conn).Upload(ctx)
	}
	if err == nil {
		err = u.send(&pb.UploadRequest{Begin: &pb.UploadBegin{Pool: ref, Volume: v.Volume, Offset: offset, Length: length}})
	}
	if err == nil {
		_, err = u.stream.Recv()
	}
	if err != nil {
		u.Abort()
		return nil, err
	}
	return u, nil
}

// send sends a message; what the driver has against it is its answer's to say.
func (u *Upload) send(msg *pb.UploadRequest) error {
	err := u.stream.Send(msg)
	if errors.Is(err, io.EOF) {
		_, err = u.stream.Recv()
	}
	return err
}

// Write writes bytes, at most 256 KiB, where the last write ended.
func (u *Upload) Write(data []byte) error { return u.send(&pb.UploadRequest{Data: data}) }

// Hole makes bytes read as zeros where the last write ended.
func (u *Upload) Hole(length uint64) error { return u.send(&pb.UploadRequest{Hole: length}) }

// Finish waits until everything is written, and looks at the volume and its pool anew.
func (u *Upload) Finish(ctx context.Context) error {
	defer u.Abort()
	if err := u.stream.CloseSend(); err != nil {
		return err
	}
	for {
		_, err := u.stream.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
	}
	if err := u.volume.Pool.lookAt(ctx, u.volume.Name); err != nil && verr.From(err).Code != verr.NoSupport {
		return err
	}
	u.volume.Pool.publishRefresh()
	return nil
}

// Abort ends the writing where it is, and a Write under way. It may be repeated, and called after Finish.
func (u *Upload) Abort() {
	u.cancel()
	u.release()
}
