package inventory

import (
	"strings"
	"testing"

	"github.com/vmware/govmomi/vim25/types"

	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/hypervisor/v1"
)

// node is a snapshot as an endpoint tells it.
func node(id int32, name string, children ...types.VirtualMachineSnapshotTree) types.VirtualMachineSnapshotTree {
	return types.VirtualMachineSnapshotTree{
		Snapshot: types.ManagedObjectReference{Type: "VirtualMachineSnapshot", Value: name + string(rune('0'+id))}, Id: id, Name: name,
		State: types.VirtualMachinePowerStatePoweredOn, ChildSnapshotList: children,
	}
}

// spellTree writes a tree: each snapshot with its parent.
func spellTree(t *Tree) string {
	var words []string
	for _, n := range t.Nodes {
		words = append(words, n.Name+"<"+n.Parent)
	}
	return strings.Join(words, " ")
}

func TestTreesHaveParentsFirstAndNamesOnce(t *testing.T) {
	twice := node(3, "a", node(4, "c"))
	tree := NewTree(&types.VirtualMachineSnapshotInfo{
		CurrentSnapshot:  &twice.Snapshot,
		RootSnapshotList: []types.VirtualMachineSnapshotTree{node(1, "a", node(2, "b")), twice},
	})
	if got, want := spellTree(tree), "a< b<a a#3< c<a#3"; got != want {
		t.Errorf("tree is %q, want %q", got, want)
	}
	if tree.Current != "a#3" {
		t.Errorf("current is %q", tree.Current)
	}
	if n, ok := tree.Find("c"); !ok || n.Parent != "a#3" || n.State != pb.State_STATE_RUNNING {
		t.Errorf("c is %+v", n)
	}
	if _, ok := (*Tree)(nil).Find("c"); ok || NewTree(nil) != nil || NewTree(&types.VirtualMachineSnapshotInfo{}) != nil {
		t.Error("no snapshots have some")
	}
}

func TestTreesAreBounded(t *testing.T) {
	deep := node(1, "leaf")
	for range 1000 {
		deep = node(1, "n", deep)
	}
	if n := len(NewTree(&types.VirtualMachineSnapshotInfo{RootSnapshotList: []types.VirtualMachineSnapshotTree{deep}}).Nodes); n != maxDepth {
		t.Errorf("%d snapshots of a deep tree", n)
	}
	var wide []types.VirtualMachineSnapshotTree
	for range maxSnapshots + 10 {
		wide = append(wide, node(1, "w"))
	}
	if n := len(NewTree(&types.VirtualMachineSnapshotInfo{RootSnapshotList: wide}).Nodes); n != maxSnapshots {
		t.Errorf("%d snapshots of a wide tree", n)
	}
}

func TestAPartOfATreeMakesItStale(t *testing.T) {
	r := newReading(nil)
	take := func(name string, value any) VM {
		t.Helper()
		if err := r.one(update(types.ObjectUpdateKindModify, name, value)); err != nil {
			t.Fatal(err)
		}
		for _, vm := range r.machines {
			return vm
		}
		return VM{}
	}
	whole := types.VirtualMachineSnapshotInfo{RootSnapshotList: []types.VirtualMachineSnapshotTree{node(1, "a")}}
	if vm := take("snapshot", whole); vm.Snapshots == nil || vm.SnapshotsStale != 0 {
		t.Errorf("machine is %+v", vm)
	}
	if vm := take("snapshot.currentSnapshot", nil); vm.SnapshotsStale != 1 {
		t.Errorf("machine is %+v", vm)
	}
	if vm := take("snapshot", nil); vm.Snapshots != nil {
		t.Errorf("machine is %+v", vm)
	}
}

func TestMachinesOfOtherHostsMoveIn(t *testing.T) {
	here := types.ManagedObjectReference{Type: hostType, Value: "host-1"}
	r := newReading(&here)
	take := func(host string) *Snapshot {
		t.Helper()
		err := r.one(update(types.ObjectUpdateKindModify, "name", "n", "config.uuid", "564d9bef-acd9-b4e0-c8f0-aea8b9103515",
			"runtime.powerState", on, "runtime.host", types.ManagedObjectReference{Type: hostType, Value: host}))
		if err != nil {
			t.Fatal(err)
		}
		return r.snapshot()
	}
	away := take("host-2")
	if len(away.All()) != 0 {
		t.Fatalf("machines are %v", away.All())
	}
	home := take("host-1")
	spell := func(from, to *Snapshot) (events []int32) {
		for _, c := range diff(from, to) {
			for _, e := range c.Events {
				events = append(events, 10*e.Lifecycle.GetEvent()+e.Lifecycle.GetDetail())
			}
		}
		return events
	}
	if got := spell(away, home); len(got) != 2 || got[0] != 0 || got[1] != 21 {
		t.Errorf("arrival is told as %v", got)
	}
	if got := spell(home, take("host-2")); len(got) != 2 || got[0] != 53 || got[1] != 10 {
		t.Errorf("departure is told as %v", got)
	}
}
