package inventory

import (
	"fmt"
	"time"

	"github.com/vmware/govmomi/vim25/types"

	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/hypervisor/v1"
)

// Limits of a tree of snapshots; the hypervisor's own are 496 snapshots in a chain of 32.
const (
	maxSnapshots = 4096
	maxDepth     = 256
)

// Tree is the snapshots of a machine.
type Tree struct {
	// Nodes are all of them, parents before their children.
	Nodes []Node
	// Current is the name of the one that the machine's disks began from last, or empty.
	Current string
}

// Node is a snapshot.
type Node struct {
	Ref types.ManagedObjectReference
	// Name is unique within the tree: of several snapshots of one name all but the first have "#" and their number added.
	Name string
	// Parent is the parent's name, or empty.
	Parent string
	// Description is the user's text.
	Description string
	// Created is when it was made.
	Created time.Time
	// State is the machine's in it.
	State pb.State
}

// NewTree flattens what the endpoint tells. It returns nil for no snapshots; those beyond 4096, or deeper than 256, are left out.
func NewTree(info *types.VirtualMachineSnapshotInfo) *Tree {
	if info == nil || len(info.RootSnapshotList) == 0 {
		return nil
	}
	t := &Tree{}
	t.add(info.RootSnapshotList, "", names{}, 0)
	for _, n := range t.Nodes {
		if info.CurrentSnapshot != nil && n.Ref == *info.CurrentSnapshot {
			t.Current = n.Name
		}
	}
	return t
}

// add enters siblings and all below them.
func (t *Tree) add(siblings []types.VirtualMachineSnapshotTree, parent string, taken names, depth int) {
	if depth >= maxDepth {
		return
	}
	for _, s := range siblings {
		if len(t.Nodes) >= maxSnapshots {
			return
		}
		name := taken.unique(s.Name, s.Id)
		t.Nodes = append(t.Nodes, Node{
			Ref: s.Snapshot, Name: name, Parent: parent, Description: s.Description, Created: s.CreateTime, State: states[s.State],
		})
		t.add(s.ChildSnapshotList, name, taken, depth+1)
	}
}

// names are those that are taken, with the number that was added last to each.
type names map[string]int32

// unique returns a name, with a number where it is taken, and takes it.
func (n names) unique(name string, number int32) string {
	last, taken := n[name]
	if !taken {
		n[name] = 0
		return name
	}
	number = max(number, last+1)
	for {
		longer := fmt.Sprintf("%s#%d", name, number)
		if _, taken := n[longer]; !taken {
			n[name], n[longer] = number, 0
			return longer
		}
		number++
	}
}

// Find returns a snapshot by its name. It may be called on nil.
func (t *Tree) Find(name string) (Node, bool) {
	if t == nil {
		return Node{}, false
	}
	for _, n := range t.Nodes {
		if n.Name == name {
			return n, true
		}
	}
	return Node{}, false
}
