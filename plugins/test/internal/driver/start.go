package driver

import (
	"context"
	"os"
	"time"

	"github.com/lodgevirt/lodge/plugins/test/internal/define"
	"github.com/lodgevirt/lodge/plugins/test/internal/fault"
	"github.com/lodgevirt/lodge/plugins/test/internal/record"
	"github.com/lodgevirt/lodge/sdk/domxml"
	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/hypervisor/v1"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// starting is a start that is under way.
type starting struct {
	cancel context.CancelCauseFunc
	done   chan struct{}
}

// Start brings a guest to life by writing its record.
func (d *Driver) Start(ctx context.Context, req *pb.StartRequest) (*pb.StartResponse, error) {
	rsp, r, err := d.bringUp(ctx, req, "start", nil)
	if err != nil {
		return nil, err
	}
	rsp.Change = birth(r.State, r.Reason)
	return rsp, nil
}

// bringUp makes a guest's record and changes it as the caller wants before it is written. Whatever fails afterwards takes the record away
// again.
func (d *Driver) bringUp(
	ctx context.Context, req *pb.StartRequest, point string, change func(*record.Record) error,
) (*pb.StartResponse, *record.Record, error) {
	if err := refuseProcess(req.GetResolved()); err != nil {
		return nil, nil, err
	}
	ctx, finish, err := d.beginStart(ctx, req.GetGuest())
	if err != nil {
		return nil, nil, err
	}
	defer finish()
	if ctx.Err() != nil { // a stop may have come and gone already
		return nil, nil, context.Cause(ctx)
	}
	r, err := d.newRecord(req)
	if err != nil {
		return nil, nil, err
	}
	if change != nil {
		if err := change(r); err != nil {
			return nil, nil, err
		}
	}
	liveXML, err := domxml.SetID(req.GetXml(), req.GetId())
	if err != nil {
		return nil, nil, err
	}
	if err := d.hit(ctx, r.UUID, point); err != nil {
		return nil, nil, err
	}
	leases, err := d.takeLeases(ctx, req.GetResolved().GetLeases())
	if err != nil {
		return nil, nil, err
	}
	if err := d.records.Save(r); err != nil {
		closeAll(leases)
		return nil, nil, err
	}
	g := d.takeCharge(req.GetGuest(), r, leases)
	answered := false
	defer func() { // also when the point panics
		if !answered {
			d.undo(g)
		}
	}()
	if err := d.hit(ctx, r.UUID, point+".done"); err != nil {
		return nil, nil, err
	}
	answered = true
	return &pb.StartResponse{Handle: handleOf(r), LiveXml: liveXML}, r, nil
}

// refuseProcess refuses locks that only a process can have: these guests are none.
func refuseProcess(resolved *pb.Resolved) error {
	if len(resolved.GetRegistrations()) > 0 || resolved.GetClaim() {
		return verr.New(verr.ConfigUnsupported, "the lock manager wants the guest's process, and a guest of the test driver has none")
	}
	return nil
}

// undo takes back a start that failed.
func (d *Driver) undo(g *guest) {
	if _, err := d.end(g); err != nil {
		d.log.Error("guest of a failed start is left", "guest", g.identity.GetName(), "error", err)
	}
}

// beginStart reserves the guest's UUID for one start. The context that it returns ends when Stop breaks in.
func (d *Driver) beginStart(ctx context.Context, identity *pb.Guest) (context.Context, func(), error) {
	uuid := identity.GetUuid()
	alive, err := d.records.Load(uuid)
	if err != nil {
		return nil, nil, err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	s := &starting{cancel: cancel, done: make(chan struct{})}
	d.mu.Lock()
	defer d.mu.Unlock()
	if alive != nil || d.starting[uuid] != nil {
		cancel(nil)
		return nil, nil, verr.New(verr.OperationInvalid, "domain '%s' is already running", identity.GetName())
	}
	d.starting[uuid] = s
	return ctx, func() {
		d.mu.Lock()
		delete(d.starting, uuid)
		d.mu.Unlock()
		cancel(nil)
		close(s.done)
	}, nil
}

// breakOff ends a start that is under way, and returns when nothing of it is left or the context ends.
func (d *Driver) breakOff(ctx context.Context, uuid string) error {
	d.mu.Lock()
	s := d.starting[uuid]
	d.mu.Unlock()
	if s == nil {
		return nil
	}
	s.cancel(verr.New(verr.OperationAborted, "start was broken off by a stop"))
	select {
	case <-s.done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// newRecord turns a request into the guest that it asks for.
func (d *Driver) newRecord(req *pb.StartRequest) (*record.Record, error) {
	def, err := domxml.Parse(req.GetXml())
	if err != nil {
		return nil, err
	}
	script, err := fault.Parse(req.GetXml())
	if err != nil {
		return nil, err
	}
	identity := req.GetGuest()
	if err := d.book.Note(identity.GetUuid(), script); err != nil {
		return nil, err
	}
	now := time.Now()
	r := &record.Record{
		UUID: identity.GetUuid(), Name: identity.GetName(), Generation: identity.GetGeneration(),
		Started: now, Shape: define.ShapeOf(def), Acts: script.Acts,
	}
	if req.GetPaused() {
		r.SetState(now, pb.State_STATE_PAUSED, pausedByUser)
	} else {
		r.SetState(now, pb.State_STATE_RUNNING, runningBooted)
	}
	return r, nil
}

// takeLeases takes the descriptors of the guest's locks; on an error none is left open.
func (d *Driver) takeLeases(ctx context.Context, leases []*pb.Lease) ([]*os.File, error) {
	var files []*os.File
	for _, lease := range leases {
		if len(lease.GetToken()) == 0 {
			continue
		}
		f, err := d.core.TakeFile(ctx, lease.GetToken())
		if err != nil {
			closeAll(files)
			return nil, verr.New(verr.OperationFailed, "take lock of %q: %w", lease.GetResource(), reason(ctx, err))
		}
		files = append(files, f)
	}
	return files, nil
}

func closeAll(files []*os.File) {
	for _, f := range files {
		_ = f.Close()
	}
}
