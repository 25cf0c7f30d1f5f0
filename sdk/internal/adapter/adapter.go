// Package adapter turns a driver, written against package hypervisor, into the gRPC services of the contract: the required one,
// and each optional one whose interface the driver has.
//
// The driver belongs to its author; the adapter keeps nothing of a guest. Calls reach the driver concurrently, as gRPC delivers
// them. What a driver gets wrong (a panic, an error without a code, silence beyond the deadline) becomes an answer of the contract.
package adapter

import (
	"context"

	"google.golang.org/grpc"

	"github.com/lodgevirt/lodge/sdk/hypervisor"
	"github.com/lodgevirt/lodge/sdk/internal/watch"
	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/hypervisor/v1"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// Register adds the driver's services to a server. Events come from feed; the watch streams end when done is closed.
func Register(s grpc.ServiceRegistrar, driver hypervisor.Driver, feed *watch.Feed, done <-chan struct{}) {
	pb.RegisterDriverServiceServer(s, &driverService{Driver: driver, feed: feed, done: done})
	if dev, ok := driver.(hypervisor.Devices); ok {
		pb.RegisterDeviceServiceServer(s, &deviceService{Devices: dev})
	}
	if saver, ok := driver.(hypervisor.Saver); ok {
		pb.RegisterSaveServiceServer(s, &saveService{saver: saver})
	}
	registerOptional(s, driver)
}

// registerOptional adds the services that drivers of both kinds may have.
func registerOptional(s grpc.ServiceRegistrar, driver any) {
	if l, ok := driver.(hypervisor.Lifecycle); ok {
		keyboard, _ := driver.(hypervisor.Keyboard)
		pb.RegisterLifecycleServiceServer(s, &lifecycleService{Lifecycle: l, keyboard: keyboard})
	}
	console, hasConsole := driver.(hypervisor.Console)
	screen, hasScreen := driver.(hypervisor.Screenshooter)
	if hasConsole || hasScreen {
		pb.RegisterConsoleServiceServer(s, &consoleService{console: console, screen: screen})
	}
	if st, ok := driver.(hypervisor.Stats); ok {
		pb.RegisterStatsServiceServer(s, &statsService{stats: st})
	}
	if c, ok := driver.(hypervisor.Capabilities); ok {
		pb.RegisterCapabilityServiceServer(s, &capabilityService{Capabilities: c})
	}
}

// driverService is the driver itself, and Watch.
type driverService struct {
	pb.UnsafeDriverServiceServer
	hypervisor.Driver
	feed *watch.Feed
	done <-chan struct{}
}

// Watch sends a hello, then what the feed has for the connection.
func (d *driverService) Watch(req *pb.WatchRequest, stream grpc.ServerStreamingServer[pb.WatchResponse]) error {
	after, resync := d.feed.Position(req.GetEpoch(), req.GetAfterSeq())
	hello := &pb.WatchResponse{Message: &pb.WatchResponse_Hello{Hello: &pb.Hello{Epoch: d.feed.Epoch(), Resync: resync}}}
	if err := stream.Send(hello); err != nil {
		return err
	}
	for {
		events, next, more, ok := d.feed.Read(req.GetConnection(), after)
		if !ok {
			return verr.New(verr.OperationAborted, "events were dropped because the reader is too slow: watch again")
		}
		after = next
		for _, e := range events {
			if err := stream.Send(&pb.WatchResponse{Message: &pb.WatchResponse_Event{Event: e}}); err != nil {
				return err
			}
		}
		select {
		case <-more:
		case <-d.done:
			return nil
		case <-stream.Context().Done():
			return stream.Context().Err()
		}
	}
}

// lifecycleService is Lifecycle, and Keyboard where the driver has it.
type lifecycleService struct {
	pb.UnsafeLifecycleServiceServer
	hypervisor.Lifecycle
	keyboard hypervisor.Keyboard
}

// SendKey passes on to the keyboard.
func (l *lifecycleService) SendKey(ctx context.Context, req *pb.SendKeyRequest) (*pb.SendKeyResponse, error) {
	if l.keyboard == nil {
		return nil, unsupported("sending keys")
	}
	if len(req.GetKeycodes()) > maxKeycodes {
		return nil, verr.New(verr.InvalidArg, "%d keycodes, at most %d are possible", len(req.GetKeycodes()), maxKeycodes)
	}
	return l.keyboard.SendKey(ctx, req)
}

// InjectNMI passes on to the keyboard.
func (l *lifecycleService) InjectNMI(ctx context.Context, req *pb.InjectNMIRequest) (*pb.InjectNMIResponse, error) {
	if l.keyboard == nil {
		return nil, unsupported("injecting an NMI")
	}
	return l.keyboard.InjectNMI(ctx, req)
}

// deviceService is Devices.
type deviceService struct {
	pb.UnsafeDeviceServiceServer
	hypervisor.Devices
}

// capabilityService is Capabilities.
type capabilityService struct {
	pb.UnsafeCapabilityServiceServer
	hypervisor.Capabilities
}

// maxKeycodes is libvirt's VIR_DOMAIN_SEND_KEY_MAX_KEYS.
const maxKeycodes = 16

func unsupported(what string) error {
	return verr.New(verr.NoSupport, "%s is not supported by this driver", what)
}
