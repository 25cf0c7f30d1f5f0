package domain

import (
	"context"
	"errors"
	"io"
	"sync"

	"google.golang.org/grpc"

	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/hypervisor/v1"
)

// maxPiece is the largest message of a console or picture in bytes.
const maxPiece = 256 << 10

// OpenConsole connects to a character device, "" for the first one; channel means a virtio channel; force ends another connection to it.
// It returns when the device is connected. The connection ends with Close, with the context, with the guest, or with the driver's
// process.
func (d *Domain) OpenConsole(ctx context.Context, device string, channel, force bool) (io.ReadWriteCloser, error) {
	s := d.state.Load()
	if !s.Active() {
		return nil, notRunning()
	}
	stream, cancel, err := d.openConsole(ctx)
	if err != nil {
		return nil, err
	}
	target := &pb.ConsoleTarget{
		Guest: s.guest(d.inv.cfg.Connection), Handle: s.handle, Device: device, Channel: channel, Force: force,
	}
	if err := stream.Send(&pb.OpenConsoleRequest{Message: &pb.OpenConsoleRequest_Open{Open: target}}); err != nil {
		cancel()
		return nil, consoleError(stream, err)
	}
	if _, err := stream.Recv(); err != nil {
		cancel()
		return nil, err
	}
	return &console{stream: stream, cancel: cancel}, nil
}

func (d *Domain) openConsole(ctx context.Context) (grpc.BidiStreamingClient[pb.OpenConsoleRequest, pb.OpenConsoleResponse], context.CancelFunc, error) {
	ctx, cancel := context.WithCancel(ctx)
	stream, err := pb.NewConsoleServiceClient(d.inv.cfg.Plugin).OpenConsole(ctx)
	if err != nil {
		cancel()
		return nil, nil, err
	}
	return stream, cancel, nil
}

// consoleError is the driver's own word when a send has failed.
func consoleError(stream grpc.BidiStreamingClient[pb.OpenConsoleRequest, pb.OpenConsoleResponse], err error) error {
	if errors.Is(err, io.EOF) {
		_, err = stream.Recv()
	}
	return err
}

// console is a connection to a character device. One goroutine may read while another writes.
type console struct {
	stream grpc.BidiStreamingClient[pb.OpenConsoleRequest, pb.OpenConsoleResponse]
	cancel context.CancelFunc
	rest   []byte // of the last message, for the reader

	mu   sync.Mutex // one sender at a time, as gRPC wants it
	done bool
}

// Read returns bytes of the guest, io.EOF when the device is gone.
func (c *console) Read(p []byte) (int, error) {
	for len(c.rest) == 0 {
		msg, err := c.stream.Recv()
		if err != nil {
			return 0, err
		}
		c.rest = msg.GetData()
	}
	n := copy(p, c.rest)
	c.rest = c.rest[n:]
	return n, nil
}

// Write sends bytes to the guest; it blocks while the guest does not take them.
func (c *console) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	sent := 0
	for len(p) > 0 {
		if c.done {
			return sent, io.ErrClosedPipe
		}
		piece := p[:min(len(p), maxPiece)]
		msg := &pb.OpenConsoleRequest{Message: &pb.OpenConsoleRequest_Data{Data: piece}}
		if err := c.stream.Send(msg); err != nil {
			return sent, consoleError(c.stream, err)
		}
		sent += len(piece)
		p = p[len(piece):]
	}
	return sent, nil
}

// Close ends the connection and every Read and Write.
func (c *console) Close() error {
	c.cancel() // first: a Write that blocks holds the lock
	c.mu.Lock()
	defer c.mu.Unlock()
	c.done = true
	return nil
}

// Screenshot reads a screen's picture; the caller closes it, and the context is that of the whole reading.
func (d *Domain) Screenshot(ctx context.Context, screen uint32) (mime string, picture io.ReadCloser, err error) {
	s := d.state.Load()
	if !s.Active() {
		return "", nil, notRunning()
	}
	return ReadScreen(ctx, d.inv.cfg.Plugin, &pb.ScreenshotRequest{Guest: s.guest(d.inv.cfg.Connection), Handle: s.handle, Screen: screen})
}

// ReadScreen has a driver send a screen's picture, as Domain.Screenshot does.
func ReadScreen(
	ctx context.Context, driver grpc.ClientConnInterface, req *pb.ScreenshotRequest,
) (mime string, picture io.ReadCloser, err error) {
	ctx, cancel := context.WithCancel(ctx)
	stream, err := pb.NewConsoleServiceClient(driver).Screenshot(ctx, req)
	if err != nil {
		cancel()
		return "", nil, err
	}
	first, err := stream.Recv()
	if err != nil {
		cancel()
		return "", nil, err
	}
	return first.MimeType, &pieces{stream: stream, cancel: cancel, rest: first.Data}, nil
}

// pieces reads a picture that comes in messages.
type pieces struct {
	stream grpc.ServerStreamingClient[pb.ScreenshotResponse]
	cancel context.CancelFunc
	rest   []byte
}

func (p *pieces) Read(b []byte) (int, error) {
	for len(p.rest) == 0 {
		msg, err := p.stream.Recv()
		if err != nil {
			return 0, err
		}
		p.rest = msg.Data
	}
	n := copy(b, p.rest)
	p.rest = p.rest[n:]
	return n, nil
}

func (p *pieces) Close() error {
	p.cancel()
	return nil
}
