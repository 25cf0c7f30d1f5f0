package pool

import (
	"context"
	"crypto/rand"
	"errors"
	"io"
	"os"
	"sync"

	"google.golang.org/grpc"

	"github.com/lodgevirt/lodge/sdk/content"
	"github.com/lodgevirt/lodge/sdk/fdpass"
	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/storage/v1"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// Sender is a connection to a driver that takes descriptors too. Content goes through the calls' messages where it does not.
type Sender interface {
	// Send hands a duplicate of a file to the driver, which finds it by the token.
	Send(ctx context.Context, token fdpass.Token, file *os.File) error
}

// channel makes a socket for content and sends its other end to the driver; both are nil where the driver takes none.
func channel(ctx context.Context, conn grpc.ClientConnInterface) (*content.Conn, []byte, error) {
	sender, ok := conn.(Sender)
	if !ok {
		return nil, nil, nil
	}
	ours, theirs, err := content.Pair()
	if err != nil {
		return nil, nil, storageError(verr.SystemError, "%w", err)
	}
	var token fdpass.Token
	_, _ = rand.Read(token[:]) // never fails
	if err := errors.Join(sender.Send(ctx, token, theirs), theirs.Close()); err != nil {
		return nil, nil, errors.Join(err, ours.Close())
	}
	return ours, token[:], nil
}

// transfer is what reading and writing have in common.
type transfer struct {
	volume  Volume
	ctx     context.Context
	task    *task
	channel *content.Conn // or nil
	release func()
}

// begin takes the volume. The context is that of the driver's call, and ends with the transfer alone.
func (x *transfer) begin(ctx context.Context, v Volume, kind string, offset, length uint64) (context.Context, error) {
	release, err := v.Pool.take(v.Name)
	if err != nil {
		return nil, err
	}
	x.volume, x.release = v, sync.OnceFunc(release)
	x.ctx, x.task = v.Pool.task(context.WithoutCancel(ctx), kind, v.Name)
	if length == 0 {
		length = v.Capacity - min(v.Capacity, offset)
	}
	x.task.total.Store(length)
	return x.ctx, nil
}

func (x *transfer) failed(err error) error { return x.task.failed(x.ctx, err) }

// end ends it, and what is under way. It may be repeated.
func (x *transfer) end() {
	x.volume.Pool.end(x.task)
	if x.channel != nil {
		_ = x.channel.Close()
	}
	x.release()
}

// Download is a volume that is being read. Next is called by one goroutine; Close ends it, from any.
type Download struct {
	transfer
	stream grpc.ServerStreamingClient[pb.DownloadResponse]
}

// Download opens a volume to read length bytes from an offset, or all from there if length is 0; sparse tells holes as holes.
func (v Volume) Download(ctx context.Context, offset, length uint64, sparse bool) (*Download, error) {
	d := &Download{}
	ctx, err := d.begin(ctx, v, "download", offset, length)
	if err != nil {
		return nil, err
	}
	conn, ref, err := v.Pool.driver(ctx)
	req := &pb.DownloadRequest{Pool: ref, Volume: v.Volume, Offset: offset, Length: length, Sparse: sparse}
	if err == nil {
		d.channel, req.Channel, err = channel(ctx, conn)
	}
	if err == nil {
		d.stream, err = pb.NewTransferServiceClient(conn).Download(ctx, req)
	}
	if err == nil {
		_, err = d.stream.Recv()
	}
	if err != nil {
		d.end()
		return nil, unlessLacking(d.failed(err), "volume download")
	}
	return d, nil
}

// Next returns the next bytes, good until the next call, and the length of a hole after them; io.EOF at the end.
func (d *Download) Next() (data []byte, hole uint64, err error) {
	data, hole, err = d.next()
	if err != nil {
		return nil, 0, d.failed(err)
	}
	d.task.add(uint64(len(data)) + hole)
	return data, hole, nil
}

func (d *Download) next() (data []byte, hole uint64, err error) {
	if d.channel == nil {
		msg, err := d.stream.Recv()
		return msg.GetData(), msg.GetHole(), err
	}
	data, hole, err = d.channel.Next()
	if err == nil {
		return data, hole, nil
	}
	// Why it has ended is what the call says.
	if _, told := d.stream.Recv(); !errors.Is(told, io.EOF) || errors.Is(err, io.EOF) {
		err = told
	}
	return nil, 0, err
}

// Close ends the reading, and a Next under way. It may be repeated.
func (d *Download) Close() { d.end() }

// Upload is a volume that is being written. Its other methods are called by one goroutine; Finish or Abort ends it,
// Abort from any.
type Upload struct {
	transfer
	stream grpc.BidiStreamingClient[pb.UploadRequest, pb.UploadResponse]
}

// Upload opens a volume to write at most length bytes from an offset, or as many as fit if length is 0.
func (v Volume) Upload(ctx context.Context, offset, length uint64) (*Upload, error) {
	u := &Upload{}
	ctx, err := u.begin(ctx, v, "upload", offset, length)
	if err != nil {
		return nil, err
	}
	conn, ref, err := v.Pool.driver(ctx)
	begin := &pb.UploadBegin{Pool: ref, Volume: v.Volume, Offset: offset, Length: length}
	if err == nil {
		u.channel, begin.Channel, err = channel(ctx, conn)
	}
	if err == nil {
		u.stream, err = pb.NewTransferServiceClient(conn).Upload(ctx)
	}
	if err == nil {
		err = u.send(&pb.UploadRequest{Begin: begin})
	}
	if err == nil {
		_, err = u.stream.Recv()
	}
	if err != nil {
		u.end()
		return nil, unlessLacking(u.failed(err), "volume upload")
	}
	return u, nil
}

// send sends a message; what the driver has against it is its answer's to say.
func (u *Upload) send(msg *pb.UploadRequest) error {
	err := u.stream.Send(msg)
	if errors.Is(err, io.EOF) {
		err = u.refusal(err)
	}
	return err
}

// refusal is why the driver takes no more.
func (u *Upload) refusal(err error) error {
	if _, told := u.stream.Recv(); told != nil && !errors.Is(told, io.EOF) {
		err = told
	}
	return u.failed(err)
}

// Write writes bytes, at most 256 KiB, where the last write ended.
func (u *Upload) Write(data []byte) error {
	u.task.add(uint64(len(data)))
	if u.channel == nil {
		return u.send(&pb.UploadRequest{Data: data})
	}
	if err := u.channel.Data(data); err != nil {
		return u.refusal(err)
	}
	return nil
}

// Hole makes bytes read as zeros where the last write ended.
func (u *Upload) Hole(length uint64) error {
	u.task.add(length)
	if u.channel == nil {
		return u.send(&pb.UploadRequest{Hole: length})
	}
	if err := u.channel.Hole(length); err != nil {
		return u.refusal(err)
	}
	return nil
}

// Finish waits until everything is written, and looks at the volume and its pool anew.
func (u *Upload) Finish(ctx context.Context) error {
	defer u.Abort()
	if u.channel != nil {
		if err := u.channel.End(); err != nil {
			return u.refusal(err)
		}
	}
	err := u.stream.CloseSend()
	for err == nil {
		_, err = u.stream.Recv()
	}
	if !errors.Is(err, io.EOF) {
		return u.failed(err)
	}
	if err := u.volume.Pool.lookAt(ctx, u.volume.Name); err != nil && !looksAtNone(err) {
		return err
	}
	u.volume.Pool.publishRefresh()
	return nil
}

// Abort ends the writing where it is, and a Write under way. It may be repeated, and called after Finish.
func (u *Upload) Abort() { u.end() }
