package network_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/vim25/types"
	"go.uber.org/goleak"

	"github.com/lodgevirt/lodge/plugins/esx/internal/endpoint"
	"github.com/lodgevirt/lodge/plugins/esx/internal/follow"
	"github.com/lodgevirt/lodge/plugins/esx/internal/network"
	"github.com/lodgevirt/lodge/plugins/esx/internal/vimtest"
	"github.com/lodgevirt/lodge/sdk/inventory"
	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/inventory/v1"
	"github.com/lodgevirt/lodge/sdk/verr"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// slack is the longest that a test waits for something to happen.
const slack = 20 * time.Second

// rig is the networks of a simulated host.
type rig struct {
	*vimtest.Server
	t        testing.TB
	endpoint *endpoint.Endpoint
	networks *network.Networks
	feed     *inventory.Feed
}

func start(t testing.TB, o vimtest.Options) *rig {
	t.Helper()
	r := startOn(t, vimtest.Start(t, o))
	r.ready()
	return r
}

func startOn(t testing.TB, s *vimtest.Server) *rig {
	t.Helper()
	e, err := endpoint.Open(endpoint.Config{
		Name: "lab", Address: s.Address(), User: vimtest.User, Password: vimtest.Password, Thumbprint: s.SHA256(),
		ConnectTimeout: 3 * time.Second, CallTimeout: 5 * time.Second, MinBackoff: 10 * time.Millisecond, MaxBackoff: 50 * time.Millisecond,
	}, hclog.NewNullLogger())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(e.Close)
	r := &rig{Server: s, t: t, endpoint: e, feed: inventory.NewFeed()}
	host := s.FirstHost()
	r.networks, err = network.StartWith(e, func(context.Context) (*object.HostSystem, error) { return host, nil }, r.feed,
		hclog.NewNullLogger(), follow.Options{
			MaxWait: time.Second, Grace: 3 * time.Second, MinPause: 10 * time.Millisecond, MaxPause: 50 * time.Millisecond,
		})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.networks.Close)
	return r
}

func (r *rig) ready() {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), slack)
	defer cancel()
	if err := r.networks.Ready(ctx); err != nil {
		r.t.Fatal(err)
	}
}

// until waits until the feed's picture is as wanted.
func (r *rig) until(what string, holds func(v *inventory.View) bool) {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), slack)
	defer cancel()
	if _, err := r.feed.Await(ctx, holds); err != nil {
		r.t.Fatalf("%s: %v; networks are %v", what, err, r.names())
	}
}

// network is a network of the picture by its name, or nil.
func (r *rig) network(name string) (found *pb.NetworkObject) {
	r.feed.Look(func(v *inventory.View) {
		for _, o := range v.Networks {
			if o.GetName() == name {
				found = o
			}
		}
	})
	return found
}

func (r *rig) names() (all []string) {
	r.feed.Look(func(v *inventory.View) {
		for _, o := range v.Networks {
			all = append(all, o.GetName())
		}
	})
	slices.Sort(all)
	return all
}

func (r *rig) define(xml string) (string, error) {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), slack)
	defer cancel()
	uuid, seq, err := r.networks.DefineNetwork(ctx, xml)
	if err == nil && (seq == 0 || seq > r.feed.Seq()) {
		r.t.Errorf("message is %d of %d", seq, r.feed.Seq())
	}
	return uuid, err
}

// mustDefine defines a network and returns it as the picture shows it then.
func (r *rig) mustDefine(xml string) *pb.NetworkObject {
	r.t.Helper()
	uuid, err := r.define(xml)
	if err != nil {
		r.t.Fatal(err)
	}
	var found *pb.NetworkObject
	r.feed.Look(func(v *inventory.View) { found = v.Networks[uuid] })
	if found == nil {
		r.t.Fatalf("network %s is not in the picture", uuid)
	}
	return found
}

func (r *rig) undefine(uuid string) error {
	ctx, cancel := context.WithTimeout(context.Background(), slack)
	defer cancel()
	_, err := r.networks.UndefineNetwork(ctx, uuid)
	return err
}

// truth writes down the host's configuration as far as this package may change it.
func (r *rig) truth() string {
	r.t.Helper()
	info := r.Networking()
	var lines []string
	for _, vs := range info.Vswitch {
		shaping := "none"
		if vs.Spec.Policy != nil && vs.Spec.Policy.ShapingPolicy != nil {
			shaping = spell(vs.Spec.Policy.ShapingPolicy)
		}
		lines = append(lines, fmt.Sprintf("%s mtu %d nics %v %s groups %v", vs.Name, vs.Mtu, vs.Pnic, shaping, vs.Portgroup))
	}
	for _, pg := range info.Portgroup {
		lines = append(lines, fmt.Sprintf("group %s vlan %d of %s %s", pg.Spec.Name, pg.Spec.VlanId, pg.Spec.VswitchName,
			spell(pg.Spec.Policy.ShapingPolicy)))
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

func spell(p *types.HostNetworkTrafficShapingPolicy) string {
	if p == nil || p.Enabled == nil || !*p.Enabled {
		return "none"
	}
	return fmt.Sprintf("%d/%d/%d", p.AverageBandwidth, p.PeakBandwidth, p.BurstSize)
}

// refused checks that an error has a code, the domain of networks, and words.
func refused(t *testing.T, err error, code verr.Code, words ...string) {
	t.Helper()
	if err == nil {
		t.Fatalf("it is not refused, want code %d", code)
	}
	if e := verr.From(err); e.Code != code {
		t.Errorf("code is %d, want %d: %v", e.Code, code, err)
	}
	for _, word := range words {
		if !strings.Contains(err.Error(), word) {
			t.Errorf("error %q does not say %q", err, word)
		}
	}
}
