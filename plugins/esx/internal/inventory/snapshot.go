package inventory

import (
	"cmp"
	"slices"
	"time"

	"github.com/vmware/govmomi/vim25/types"
)

// Snapshot is the inventory at one time. It never changes.
type Snapshot struct {
	// Synced says whether the inventory was ever read; until then the snapshot is empty and stale.
	Synced bool
	// StaleSince is when the mirror lost the endpoint, the zero time while it follows it.
	StaleSince time.Time
	// Cause is why it is stale, nil if it is not or not known yet.
	Cause error
	// Unidentified counts machines that are left out because their UUID is not known.
	Unidentified int
	// Host is the host whose machines they are, if Options.Locate found one.
	Host Host

	// elsewhere holds machines of other hosts.
	elsewhere map[types.ManagedObjectReference]bool
	sorted    []VM
	byRef     map[types.ManagedObjectReference]VM
	byUUID    map[string]VM
	byName    map[string]VM
	byID      map[int32]VM
}

// newSnapshot indexes machines. Of several with one name or UUID, which only a vCenter server and copied machines have, the one
// with the least reference is found, so that the answer does not change by chance.
func newSnapshot(machines map[types.ManagedObjectReference]VM) *Snapshot {
	s := &Snapshot{
		Synced: true, byRef: make(map[types.ManagedObjectReference]VM, len(machines)),
		byUUID: make(map[string]VM, len(machines)), byName: make(map[string]VM, len(machines)), byID: map[int32]VM{},
	}
	for ref, vm := range machines {
		if vm.UUID == "" || vm.Name == "" {
			s.Unidentified++
			continue
		}
		s.byRef[ref] = vm
		s.sorted = append(s.sorted, vm)
	}
	slices.SortFunc(s.sorted, func(a, b VM) int {
		return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.Ref.Value, b.Ref.Value))
	})
	for _, vm := range slices.Backward(s.sorted) {
		s.byName[vm.Name] = vm
		if other, taken := s.byUUID[vm.UUID]; !taken || vm.Ref.Value < other.Ref.Value {
			s.byUUID[vm.UUID] = vm
		}
		if id := vm.DomainID(); id > 0 {
			s.byID[id] = vm
		}
	}
	return s
}

// All lists the machines by name. The slice is shared and must not be changed.
func (s *Snapshot) All() []VM { return s.sorted }

// Ref finds a machine by its reference.
func (s *Snapshot) Ref(ref types.ManagedObjectReference) (VM, bool) {
	vm, ok := s.byRef[ref]
	return vm, ok
}

// UUID finds a machine by its UUID in lower case.
func (s *Snapshot) UUID(uuid string) (VM, bool) {
	vm, ok := s.byUUID[uuid]
	return vm, ok
}

// Name finds a machine by its name.
func (s *Snapshot) Name(name string) (VM, bool) {
	vm, ok := s.byName[name]
	return vm, ok
}

// ID finds an active machine by its domain ID.
func (s *Snapshot) ID(id int32) (VM, bool) {
	vm, ok := s.byID[id]
	return vm, ok
}

// stale returns a copy that is stale since a time.
func (s *Snapshot) stale(since time.Time, cause error) *Snapshot {
	c := *s
	c.StaleSince, c.Cause = since, cause
	return &c
}
