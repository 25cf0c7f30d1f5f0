//go:build !libiscsi || !cgo

package driver

import (
	"strings"
	"testing"

	"github.com/lodgevirt/lodge/sdk/faketest"
	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/storage/v1"
	"github.com/lodgevirt/lodge/sdk/verr"
)

func TestWithoutLibiscsiDirectPoolsAreRefused(t *testing.T) {
	b := &bench{t, faketest.Client(t, Plugin("1.0.0"))}
	rsp, err := pb.NewPoolServiceClient(b.conn).Capabilities(t.Context(), &pb.CapabilitiesRequest{})
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range rsp.Types {
		if p.Name == "iscsi-direct" && (p.Supported || !strings.Contains(p.Reason, "without libiscsi")) {
			t.Errorf("direct pools are told to be %v", p)
		}
	}
	p := b.define("<pool type='iscsi-direct'><name>p</name><source><host name='127.0.0.1'/><device path='" + targetName +
		"'/><initiator><iqn name='" + selfName + "'/></initiator></source></pool>")
	if err := b.start(p); code(err) != verr.NoSupport || !strings.Contains(err.Error(), "without libiscsi") {
		t.Errorf("started: %v", err)
	}
	if _, err := b.check(p); code(err) != verr.NoSupport {
		t.Errorf("checked: %v", err)
	}
	b.stop(p)
}
