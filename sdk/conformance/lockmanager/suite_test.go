package lockmanager_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/lodgevirt/lodge/sdk/conformance/lockmanager"
	"github.com/lodgevirt/lodge/sdk/plugin"
	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/lock/v1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// faultKey names the fault that the manager shall have, in a process that TestSuiteFindsFaults starts.
const faultKey = "LODGE_TEST_FAULT"

// TestMemory runs the suite against a manager in memory, with the fault that the environment names.
func TestMemory(t *testing.T) {
	fault := os.Getenv(faultKey)
	all := &worlds{}
	lockmanager.Run(t, lockmanager.Factory{
		Plugin: func() plugin.Plugin { return memoryPlugin(all, fault) },
		Hosts: func(t *testing.T) [][]byte {
			var configs [][]byte
			for host := range 2 {
				configs = append(configs, fmt.Appendf(nil, `{"world": %q, "host": %d}`, t.Name(), host))
			}
			return configs
		},
		Disk: func(_ *testing.T, name string) string { return "/shared/" + name },
		Lease: func(_ *testing.T, lockspace, key string) *pb.Resource {
			return &pb.Resource{Lockspace: lockspace, Key: key}
		},
		Lose: func(t *testing.T, l *pb.Lease) {
			reason := "it was taken away"
			if fault == "a loss has no reason" {
				reason = ""
			}
			all.get(t.Name()).lose(l, reason)
		},
	})
}

// faults are those that the manager in memory can have, and a check that must find each.
var faults = map[string]string{
	"prepare takes":                 "prepare takes nothing",
	"anything is accepted":          "prepare refuses what cannot be locked",
	"the order is another":          "acquire grants in the order of the request",
	"what is held is taken anew":    "acquire may be repeated, and with a process",
	"nobody is refused":             "a lock is busy for another guest of the host",
	"nobody is refused on the host": "a lock is busy for another guest of the host",
	"busy has another code":         "a lock is busy for another guest of the host",
	"hosts are strangers":           "a lock is busy on another host",
	"lives are the same":            "a lock is busy for another life of the guest",
	"half is granted":               "all locks are had or none",
	"sharing is enough":             "shared locks share",
	"lockspaces are the same":       "leases are locked like disks",
	"nothing is released":           "release ends locks, and may be repeated",
	"everything is released":        "release of some leaves the others",
	"any life is released":          "release of another life touches nothing",
	"a state is told once":          "a guest is suspended and resumed",
	"who was there is forgotten":    "a guest is not resumed after somebody else",
	"recover only looks":            "recover takes again what is free",
	"recover steals":                "recover tells what somebody else has",
	"a restart loses locks":         "a restart loses nothing",
	"a loss has no reason":          "a lock that is lost is told",
	"all hosts are listed":          "list tells the locks of the host",
	"there is no hello":             "watch begins with a hello",
	"tokens stand still":            "fencing tokens ascend",
	"names are trimmed":             "odd names are names",
	"two look before they take":     "one of many gets the lock",
}

// TestSuiteFindsFaults runs the suite in processes of its own, each against a manager with a fault.
func TestSuiteFindsFaults(t *testing.T) {
	if testing.Short() {
		t.Skip("starts a process for each fault")
	}
	for fault, check := range faults {
		t.Run(fault, func(t *testing.T) {
			t.Parallel()
			ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
			defer cancel()
			name := strings.ReplaceAll(check, " ", "_")
			cmd := exec.CommandContext(ctx, os.Args[0], "-test.run", "^TestMemory$/^"+name+"$", "-test.v")
			cmd.Env = append(os.Environ(), faultKey+"="+fault)
			out, err := cmd.CombinedOutput()
			if err == nil || !strings.Contains(string(out), "--- FAIL: TestMemory/"+name) {
				t.Errorf("check %q did not find the fault: %v\n%s", check, err, out)
			}
		})
	}
}
