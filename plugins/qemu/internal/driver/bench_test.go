package driver

import (
	"testing"

	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/hypervisor/v1"
)

// BenchmarkStartPaused and BenchmarkStop are the driver's part of starting a guest of 16 MiB and of destroying it.
func BenchmarkStartPaused(b *testing.B) {
	r := newRig(b, "")
	for b.Loop() {
		r.start(true)
		b.StopTimer()
		r.stop()
		b.StartTimer()
	}
}

func BenchmarkStop(b *testing.B) {
	r := newRig(b, "")
	for b.Loop() {
		b.StopTimer()
		r.start(true)
		b.StartTimer()
		if _, err := r.driver.Stop(b.Context(), &pb.StopRequest{Guest: r.guest}); err != nil {
			b.Fatal(err)
		}
	}
}
