// Package storagedriver is a suite that every storage driver passes: what the contract promises of one, checked through the SDK's real
// server, with package faketest in the place of the core. An author calls it from a test of the driver:
//
//	func TestConformance(t *testing.T) {
//		storagedriver.Run(t, storagedriver.Factory{
//			Plugin: func() plugin.Plugin { return driver.Plugin("1.0.0") },
//			Pool:   func(t *testing.T) storagedriver.Pool { return storagedriver.Pool{XML: definitionOf(t.TempDir())} },
//		})
//	}
//
// The suite finds out which optional services the driver has, and skips what it has not. Each check is a subtest with a pool of its
// own, and says which sentence of the contract is broken. Nothing is timed: the deadlines of the contract are the only limits.
//
// What it does not show is that the storage has in truth what the driver tells of it: that is left to the driver's own tests, which can
// look behind its back.
package storagedriver

import (
	"os"
	"os/exec"
	"strconv"
	"testing"

	"github.com/lodgevirt/lodge/sdk/plugin"
	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/storage/v1"
)

// Factory makes what the suite needs of a storage driver.
type Factory struct {
	// Plugin makes the plugin anew, as a new process would.
	Plugin func() plugin.Plugin
	// Config is the plugin's own configuration, as JSON, or nil.
	Config []byte
	// Pool makes what a new, empty pool lies on. It is called for each check; its cleanup is the factory's, and comes after the pool
	// was stopped.
	Pool func(t *testing.T) Pool
	// Name is the name of the n-th volume that a check makes in a pool, counted from 0, for storage that does not leave the choice to its users;
	// "volume-N" if it is nil.
	Name func(n int) string
	// Content is what the suite's volumes need in their definitions besides name and capacity; empty for most.
	Content string
	// Capacity is that of the suite's volumes in bytes, 4 MiB if it is 0. A pool has room for at least 8 of them.
	Capacity uint64
	// Thin says that volumes take room only by what is written to them, so that one may be bigger than its pool.
	Thin bool
	// Rounds is how often the driver is killed, 50 if it is 0; SlowRounds is for those that take long.
	Rounds int
	// Command makes the plugin's process. Without it, nothing is checked of a driver that is killed.
	Command func() *exec.Cmd
}

// SlowRounds is how often a driver is killed that takes seconds to come back: 12 times, or 50 times if LODGE_TEST_SLOW is set.
func SlowRounds() int {
	if os.Getenv("LODGE_TEST_SLOW") != "" {
		return 50
	}
	return 12
}

// Pool is a pool that a check works with.
type Pool struct {
	// XML defines it.
	XML string
	// Secrets are those that it names.
	Secrets []*pb.Secret
	// Standing says that it is usable whether it was started or not.
	Standing bool
	// Built says that it is there, and need not be built.
	Built bool
	// Volumes are the names of those that are in it from the beginning.
	Volumes []string
}

// check is one part of the suite.
type check struct {
	name string
	run  func(*bench)
}

var checks = []check{
	{"capabilities tell the types", capabilitiesTell},
	{"validate completes a definition", validateCompletes},
	{"validate refuses what is none", validateRefuses},
	{"a pool starts and stops, and may do so again", startsAndStops},
	{"refresh tells a size and its volumes once", refreshTells},
	{"a volume is made, found and removed", madeFoundRemoved},
	{"a name is given once", nameIsGivenOnce},
	{"one of many gets a name", oneOfMany},
	{"odd names are refused or work", oddNames},
	{"names do not lead out of a pool", namesStayInside},
	{"what is refused leaves nothing", refusedLeavesNothing},
	{"a volume is made from another one", madeFromAnother},
	{"what is given up leaves nothing", givenUpLeavesNothing},
	{"a volume grows and shrinks", growsAndShrinks},
	{"content comes back as it was written", contentComesBack},
	{"parts of content come back", partsComeBack},
	{"content has limits", contentHasLimits},
	{"a lost client leaves the volume", lostClient},
	{"a wiped volume is empty", wipedIsEmpty},
	{"a restart loses nothing", restartLosesNothing},
	{"a driver that is killed leaves all as before or as asked", killed},
}

// Run runs the whole suite.
func Run(t *testing.T, f Factory) {
	if f.Name == nil {
		f.Name = func(n int) string { return "volume-" + strconv.Itoa(n) }
	}
	if f.Capacity == 0 {
		f.Capacity = 4 << 20
	}
	if f.Rounds == 0 {
		f.Rounds = 50
	}
	for _, c := range checks {
		t.Run(c.name, func(t *testing.T) { c.run(newBench(t, f)) })
	}
}
