package adapter

import (
	"context"
	"strconv"
	"testing"
	"time"

	"google.golang.org/grpc/metadata"

	"github.com/lodgevirt/lodge/sdk/plugin/handshake"
	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/hypervisor/v1"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// from is the context of a call of a core.
func from(ctx context.Context, epoch int) context.Context {
	if epoch == 0 {
		return ctx
	}
	return metadata.NewIncomingContext(ctx, metadata.Pairs(handshake.EpochKey, strconv.Itoa(epoch)))
}

func TestCallOfANewCoreBeginsAfterTheChangesOfTheOldOne(t *testing.T) {
	var f fence
	attach, leave, err := f.enter(from(t.Context(), 1), pb.DeviceService_AttachDevice_FullMethodName)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := f.enter(from(t.Context(), 1), pb.DriverService_Inspect_FullMethodName); err != nil {
		t.Errorf("another call of the same core: %v", err)
	}
	if _, leave, err := f.enter(from(t.Context(), 2), "/lodge.base.v1.PluginService/Configure"); err != nil {
		t.Errorf("the new core making itself known: %v", err)
	} else {
		leave()
	}
	if attach.Err() == nil || !verr.Is(context.Cause(attach), verr.OperationAborted) {
		t.Errorf("the change of the old core goes on: %v", context.Cause(attach))
	}
	short, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if _, _, err := f.enter(from(short, 2), pb.DriverService_Recover_FullMethodName); !verr.Is(err, verr.OperationTimeout) {
		t.Errorf("a question of the new core before the change has ended: %v", err)
	}
	begun := make(chan error)
	go func() {
		_, leave, err := f.enter(from(t.Context(), 2), pb.DriverService_Recover_FullMethodName)
		if err == nil {
			leave()
		}
		begun <- err
	}()
	select {
	case err := <-begun:
		t.Fatalf("it begins before the change has ended: %v", err)
	case <-time.After(20 * time.Millisecond):
	}
	leave()
	if err := <-begun; err != nil {
		t.Errorf("it does not begin afterwards: %v", err)
	}
	if _, _, err := f.enter(from(t.Context(), 1), pb.DriverService_Recover_FullMethodName); !verr.Is(err, verr.OperationAborted) {
		t.Errorf("a late call of the old core: %v", err)
	}
	if ctx, leave, err := f.enter(t.Context(), pb.DriverService_Start_FullMethodName); err != nil || ctx.Err() != nil {
		t.Errorf("a call of nobody in particular: %v", err)
	} else {
		leave()
	}
	if len(f.changes) != 0 {
		t.Errorf("%d calls are still noted", len(f.changes))
	}
}
