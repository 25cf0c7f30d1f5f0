package driver_test

import (
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/lodgevirt/lodge/sdk/fdpass"
	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/hypervisor/v1"
)

// cpuTime is how long the guest has run so far, in nanoseconds.
func (s *scene) cpuTime() uint64 {
	s.Helper()
	stats, err := s.driver.GuestStats(s.ctx(), &pb.GuestHandle{Guest: s.guest, Handle: s.handle}, uint32(pb.StatsGroup_STATS_GROUP_CPU_TOTAL))
	if err != nil {
		s.Fatal(err)
	}
	for _, st := range stats {
		if st.Name == "cpu.time" {
			return st.GetUllong()
		}
	}
	s.Fatalf("no cpu.time in %v", stats)
	return 0
}

// pass opens a file for the driver and returns the token to name it by.
func (s *scene) pass(path string, mode int, n byte) []byte {
	s.Helper()
	file, err := os.OpenFile(path, mode, 0o600)
	if err != nil {
		s.Fatal(err)
	}
	token := fdpass.Token{n}
	s.core.SendFile(token, file)
	return token[:]
}

func TestRestoredGuestGoesOnWhereItStood(t *testing.T) {
	s := newScene(t, "<lodge:guest does='reboot' after='0'/>")
	s.started()
	s.core.WaitEvents(t, 1) // the reboot, which must not be repeated
	path := filepath.Join(t.TempDir(), "state")
	var told []string
	err := s.driver.Save(s.ctx(), &pb.SaveRequest{Guest: s.guest, Token: s.pass(path, os.O_CREATE|os.O_WRONLY, 1)}, func(r *pb.SaveResponse) error {
		told = append(told, string(r.ProtoReflect().WhichOneof(r.ProtoReflect().Descriptor().Oneofs().Get(0)).Name()))
		return nil
	})
	if err != nil || told[0] != "stopped" || told[len(told)-1] != "saved" {
		t.Fatalf("save tells %v, error %v", told, err)
	}
	before := s.cpuTime()
	if _, err := s.driver.Stop(s.ctx(), &pb.StopRequest{Guest: s.guest}); err != nil {
		t.Fatal(err)
	}
	s.guest.Generation++
	rsp, err := s.driver.Restore(s.ctx(), &pb.RestoreRequest{
		Start: &pb.StartRequest{Guest: s.guest, Xml: s.xml, Id: 2}, Token: s.pass(path, os.O_RDONLY, 2), Format: "record",
	}, func(*pb.SaveProgress) {})
	if err != nil {
		t.Fatal(err)
	}
	s.handle = rsp.Handle
	if after := s.cpuTime(); after != before {
		t.Errorf("the guest has run %d ns, and %d ns when it was saved", after, before)
	}
	if _, err := s.driver.Resume(s.ctx(), &pb.ResumeRequest{Guest: s.guest, Reason: 3}); err != nil {
		t.Fatal(err)
	}
	if after := s.cpuTime(); after <= before {
		t.Errorf("the guest does not go on: it has run %d ns", after)
	}
	if n := len(s.core.Events()); n != 1 {
		t.Errorf("%d events, want no more than the first reboot", n)
	}
}

func TestSaveThatLosesItsCallerLetsTheGuestGoOn(t *testing.T) {
	s := newScene(t, "")
	s.started()
	err := s.driver.Save(s.ctx(), &pb.SaveRequest{Guest: s.guest, Token: s.pass(filepath.Join(t.TempDir(), "state"), os.O_CREATE|os.O_WRONLY, 1)},
		func(r *pb.SaveResponse) error {
			if r.GetSaved() != nil {
				return io.ErrClosedPipe
			}
			return nil
		})
	if err == nil {
		t.Fatal("a save that nobody heard the end of has succeeded")
	}
	e := s.core.WaitEvents(t, 1)[0].GetChange()
	if e.GetState() != pb.State_STATE_RUNNING || e.GetReason() != 7 {
		t.Errorf("heard %v, want that the guest runs because its save was cancelled", e)
	}
}
