package driver

import (
	"context"
	"testing"

	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/hypervisor/v1"
	lockv1 "github.com/lodgevirt/lodge/sdk/proto/lodge/lock/v1"
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

// BenchmarkStartClaimed is BenchmarkStartPaused of a guest whose process registers itself and is claimed.
func BenchmarkStartClaimed(b *testing.B) {
	r, locks := newRig(b, ""), lockSocket(b)
	r.core.SetClaimer(func(context.Context, *pb.Guest, int32, uint64) error { return nil })
	for b.Loop() {
		req := r.startRequest(true)
		req.Resolved.Claim, req.Resolved.Registrations = true, []*lockv1.Registration{{Socket: locks}}
		if _, err := r.driver.Start(b.Context(), req); err != nil {
			b.Fatal(err)
		}
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

// BenchmarkValidate is the driver's part of defining a guest with some devices.
func BenchmarkValidate(b *testing.B) {
	r := newRig(b, `<disk type='file' device='disk'><source file='/disk.img'/><target dev='vda' bus='virtio'/></disk>
		<interface type='user'><model type='virtio'/></interface><serial type='pty'/><console type='pty'/><video><model type='vga'/></video>`)
	req := &pb.ValidateRequest{Connection: "system", Xml: r.xml}
	for b.Loop() {
		if _, err := r.driver.Validate(b.Context(), req); err != nil {
			b.Fatal(err)
		}
	}
}
