package storagedriver_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/lodgevirt/lodge/sdk/conformance/storagedriver"
	"github.com/lodgevirt/lodge/sdk/plugin"
)

const (
	// faultKey names the fault that the driver shall have, in a process that TestSuiteFindsFaults starts.
	faultKey = "LODGE_TEST_FAULT"
	// serveKey makes the process the plugin.
	serveKey = "LODGE_TEST_SERVE"
)

func TestMain(m *testing.M) {
	if os.Getenv(serveKey) != "" {
		plugin.Serve((&shelf{os.Getenv(faultKey)}).plugin())
		return
	}
	os.Exit(m.Run())
}

// TestShelf runs the suite against a driver with the fault that the environment names, or none.
func TestShelf(t *testing.T) {
	storagedriver.Run(t, storagedriver.Factory{
		Plugin: func() plugin.Plugin { return (&shelf{os.Getenv(faultKey)}).plugin() },
		Pool: func(t *testing.T) storagedriver.Pool {
			return storagedriver.Pool{XML: fmt.Sprintf("<pool type='shelf'><name>p</name><target><path>%s</path></target></pool>",
				filepath.Join(t.TempDir(), "pool"))}
		},
		Command: func() *exec.Cmd {
			cmd := exec.Command(os.Args[0])
			cmd.Env = append(os.Environ(), serveKey+"=1")
			return cmd
		},
	})
}

// faults are those that the driver can have, and a check that must find each.
var faults = map[string]string{
	"the default is not among the formats": "capabilities tell the types",
	"a definition changes":                 "validate completes a definition",
	"any type is taken":                    "validate refuses what is none",
	"a pool is always usable":              "a pool starts and stops, and may do so again",
	"a pool starts once":                   "a pool starts and stops, and may do so again",
	"a pool stops once":                    "a pool starts and stops, and may do so again",
	"there is no size":                     "refresh tells a size and its volumes once",
	"volumes are told twice":               "refresh tells a size and its volumes once",
	"keys are the same":                    "refresh tells a size and its volumes once",
	"a capacity is cut":                    "a volume is made, found and removed",
	"a volume is told otherwise":           "a volume is made, found and removed",
	"anything is found":                    "names do not lead out of a pool",
	"anything is removed":                  "a volume is made, found and removed",
	"a name is given twice":                "a name is given once",
	"two look before they make":            "one of many gets a name",
	"names lead out":                       "names do not lead out of a pool",
	"half is copied":                       "a volume is made from another one",
	"a resize starts anew":                 "a volume grows and shrinks",
	"a resize does nothing":                "a volume grows and shrinks",
	"holes keep what was there":            "content comes back as it was written",
	"holes are always told":                "content comes back as it was written",
	"offsets are rounded":                  "parts of content come back",
	"lengths are ignored":                  "content has limits",
	"behind the end there is nothing":      "content has limits",
	"a lost client costs the volume":       "a lost client leaves the volume",
	"a wipe leaves the end":                "a wiped volume is empty",
	"any algorithm is used":                "a wiped volume is empty",
	"volumes are made in place":            "a driver that is killed leaves all as before or as asked",
	"work is shown":                        "a driver that is killed leaves all as before or as asked",
	"garbage is written first":             "a driver that is killed leaves all as before or as asked",
}

// TestSuiteFindsFaults runs the suite in processes of its own, each against a driver with a fault.
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
			cmd := exec.CommandContext(ctx, os.Args[0], "-test.run", "^TestShelf$/^"+name+"$", "-test.v")
			cmd.Env = append(os.Environ(), faultKey+"="+fault)
			out, err := cmd.CombinedOutput()
			if err == nil || !strings.Contains(string(out), "--- FAIL: TestShelf/"+name) {
				t.Errorf("check %q did not find the fault: %v\n%s", check, err, out)
			}
		})
	}
}
