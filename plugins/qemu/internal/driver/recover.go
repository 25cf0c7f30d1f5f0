package driver

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"time"

	"github.com/lodgevirt/lodge/plugins/qemu/internal/guest"
	"github.com/lodgevirt/lodge/plugins/qemu/internal/process"
	"github.com/lodgevirt/lodge/plugins/qemu/internal/qmp"
	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/hypervisor/v1"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// monitorTime is how long Recover waits for a QEMU that does not answer before it takes charge of the guest as it was last seen.
const monitorTime = 3 * time.Second

// Recover implements hypervisor.Driver. A QEMU that was launched and never let run is no living guest yet: it has not executed one
// instruction, and is put away like a stage.
func (d *Driver) Recover(ctx context.Context, req *pb.RecoverRequest) (*pb.RecoverResponse, error) {
	l, err := d.newLife(req.GetGuest(), req.GetHandle().GetCgroup())
	if err != nil {
		return nil, err
	}
	l.know(req.GetVolumes())
	if other := d.enter(l); other != nil {
		return d.again(ctx, req, other)
	}
	resp, g, err := d.search(ctx, l, req)
	if err != nil || g == nil {
		d.abandon(l)
		return resp, err
	}
	d.settle(l, g)
	return resp, nil
}

// again answers for a guest that the driver is in charge of: only the core was away.
func (d *Driver) again(ctx context.Context, req *pb.RecoverRequest, l *life) (*pb.RecoverResponse, error) {
	select {
	case <-l.settled:
	case <-ctx.Done():
		return nil, fmt.Errorf("recover guest: %w", ctx.Err())
	}
	if l.ref.GetGeneration() != req.GetGuest().GetGeneration() {
		return &pb.RecoverResponse{Verdict: pb.Verdict_VERDICT_FOREIGN}, nil
	}
	_, g, err := d.living(req.GetGuest())
	if err != nil {
		// It ended, or failed to start, while we waited: look again.
		return d.Recover(ctx, req)
	}
	c, err := d.beginWith(ctx, l, g)
	if errors.Is(err, errNotRunning) {
		return d.Recover(ctx, req)
	}
	if err != nil {
		return nil, err
	}
	defer c.end(ctx)
	change, err := g.State(ctx)
	if err != nil {
		return d.Recover(ctx, req)
	}
	return &pb.RecoverResponse{
		Verdict: pb.Verdict_VERDICT_RUNNING, Handle: l.handle(g.Process()), Change: change, LiveXml: l.xml(),
	}, nil
}

// search finds out what became of a guest, and takes charge of it if it lives.
func (d *Driver) search(ctx context.Context, l *life, req *pb.RecoverRequest) (*pb.RecoverResponse, *guest.Guest, error) {
	id, foreign, err := d.locate(ctx, l, req.GetHandle())
	if err != nil {
		return nil, nil, err
	}
	memory, err := l.folder.readMemory()
	if err != nil {
		l.log.Warn("last state of guest not known", "error", err)
	}
	if id.PID != 0 {
		p, err := process.Open(id)
		if err == nil {
			return d.takeBack(ctx, l, p, memory, req.GetHandle() != nil)
		}
		if !errors.Is(err, process.ErrGone) {
			return nil, nil, err
		}
	}
	if foreign {
		return &pb.RecoverResponse{Verdict: pb.Verdict_VERDICT_FOREIGN}, nil, nil
	}
	return l.lost(memory, req.GetHandle() != nil), nil, nil
}

// lost is the verdict on a guest that has no process.
func (l *life) lost(memory *guest.Memory, answered bool) *pb.RecoverResponse {
	l.clean()
	if memory == nil && !answered {
		return &pb.RecoverResponse{Verdict: pb.Verdict_VERDICT_NOT_STARTED}
	}
	return &pb.RecoverResponse{Verdict: pb.Verdict_VERDICT_GONE, Change: guest.Gone(memory)}
}

// locate finds the guest's process: by the handle, by the record that the stage left, and by looking at every process. Stages without
// their plugin are ended on the way, so that nothing comes to life after the answer.
func (d *Driver) locate(ctx context.Context, l *life, handle *pb.Handle) (id process.ID, foreign bool, err error) {
	known := []process.ID{{PID: int(handle.GetPid()), StartTime: handle.GetStartTime()}}
	record, err := process.ReadRecord(string(l.folder))
	if err == nil {
		known = append(known, record)
	} else if !errors.Is(err, fs.ErrNotExist) {
		l.log.Warn("record of guest not readable", "error", err)
	}
	for _, id := range known {
		if f, ok := process.Look(id.PID); ok && f.ID == id && f.Marker == l.marker() && !f.Stage {
			return id, false, nil
		}
	}
	picture, err := d.scanner.Settle(ctx, l.marker())
	if err != nil {
		return process.ID{}, false, err
	}
	for _, f := range picture.Of(driverName, l.ref.GetUuid()) {
		if f.Marker == l.marker() && !f.Stage {
			return f.ID, false, nil
		}
		foreign = true
	}
	return process.ID{}, foreign || picture.Claimed(l.ref.GetUuid()) != 0, nil
}

// takeBack takes charge of a QEMU that lived on.
func (d *Driver) takeBack(
	ctx context.Context, l *life, p *process.Process, memory *guest.Memory, answered bool,
) (*pb.RecoverResponse, *guest.Guest, error) {
	mon, err := l.greet(ctx)
	switch {
	case errors.Is(err, errOtherGuest):
		p.Close()
		return &pb.RecoverResponse{Verdict: pb.Verdict_VERDICT_FOREIGN}, nil, nil
	case err != nil:
		l.log.Warn("qemu does not answer", "pid", p.ID().PID, "error", err)
	}
	if memory == nil && !answered && (l.folder.has(restoreName) || mon != nil && waits(ctx, mon)) {
		return l.putAway(ctx, p, mon)
	}
	if err := l.load(); err != nil {
		p.Close()
		closeMonitor(mon)
		return nil, nil, verr.New(verr.Internal, "live definition of the domain is lost: %w", err)
	}
	if err := l.catchUp(ctx, mon); err != nil {
		p.Close()
		closeMonitor(mon)
		return nil, nil, err
	}
	cfg := d.watch(l)
	cfg.Process, cfg.Monitor = p, mon
	g, change, err := guest.Recall(ctx, cfg, memory)
	if err != nil {
		p.Close()
		closeMonitor(mon)
		return nil, nil, err
	}
	if g == nil {
		l.clean()
		return &pb.RecoverResponse{Verdict: pb.Verdict_VERDICT_GONE, Change: change}, nil, nil
	}
	return &pb.RecoverResponse{
		Verdict: pb.Verdict_VERDICT_RUNNING, Handle: l.handle(p.ID()), Change: change, LiveXml: l.xml(),
	}, g, nil
}

// catchUp settles a change of a device that was cut off, and finds devices that have gone since. A change that cannot be settled because QEMU
// does not answer is an error: nobody could say which of its devices the guest has.
func (l *life) catchUp(ctx context.Context, mon *qmp.Client) error {
	if mon == nil {
		if l.folder.has(intentName) {
			return verr.New(verr.OperationTimeout, "a change of the domain's devices was cut off, and QEMU does not answer")
		}
		return nil
	}
	if err := l.settleIntent(ctx, mon.Batch); err != nil {
		return guest.Explain(ctx, "query", err)
	}
	if _, err := l.dropMissing(ctx, mon.Batch); err != nil {
		l.log.Warn("devices of guest not compared", "error", err)
	}
	return nil
}

func closeMonitor(mon *qmp.Client) {
	if mon != nil {
		_ = mon.Close()
	}
}

// waits reports whether a QEMU is still where a launch leaves it, at -S. One that reads a saved state has never run, too, and may be too
// busy to say so: its folder tells.
func waits(ctx context.Context, mon *qmp.Client) bool {
	var state struct {
		Status string `json:"status"`
	}
	return mon.Execute(ctx, "query-status", nil, &state) == nil && state.Status == "prelaunch"
}

// putAway ends a QEMU whose guest has never run.
func (l *life) putAway(ctx context.Context, p *process.Process, mon *qmp.Client) (*pb.RecoverResponse, *guest.Guest, error) {
	closeMonitor(mon)
	defer p.Close()
	if err := p.Kill(ctx); err != nil {
		return nil, nil, fmt.Errorf("put away a start that was not finished: %w", err)
	}
	l.clean()
	return &pb.RecoverResponse{Verdict: pb.Verdict_VERDICT_NOT_STARTED}, nil, nil
}

var errOtherGuest = errors.New("qemu runs another guest")

// greet connects the monitor and makes sure that it is this guest's.
func (l *life) greet(ctx context.Context) (*qmp.Client, error) {
	ctx, cancel := context.WithTimeout(ctx, monitorTime)
	defer cancel()
	mon, err := l.folder.dial(ctx)
	if err != nil {
		return nil, err
	}
	var reply struct {
		UUID string `json:"UUID"`
	}
	if err := mon.Execute(ctx, "query-uuid", nil, &reply); err != nil {
		_ = mon.Close()
		return nil, err
	}
	if !strings.EqualFold(reply.UUID, l.ref.GetUuid()) {
		_ = mon.Close()
		return nil, errOtherGuest
	}
	return mon, nil
}
