package faketest_test

import (
	"context"
	"errors"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/lodgevirt/lodge/sdk/faketest"
	"github.com/lodgevirt/lodge/sdk/hypervisor"
	"github.com/lodgevirt/lodge/sdk/plugin"
	corev1 "github.com/lodgevirt/lodge/sdk/proto/lodge/core/v1"
	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/hypervisor/v1"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// driver is a hypervisor with a console and statistics that does next to nothing.
type driver struct{ core plugin.Core }

func (d *driver) Probe(context.Context, *pb.ProbeRequest) (*pb.ProbeResponse, error) {
	return &pb.ProbeResponse{Type: "Example"}, nil
}

func (d *driver) Validate(_ context.Context, req *pb.ValidateRequest) (*pb.ValidateResponse, error) {
	if req.GetXml() == "panic" {
		panic("asked for")
	}
	return nil, verr.New(verr.ConfigUnsupported, "%s is not supported", req.GetXml())
}

func (d *driver) Start(ctx context.Context, req *pb.StartRequest) (*pb.StartResponse, error) {
	for _, lease := range req.GetResolved().GetLeases() {
		f, err := d.core.TakeFile(ctx, lease.GetToken())
		if err != nil {
			return nil, err
		}
		defer func() { _ = f.Close() }()
		content, err := io.ReadAll(f)
		if err != nil {
			return nil, err
		}
		if err := d.core.State().Put(ctx, req.GetGuest().GetUuid(), content); err != nil {
			return nil, err
		}
	}
	d.core.Logger().Info("guest started", "guest", req.GetGuest().GetName())
	d.core.Publish(&pb.WatchEvent{Guest: req.GetGuest(), Change: &pb.Change{State: pb.State_STATE_RUNNING}})
	return &pb.StartResponse{}, nil
}

func (d *driver) Stop(context.Context, *pb.StopRequest) (*pb.StopResponse, error) {
	return &pb.StopResponse{}, nil
}

func (d *driver) Recover(context.Context, *pb.RecoverRequest) (*pb.RecoverResponse, error) {
	return &pb.RecoverResponse{}, nil
}

func (d *driver) Inspect(ctx context.Context, _ *pb.InspectRequest) (*pb.InspectResponse, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}

func (d *driver) OpenConsole(context.Context, *pb.ConsoleTarget) (io.ReadWriteCloser, error) {
	r, w := io.Pipe()
	return struct {
		io.Reader
		io.WriteCloser
	}{r, w}, nil
}

func (d *driver) GuestStats(ctx context.Context, g *pb.GuestHandle, _ uint32) ([]*pb.Stat, error) {
	switch g.GetGuest().GetName() {
	case "hangs":
		<-ctx.Done()
		return nil, ctx.Err()
	case "panics":
		panic("asked for")
	}
	return []*pb.Stat{{Name: "cpu.time", Value: &pb.Stat_Ullong{Ullong: 7}}}, nil
}

func example() plugin.Plugin {
	return plugin.Plugin{
		Name: "example", Version: "1.0.0",
		Hypervisor: func(core plugin.Core) (hypervisor.Driver, error) { return &driver{core: core}, nil },
	}
}

func deadline(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func TestDescribeListsWhatTheDriverImplements(t *testing.T) {
	h := faketest.Start(t, example())
	var names []string
	for _, s := range h.Description.GetServices() {
		names = append(names, strings.TrimPrefix(s.GetName(), "lodge."))
	}
	want := "base.v1.PluginService hypervisor.v1.ConsoleService hypervisor.v1.DriverService hypervisor.v1.StatsService"
	if got := strings.Join(names, " "); got != want {
		t.Errorf("services are %q, expected %q", got, want)
	}
	_, err := pb.NewLifecycleServiceClient(h.Conn).Reset(deadline(t), &pb.ResetRequest{})
	if verr.From(err).Code != verr.NoSupport {
		t.Errorf("a service that the driver lacks answered %v", err)
	}
}

func TestErrorsAndPanicsReachTheCaller(t *testing.T) {
	client := pb.NewDriverServiceClient(faketest.Client(t, example()))
	_, err := client.Validate(deadline(t), &pb.ValidateRequest{Xml: "floppy"})
	if e := verr.From(err); e.Code != verr.ConfigUnsupported || e.Message != "floppy is not supported" {
		t.Errorf("error arrived as %v", e)
	}
	_, err = client.Validate(deadline(t), &pb.ValidateRequest{Xml: "panic"})
	if e := verr.From(err); e.Code != verr.Internal || !strings.Contains(e.Message, "asked for") {
		t.Errorf("panic arrived as %v", e)
	}
	if _, err := client.Probe(deadline(t), &pb.ProbeRequest{}); err != nil {
		t.Errorf("after the panic: %v", err)
	}
}

func TestStartTakesFilesKeepsStateLogsAndPublishes(t *testing.T) {
	h := faketest.Start(t, example())
	client := pb.NewDriverServiceClient(h.Conn)
	ctx := deadline(t)
	watch, err := client.Watch(ctx, &pb.WatchRequest{Connection: "default"})
	if err != nil {
		t.Fatal(err)
	}
	hello, err := watch.Recv()
	if err != nil || !hello.GetHello().GetResync() {
		t.Fatalf("first message is %v, %v; expected a hello that asks for resync", hello, err)
	}
	file, err := os.CreateTemp(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := file.WriteAt([]byte("locked"), 0); err != nil {
		t.Fatal(err)
	}
	_, err = client.Start(ctx, &pb.StartRequest{
		Guest:    &pb.Guest{Connection: "default", Uuid: "u", Name: "g"},
		Resolved: &pb.Resolved{Leases: []*pb.Lease{{Token: h.SendFile(t, file)}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	event, err := watch.Recv()
	if err != nil || event.GetEvent().GetSeq() != 1 || event.GetEvent().GetGuest().GetName() != "g" {
		t.Errorf("event is %v, %v", event, err)
	}
	h.WaitLog(t, func(l *corev1.WriteRequest) bool {
		return l.GetMessage() == "guest started" && l.GetFields()["guest"] == "g"
	})
}

func TestConsoleEchoes(t *testing.T) {
	stream, err := pb.NewConsoleServiceClient(faketest.Client(t, example())).OpenConsole(deadline(t))
	if err != nil {
		t.Fatal(err)
	}
	open := &pb.OpenConsoleRequest{Message: &pb.OpenConsoleRequest_Open{Open: &pb.ConsoleTarget{}}}
	data := &pb.OpenConsoleRequest{Message: &pb.OpenConsoleRequest_Data{Data: []byte("hello")}}
	for _, msg := range []*pb.OpenConsoleRequest{open, data} {
		if err := stream.Send(msg); err != nil {
			t.Fatal(err)
		}
	}
	first, err := stream.Recv()
	if err != nil || first.GetOpened() == nil {
		t.Fatalf("first message is %v, %v", first, err)
	}
	echo, err := stream.Recv()
	if err != nil || string(echo.GetData()) != "hello" {
		t.Fatalf("echo is %v, %v", echo, err)
	}
	if err := stream.CloseSend(); err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); !errors.Is(err, io.EOF) {
		t.Errorf("the stream ended with %v", err)
	}
}

func TestCollectLeavesOutGuestsThatDoNotAnswer(t *testing.T) {
	var guests []*pb.GuestHandle
	for _, name := range []string{"hangs", "panics", "answers"} {
		guests = append(guests, &pb.GuestHandle{Guest: &pb.Guest{Name: name, Uuid: name}})
	}
	stream, err := pb.NewStatsServiceClient(faketest.Client(t, example())).Collect(deadline(t), &pb.CollectRequest{Guests: guests})
	if err != nil {
		t.Fatal(err)
	}
	first, err := stream.Recv()
	if err != nil || first.GetUuid() != "answers" {
		t.Fatalf("first answer is %v, %v", first, err)
	}
	if rest, err := stream.Recv(); !errors.Is(err, io.EOF) {
		t.Errorf("then came %v, %v", rest, err)
	}
}

func TestLogLinesWrittenWhileTheCoreIsAwayArriveLater(t *testing.T) {
	h := faketest.Start(t, example())
	h.StopCore()
	_, err := pb.NewDriverServiceClient(h.Conn).Start(deadline(t), &pb.StartRequest{Guest: &pb.Guest{Name: "lonely"}})
	if err != nil {
		t.Fatal(err)
	}
	h.RestartCore(t)
	h.WaitLog(t, func(l *corev1.WriteRequest) bool { return l.GetFields()["guest"] == "lonely" })
}

func TestMessagesBeyondTheLimitAreRefused(t *testing.T) {
	client := pb.NewDriverServiceClient(faketest.Client(t, example()))
	_, err := client.Validate(deadline(t), &pb.ValidateRequest{Xml: strings.Repeat("x", 16<<20+1)})
	if status.Code(err) != codes.ResourceExhausted {
		t.Errorf("a message of 16 MiB and a byte was answered with %v", err)
	}
}
