package vimtest

import (
	"fmt"
	"net/http"
	"path/filepath"
	"slices"
	"strings"

	"github.com/google/uuid"
	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"
)

// Kinds of datastores, as libvirt's clients tell them apart.
const (
	VMFS  = "VMFS"
	NFS   = "NFS"
	Local = "OTHER"
)

// addStorage completes what the simulator has of storage: datastores get mount paths and browsers that find what is there, and the manager
// of disks does all that is asked of it.
func addStorage(registry *simulator.Registry) {
	for _, entity := range registry.All("Datastore") {
		ds := entity.(*simulator.Datastore)
		for i := range ds.Host {
			ds.Host[i].MountInfo.Path = mountPath(ds.Name)
		}
		addBrowser(registry, ds)
	}
	for _, ref := range registry.AllReference("VirtualDiskManager") {
		if manager, ok := ref.(*simulator.VirtualDiskManager); ok {
			registry.Put(&disks{VirtualDiskManager: manager})
		}
	}
}

// mountPath is where hosts mount a datastore. It depends on the name alone, so that tests can know it.
func mountPath(name string) string {
	return "/vmfs/volumes/" + uuid.NewMD5(uuid.NameSpaceURL, []byte(name)).String()
}

// MountPath is where the hosts mount a datastore.
func (s *Server) MountPath(name string) string { return mountPath(name) }

// HostRef is the reference of the first host.
func (s *Server) HostRef() types.ManagedObjectReference {
	s.t.Helper()
	return s.FirstHost().Reference()
}

// AddDatastore gives the first host a datastore of a kind, and returns the folder in which its files are.
func (s *Server) AddDatastore(name, kind string) (dir string) {
	s.t.Helper()
	dir = s.t.TempDir()
	host := s.model.Map().Get(s.HostRef()).(*simulator.HostSystem)
	ctx := s.model.Service.Context
	// The simulator changes the host too when it makes a datastore, and does not lock it.
	ctx.WithLock(host, func() {
		system := ctx.Map.Get(*host.ConfigManager.DatastoreSystem).(*simulator.HostDatastoreSystem)
		ctx.WithLock(system, func() {
			if fault := system.CreateLocalDatastore(ctx, &types.CreateLocalDatastore{Name: name, Path: dir}).Fault(); fault != nil {
				s.t.Fatalf("add datastore %s: %v", name, fault.String)
			}
		})
		addBrowser(ctx.Map, s.datastore(name))
	})
	ds := s.datastore(name)
	mounts := []types.DatastoreHostMount{{Key: host.Reference(), MountInfo: types.HostMountInfo{
		Path: mountPath(name), AccessMode: string(types.HostMountModeReadWrite), Mounted: types.NewBool(true), Accessible: types.NewBool(true),
	}}}
	s.update(ds, map[string]any{"host": mounts, "info": infoOf(kind, ds.Info.GetDatastoreInfo()), "summary.type": kind})
	s.tellDatastores()
	return dir
}

// tellDatastores tells that the first host's list of datastores has changed, which the simulator does in silence.
func (s *Server) tellDatastores() {
	host := s.model.Map().Get(s.HostRef()).(*simulator.HostSystem)
	var all []types.ManagedObjectReference
	s.model.Service.Context.WithLock(host, func() { all = slices.Clone(host.Datastore) })
	s.update(host, map[string]any{"datastore": all})
}

// infoOf is what is told of a datastore of a kind.
func infoOf(kind string, base *types.DatastoreInfo) types.BaseDatastoreInfo {
	volume := types.HostFileSystemVolume{Type: kind, Name: base.Name}
	switch kind {
	case VMFS:
		return &types.VmfsDatastoreInfo{DatastoreInfo: *base, Vmfs: &types.HostVmfsVolume{
			HostFileSystemVolume: volume, Uuid: base.Name, BlockSizeMb: 1, MaxBlocks: 1 << 20, MajorVersion: 6, Version: "6.81",
			Extent: []types.HostScsiDiskPartition{{DiskName: "naa.5000", Partition: 3}},
		}}
	case NFS:
		return &types.NasDatastoreInfo{DatastoreInfo: *base, Nas: &types.HostNasVolume{
			HostFileSystemVolume: volume, RemoteHost: "filer.example", RemotePath: "/export/" + base.Name,
		}}
	}
	return &types.LocalDatastoreInfo{DatastoreInfo: *base, Path: base.Url}
}

func (s *Server) update(obj mo.Reference, values map[string]any) { update(s.model, obj, values) }

// update changes properties of an object and tells who waits for that.
func update(model *simulator.Model, obj mo.Reference, values map[string]any) {
	changes := make([]types.PropertyChange, 0, len(values))
	for name, value := range values {
		changes = append(changes, types.PropertyChange{Name: name, Op: types.PropertyChangeOpAssign, Val: value})
	}
	ctx := model.Service.Context
	ctx.WithLock(obj, func() { ctx.Update(obj, changes) })
}

func (s *Server) datastore(name string) *simulator.Datastore {
	s.t.Helper()
	ds := datastoreOf(s.model.Map(), name)
	if ds == nil {
		s.t.Fatalf("there is no datastore %q", name)
	}
	return ds
}

func datastoreOf(registry *simulator.Registry, name string) *simulator.Datastore {
	for _, entity := range registry.All("Datastore") {
		if ds := entity.(*simulator.Datastore); ds.Name == name {
			return ds
		}
	}
	return nil
}

// RemoveDatastore takes a datastore away.
func (s *Server) RemoveDatastore(name string) {
	s.t.Helper()
	ref := s.datastore(name).Reference()
	s.wait("remove datastore "+name, object.NewDatastore(s.admin.Client, ref).Destroy)
	s.tellDatastores()
}

// Reachable says whether the hosts reach a datastore.
func (s *Server) Reachable(name string, yes bool) {
	s.t.Helper()
	ds := s.datastore(name)
	s.update(ds, map[string]any{"summary.accessible": yes})
}

// Room sets how many bytes of a datastore are free.
func (s *Server) Room(name string, free int64) {
	s.t.Helper()
	s.update(s.datastore(name), map[string]any{"summary.freeSpace": free})
}

// file finds the file that a datastore path means, as hosts do: without a look at "..".
func file(registry *simulator.Registry, text string) (string, types.BaseMethodFault) {
	var p object.DatastorePath
	if !p.FromString(text) {
		return "", &types.InvalidDatastorePath{DatastorePath: text}
	}
	ds := datastoreOf(registry, p.Datastore)
	if ds == nil {
		return "", &types.InvalidDatastore{Name: p.Datastore}
	}
	return filepath.Join(ds.Summary.Url, p.Path), nil
}

// Unauthorized refuses the next n reads and writes of files, as an endpoint does whose session is over.
func (s *Server) Unauthorized(n int) {
	left := make(chan struct{}, n)
	for range n {
		left <- struct{}{}
	}
	for _, method := range []string{http.MethodGet, http.MethodPut} {
		s.Spoiler.set(method+" "+files, func(w http.ResponseWriter, r *http.Request) {
			select {
			case <-left:
				w.WriteHeader(http.StatusUnauthorized)
			default:
				s.Spoiler.next.ServeHTTP(w, r)
			}
		})
	}
}

// WithoutParts answers reads of parts of files with whole files, as a simple server does.
func (s *Server) WithoutParts() {
	s.Spoiler.set(http.MethodGet+" "+files, func(w http.ResponseWriter, r *http.Request) {
		r.Header.Del("Range")
		s.Spoiler.next.ServeHTTP(w, r)
	})
}

// files is how the Spoiler calls reads and writes of files, after the HTTP method: "GET file", "PUT file".
const files = "file"

// fileMethod is the Spoiler's name of a request that is no SOAP.
func fileMethod(r *http.Request) (string, bool) {
	if !strings.HasPrefix(r.URL.Path, "/folder/") {
		return "", false
	}
	return fmt.Sprintf("%s %s", r.Method, files), true
}
