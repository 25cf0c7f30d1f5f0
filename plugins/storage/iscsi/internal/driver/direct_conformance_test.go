//go:build libiscsi && cgo

package driver

import (
	"testing"

	"github.com/lodgevirt/lodge/plugins/storage/iscsi/internal/tgttest"
	"github.com/lodgevirt/lodge/sdk/conformance/storagedriver"
	"github.com/lodgevirt/lodge/sdk/plugin"
	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/storage/v1"
)

// TestConformanceOfDirectPools has a real target behind the driver, which is killed in all that it does.
func TestConformanceOfDirectPools(t *testing.T) {
	storagedriver.Run(t, storagedriver.Factory{
		Plugin: func() plugin.Plugin { return Plugin("1.0.0") },
		Config: quick,
		Pool: func(t *testing.T) storagedriver.Pool {
			server := tgttest.Start(t)
			server.CHAP(server.Target(targetName, tgttest.File(t, 4<<20), tgttest.File(t, 4<<20)), "me", "right-password")
			return storagedriver.Pool{
				XML:     directXML(server.Host, server.Port, targetName, auth),
				Secrets: []*pb.Secret{{Usage: "u", Value: []byte("right-password")}},
				Volumes: []string{"unit:0:0:1", "unit:0:0:2"}, Standing: true,
			}
		},
		Command: process,
	})
}
