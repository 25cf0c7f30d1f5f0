package driver_test

import (
	"context"
	"fmt"
	"image/png"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/lodgevirt/lodge/plugins/test/internal/driver"
	"github.com/lodgevirt/lodge/plugins/test/internal/fault"
	"github.com/lodgevirt/lodge/sdk/faketest"
	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/hypervisor/v1"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// scene is a driver and one guest of it.
type scene struct {
	testing.TB
	core   *faketest.Core
	driver *driver.Driver
	guest  *pb.Guest
	xml    string
	handle *pb.Handle
}

// newScene defines a guest with faults in its definition.
func newScene(t testing.TB, faults string) *scene {
	t.Helper()
	core := faketest.NewCore(t)
	s := &scene{TB: t, core: core, driver: driver.New(core)}
	t.Cleanup(func() { _ = s.driver.Close(context.Background()) })
	s.guest = &pb.Guest{Connection: "default", Uuid: uuid.NewString(), Name: "guest", Generation: 1}
	s.xml = s.validate(strings.Replace(definition("guest", s.guest.Uuid), "<memory>", "<metadata><lodge:test xmlns:lodge='"+
		fault.Namespace+"'>"+faults+"</lodge:test></metadata><memory>", 1))
	return s
}

func (s *scene) validate(xml string) string {
	s.Helper()
	rsp, err := s.driver.Validate(s.ctx(), &pb.ValidateRequest{Connection: "default", Xml: xml})
	if err != nil {
		s.Fatal(err)
	}
	return rsp.GetXml()
}

func (s *scene) ctx() context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	s.Cleanup(cancel)
	return ctx
}

func (s *scene) start(ctx context.Context) (*pb.StartResponse, error) {
	rsp, err := s.driver.Start(ctx, &pb.StartRequest{Guest: s.guest, Xml: s.xml, Id: 7})
	s.handle = rsp.GetHandle()
	return rsp, err
}

func (s *scene) started() *pb.StartResponse {
	s.Helper()
	rsp, err := s.start(s.ctx())
	if err != nil {
		s.Fatal(err)
	}
	return rsp
}

func (s *scene) state() pb.State {
	s.Helper()
	rsp, err := s.driver.Inspect(s.ctx(), &pb.InspectRequest{Guest: s.guest, Handle: s.handle})
	if err != nil {
		s.Fatal(err)
	}
	return rsp.GetState()
}

// shown is a change as text: the state and reason, then event and detail of each lifecycle event.
func shown(c *pb.Change) string {
	text := fmt.Sprintf("%d/%d", c.GetState(), c.GetReason())
	for _, e := range c.GetEvents() {
		if l := e.GetLifecycle(); l != nil {
			text += fmt.Sprintf(" %d/%d", l.GetEvent(), l.GetDetail())
		}
		if e.GetReboot() != nil {
			text += " reboot"
		}
	}
	return text
}

// TestChangesAreThoseOfLibvirt holds the states, reasons and events against those that libvirt's own test driver was seen to give.
func TestChangesAreThoseOfLibvirt(t *testing.T) {
	s := newScene(t, "")
	suspend := func() (*pb.Change, error) {
		rsp, err := s.driver.Suspend(s.ctx(), &pb.SuspendRequest{Guest: s.guest})
		return rsp.GetChange(), err
	}
	for _, step := range []struct {
		name string
		do   func() (*pb.Change, error)
		want string
	}{
		{"start", func() (*pb.Change, error) { rsp, err := s.start(s.ctx()); return rsp.GetChange(), err }, "1/1 2/0"},
		{"suspend", suspend, "3/1 3/0"},
		{"reset a paused guest", func() (*pb.Change, error) {
			rsp, err := s.driver.Reset(s.ctx(), &pb.ResetRequest{Guest: s.guest})
			return rsp.GetChange(), err
		}, "3/1"},
		{"resume", func() (*pb.Change, error) {
			rsp, err := s.driver.Resume(s.ctx(), &pb.ResumeRequest{Guest: s.guest})
			return rsp.GetChange(), err
		}, "1/5 4/0"},
		{"suspend again", suspend, "3/1 3/0"},
		{"reboot a paused guest", func() (*pb.Change, error) {
			rsp, err := s.driver.Reboot(s.ctx(), &pb.RebootRequest{Guest: s.guest})
			return rsp.GetChange(), err
		}, "1/1"},
		{"shutdown", func() (*pb.Change, error) {
			rsp, err := s.driver.Shutdown(s.ctx(), &pb.ShutdownRequest{Guest: s.guest})
			return rsp.GetChange(), err
		}, "5/1 5/0"},
		{"start again", func() (*pb.Change, error) { rsp, err := s.start(s.ctx()); return rsp.GetChange(), err }, "1/1 2/0"},
		{"destroy", func() (*pb.Change, error) {
			rsp, err := s.driver.Stop(s.ctx(), &pb.StopRequest{Guest: s.guest})
			return rsp.GetChange(), err
		}, "5/2 5/1"},
	} {
		change, err := step.do()
		if err != nil || shown(change) != step.want {
			t.Fatalf("%s: got %q, %v, want %q", step.name, shown(change), err, step.want)
		}
		if got := s.state(); got != change.GetState() {
			t.Errorf("%s: the guest is %v, the change said %v", step.name, got, change.GetState())
		}
	}
}

func TestActionsDecideWhatFollowsPoweroffAndReboot(t *testing.T) {
	for _, c := range []struct{ poweroff, reboot, afterShutdown, afterReboot string }{
		{"destroy", "restart", "5/1 5/0", "1/1"},
		{"restart", "destroy", "1/1", "5/1 5/0"},
		{"preserve", "preserve", "5/1 5/0", "5/1 5/0"},
	} {
		s := newScene(t, "")
		s.xml = strings.NewReplacer("<on_poweroff>destroy", "<on_poweroff>"+c.poweroff, "<on_reboot>restart", "<on_reboot>"+c.reboot).
			Replace(s.xml)
		s.started()
		rsp, err := s.driver.Reboot(s.ctx(), &pb.RebootRequest{Guest: s.guest})
		if err != nil || shown(rsp.GetChange()) != c.afterReboot {
			t.Errorf("on_reboot %s: got %q, %v", c.reboot, shown(rsp.GetChange()), err)
		}
		if s.state() == pb.State_STATE_SHUTOFF {
			s.started()
		}
		down, err := s.driver.Shutdown(s.ctx(), &pb.ShutdownRequest{Guest: s.guest})
		if err != nil || shown(down.GetChange()) != c.afterShutdown {
			t.Errorf("on_poweroff %s: got %q, %v", c.poweroff, shown(down.GetChange()), err)
		}
	}
}

func TestLiveDefinitionHasTheID(t *testing.T) {
	s := newScene(t, "")
	rsp := s.started()
	if want := strings.Replace(s.xml, "<domain type='test'", "<domain type='test' id='7'", 1); rsp.GetLiveXml() != want {
		t.Errorf("got\n%s", rsp.GetLiveXml())
	}
	rec, err := s.driver.Recover(s.ctx(), &pb.RecoverRequest{Guest: s.guest, Xml: rsp.GetLiveXml(), Id: 7})
	if err != nil || rec.GetLiveXml() != rsp.GetLiveXml() {
		t.Errorf("recovered as %v\n%s", err, rec.GetLiveXml())
	}
	if got := shown(rec.GetChange()); got != "1/1 2/0" {
		t.Errorf("a core that never saw the answer to its start is told %q", got)
	}
}

func TestFaultsOfTheDefinition(t *testing.T) {
	t.Run("the first start fails", func(t *testing.T) {
		s := newScene(t, "<lodge:fail point='start' action='1*error(55:not today)->off'/>")
		if _, err := s.start(s.ctx()); !verr.Is(err, verr.OperationInvalid) || err.Error() != "not today" {
			t.Errorf("got %v", err)
		}
		s.started()
	})
	t.Run("a start that fails at the end leaves nothing", func(t *testing.T) {
		s := newScene(t, "<lodge:fail point='start.done' action='1*error(1:broken)->off'/>")
		if _, err := s.start(s.ctx()); !verr.Is(err, verr.Internal) {
			t.Errorf("got %v", err)
		}
		if got := s.state(); got != pb.State_STATE_SHUTOFF {
			t.Errorf("the guest is %v", got)
		}
	})
	t.Run("a start that panics at the end leaves nothing", func(t *testing.T) {
		s := newScene(t, "<lodge:fail point='start.done' action='panic(now)'/>")
		func() {
			defer func() {
				if recover() == nil {
					t.Error("nothing panicked")
				}
			}()
			_, _ = s.start(s.ctx())
		}()
		if got := s.state(); got != pb.State_STATE_SHUTOFF {
			t.Errorf("the guest is %v", got)
		}
	})
	t.Run("validation fails", func(t *testing.T) {
		s := newScene(t, "<lodge:fail point='validate' action='1*off->error(67:no)'/>")
		_, err := s.driver.Validate(s.ctx(), &pb.ValidateRequest{Xml: s.xml})
		if !verr.Is(err, verr.ConfigUnsupported) {
			t.Errorf("got %v", err)
		}
	})
}

func TestStopBreaksIntoCallsThatHang(t *testing.T) {
	t.Run("a start", func(t *testing.T) {
		for _, point := range []string{"start", "start.done"} {
			s := newScene(t, "<lodge:fail point='"+point+"' action='hang'/>")
			failed := make(chan error)
			go func() {
				_, err := s.driver.Start(s.ctx(), &pb.StartRequest{Guest: s.guest, Xml: s.xml, Id: 7})
				failed <- err
			}()
			if err := s.stopUntil(failed); !verr.Is(err, verr.OperationAborted) {
				t.Errorf("%s: start returned %v", point, err)
			}
			if got := s.state(); got != pb.State_STATE_SHUTOFF {
				t.Errorf("the guest is %v", got)
			}
		}
	})
	t.Run("a suspend", func(t *testing.T) {
		s := newScene(t, "<lodge:fail point='suspend' action='hang'/>")
		s.started()
		failed := make(chan error)
		go func() {
			_, err := s.driver.Suspend(s.ctx(), &pb.SuspendRequest{Guest: s.guest})
			failed <- err
		}()
		if _, err := s.driver.Stop(s.ctx(), &pb.StopRequest{Guest: s.guest}); err != nil {
			t.Errorf("stop: %v", err)
		}
		if err := <-failed; !verr.Is(err, verr.OperationInvalid) {
			t.Errorf("suspend returned %v", err)
		}
	})
}

// stopUntil stops the guest until another call has returned, which may not even have begun at the first time.
func (s *scene) stopUntil(returned <-chan error) error {
	s.Helper()
	for {
		if _, err := s.driver.Stop(s.ctx(), &pb.StopRequest{Guest: s.guest}); err != nil {
			s.Fatal(err)
		}
		select {
		case err := <-returned:
			return err
		case <-time.After(time.Millisecond):
		}
	}
}

func TestFaultsOfTheConfiguration(t *testing.T) {
	s := newScene(t, "")
	settings := s.core.Settings()
	settings.Config = []byte(`{"faults":"start=1*error(55:no)->off"}`)
	if err := s.driver.Configure(s.ctx(), settings); err != nil {
		t.Fatal(err)
	}
	if _, err := s.start(s.ctx()); !verr.Is(err, verr.OperationInvalid) {
		t.Errorf("got %v", err)
	}
	s.started()
	settings.Config = []byte(`{"faults":"start=explode"}`)
	if err := s.driver.Configure(s.ctx(), settings); !verr.Is(err, verr.ConfigUnsupported) {
		t.Errorf("an unknown action: %v", err)
	}
}

func TestGuestsActByThemselves(t *testing.T) {
	for does, want := range map[string]string{"shutdown": "5/1 5/0", "crash": "5/3 5/2", "reboot": "0/0 reboot"} {
		t.Run(does, func(t *testing.T) {
			s := newScene(t, "<lodge:guest does='"+does+"' after='1'/>")
			s.started()
			e := s.core.WaitEvents(t, 1)[0]
			if shown(e.GetChange()) != want || e.GetGuest().GetUuid() != s.guest.Uuid {
				t.Errorf("got %v, want %q", e, want)
			}
			if off := s.state() == pb.State_STATE_SHUTOFF; off != (does != "reboot") {
				t.Errorf("the guest is %v", s.state())
			}
		})
	}
}

func TestScreenshotIsAPicture(t *testing.T) {
	s := newScene(t, "")
	s.started()
	mime, picture, err := s.driver.Screenshot(s.ctx(), &pb.ScreenshotRequest{Guest: s.guest})
	if err != nil || mime != "image/png" {
		t.Fatalf("got %q, %v", mime, err)
	}
	if _, err := png.Decode(picture); err != nil {
		t.Error(err)
	}
	if _, _, err := s.driver.Screenshot(s.ctx(), &pb.ScreenshotRequest{Guest: s.guest, Screen: 1}); !verr.Is(err, verr.InvalidArg) {
		t.Errorf("a second screen: %v", err)
	}
}

func TestStatisticsHaveLibvirtsNames(t *testing.T) {
	s := newScene(t, "")
	s.xml = s.validate(strings.Replace(definition("guest", s.guest.Uuid), "<devices>",
		"<devices><disk type='file'><source file='/x'/><target dev='vda'/></disk><interface type='user'/>", 1))
	s.started()
	for group, want := range map[pb.StatsGroup]string{
		pb.StatsGroup_STATS_GROUP_CPU_TOTAL: "cpu.time cpu.user cpu.system",
		pb.StatsGroup_STATS_GROUP_BALLOON:   "balloon.current balloon.maximum",
		pb.StatsGroup_STATS_GROUP_VCPU:      "vcpu.current vcpu.maximum vcpu.0.state vcpu.0.time",
		pb.StatsGroup_STATS_GROUP_INTERFACE: "net.count net.0.name net.0.rx.bytes",
		pb.StatsGroup_STATS_GROUP_BLOCK:     "block.count block.0.name block.0.path block.0.rd.reqs",
		pb.StatsGroup_STATS_GROUP_STATE:     "",
	} {
		stats, err := s.driver.GuestStats(s.ctx(), &pb.GuestHandle{Guest: s.guest}, uint32(group))
		if err != nil {
			t.Fatal(err)
		}
		var names []string
		for _, stat := range stats {
			names = append(names, stat.GetName())
		}
		if got := strings.Join(names, " "); !strings.HasPrefix(got, want) || want == "" && got != "" {
			t.Errorf("%v: got %q, want %q", group, got, want)
		}
	}
}
