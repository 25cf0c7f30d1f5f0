package driver

import (
	"context"

	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/hypervisor/v1"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// Stop ends a life. It breaks off a start that is under way, and any other call of that life fails. The answer is the same
// whether this call ended it or it was over before: the core asks only for guests of which it has not yet told that they ended.
func (d *Driver) Stop(ctx context.Context, req *pb.StopRequest) (*pb.StopResponse, error) {
	uuid := req.GetGuest().GetUuid()
	if err := d.hit(ctx, uuid, "stop"); err != nil {
		return nil, err
	}
	if err := d.breakOff(ctx, uuid); err != nil {
		return nil, err
	}
	g, err := d.find(req.GetGuest())
	switch {
	case err == nil:
		if _, err := d.end(g); err != nil {
			return nil, err
		}
	case !verr.Is(err, verr.OperationInvalid): // which says that it is over
		return nil, err
	}
	if err := d.hit(ctx, uuid, "stop.done"); err != nil {
		return nil, err
	}
	return &pb.StopResponse{Change: destroyed.change()}, nil
}
