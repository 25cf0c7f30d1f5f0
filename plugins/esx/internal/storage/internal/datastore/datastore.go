// Package datastore is a datastore of a host as a storage pool: VMFS, NFS and local folders, with VMDK, ISO and floppy images as volumes.
//
// A Pool is what is known of a datastore at one time and never changes; the Keys that several pools of one datastore share remember the
// UUIDs of disks, which cost a call each. All methods are safe concurrently. Errors are verr errors of the storage domain.
//
// A volume's name is its path in the datastore, "folder/file.vmdk". What is being made has a hidden name in the same folder until it is
// whole, and is removed if it does not become whole. What a process that is gone has left so is removed by a refresh after a day: a host
// finishes a task whoever has started it, so that it may still be somebody's.
package datastore

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/lodgevirt/lodge/plugins/esx/internal/endpoint"
	"github.com/lodgevirt/lodge/plugins/esx/internal/storage/internal/dspath"
	"github.com/lodgevirt/lodge/plugins/esx/internal/storage/internal/ident"
	"github.com/lodgevirt/lodge/plugins/esx/internal/storage/internal/task"
	"github.com/lodgevirt/lodge/plugins/esx/internal/storage/internal/webfile"
	"github.com/lodgevirt/lodge/sdk/poolxml"
	inventoryv1 "github.com/lodgevirt/lodge/sdk/proto/lodge/inventory/v1"
	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/storage/v1"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// MaxVolumes bounds the volumes of one datastore. Of more the first by name are told.
const MaxVolumes = 100_000

// Facts are what the endpoint tells of a datastore.
type Facts struct {
	// Browser looks into it.
	Browser types.ManagedObjectReference
	// Summary and Info are the properties of these names.
	Summary types.DatastoreSummary
	Info    types.BaseDatastoreInfo
	// Mount is how the host has it.
	Mount types.HostMountInfo
	// Machines are those that have files in it.
	Machines []types.ManagedObjectReference
}

// Place is where a host's datastores are.
type Place struct {
	Endpoint *endpoint.Endpoint
	// Datacenter is the host's, and Path where that is in the inventory.
	Datacenter types.ManagedObjectReference
	Path       string
	// Tasks runs what takes long, Stall bounds the stillness of transfers, 0 for webfile's own.
	Tasks task.Runner
	Stall time.Duration
	Log   hclog.Logger
}

// Pool is a datastore.
type Pool struct {
	place  Place
	facts  Facts
	keys   *Keys
	object *inventoryv1.PoolObject
}

// New returns a datastore as a pool. It fails for one that has no mount path, which has no UUID, and one whose name no path can have.
func New(place Place, facts Facts, keys *Keys) (*Pool, error) {
	p := &Pool{place: place, facts: facts, keys: keys}
	name := facts.Summary.Name
	if err := dspath.CheckDatastore(name); err != nil {
		return nil, err
	}
	path := facts.Mount.Path
	if path == "" {
		return nil, verr.New(verr.Internal, "datastore '%s' has no mount path", name).In(verr.FromStorage)
	}
	def := p.define(name, path)
	text, err := def.XML()
	if err != nil {
		return nil, err
	}
	size := p.size()
	p.object = &inventoryv1.PoolObject{
		Uuid: def.UUID, Name: name, Type: def.Type, Xml: text, Condition: p.condition(), Revision: p.revision(),
		Capacity: size.GetCapacity(), Allocation: size.GetAllocation(), Available: size.GetAvailable(),
	}
	return p, nil
}

// UUID is the UUID of a datastore: by libvirt's rule that of its mount path.
func UUID(f Facts) string { return ident.Of(f.Mount.Path) }

// define is the datastore's definition. libvirt has no type for VMFS volumes and calls them file systems, of the format "vmfs".
func (p *Pool) define(name, path string) *poolxml.Pool {
	def := &poolxml.Pool{Type: "fs", Name: name, UUID: UUID(p.facts), Target: &poolxml.Target{Path: path}}
	switch info := p.facts.Info.(type) {
	case *types.NasDatastoreInfo:
		def.Type = "netfs"
		def.Source = networkSource(info.Nas)
	case *types.VmfsDatastoreInfo:
		def.Source = poolxml.Source{Format: &poolxml.Format{Type: "vmfs"}}
	default:
		def.Type = "dir"
	}
	return def
}

// networkSource is where a datastore on a network comes from.
func networkSource(nas *types.HostNasVolume) poolxml.Source {
	if nas == nil {
		return poolxml.Source{Format: &poolxml.Format{Type: "auto"}}
	}
	format := "nfs" // "NFS" and "NFS41"
	if nas.Type == string(types.HostFileSystemVolumeFileSystemTypeCIFS) {
		format = "cifs"
	}
	return poolxml.Source{
		Hosts: []poolxml.Host{{Name: nas.RemoteHost}}, Dir: &poolxml.Path{Path: nas.RemotePath}, Format: &poolxml.Format{Type: format},
	}
}

// Numbers of virStoragePoolState, from libvirt's public header <libvirt/libvirt-storage.h>.
const (
	running      = 2
	degraded     = 3
	inaccessible = 4
)

func (p *Pool) condition() uint32 {
	switch mode := types.DatastoreSummaryMaintenanceModeState(p.facts.Summary.MaintenanceMode); {
	case !p.Accessible():
		return inaccessible
	case mode == types.DatastoreSummaryMaintenanceModeStateInMaintenance:
		return degraded
	}
	return running
}

// Accessible says whether the host reaches the datastore.
func (p *Pool) Accessible() bool {
	mount := p.facts.Mount
	return p.facts.Summary.Accessible && isNotFalse(mount.Accessible) && isNotFalse(mount.Mounted)
}

func isNotFalse(b *bool) bool { return b == nil || *b }

// Object is the pool as clients are told of it.
func (p *Pool) Object() *inventoryv1.PoolObject { return p.object }

// size is the room, as the host has told it last.
func (p *Pool) size() *pb.PoolSize {
	if !p.Accessible() {
		return &pb.PoolSize{}
	}
	all := uint64(max(0, p.facts.Summary.Capacity))
	free := min(all, uint64(max(0, p.facts.Summary.FreeSpace)))
	return &pb.PoolSize{Capacity: all, Allocation: all - free, Available: free}
}

// revision is a sum of all that changes when files come, go, grow or shrink: the room, when the host has looked at it last, and the
// machines that have files there.
func (p *Pool) revision() string {
	sum := sha256.New()
	s := &p.facts.Summary
	_, _ = fmt.Fprintln(sum, p.Accessible(), s.Capacity, s.FreeSpace, s.Uncommitted)
	if p.facts.Info != nil {
		if stamp := p.facts.Info.GetDatastoreInfo().Timestamp; stamp != nil {
			_, _ = fmt.Fprintln(sum, stamp.UnixNano())
		}
	}
	machines := make([]string, 0, len(p.facts.Machines))
	for _, m := range p.facts.Machines {
		machines = append(machines, m.Value)
	}
	slices.Sort(machines)
	_, _ = fmt.Fprintln(sum, machines)
	return hex.EncodeToString(sum.Sum(nil)[:8])
}

func (p *Pool) name() string { return p.facts.Summary.Name }

// path is the path of a file in this datastore.
func (p *Pool) path(file string) string { return dspath.Join(p.name(), file) }

func (p *Pool) web() webfile.Access {
	return webfile.Access{Endpoint: p.place.Endpoint, Datacenter: p.place.Path, Datastore: p.name(), Stall: p.place.Stall}
}

// reachable refuses to work with a datastore that the host does not reach.
func (p *Pool) reachable() error {
	if p.Accessible() {
		return nil
	}
	return verr.New(verr.OperationInvalid, "datastore '%s' is out of the host's reach", p.name()).In(verr.FromStorage)
}
