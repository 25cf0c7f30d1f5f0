package driver

import (
	"os"
	"sync"
	"testing"

	"github.com/google/uuid"

	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/hypervisor/v1"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// The driver was restarted and nobody has recovered the life that goes on.
func TestStartBesideAnotherLifeIsRefused(t *testing.T) {
	for name, forget := range map[string]func(*rig){
		"known by its folder":        func(*rig) {},
		"known by its control group": func(r *rig) { r.forget() },
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, "")
			handle := r.start(true).GetHandle()
			r.restart()
			forget(r)
			r.generation(4)
			if _, err := r.driver.Start(t.Context(), r.startRequest(true)); !verr.Is(err, verr.OperationInvalid) {
				t.Errorf("error is %v", err)
			}
			r.generation(3)
			if _, err := r.driver.Stop(t.Context(), &pb.StopRequest{Guest: r.guest, Handle: handle}); err != nil {
				t.Error(err)
			}
			r.generation(4)
			r.start(true)
			r.stop()
		})
	}
}

// generation lets the rig go on with another life of its guest.
func (r *rig) generation(n uint64) {
	g := r.guest
	r.guest = &pb.Guest{Connection: g.GetConnection(), Uuid: g.GetUuid(), Name: g.GetName(), Generation: n}
}

// forget removes the folder of the guest's life, as a careless person does.
func (r *rig) forget() {
	r.t.Helper()
	l, err := r.driver.newLife(r.guest, "")
	if err != nil {
		r.t.Fatal(err)
	}
	if l.cgroup == "" {
		r.t.Skip("no control groups")
	}
	if err := os.RemoveAll(string(l.folder)); err != nil {
		r.t.Fatal(err)
	}
}

func TestStopOfAnotherLifeIsRefused(t *testing.T) {
	for name, prepare := range map[string]func(*rig){
		"with the other in charge":    func(*rig) {},
		"with nobody in charge of it": (*rig).restart,
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, "")
			r.start(true)
			prepare(r)
			r.generation(4)
			if resp, err := r.driver.Stop(t.Context(), &pb.StopRequest{Guest: r.guest}); !verr.Is(err, verr.OperationInvalid) {
				t.Errorf("answer is %v, %v", resp, err)
			}
			r.generation(3)
			if v := r.recover(nil).GetVerdict(); v != pb.Verdict_VERDICT_RUNNING {
				t.Errorf("verdict is %v", v)
			}
			r.stop()
		})
	}
}

// After a reboot of the host every guest is looked for at once.
func TestCrowdThatIsGoneIsRecoveredAtOnce(t *testing.T) {
	r := newRig(t, "")
	var wg sync.WaitGroup
	for range 1000 {
		wg.Go(func() {
			ref := &pb.Guest{Connection: "system", Uuid: uuid.NewString(), Name: "guest", Generation: 1}
			handle := &pb.Handle{Version: handleVersion, Pid: 1, StartTime: 1, Cgroup: "lodge-test/" + cgroupName(ref)}
			resp, err := r.driver.Recover(t.Context(), &pb.RecoverRequest{Guest: ref, Handle: handle, Xml: r.xml, Id: 7})
			if err != nil || resp.GetVerdict() != pb.Verdict_VERDICT_GONE {
				t.Errorf("verdict is %v, %v", resp.GetVerdict(), err)
			}
		})
	}
	wg.Wait()
}
