package driver_test

import (
	"context"
	"fmt"
	"runtime"
	"testing"

	"github.com/lodgevirt/lodge/plugins/test/internal/driver"
	"github.com/lodgevirt/lodge/sdk/faketest"
	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/hypervisor/v1"
)

// many is how many guests the driver shall serve.
const many = 10000

func request(b *testing.B, d *driver.Driver, i int) *pb.StartRequest {
	b.Helper()
	g := &pb.Guest{
		Connection: "default", Uuid: fmt.Sprintf("6695eb01-f6a4-8304-79aa-%012d", i), Name: fmt.Sprintf("guest-%d", i), Generation: 1,
	}
	rsp, err := d.Validate(context.Background(), &pb.ValidateRequest{Xml: definition(g.Name, g.Uuid)})
	if err != nil {
		b.Fatal(err)
	}
	return &pb.StartRequest{Guest: g, Xml: rsp.GetXml(), Id: int32(i)}
}

func BenchmarkStartStop(b *testing.B) {
	d := driver.New(faketest.NewCore(b))
	req := request(b, d, 1)
	for b.Loop() {
		if _, err := d.Start(context.Background(), req); err != nil {
			b.Fatal(err)
		}
		if _, err := d.Stop(context.Background(), &pb.StopRequest{Guest: req.GetGuest()}); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkManyGuests starts and recovers 10,000 guests, and tells how much memory each keeps.
func BenchmarkManyGuests(b *testing.B) {
	ctx := context.Background()
	core := faketest.NewCore(b)
	d := driver.New(core)
	requests := make([]*pb.StartRequest, many)
	for i := range requests {
		requests[i] = request(b, d, i)
	}
	for _, req := range requests {
		if _, err := d.Start(ctx, req); err != nil {
			b.Fatal(err)
		}
	}
	if err := d.Close(ctx); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		before := heap()
		again := driver.New(core)
		for _, req := range requests {
			rsp, err := again.Recover(ctx, &pb.RecoverRequest{Guest: req.GetGuest(), Xml: req.GetXml(), Id: req.GetId()})
			if err != nil || rsp.GetVerdict() != pb.Verdict_VERDICT_RUNNING {
				b.Fatalf("recover: %v, %v", rsp, err)
			}
		}
		b.ReportMetric(float64(heap()-before)/many, "B/guest")
		if err := again.Close(ctx); err != nil {
			b.Fatal(err)
		}
	}
}

func heap() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}
