package door

import (
	libvirt "github.com/digitalocean/go-libvirt"

	"github.com/lodgevirt/lodge/host/internal/connection"
	"github.com/lodgevirt/lodge/host/internal/domain"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// Flags of lists of snapshots, virDomainSnapshotListFlags. Bit 0 means something else for a domain than for a snapshot. Lists always
// are in topological order.
const (
	listRoots       = uint32(libvirt.DomainSnapshotListRoots)
	listDescendants = uint32(libvirt.DomainSnapshotListDescendants)
	listMetadata    = uint32(libvirt.DomainSnapshotListMetadata)
	listLeaves      = uint32(libvirt.DomainSnapshotListLeaves)
	listNoLeaves    = uint32(libvirt.DomainSnapshotListNoLeaves)
	listNoMetadata  = uint32(libvirt.DomainSnapshotListNoMetadata)
	listInactive    = uint32(libvirt.DomainSnapshotListInactive)
	listActive      = uint32(libvirt.DomainSnapshotListActive)
	listDiskOnly    = uint32(libvirt.DomainSnapshotListDiskOnly)
	listInternal    = uint32(libvirt.DomainSnapshotListInternal)
	listExternal    = uint32(libvirt.DomainSnapshotListExternal)
	listTopological = uint32(libvirt.DomainSnapshotListTopological)

	snapshotListKnown = 2*listTopological - 1
)

// diskSnapshot is the state of a snapshot that has disks alone, virDomainSnapshotState.
const diskSnapshot domain.State = 8

// snapshotTree is the snapshots of a domain, or some of them, parents before their children.
type snapshotTree struct {
	dom     libvirt.Domain
	all     []connection.Snapshot
	current string
}

func (t *snapshotTree) reference(one *connection.Snapshot) libvirt.DomainSnapshot {
	return libvirt.DomainSnapshot{Name: one.Name, Dom: t.dom}
}

func (t *snapshotTree) find(name string) (*connection.Snapshot, error) {
	for i := range t.all {
		if t.all[i].Name == name {
			return &t.all[i], nil
		}
	}
	return nil, verr.New(verr.NoDomainSnapshot, "no domain snapshot with matching name '%s'", name)
}

// that returns those of a scope that pass the flags of a list.
func (t *snapshotTree) that(scope func(*connection.Snapshot) bool, flags uint32) (*snapshotTree, error) {
	parents := map[string]bool{}
	for i := range t.all {
		parents[t.all[i].Parent] = true
	}
	out := &snapshotTree{dom: t.dom, current: t.current}
	for i := range t.all {
		one := &t.all[i]
		if scope(one) && snapshotPasses(one, parents[one.Name], flags) {
			out.all = append(out.all, *one)
		}
	}
	return out, few(len(out.all), "domain snapshots")
}

// below is the scope of a snapshot's children, or of all that descend from it. It is asked about parents before their children.
func below(name string, all bool) func(*connection.Snapshot) bool {
	above := map[string]bool{name: true}
	return func(one *connection.Snapshot) bool {
		in := above[one.Parent]
		if in && all {
			above[one.Name] = true
		}
		return in
	}
}

// snapshotPasses reports whether a snapshot with or without children passes the flags of a list. All are internal to the hypervisor, and
// libvirt's metadata is not needed for them.
func snapshotPasses(one *connection.Snapshot, children bool, flags uint32) bool {
	state := listActive
	if one.State == domain.ShutOff {
		state = listInactive
	} else if one.State == diskSnapshot {
		state = listDiskOnly
	}
	const states = listActive | listInactive | listDiskOnly
	return picks(flags, !children, listLeaves, listNoLeaves) &&
		picks(flags, false, listMetadata, listNoMetadata) &&
		picks(flags, true, listInternal, listExternal) &&
		(flags&states == 0 || flags&state != 0)
}
