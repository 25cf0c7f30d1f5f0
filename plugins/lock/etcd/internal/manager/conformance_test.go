package manager_test

import (
	"fmt"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/lodgevirt/lodge/plugins/lock/etcd/internal/manager"
	"github.com/lodgevirt/lodge/plugins/lock/etcd/internal/record"
	"github.com/lodgevirt/lodge/sdk/conformance/lockmanager"
	"github.com/lodgevirt/lodge/sdk/plugin"
	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/lock/v1"
)

func TestConformance(t *testing.T) {
	c := cluster.get(t)
	lockmanager.Run(t, lockmanager.Factory{
		Plugin: func() plugin.Plugin { return manager.Plugin("0.0.0", options) },
		Hosts: func(*testing.T) [][]byte {
			prefix := newPrefix()
			return [][]byte{table(c, prefix, "a", 3), table(c, prefix, "b", 3)}
		},
		Disk: func(_ *testing.T, name string) string { return "/shared storage/" + name },
		Lease: func(_ *testing.T, lockspace, key string) *pb.Resource {
			return &pb.Resource{Lockspace: lockspace, Key: key}
		},
		Lose: func(t *testing.T, l *pb.Lease) {
			s := newScene(t, c, 3)
			value := record.Encode(record.Holder{Owner: "thief", Name: "thief", Host: "elsewhere"})
			if _, err := s.client.Put(s.ctx(), l.GetPlace(), value, clientv3.WithLease(clientv3.NoLease)); err != nil {
				t.Fatal(err)
			}
		},
		Command: command,
	})
}

// TestNamesOfKeysInThePlaceOfALease checks that what is told to people is a key that there is.
func TestPlaceIsAKey(t *testing.T) {
	s := newScene(t, cluster.get(t), 10)
	g := s.host("a").guest("guest", false)
	for _, l := range g.take("/alone", "/shared") {
		if resp, err := s.client.Get(s.ctx(), l.GetPlace()); err != nil || len(resp.Kvs) != 1 || resp.Kvs[0].CreateRevision != int64(l.GetFencingToken()) {
			t.Errorf("at place %q there is %v, %v", l.GetPlace(), resp, err)
		}
	}
	if n := len(s.keys()); n != 4 {
		t.Errorf("two locks are %d keys: %v", n, fmt.Sprint(s.keys()))
	}
	g.release(false)
}
