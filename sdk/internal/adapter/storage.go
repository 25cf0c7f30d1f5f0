package adapter

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"

	"github.com/lodgevirt/lodge/sdk/content"
	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/storage/v1"
	"github.com/lodgevirt/lodge/sdk/storage"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// Bounds of the streams.
const (
	// maxBatch is how many volumes one message has.
	maxBatch = 1024
	// maxPiece is how many bytes of a volume one message has.
	maxPiece = content.MaxPiece
	// progressEvery is the time between two messages of progress.
	progressEvery = 100 * time.Millisecond
)

// Files takes what the core has sent under a token.
type Files interface {
	TakeFile(ctx context.Context, token []byte) (*os.File, error)
}

// RegisterStorage adds a storage driver's services to a server.
func RegisterStorage(s grpc.ServiceRegistrar, driver storage.Driver, files Files) {
	pb.RegisterPoolServiceServer(s, &poolService{driver: driver})
	if b, ok := driver.(storage.Builder); ok {
		pb.RegisterBuildServiceServer(s, &buildService{builder: b})
	}
	if f, ok := driver.(storage.Finder); ok {
		pb.RegisterSourceServiceServer(s, &sourceService{finder: f})
	}
	if v, ok := driver.(storage.Volumes); ok {
		pb.RegisterVolumeServiceServer(s, &volumeService{volumes: v})
	}
	if r, ok := driver.(storage.Resizer); ok {
		pb.RegisterResizeServiceServer(s, &resizeService{resizer: r})
	}
	if w, ok := driver.(storage.Wiper); ok {
		pb.RegisterWipeServiceServer(s, &wipeService{wiper: w})
	}
	if t, ok := driver.(storage.Transfer); ok {
		pb.RegisterTransferServiceServer(s, &transferService{transfer: t, files: files})
	}
}

// poolService is the driver itself.
type poolService struct {
	pb.UnsafePoolServiceServer
	driver storage.Driver
}

// Capabilities passes on.
func (p *poolService) Capabilities(ctx context.Context, _ *pb.CapabilitiesRequest) (*pb.CapabilitiesResponse, error) {
	types, err := p.driver.Capabilities(ctx)
	return &pb.CapabilitiesResponse{Types: types}, err
}

// Validate passes on.
func (p *poolService) Validate(ctx context.Context, req *pb.ValidateRequest) (*pb.ValidateResponse, error) {
	return p.driver.Validate(ctx, req)
}

// Check passes on.
func (p *poolService) Check(ctx context.Context, req *pb.CheckRequest) (*pb.CheckResponse, error) {
	active, err := p.driver.Check(ctx, req.GetPool())
	return &pb.CheckResponse{Active: active}, err
}

// Start passes on.
func (p *poolService) Start(ctx context.Context, req *pb.StartRequest) (*pb.StartResponse, error) {
	return &pb.StartResponse{}, p.driver.Start(ctx, req.GetPool())
}

// Stop passes on.
func (p *poolService) Stop(ctx context.Context, req *pb.StopRequest) (*pb.StopResponse, error) {
	return &pb.StopResponse{}, p.driver.Stop(ctx, req.GetPool())
}

// Refresh streams what the driver finds.
func (p *poolService) Refresh(req *pb.RefreshRequest, stream grpc.ServerStreamingServer[pb.RefreshResponse]) error {
	var batch []*pb.Volume
	flush := func() error {
		full := batch
		batch = nil
		return stream.Send(&pb.RefreshResponse{Volumes: full})
	}
	size, err := p.driver.Refresh(stream.Context(), req.GetPool(), func(found ...*pb.Volume) error {
		for _, v := range found {
			if batch = append(batch, v); len(batch) < maxBatch {
				continue
			}
			if err := flush(); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	if size == nil {
		size = &pb.PoolSize{}
	}
	return stream.Send(&pb.RefreshResponse{Volumes: batch, Size: size})
}

// work runs a long piece of work, and sends its progress meanwhile, now and then.
func work(stream grpc.ServerStream, send func(*pb.Progress) error, do func(context.Context, storage.Progress) error) error {
	var done, total atomic.Uint64
	finished := make(chan error, 1)
	ctx, cancel := context.WithCancel(stream.Context())
	defer cancel()
	go func() {
		var err error
		defer func() {
			if r := recover(); r != nil {
				reportPanic("storage work", fmt.Sprint(r))
				err = verr.New(verr.Internal, "the driver failed: %v", r)
			}
			finished <- err
		}()
		err = do(ctx, func(d, t uint64) { done.Store(d); total.Store(t) })
	}()
	tick := time.NewTicker(progressEvery)
	defer tick.Stop()
	var last uint64
	for {
		select {
		case err := <-finished:
			return err
		case <-tick.C:
			now := done.Load()
			if now == last {
				continue
			}
			last = now
			if err := send(&pb.Progress{Done: now, Total: total.Load()}); err != nil {
				cancel()
				return errors.Join(err, <-finished)
			}
		}
	}
}

// buildService is Builder.
type buildService struct {
	pb.UnsafeBuildServiceServer
	builder storage.Builder
}

// Build streams progress.
func (b *buildService) Build(req *pb.BuildRequest, stream grpc.ServerStreamingServer[pb.BuildResponse]) error {
	return work(stream, func(p *pb.Progress) error { return stream.Send(&pb.BuildResponse{Progress: p}) },
		func(ctx context.Context, progress storage.Progress) error {
			return b.builder.Build(ctx, req.GetPool(), req.GetFlags(), progress)
		})
}

// Delete streams progress.
func (b *buildService) Delete(req *pb.DeleteRequest, stream grpc.ServerStreamingServer[pb.DeleteResponse]) error {
	return work(stream, func(p *pb.Progress) error { return stream.Send(&pb.DeleteResponse{Progress: p}) },
		func(ctx context.Context, progress storage.Progress) error {
			return b.builder.Delete(ctx, req.GetPool(), req.GetFlags(), progress)
		})
}

// sourceService is Finder.
type sourceService struct {
	pb.UnsafeSourceServiceServer
	finder storage.Finder
}

// FindSources passes on.
func (s *sourceService) FindSources(ctx context.Context, req *pb.FindSourcesRequest) (*pb.FindSourcesResponse, error) {
	sources, err := s.finder.FindSources(ctx, req)
	return &pb.FindSourcesResponse{SourcesXml: sources}, err
}

// volumeService is Volumes.
type volumeService struct {
	pb.UnsafeVolumeServiceServer
	volumes storage.Volumes
}

// Create streams progress, and the volume last.
func (v *volumeService) Create(req *pb.CreateRequest, stream grpc.ServerStreamingServer[pb.CreateResponse]) error {
	var made *pb.Volume
	err := work(stream, func(p *pb.Progress) error { return stream.Send(&pb.CreateResponse{Progress: p}) },
		func(ctx context.Context, progress storage.Progress) (err error) {
			made, err = v.volumes.Create(ctx, req, progress)
			return err
		})
	if err != nil {
		return err
	}
	return stream.Send(&pb.CreateResponse{Volume: made})
}

// Remove passes on.
func (v *volumeService) Remove(ctx context.Context, req *pb.RemoveRequest) (*pb.RemoveResponse, error) {
	return &pb.RemoveResponse{}, v.volumes.Remove(ctx, req)
}

// Look passes on.
func (v *volumeService) Look(ctx context.Context, req *pb.LookRequest) (*pb.LookResponse, error) {
	volume, err := v.volumes.Look(ctx, req.GetPool(), req.GetName())
	return &pb.LookResponse{Volume: volume}, err
}

// resizeService is Resizer.
type resizeService struct {
	pb.UnsafeResizeServiceServer
	resizer storage.Resizer
}

// Resize passes on.
func (r *resizeService) Resize(ctx context.Context, req *pb.ResizeRequest) (*pb.ResizeResponse, error) {
	volume, err := r.resizer.Resize(ctx, req)
	return &pb.ResizeResponse{Volume: volume}, err
}

// wipeService is Wiper.
type wipeService struct {
	pb.UnsafeWipeServiceServer
	wiper storage.Wiper
}

// Wipe streams progress.
func (w *wipeService) Wipe(req *pb.WipeRequest, stream grpc.ServerStreamingServer[pb.WipeResponse]) error {
	return work(stream, func(p *pb.Progress) error { return stream.Send(&pb.WipeResponse{Progress: p}) },
		func(ctx context.Context, progress storage.Progress) error { return w.wiper.Wipe(ctx, req, progress) })
}

// transferService is Transfer.
type transferService struct {
	pb.UnsafeTransferServiceServer
	transfer storage.Transfer
	files    Files
}

// fileWait bounds the wait for a socket that the core has sent before the call.
const fileWait = 10 * time.Second

// outlet is where a download's content goes to, inlet where an upload's comes from: a socket of the core's, or the messages of the call.
type (
	outlet interface {
		Data(data []byte) error
		Hole(length uint64) error
		End() error
	}
	inlet interface {
		Next() (data []byte, hole uint64, err error)
	}
)

// channel takes the socket of a token, which ends with the context.
func (t *transferService) channel(ctx context.Context, token []byte) (*content.Conn, func(), error) {
	wait, cancel := context.WithTimeout(ctx, fileWait)
	defer cancel()
	file, err := t.files.TakeFile(wait, token)
	if err != nil {
		return nil, nil, verr.New(verr.Internal, "socket for a volume's content: %w", err)
	}
	c, err := content.New(file)
	if err != nil {
		return nil, nil, verr.New(verr.Internal, "%w", err)
	}
	stop := context.AfterFunc(ctx, func() { _ = c.Close() })
	return c, func() {
		stop()
		_ = c.Close()
	}, nil
}

// downMessages is the outlet of a call without a socket.
type downMessages struct {
	stream grpc.ServerStreamingServer[pb.DownloadResponse]
}

func (d downMessages) Data(data []byte) error {
	for len(data) > 0 {
		n := min(len(data), maxPiece)
		if err := d.stream.Send(&pb.DownloadResponse{Data: data[:n]}); err != nil {
			return err
		}
		data = data[n:]
	}
	return nil
}

func (d downMessages) Hole(length uint64) error { return d.stream.Send(&pb.DownloadResponse{Hole: length}) }

func (d downMessages) End() error { return nil }

// upMessages is the inlet of a call without a socket.
type upMessages struct {
	stream grpc.BidiStreamingServer[pb.UploadRequest, pb.UploadResponse]
	// hole came with the data that was returned last.
	hole uint64
}

func (u *upMessages) Next() ([]byte, uint64, error) {
	if n := u.hole; n > 0 {
		u.hole = 0
		return nil, n, nil
	}
	for {
		piece, err := u.stream.Recv()
		if err != nil {
			return nil, 0, err
		}
		data := piece.GetData()
		switch {
		case len(data) > maxPiece:
			return nil, 0, verr.New(verr.InvalidArg, "a piece of %d bytes, at most %d are allowed", len(data), maxPiece)
		case len(data) > 0:
			u.hole = piece.GetHole()
			return data, 0, nil
		case piece.GetHole() > 0:
			return nil, piece.GetHole(), nil
		}
	}
}

// Download passes on what the driver reads.
func (t *transferService) Download(req *pb.DownloadRequest, stream grpc.ServerStreamingServer[pb.DownloadResponse]) error {
	ctx := stream.Context()
	var out outlet = downMessages{stream}
	if token := req.GetChannel(); len(token) > 0 {
		c, done, err := t.channel(ctx, token)
		if err != nil {
			return err
		}
		defer done()
		out = c
	}
	source, err := t.transfer.Download(ctx, req)
	if err != nil {
		return err
	}
	defer func() { _ = source.Close() }()
	if err := stream.Send(&pb.DownloadResponse{}); err != nil {
		return err
	}
	for {
		data, hole, err := source.Next(ctx)
		if errors.Is(err, io.EOF) {
			return out.End()
		}
		if err != nil {
			return err
		}
		if len(data) > 0 {
			err = out.Data(data)
		}
		if hole > 0 && err == nil {
			err = out.Hole(hole)
		}
		if err != nil {
			return err
		}
	}
}

// Upload hands what the core sends to the driver.
func (t *transferService) Upload(stream grpc.BidiStreamingServer[pb.UploadRequest, pb.UploadResponse]) error {
	ctx := stream.Context()
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	begin := first.GetBegin()
	if begin == nil {
		return verr.New(verr.InvalidArg, "an upload does not say where to write")
	}
	var in inlet = &upMessages{stream: stream}
	if token := begin.GetChannel(); len(token) > 0 {
		c, done, err := t.channel(ctx, token)
		if err != nil {
			return err
		}
		defer done()
		in = c
	}
	sink, err := t.transfer.Upload(ctx, begin)
	if err != nil {
		return err
	}
	written, err := uint64(0), stream.Send(&pb.UploadResponse{})
	if err == nil {
		written, err = fill(ctx, in, sink)
	}
	if err != nil {
		sink.Abort()
		return err
	}
	if err := sink.Finish(ctx); err != nil {
		return err
	}
	return stream.Send(&pb.UploadResponse{Written: written})
}

// fill writes until the content ends.
func fill(ctx context.Context, in inlet, sink storage.Sink) (written uint64, err error) {
	for {
		data, hole, err := in.Next()
		if errors.Is(err, io.EOF) {
			return written, nil
		}
		if err != nil {
			return written, err
		}
		if len(data) > 0 {
			err = sink.Write(ctx, data)
		} else {
			err = sink.Hole(ctx, hole)
		}
		if err != nil {
			return written, err
		}
		written += uint64(len(data)) + hole
	}
}
