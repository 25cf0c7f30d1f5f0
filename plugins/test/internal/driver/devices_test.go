package driver_test

import (
	"strings"
	"testing"

	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/hypervisor/v1"
	"github.com/lodgevirt/lodge/sdk/verr"
)

const second = "<disk type='file' device='disk'><source file='/images/b'/><target dev='vdb' bus='virtio'/></disk>"

func (s *scene) attach(live string) (*pb.AttachDeviceResponse, error) {
	return s.driver.AttachDevice(s.ctx(), &pb.AttachDeviceRequest{Guest: s.guest, DeviceXml: second, LiveXml: live})
}

func (s *scene) detach(live string) (*pb.DetachDeviceResponse, error) {
	return s.driver.DetachDevice(s.ctx(), &pb.DetachDeviceRequest{Guest: s.guest, DeviceXml: second, LiveXml: live})
}

// recovered is the live definition that Recover returns to a core that knows the one of the start.
func (s *scene) recovered(live string) string {
	s.Helper()
	rsp, err := s.driver.Recover(s.ctx(), &pb.RecoverRequest{Guest: s.guest, Handle: s.handle, Xml: live, Id: 7})
	if err != nil {
		s.Fatal(err)
	}
	return rsp.GetLiveXml()
}

func TestFaultsOfDevices(t *testing.T) {
	s := newScene(t, `<lodge:fail point='attach' action='1*error(1:before)->off'/><lodge:fail point='attach.done' action='1*error(1:after)->off'/>
		<lodge:fail point='detach' action='1*error(1:before)->off'/><lodge:fail point='detach.done' action='1*error(1:after)->off'/>`)
	live := s.started().GetLiveXml()
	for _, words := range []string{"before", "after"} {
		if _, err := s.attach(live); err == nil || !strings.Contains(err.Error(), words) {
			t.Errorf("attach: %v, want %s", err, words)
		}
		if strings.Contains(s.recovered(live), "vdb") {
			t.Errorf("the device of an attach that failed %s is there", words)
		}
	}
	rsp, err := s.attach(live)
	if err != nil || s.recovered(live) != rsp.GetLiveXml() {
		t.Fatalf("attach: %v, %v", rsp, err)
	}
	if _, err := s.detach(live); err == nil || !strings.Contains(err.Error(), "before") || !strings.Contains(s.recovered(live), "vdb") {
		t.Errorf("detach that fails before it does anything: %v", err)
	}
	if _, err := s.detach(live); err == nil || !strings.Contains(err.Error(), "after") || strings.Contains(s.recovered(live), "vdb") {
		t.Errorf("detach whose answer is an error: %v", err)
	}
}

func TestGuestsThatTakeTheirTimeOrRefuse(t *testing.T) {
	s := newScene(t, `<lodge:fail point='unplug.refused' action='1*error(no)->off'/><lodge:fail point='unplug.slow' action='1*error(later)->off'/>`)
	live := s.started().GetLiveXml()
	attached, err := s.attach(live)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.detach(live); !verr.Is(err, verr.OperationFailed) {
		t.Errorf("detach that the guest refuses: %v", err)
	}
	if e := s.core.WaitEvents(t, 1)[0].GetChange().GetEvents()[0].GetDeviceRemovalFailed(); e.GetAlias() != "disk0" {
		t.Errorf("told of %v", e)
	}
	rsp, err := s.detach(live)
	if err != nil || rsp.GetGone() || s.recovered(live) != attached.GetLiveXml() {
		t.Errorf("detach that takes its time: %v, %v", rsp, err)
	}
	last := s.core.WaitEvents(t, 2)[1]
	if e := last.GetChange().GetEvents()[0].GetDeviceRemoved(); e.GetAlias() != "disk0" || strings.Contains(last.GetLiveXml(), "vdb") {
		t.Errorf("told of %v", last)
	}
}

func TestUpdatesOfDevices(t *testing.T) {
	s := newScene(t, "")
	s.xml = s.validate(strings.Replace(s.xml, "<devices>", `<devices><disk type='file' device='cdrom'><source file='/a.iso'/><target dev='hdc'/></disk>
		<disk type='file'><source file='/a.img'/><target dev='vda'/></disk><interface type='user'><mac address='52:54:00:00:00:01'/></interface>`, 1))
	live := s.started().GetLiveXml()
	for name, c := range map[string]struct {
		device, want string
		code         verr.Code
	}{
		"a medium":           {"<disk type='file' device='cdrom'><source file='/b.iso'/><target dev='hdc'/></disk>", "/b.iso", 0},
		"a link":             {"<interface type='user'><mac address='52:54:00:00:00:01'/><link state='down'/></interface>", "<link state='down'/>", 0},
		"an image":           {"<disk type='file'><source file='/b.img'/><target dev='vda'/></disk>", "", verr.OperationUnsupported},
		"a bus":              {"<disk type='file' device='cdrom'><target dev='hdc' bus='scsi'/></disk>", "", verr.OperationUnsupported},
		"a serial port":      {"<serial type='pty'><target port='0'/></serial>", "", verr.OperationUnsupported},
		"what is not there":  {"<disk type='file'><target dev='vdz'/></disk>", "", verr.DeviceMissing},
		"what is no device":  {"<fish/>", "", verr.ConfigUnsupported},
		"the same as before": {"<disk type='file'><source file='/a.img'/><target dev='vda'/></disk>", "/a.img", 0},
	} {
		rsp, err := s.driver.UpdateDevice(s.ctx(), &pb.UpdateDeviceRequest{Guest: s.guest, DeviceXml: c.device, LiveXml: live})
		if c.code != 0 {
			if err == nil || verr.From(err).Code != c.code {
				t.Errorf("%s: error %v, want code %d", name, err, c.code)
			}
			continue
		}
		if err != nil || !strings.Contains(rsp.GetLiveXml(), c.want) || !strings.Contains(rsp.GetDeviceXml(), c.want) {
			t.Errorf("%s: %v, %v", name, rsp, err)
		}
	}
}
