package conformance

import (
	"errors"
	"io"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/lodgevirt/lodge/sdk/domxml"
	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/hypervisor/v1"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// allGroups asks for every group of statistics.
const allGroups = 1<<6 - 1

func (b *bench) lifecycle() pb.LifecycleServiceClient {
	return pb.NewLifecycleServiceClient(b.host.Conn)
}

func (b *bench) suspend(g *guest) {
	b.Helper()
	rsp, err := b.lifecycle().Suspend(b.ctx(), &pb.SuspendRequest{Guest: g.Guest, Handle: g.handle})
	if err != nil || rsp.GetChange().GetState() != pb.State_STATE_PAUSED || !tells(rsp.GetChange(), eventSuspended) {
		b.Fatalf("suspend guest %q: %v, %v", g.Name, rsp, err)
	}
}

func (b *bench) resume(g *guest) {
	b.Helper()
	rsp, err := b.lifecycle().Resume(b.ctx(), &pb.ResumeRequest{Guest: g.Guest, Handle: g.handle})
	if err != nil || rsp.GetChange().GetState() != pb.State_STATE_RUNNING || !tells(rsp.GetChange(), eventResumed) {
		b.Fatalf("resume guest %q: %v, %v", g.Name, rsp, err)
	}
}

func suspendAndResume(b *bench) {
	b.need("LifecycleService")
	g := b.started("conformance")
	b.suspend(g)
	b.wantState(g, pb.State_STATE_PAUSED)
	_, err := b.lifecycle().Suspend(b.ctx(), &pb.SuspendRequest{Guest: g.Guest, Handle: g.handle})
	b.wantCode("suspend a paused guest", err, verr.OperationInvalid)
	b.resume(g)
	b.wantState(g, pb.State_STATE_RUNNING)
	_, err = b.lifecycle().Resume(b.ctx(), &pb.ResumeRequest{Guest: g.Guest, Handle: g.handle})
	b.wantCode("resume a running guest", err, verr.OperationInvalid)
	if _, err := b.lifecycle().Reset(b.ctx(), &pb.ResetRequest{Guest: g.Guest, Handle: g.handle}); err != nil {
		b.Errorf("reset: %v", err)
	}
	b.wantState(g, pb.State_STATE_RUNNING)
}

func nothingToDoWhenOff(b *bench) {
	b.need("LifecycleService")
	g := b.started("conformance")
	b.stop(g)
	l := b.lifecycle()
	for what, call := range map[string]func() error{
		"shutdown": func() error {
			_, err := l.Shutdown(b.ctx(), &pb.ShutdownRequest{Guest: g.Guest, Handle: g.handle})
			return err
		},
		"reboot": func() error {
			_, err := l.Reboot(b.ctx(), &pb.RebootRequest{Guest: g.Guest, Handle: g.handle})
			return err
		},
		"reset": func() error {
			_, err := l.Reset(b.ctx(), &pb.ResetRequest{Guest: g.Guest, Handle: g.handle})
			return err
		},
		"suspend": func() error {
			_, err := l.Suspend(b.ctx(), &pb.SuspendRequest{Guest: g.Guest, Handle: g.handle})
			return err
		},
		"resume": func() error {
			_, err := l.Resume(b.ctx(), &pb.ResumeRequest{Guest: g.Guest, Handle: g.handle})
			return err
		},
	} {
		b.wantCode(what, call(), verr.OperationInvalid, verr.NoSupport)
	}
}

// services are the optional ones, each with a call that every implementation answers somehow.
func (b *bench) services(g *guest) map[string]func() error {
	return map[string]func() error{
		"LifecycleService": func() error {
			_, err := b.lifecycle().Reset(b.ctx(), &pb.ResetRequest{Guest: g.Guest, Handle: g.handle})
			return err
		},
		"ConsoleService": func() error { return b.openConsole(g) },
		"StatsService":   func() error { _, err := b.collect(g); return err },
		"SaveService": func() error {
			_, err := b.saver().AbortSave(b.ctx(), &pb.AbortSaveRequest{Guest: g.Guest, Handle: g.handle, Running: true})
			return err
		},
		"CapabilityService": func() error {
			req := &pb.DomainCapabilitiesRequest{Connection: b.factory.Connection}
			rsp, err := pb.NewCapabilityServiceClient(b.host.Conn).DomainCapabilities(b.ctx(), req)
			if err == nil {
				err = domxml.Check(rsp.GetXml(), "domainCapabilities")
			}
			return err
		},
	}
}

func declaredServicesAnswer(b *bench) {
	g := b.started("conformance")
	for name, call := range b.services(g) {
		if !b.has(name) {
			continue
		}
		if err := call(); err != nil {
			b.Errorf("%s is declared and answers %v", name, err)
		}
	}
}

func undeclaredServicesRefuse(b *bench) {
	g := b.newGuest("conformance")
	for name, call := range b.services(g) {
		if b.has(name) {
			continue
		}
		if err := call(); status.Code(err) != codes.Unimplemented {
			b.Errorf("%s is not declared and answers %v", name, err)
		}
	}
}

// console is a stream to a guest's console.
type console = grpc.BidiStreamingClient[pb.OpenConsoleRequest, pb.OpenConsoleResponse]

// dial connects to the first console of a guest.
func (b *bench) dial(g *guest, force bool) (console, error) {
	stream, err := pb.NewConsoleServiceClient(b.host.Conn).OpenConsole(b.ctx())
	if err != nil {
		return nil, err
	}
	open := &pb.ConsoleTarget{Guest: g.Guest, Handle: g.handle, Force: force}
	if err := stream.Send(&pb.OpenConsoleRequest{Message: &pb.OpenConsoleRequest_Open{Open: open}}); err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	first, err := stream.Recv()
	if err != nil {
		return nil, err
	}
	if first.GetOpened() == nil {
		return nil, errors.New("the first message is not opened")
	}
	return stream, nil
}

func (b *bench) openConsole(g *guest) error {
	stream, err := b.dial(g, false)
	if err != nil {
		return err
	}
	return stream.CloseSend()
}

func consoleConnectsOnce(b *bench) {
	b.need("ConsoleService")
	g := b.started("conformance")
	first, err := b.dial(g, false)
	if err != nil {
		b.Fatalf("open console: %v", err)
	}
	_, err = b.dial(g, false)
	b.wantCode("a second connection", err, verr.OperationFailed)
	second, err := b.dial(g, true)
	if err != nil {
		b.Fatalf("open console by force: %v", err)
	}
	drain(first)
	b.stop(g)
	drain(second)
}

// drain reads until the stream ends, which is the check: it waits for ever, up to its deadline, where it does not.
func drain(stream console) {
	for {
		if _, err := stream.Recv(); err != nil {
			return
		}
	}
}

// collect measures guests.
func (b *bench) collect(guests ...*guest) (map[string][]*pb.Stat, error) {
	req := &pb.CollectRequest{Groups: allGroups}
	for _, g := range guests {
		req.Guests = append(req.Guests, &pb.GuestHandle{Guest: g.Guest, Handle: g.handle})
	}
	stream, err := pb.NewStatsServiceClient(b.host.Conn).Collect(b.ctx(), req)
	if err != nil {
		return nil, err
	}
	figures := make(map[string][]*pb.Stat)
	for {
		rsp, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return figures, nil
		}
		if err != nil {
			return nil, err
		}
		figures[rsp.GetUuid()] = rsp.GetStats()
	}
}

func statisticsOfGuests(b *bench) {
	b.need("StatsService")
	one, off := b.started("one"), b.newGuest("off")
	figures, err := b.collect(one, off)
	if err != nil {
		b.Fatalf("collect: %v", err)
	}
	if len(figures[one.Uuid]) == 0 {
		b.Error("there are no figures of a running guest")
	}
	if len(figures[off.Uuid]) != 0 {
		b.Errorf("there are figures of a guest that is off: %v", figures[off.Uuid])
	}
	for _, s := range figures[one.Uuid] {
		if s.GetValue() == nil || !strings.Contains(s.GetName(), ".") {
			b.Errorf("figure %v has no value or no group", s)
		}
	}
}
