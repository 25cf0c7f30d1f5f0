package driver

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/lodgevirt/lodge/plugins/qemu/internal/process"
	"github.com/lodgevirt/lodge/sdk/faketest"
	"github.com/lodgevirt/lodge/sdk/plugin"
	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/hypervisor/v1"
	lockv1 "github.com/lodgevirt/lodge/sdk/proto/lodge/lock/v1"
)

// victimOrders is the environment variable that makes TestVictim a driver that starts a guest.
const victimOrders = "LODGE_TEST_VICTIM"

type orders struct {
	Settings plugin.Settings
	Guest    *pb.Guest
	XML      string
	Started  string
	// Locks is a socket to register with before the start's locks are claimed, or empty.
	Locks string
}

// TestVictim is the driver that TestDriverKilledDuringAStart kills.
func TestVictim(t *testing.T) {
	text := os.Getenv(victimOrders)
	if text == "" {
		t.Skip("only runs as a child of TestDriverKilledDuringAStart")
	}
	var o orders
	if err := json.Unmarshal([]byte(text), &o); err != nil {
		t.Fatal(err)
	}
	core := faketest.NewCore(t)
	core.SetSettings(o.Settings)
	d, err := New(core)
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{t: t, core: core, driver: d, guest: o.Guest, xml: o.XML}
	// What QEMU can do is asked for once and would take most of the time of the first start.
	if _, err := d.Validate(t.Context(), &pb.ValidateRequest{Connection: "system", Xml: o.XML}); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(o.Started, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	req := r.startRequest(false)
	if o.Locks != "" {
		req.Resolved.Claim, req.Resolved.Registrations = true, []*lockv1.Registration{{Socket: o.Locks}}
		core.SetClaimer(func(context.Context, *pb.Guest, int32, uint64) error {
			time.Sleep(20 * time.Millisecond)
			return nil
		})
	}
	if _, err := d.Start(t.Context(), req); err != nil {
		t.Fatal(err)
	}
	select {}
}

// A driver is killed at moments that are spread over a start, which takes a tenth of a second or more. Whatever is left must be found, and
// be either a guest or nothing.
func TestDriverKilledDuringAStart(t *testing.T) {
	verdicts := map[pb.Verdict]int{}
	for i := range 14 {
		verdicts[killedAfter(t, time.Duration(i)*10*time.Millisecond, "")]++
	}
	locks := lockSocket(t)
	for i := range 14 {
		verdicts[killedAfter(t, time.Duration(i)*10*time.Millisecond, locks)]++
	}
	for v := range verdicts {
		if v != pb.Verdict_VERDICT_RUNNING && v != pb.Verdict_VERDICT_NOT_STARTED {
			t.Errorf("verdicts are %v", verdicts)
		}
	}
	t.Logf("verdicts: %v", verdicts)
}

// awaitStages waits for stages that were born without orders, because the driver was killed in that instant: they end by themselves.
func (r *rig) awaitStages() {
	r.t.Helper()
	for range 500 {
		found, err := process.Find(r.t.Context(), driverName, r.guest.GetUuid())
		if err != nil || !slices.ContainsFunc(found, func(f process.Found) bool { return f.Stage }) {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func killedAfter(t *testing.T, delay time.Duration, locks string) pb.Verdict {
	t.Helper()
	r := newRig(t, "")
	started := filepath.Join(t.TempDir(), "started")
	text, err := json.Marshal(orders{Settings: r.core.Settings(), Guest: r.guest, XML: r.xml, Started: started, Locks: locks})
	if err != nil {
		t.Fatal(err)
	}
	victim := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestVictim$")
	victim.Env = append(os.Environ(), victimOrders+"="+string(text), "TMPDIR="+t.TempDir())
	if err := victim.Start(); err != nil {
		t.Fatal(err)
	}
	for {
		if _, err := os.Stat(started); err == nil {
			break
		} else if !errors.Is(err, os.ErrNotExist) {
			t.Fatal(err)
		}
		time.Sleep(time.Millisecond)
	}
	time.Sleep(delay)
	if err := victim.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = victim.Wait() // it was killed
	resp := r.recover(nil)
	if resp.GetVerdict() == pb.Verdict_VERDICT_RUNNING {
		if resp.GetChange().GetState() != pb.State_STATE_RUNNING || resp.GetLiveXml() == "" {
			t.Errorf("killed after %v: %v", delay, resp)
		}
		r.stop()
	}
	r.awaitStages()
	r.nothingLeft()
	if found, err := process.Find(t.Context(), driverName, r.guest.GetUuid()); err != nil || len(found) != 0 {
		t.Errorf("killed after %v: left %v, %v", delay, found, err)
	}
	return resp.GetVerdict()
}
