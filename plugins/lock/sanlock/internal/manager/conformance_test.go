package manager

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/lodgevirt/lodge/plugins/lock/sanlock/internal/client"
	"github.com/lodgevirt/lodge/plugins/lock/sanlock/internal/sanlocktest"
	"github.com/lodgevirt/lodge/sdk/conformance/lockmanager"
	"github.com/lodgevirt/lodge/sdk/plugin"
	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/lock/v1"
)

// asPlugin is the environment variable that has the test binary be the plugin.
const asPlugin = "LODGE_TEST_PLUGIN"

func TestConformance(t *testing.T) {
	dir := t.TempDir()
	var nodes []*node
	var configs [][]byte
	for id := 1; id <= 2; id++ {
		n := &node{TB: t, host: sanlocktest.NewHost(t, "host"), dir: dir, id: id}
		nodes, configs = append(nodes, n), append(configs, n.config())
	}
	lockmanager.Run(t, lockmanager.Factory{
		Plugin: func() plugin.Plugin { return Plugin("0.0.0") },
		Hosts:  func(*testing.T) [][]byte { return configs },
		Disk:   func(t *testing.T, name string) string { return filepath.Join("/images", t.Name()) + "/" + name },
		Lease: func(_ *testing.T, lockspace, key string) *pb.Resource {
			// Each is in a lockspace of its own, of which there can be but one of a name.
			r := nodes[0].operatorsLease(lockspace+" of "+key, key)
			nodes[1].joins(r)
			return r
		},
		Process: func(t *testing.T, registrations []*pb.Registration) *lockmanager.Process {
			r := sanlocktest.Registration{Socket: registrations[0].GetSocket()}
			for _, e := range registrations[0].GetExchanges() {
				r.Exchanges = append(r.Exchanges, client.Exchange{Send: e.GetSend(), Want: e.GetWant(), Mask: e.GetMask()})
			}
			o := sanlocktest.NewOwner(t, r)
			return &lockmanager.Process{PID: int32(o.PID), StartTime: o.StartTime, End: o.Kill}
		},
		Lose: func(t *testing.T, l *pb.Lease) {
			lost := (&config{DiskLeaseDir: dir}).diskLease(l.GetResource())
			if err := nodes[0].host.Client.Release(t.Context(), int(l.GetOwner().GetPid()), []client.Resource{*lost}); err != nil {
				t.Fatal(err)
			}
		},
		Command: func() *exec.Cmd {
			cmd := exec.CommandContext(context.Background(), os.Args[0])
			cmd.Env = append(os.Environ(), asPlugin+"=1")
			return cmd
		},
		HostName:  func(int) string { return "host" },
		Crowd:     16, // each needs a process of its own
		Resources: client.MaxResources,
	})
}
