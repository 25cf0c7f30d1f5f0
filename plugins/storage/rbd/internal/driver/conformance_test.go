//go:build cgo && pacific

package driver

import (
	"fmt"
	"os"
	"os/exec"
	"sync/atomic"
	"testing"

	"github.com/lodgevirt/lodge/plugins/storage/rbd/internal/librados"
	"github.com/lodgevirt/lodge/sdk/conformance/storagedriver"
	"github.com/lodgevirt/lodge/sdk/plugin"
	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/storage/v1"
)

// TestConformance runs each check in a Ceph pool of its own.
func TestConformance(t *testing.T) {
	c := cluster(t)
	var n atomic.Int64
	storagedriver.Run(t, storagedriver.Factory{
		Thin:   true,
		Plugin: func() plugin.Plugin { return Plugin("1.0.0", librados.Dial, librados.Available()) },
		Pool: func(t *testing.T) storagedriver.Pool {
			b := &bench{TB: t, ceph: c}
			name := fmt.Sprint("conformance", n.Add(1))
			script := fmt.Sprintf("ceph osd pool create %[1]s 1 && rbd pool init %[1]s && ceph auth get-or-create-key client.%[1]s mon 'profile rbd' osd 'profile rbd pool=%[1]s'", name)
			key, err := c.Run(t.Context(), "sh", "-c", script)
			if err != nil {
				t.Fatal(err)
			}
			return storagedriver.Pool{
				XML:      "<pool type='rbd'><name>p</name>" + c.Source(name, name, "u") + "</pool>",
				Secrets:  []*pb.Secret{{Usage: "u", Value: b.key(key)}},
				Standing: true, Built: true,
			}
		},
		Rounds: storagedriver.SlowRounds(),
		Command: func() *exec.Cmd {
			cmd := exec.Command(os.Args[0])
			cmd.Env = append(os.Environ(), serveKey+"=1")
			return cmd
		},
	})
}
