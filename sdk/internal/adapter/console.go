package adapter

import (
	"context"
	"errors"
	"io"

	"google.golang.org/grpc"

	"github.com/lodgevirt/lodge/sdk/hypervisor"
	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/hypervisor/v1"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// chunk is the largest piece of data in one message of a stream, in bytes.
const chunk = 256 << 10

// consoleBuffer is how much is read from a console at a time: consoles are slow, and each connection has a buffer of its own.
const consoleBuffer = 32 << 10

// consoleService is Console and Screenshooter, either of which may be missing.
type consoleService struct {
	pb.UnsafeConsoleServiceServer
	console hypervisor.Console
	screen  hypervisor.Screenshooter
}

// OpenConsole copies between the stream and the device until either ends. A client that closes its side ends the connection.
func (c *consoleService) OpenConsole(stream grpc.BidiStreamingServer[pb.OpenConsoleRequest, pb.OpenConsoleResponse]) error {
	if c.console == nil {
		return unsupported("opening a console")
	}
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	target := first.GetOpen()
	if target == nil {
		return verr.New(verr.InvalidArg, "the first message of a console is not open")
	}
	ctx, cancel := context.WithCancel(stream.Context())
	defer cancel()
	device, err := c.console.OpenConsole(ctx, target)
	if err != nil {
		return err
	}
	// Ends a Read or Write that is under way when the stream ends; a second Close is harmless.
	stop := context.AfterFunc(ctx, func() { _ = device.Close() })
	defer stop()
	defer func() { _ = device.Close() }()
	opened := &pb.OpenConsoleResponse{Message: &pb.OpenConsoleResponse_Opened{Opened: &pb.ConsoleOpened{}}}
	if err := stream.Send(opened); err != nil {
		return err
	}
	input := make(chan error, 1) // the goroutine ends with the stream, which ends with this function
	go func() {
		err := toDevice(stream, device)
		input <- err
		cancel()
	}()
	err = fromDevice(stream, device)
	select {
	case ierr := <-input:
		return ierr // the client's end came first, what Read then said follows from it
	default:
		return err
	}
}

// toDevice copies the client's bytes; its end is no error.
func toDevice(stream grpc.BidiStreamingServer[pb.OpenConsoleRequest, pb.OpenConsoleResponse], device io.Writer) error {
	for {
		msg, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		data := msg.GetData()
		if len(data) > chunk {
			return verr.New(verr.InvalidArg, "%d bytes in one message of a console, at most %d are possible", len(data), chunk)
		}
		if _, err := device.Write(data); err != nil {
			return verr.New(verr.OperationFailed, "write to console: %w", err)
		}
	}
}

// fromDevice copies the guest's bytes; the device's end is no error.
func fromDevice(stream grpc.BidiStreamingServer[pb.OpenConsoleRequest, pb.OpenConsoleResponse], device io.Reader) error {
	buf := make([]byte, consoleBuffer)
	for {
		n, err := device.Read(buf)
		if n > 0 {
			msg := &pb.OpenConsoleResponse{Message: &pb.OpenConsoleResponse_Data{Data: buf[:n]}}
			if serr := stream.Send(msg); serr != nil {
				return serr
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return verr.New(verr.OperationFailed, "read from console: %w", err)
		}
	}
}

// Screenshot sends the picture in pieces.
func (c *consoleService) Screenshot(req *pb.ScreenshotRequest, stream grpc.ServerStreamingServer[pb.ScreenshotResponse]) error {
	if c.screen == nil {
		return unsupported("taking a screenshot")
	}
	mime, picture, err := c.screen.Screenshot(stream.Context(), req)
	if err != nil {
		return err
	}
	defer func() { _ = picture.Close() }()
	buf := make([]byte, chunk)
	for first := true; ; first = false {
		n, err := io.ReadFull(picture, buf)
		if n > 0 || first {
			msg := &pb.ScreenshotResponse{Data: buf[:n]}
			if first {
				msg.MimeType = mime
			}
			if serr := stream.Send(msg); serr != nil {
				return serr
			}
		}
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return nil
		}
		if err != nil {
			return verr.New(verr.OperationFailed, "read screenshot: %w", err)
		}
	}
}
