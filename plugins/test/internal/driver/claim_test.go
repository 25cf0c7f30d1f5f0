package driver_test

import (
	"testing"

	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/hypervisor/v1"
	lockv1 "github.com/lodgevirt/lodge/sdk/proto/lodge/lock/v1"
	"github.com/lodgevirt/lodge/sdk/verr"
)

func TestLocksThatOnlyAProcessCanHaveAreRefused(t *testing.T) {
	for name, resolved := range map[string]*pb.Resolved{
		"a claim":        {Claim: true},
		"a registration": {Registrations: []*lockv1.Registration{{Socket: "/run/locks.sock"}}},
	} {
		t.Run(name, func(t *testing.T) {
			s := newScene(t, "")
			_, err := s.driver.Start(s.ctx(), &pb.StartRequest{Guest: s.guest, Xml: s.xml, Id: 7, Resolved: resolved})
			if !verr.Is(err, verr.ConfigUnsupported) {
				t.Errorf("error is %v", err)
			}
			s.started()
		})
	}
}
