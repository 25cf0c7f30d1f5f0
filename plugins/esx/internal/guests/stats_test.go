package guests

import (
	"testing"
	"time"

	"github.com/vmware/govmomi/vim25/types"

	"github.com/lodgevirt/lodge/plugins/esx/internal/inventory"
)

func TestCPUTimeNeverGoesBackWithinALife(t *testing.T) {
	m := newMeter(nil)
	vm := inventory.VM{Ref: types.ManagedObjectReference{Value: "1"}, Boot: 1}
	now := time.Now()
	for _, step := range []struct {
		after  time.Duration
		boot   int64
		mhz    int32
		uptime int32
		want   time.Duration
	}{
		{0, 1, 1000, 10, 5 * time.Second},
		{10 * time.Second, 1, 2000, 20, 15 * time.Second},
		{10 * time.Second, 1, 0, 30, 15 * time.Second},
		{-time.Hour, 1, 2000, 40, 15 * time.Second},
		{time.Hour, 2, 2000, 1, time.Second},
	} {
		now = now.Add(step.after)
		vm.Boot = step.boot
		quick := types.VirtualMachineQuickStats{OverallCpuUsage: step.mhz, UptimeSeconds: step.uptime}
		if got := m.estimate(vm, quick, 2000, now); got != step.want {
			t.Errorf("after %v with %d MHz: %v, want %v", step.after, step.mhz, got, step.want)
		}
	}
}
