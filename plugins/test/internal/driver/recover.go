package driver

import (
	"context"
	"encoding/json"

	"github.com/lodgevirt/lodge/plugins/test/internal/fault"
	"github.com/lodgevirt/lodge/plugins/test/internal/record"
	"github.com/lodgevirt/lodge/sdk/domxml"
	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/hypervisor/v1"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// handleVersion is the layout of a handle's data.
const handleVersion = 1

// handleData is all that is needed to find a guest again; UUID and generation alone would do as well.
type handleData struct {
	UUID       string `json:"uuid"`
	Generation uint64 `json:"generation"`
}

func handleOf(r *record.Record) *pb.Handle {
	// Two plain fields cannot fail to be written.
	data, _ := json.Marshal(handleData{UUID: r.UUID, Generation: r.Generation})
	return &pb.Handle{Version: handleVersion, Data: data}
}

// Recover reads the record of the guest, which tells all. A handle proves that the guest lived once; without one it may never have.
func (d *Driver) Recover(ctx context.Context, req *pb.RecoverRequest) (*pb.RecoverResponse, error) {
	identity := req.GetGuest()
	if v := req.GetHandle().GetVersion(); v > handleVersion {
		return nil, verr.New(verr.ConfigUnsupported, "handle of version %d is newer than this driver", v)
	}
	script, err := fault.Parse(req.GetXml())
	if err != nil {
		return nil, err
	}
	if err := d.book.Note(identity.GetUuid(), script); err != nil {
		return nil, err
	}
	if err := d.hit(ctx, identity.GetUuid(), "recover"); err != nil {
		return nil, err
	}
	r, err := d.records.Load(identity.GetUuid())
	switch {
	case err != nil:
		return nil, err
	case r == nil:
		d.forget(identity)
		if req.GetHandle() == nil {
			return &pb.RecoverResponse{Verdict: pb.Verdict_VERDICT_NOT_STARTED}, nil
		}
		return &pb.RecoverResponse{Verdict: pb.Verdict_VERDICT_GONE, Change: vanished.change()}, nil
	case r.Generation != identity.GetGeneration():
		return &pb.RecoverResponse{Verdict: pb.Verdict_VERDICT_FOREIGN}, nil
	}
	return d.running(req, r)
}

// running is the answer for a guest that lives. Where the core never saw the answer to Start, it learns of the birth now.
func (d *Driver) running(req *pb.RecoverRequest, r *record.Record) (*pb.RecoverResponse, error) {
	liveXML, err := domxml.SetID(req.GetXml(), req.GetId())
	if err != nil {
		return nil, err
	}
	if r.Live != "" {
		liveXML = r.Live
	}
	if _, err := d.find(req.GetGuest()); err != nil {
		return nil, err
	}
	rsp := &pb.RecoverResponse{
		Verdict: pb.Verdict_VERDICT_RUNNING, LiveXml: liveXML, Change: &pb.Change{State: r.State, Reason: r.Reason},
	}
	if req.GetHandle() == nil {
		rsp.Handle, rsp.Change = handleOf(r), birth(r.State, r.Reason)
	}
	return rsp, nil
}

// forget lets go of a life whose record has gone.
func (d *Driver) forget(identity *pb.Guest) {
	d.mu.Lock()
	g := d.guests[identity.GetUuid()]
	if g != nil {
		delete(d.guests, identity.GetUuid())
	}
	d.mu.Unlock()
	if g != nil {
		g.release()
	}
}

// Inspect reads the record, not what this process remembers.
func (d *Driver) Inspect(ctx context.Context, req *pb.InspectRequest) (*pb.InspectResponse, error) {
	uuid := req.GetGuest().GetUuid()
	if err := d.hit(ctx, uuid, "inspect"); err != nil {
		return nil, err
	}
	r, err := d.records.Load(uuid)
	if err != nil {
		return nil, err
	}
	if r == nil || r.Generation != req.GetGuest().GetGeneration() {
		return &pb.InspectResponse{State: pb.State_STATE_SHUTOFF}, nil
	}
	return &pb.InspectResponse{State: r.State, Reason: r.Reason}, nil
}
