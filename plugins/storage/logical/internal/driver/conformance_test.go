package driver

import (
	"fmt"
	"testing"

	"github.com/lodgevirt/lodge/sdk/conformance/storagedriver"
	"github.com/lodgevirt/lodge/sdk/plugin"
	"github.com/lodgevirt/lodge/tests/fakelvm"
)

func TestConformance(t *testing.T) {
	l := fakelvm.Start(t, 100*mib)
	storagedriver.Run(t, storagedriver.Factory{
		Plugin: func() plugin.Plugin { return Plugin("1.0.0") },
		Config: fmt.Appendf(nil, `{"program":%q}`, l.Program()),
		Pool: func(t *testing.T) storagedriver.Pool {
			t.Cleanup(func() { l.Reset(t) })
			return storagedriver.Pool{
				XML: fmt.Sprintf("<pool type='logical'><name>p</name><source><device path='%s'/><name>vg</name></source><target><path>%s</path></target></pool>",
					l.Devices[0], l.Target("vg")),
				Standing: true,
			}
		},
		Rounds:  storagedriver.SlowRounds(),
		Command: process,
	})
}
