package inventory_test

import (
	"testing"
	"time"

	"github.com/lodgevirt/lodge/plugins/esx/internal/vimtest"
)

// BenchmarkMirror measures a mirror of 1,000 machines: the first reading, and how long a change takes from the end of the
// call that makes it to its being told. The simulator needs about 20 s to make the machines.
func BenchmarkMirror(b *testing.B) {
	const machines = 1000
	s := vimtest.Start(b, vimtest.Options{Machines: machines})
	s.Create("new")
	b.Run("sync", func(b *testing.B) {
		for b.Loop() {
			r := startOn(b, s).synced()
			if n := len(r.mirror.Snapshot().All()); n != machines+1 {
				b.Fatalf("%d machines are mirrored", n)
			}
			r.mirror.Close()
		}
	})
	b.Run("change", func(b *testing.B) {
		r := startOn(b, s).synced()
		var total time.Duration
		vcpus := int32(1)
		for b.Loop() {
			vcpus = 3 - vcpus
			s.Resize("new", 64, vcpus)
			begin := time.Now()
			r.expect("changed new 0/1")
			total += time.Since(begin)
		}
		b.ReportMetric(float64(total.Milliseconds())/float64(b.N), "ms-to-told")
	})
	b.Run("snapshot", func(b *testing.B) {
		r := startOn(b, s).synced()
		name := r.mirror.Snapshot().All()[500].Name
		b.ResetTimer()
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				if _, ok := r.mirror.Snapshot().Name(name); !ok {
					b.Error("the machine is not found")
				}
			}
		})
	})
}
