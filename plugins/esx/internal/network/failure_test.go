package network_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/lodgevirt/lodge/plugins/esx/internal/vimtest"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// trouble hooks into the changes of a host's network.
type trouble struct {
	mu    sync.Mutex
	calls []string
	// at names the call at which do happens, once unless always is set.
	at     string
	always bool
	do     func() types.BaseMethodFault
}

func (x *trouble) hook(method, name string) types.BaseMethodFault {
	x.mu.Lock()
	defer x.mu.Unlock()
	what := method + " " + name
	x.calls = append(x.calls, what)
	if x.at != what || x.do == nil {
		return nil
	}
	do := x.do
	if !x.always {
		x.do = nil
	}
	return do()
}

func (x *trouble) list() []string {
	x.mu.Lock()
	defer x.mu.Unlock()
	return slices.Clone(x.calls)
}

const (
	// before has a port group to change, one to stay and one to go; after has one more.
	before = `<network><name>lab</name><bandwidth><inbound average='8'/><outbound average='8'/></bandwidth>` +
		`<portgroup name='change'/><portgroup name='stay'/><portgroup name='go'/></network>`
	after = `<network><name>lab</name><forward mode='bridge'><interface dev='vmnic1'/></forward>` +
		`<portgroup name='change'><vlan><tag id='9'/></vlan></portgroup><portgroup name='stay'/><portgroup name='come'/></network>`
)

// makings and edits are the calls of a definition that makes and of one that changes.
var (
	makings = []string{"AddVirtualSwitch lab", "AddPortGroup change", "AddPortGroup stay", "AddPortGroup go"}
	edits   = []string{"UpdateVirtualSwitch lab", "UpdatePortGroup change", "AddPortGroup come", "RemovePortGroup go"}
)

func TestStepsAreTheOnesThatAreSpoiledBelow(t *testing.T) {
	r, x := start(t, vimtest.Options{}), &trouble{}
	r.OnNetworkChange(x.hook)
	r.mustDefine(before)
	r.mustDefine(after)
	if diff := cmp.Diff(append(slices.Clone(makings), edits...), x.list()); diff != "" {
		t.Error(diff)
	}
}

// scene is a definition that goes wrong: one that makes a network, or one that changes one.
type scene struct {
	at   string
	xml  string
	edit bool
}

func scenes() (all []scene) {
	for _, at := range makings {
		all = append(all, scene{at: at, xml: before})
	}
	for _, at := range edits {
		all = append(all, scene{at: at, xml: after, edit: true})
	}
	return all
}

func (s scene) start(t *testing.T) *rig {
	r := start(t, vimtest.Options{})
	if s.edit {
		r.mustDefine(before)
	}
	return r
}

func TestFaultOfEachStepTakesBackWhatWasDone(t *testing.T) {
	for name, c := range map[string]struct {
		fault types.BaseMethodFault
		code  verr.Code
	}{
		"AlreadyExists":   {&types.AlreadyExists{Name: "x"}, verr.OperationFailed},
		"ResourceInUse":   {&types.ResourceInUse{Name: "x"}, verr.ResourceBusy},
		"InvalidArgument": {&types.InvalidArgument{}, verr.InvalidArg},
		"NotFound":        {&types.NotFound{}, verr.OperationFailed},
		"HostConfigFault": {&types.HostConfigFault{}, verr.Internal},
		"NoPermission":    {&types.NoPermission{}, verr.AccessDenied},
	} {
		for i, s := range scenes() {
			if i != 1 && c.code != verr.Internal {
				continue // the kind of fault only changes what is said
			}
			t.Run(name+" of "+s.at, func(t *testing.T) {
				r := s.start(t)
				truth := r.truth()
				x := &trouble{at: s.at, do: func() types.BaseMethodFault { return c.fault }}
				r.OnNetworkChange(x.hook)
				_, err := r.define(s.xml)
				refused(t, err, c.code, strings.Fields(s.at)[1])
				if strings.Contains(err.Error(), "taken back") {
					t.Errorf("error is %v", err)
				}
				if diff := cmp.Diff(truth, r.truth()); diff != "" {
					t.Error(diff)
				}
			})
		}
	}
}

// TestCutInEachStepTakesItBackToo loses the answer of each step, which the host takes, and lets the endpoint come back a little later.
func TestCutInEachStepTakesItBackToo(t *testing.T) {
	for _, s := range scenes() {
		t.Run(s.at, func(t *testing.T) {
			r := s.start(t)
			truth := r.truth()
			x := &trouble{at: s.at, do: func() types.BaseMethodFault {
				r.Gate.Cut()
				time.AfterFunc(300*time.Millisecond, r.Gate.Open)
				return nil
			}}
			r.OnNetworkChange(x.hook)
			_, err := r.define(s.xml)
			if err == nil || strings.Contains(err.Error(), "taken back") {
				t.Errorf("error is %v", err)
			}
			if diff := cmp.Diff(truth, r.truth()); diff != "" {
				t.Errorf("%s\ncalls: %v", diff, x.list())
			}
		})
	}
}

func TestSessionThatExpiresBetweenStepsCostsNothing(t *testing.T) {
	for _, s := range scenes() {
		t.Run(s.at, func(t *testing.T) {
			r := s.start(t)
			x := &trouble{at: s.at, do: func() types.BaseMethodFault { r.ExpireSessions(); return nil }}
			r.OnNetworkChange(x.hook)
			if o := r.mustDefine(s.xml); o.GetName() != "lab" {
				t.Errorf("network is %v", o)
			}
		})
	}
}

func TestWhatIsLeftIsNamed(t *testing.T) {
	for _, c := range []struct {
		undo  string
		scene scene
		words []string
	}{
		{"RemovePortGroup change", scene{at: "AddPortGroup stay", xml: before}, []string{`port group "change" is left`}},
		{"RemoveVirtualSwitch lab", scene{at: "AddPortGroup change", xml: before}, []string{`network "lab" is left`}},
		{"RemovePortGroup come", scene{at: "RemovePortGroup go", xml: after, edit: true}, []string{`port group "come" is left`}},
	} {
		t.Run(c.undo, func(t *testing.T) {
			r := c.scene.start(t)
			step := &trouble{at: c.scene.at, do: func() types.BaseMethodFault { return &types.HostConfigFault{} }}
			undo := &trouble{at: c.undo, always: true, do: func() types.BaseMethodFault { return &types.ResourceInUse{} }}
			r.OnNetworkChange(func(method, name string) types.BaseMethodFault {
				if fault := step.hook(method, name); fault != nil {
					return fault
				}
				return undo.hook(method, name)
			})
			_, err := r.define(c.scene.xml)
			refused(t, err, verr.Internal, append(c.words, strings.Fields(c.scene.at)[1], "HostConfigFault")...)
		})
	}
}

func TestEndpointThatIsClosedDuringAChangeLeavesNobodyWaiting(t *testing.T) {
	r := start(t, vimtest.Options{})
	closed := make(chan struct{})
	x := &trouble{at: "AddPortGroup stay", do: func() types.BaseMethodFault {
		go func() {
			defer close(closed)
			r.endpoint.Close()
		}()
		time.Sleep(100 * time.Millisecond)
		return nil
	}}
	r.OnNetworkChange(x.hook)
	begin := time.Now()
	_, err := r.define(before)
	<-closed
	refused(t, err, verr.OperationAborted, `network "lab" is left`, `port group "change" is left`, `port group "stay" is left`)
	t.Logf("it ended after %v: %v", time.Since(begin), err)
}

func TestUndefineWhoseAnswerIsLostFindsOut(t *testing.T) {
	for name, c := range map[string]struct {
		done bool
		do   func(r *rig) types.BaseMethodFault
	}{
		"it was done": {true, func(r *rig) types.BaseMethodFault { r.Gate.Cut(); return nil }},
		"it was not":  {false, func(r *rig) types.BaseMethodFault { r.Gate.Cut(); return &types.ResourceInUse{} }},
	} {
		t.Run(name, func(t *testing.T) {
			r := start(t, vimtest.Options{})
			o := r.mustDefine(before)
			x := &trouble{at: "RemoveVirtualSwitch lab", do: func() types.BaseMethodFault {
				time.AfterFunc(300*time.Millisecond, r.Gate.Open)
				return c.do(r)
			}}
			r.OnNetworkChange(x.hook)
			err := r.undefine(o.GetUuid())
			if c.done != (err == nil) || err != nil && !strings.Contains(err.Error(), "still there") {
				t.Errorf("error is %v", err)
			}
			if gone := !strings.Contains(r.truth(), "lab"); gone != c.done {
				t.Errorf("host has %s", r.truth())
			}
		})
	}
}

func TestUndefineThatTheHostRefuses(t *testing.T) {
	r := start(t, vimtest.Options{})
	o := r.mustDefine(before)
	truth := r.truth()
	x := &trouble{at: "RemoveVirtualSwitch lab", do: func() types.BaseMethodFault { return &types.ResourceInUse{Name: "lab"} }}
	r.OnNetworkChange(x.hook)
	refused(t, r.undefine(o.GetUuid()), verr.ResourceBusy, "lab", "ResourceInUse")
	if diff := cmp.Diff(truth, r.truth()); diff != "" {
		t.Error(diff)
	}
}

func TestEndpointThatIsAwayEndsAChangeInTime(t *testing.T) {
	r := start(t, vimtest.Options{})
	r.Gate.Hang()
	defer r.Gate.Open()
	ctx, cancel := context.WithTimeout(context.Background(), 500*time.Millisecond)
	defer cancel()
	begin := time.Now()
	_, _, err := r.networks.DefineNetwork(ctx, before)
	refused(t, err, verr.OperationTimeout)
	if took := time.Since(begin); took > slack {
		t.Errorf("it took %v", took)
	}
}

func TestChangesTakeTurns(t *testing.T) {
	r := start(t, vimtest.Options{})
	const each = 8
	errs := make(chan error, 2*each)
	for i := range each {
		go func() {
			_, err := r.define(fmt.Sprintf(`<network><name>net%d</name><portgroup name='group%d'/></network>`, i, i))
			errs <- err
		}()
		go func() {
			_, err := r.define(fmt.Sprintf(`<network><name>shared</name><portgroup name='turn%d'/></network>`, i))
			errs <- err
		}()
	}
	for range 2 * each {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
	if names := r.names(); len(names) != each+2 {
		t.Errorf("networks are %v", names)
	}
	if xml := r.network("shared").GetXml(); strings.Count(xml, "<portgroup") != 1 {
		t.Errorf("network is %s", xml)
	}
}

func TestClosedNetworksSayThatTheyDoNotSee(t *testing.T) {
	r := start(t, vimtest.Options{})
	o := r.mustDefine(before)
	r.networks.Close()
	if r.network("vSwitch0") == nil {
		t.Error("the picture is gone")
	}
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
	defer cancel()
	_, _, err := r.networks.DefineNetwork(ctx, `<network><name>late</name></network>`)
	refused(t, err, verr.OperationTimeout, "late", "does not see")
	ctx, cancel = context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_, err = r.networks.UndefineNetwork(ctx, o.GetUuid())
	refused(t, err, verr.OperationTimeout, "lab", "still sees")
	if names := r.names(); !slices.Equal(names, []string{"lab", "vSwitch0"}) {
		t.Errorf("after the end the picture has %v", names)
	}
}
