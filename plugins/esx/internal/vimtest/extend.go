package vimtest

import (
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

// MaxVCPUs is the largest number of vCPUs of a machine that the simulated hosts tell.
const MaxVCPUs = 128

// Extension is what is added to the simulator's own objects.
type Extension struct {
	registry *simulator.Registry

	mu sync.Mutex // guards all below
	// stalled are the methods whose tasks never end, true if they can be cancelled.
	stalled map[string]bool
	// asks are machines that ask something when they are powered on.
	asks map[types.ManagedObjectReference]types.VirtualMachineQuestionInfo
	// waiting are tasks that go on when their machine is answered.
	waiting map[types.ManagedObjectReference]func(ctx *simulator.Context)
	answers []string
	// sessions are those that have an object of ours for the simulator's.
	sessions map[types.ManagedObjectReference][]*simulator.Registry
}

var _ simulator.RegisterObject = (*Extension)(nil)

// Extend adds what the simulator lacks and the driver needs to a model that was created. The simulator's own
// objects stay in its registry, since it asserts their types; only calls go to ours.
func Extend(model *simulator.Model) *Extension {
	x := &Extension{
		registry: model.Map(), stalled: map[string]bool{}, asks: map[types.ManagedObjectReference]types.VirtualMachineQuestionInfo{},
		waiting:  map[types.ManagedObjectReference]func(ctx *simulator.Context){},
		sessions: map[types.ManagedObjectReference][]*simulator.Registry{},
	}
	x.registry.Handler = x.route
	x.registry.AddHandler(x)
	addAutostart(x.registry)
	addNetworks(x.registry)
	addStorage(x.registry)
	for _, host := range x.registry.All("HostSystem") {
		h := host.(*simulator.HostSystem)
		capability := types.HostCapability{}
		if h.Capability != nil {
			capability = *h.Capability
		}
		capability.MaxSupportedVcpus = MaxVCPUs
		h.Capability = &capability
	}
	for _, vm := range x.registry.All("VirtualMachine") {
		vm.(*simulator.VirtualMachine).Summary.QuickStats = types.VirtualMachineQuickStats{
			OverallCpuUsage: 500, GuestMemoryUsage: 8, HostMemoryUsage: 16, UptimeSeconds: 100,
		}
	}
	return x
}

// calls are the methods that we have, by the type of the object.
var calls = map[string][]string{
	"VirtualMachine":         {"ReconfigVM_Task", "PowerOnVM_Task", "SuspendVM_Task", "CreateSnapshot_Task", "MigrateVM_Task", "AnswerVM"},
	"Folder":                 {"CreateVM_Task"},
	"VirtualMachineSnapshot": {"RevertToSnapshot_Task"},
}

// route sees each call before it is answered, and puts our object for the simulator's into the session, whose objects are asked first. It
// leaves the answer to the simulator.
func (x *Extension) route(ctx *simulator.Context, m *simulator.Method) (mo.Reference, types.BaseMethodFault) {
	if !slices.Contains(calls[m.This.Type], m.Name) || ctx.Session == nil || ctx.Session.Registry.Get(m.This) != nil {
		return nil, nil
	}
	var ours mo.Reference
	switch o := ctx.Map.Get(m.This).(type) {
	case *simulator.VirtualMachine:
		ours = &machine{VirtualMachine: o, x: x}
	case *simulator.Folder:
		ours = &folder{Folder: o, x: x}
	case *simulator.VirtualMachineSnapshot:
		ours = &snapshot{VirtualMachineSnapshot: o, x: x}
	default:
		return nil, nil
	}
	ctx.Session.Registry.Put(ours)
	x.mu.Lock()
	defer x.mu.Unlock()
	x.sessions[m.This] = append(x.sessions[m.This], ctx.Session.Registry)
	return nil, nil
}

// Reference implements simulator.RegisterObject.
func (x *Extension) Reference() types.ManagedObjectReference {
	return types.ManagedObjectReference{Type: "Extension", Value: "vimtest"}
}

// PutObject implements simulator.RegisterObject.
func (x *Extension) PutObject(*simulator.Context, mo.Reference) {}

// UpdateObject implements simulator.RegisterObject.
func (x *Extension) UpdateObject(*simulator.Context, mo.Reference, []types.PropertyChange) {}

// RemoveObject implements simulator.RegisterObject: sessions forget what is gone.
func (x *Extension) RemoveObject(ctx *simulator.Context, ref types.ManagedObjectReference) {
	x.mu.Lock()
	registries := x.sessions[ref]
	delete(x.sessions, ref)
	x.mu.Unlock()
	for _, r := range registries {
		r.Remove(ctx, ref)
	}
}

// Stall has the tasks of a method ("PowerOnVM_Task") begin and never end. If they can be cancelled, that ends them.
func (s *Server) Stall(method string, cancelable bool) {
	s.extra.mu.Lock()
	defer s.extra.mu.Unlock()
	s.extra.stalled[method] = cancelable
}

// Unstall lets the tasks of a method that begin from now on end.
func (s *Server) Unstall(method string) {
	s.extra.mu.Lock()
	defer s.extra.mu.Unlock()
	delete(s.extra.stalled, method)
}

// stuck begins a task that never ends if that is asked for.
func (x *Extension) stuck(ctx *simulator.Context, method string, entity types.ManagedObjectReference) *types.ManagedObjectReference {
	x.mu.Lock()
	cancelable, stalled := x.stalled[method]
	x.mu.Unlock()
	if !stalled {
		return nil
	}
	ref := begin(ctx, entity, cancelable)
	return &ref
}

// begin makes a task that runs until something sets its state.
func begin(ctx *simulator.Context, entity types.ManagedObjectReference, cancelable bool) types.ManagedObjectReference {
	t := &simulator.Task{}
	t.Info = types.TaskInfo{Name: "stuck", State: types.TaskInfoStateRunning, Cancelable: cancelable, Entity: &entity}
	ctx.Map.Put(t)
	t.Info.Key, t.Info.Task = t.Self.Value, t.Self
	if !cancelable {
		ctx.Map.Put(&stubborn{t})
	}
	return t.Self
}

// stubborn is a task that cannot be cancelled.
type stubborn struct{ *simulator.Task }

// CancelTask refuses.
func (t *stubborn) CancelTask(*simulator.Context, *types.CancelTask) soap.HasFault {
	return &methods.CancelTaskBody{Fault_: simulator.Fault("", &types.NotSupported{})}
}

// lost finds a datastore or a network in a specification that the datacenter does not have, which the simulator falls over.
func (x *Extension) lost(spec *types.VirtualMachineConfigSpec) types.BaseMethodFault {
	has := func(kind, name string) bool {
		for _, e := range x.registry.All(kind) {
			if e.Entity().Name == name {
				return true
			}
		}
		return false
	}
	store := func(file string) types.BaseMethodFault {
		var p object.DatastorePath
		if file == "" || p.FromString(file) && has("Datastore", p.Datastore) {
			return nil
		}
		return &types.InvalidDatastorePath{InvalidDatastore: types.InvalidDatastore{Name: p.Datastore}, DatastorePath: file}
	}
	if spec.Files != nil {
		if f := store(spec.Files.VmPathName); f != nil {
			return f
		}
	}
	for _, c := range spec.DeviceChange {
		change := c.GetVirtualDeviceConfigSpec()
		if change.Operation == types.VirtualDeviceConfigSpecOperationRemove {
			continue
		}
		switch b := change.Device.GetVirtualDevice().Backing.(type) {
		case types.BaseVirtualDeviceFileBackingInfo:
			if f := store(b.GetVirtualDeviceFileBackingInfo().FileName); f != nil {
				return f
			}
		case *types.VirtualEthernetCardNetworkBackingInfo:
			if !has("Network", b.DeviceName) && !has("DistributedVirtualPortgroup", b.DeviceName) {
				return &types.InvalidDeviceBacking{}
			}
		}
	}
	return nil
}

// wrong finds sizes that no machine has.
func wrong(spec *types.VirtualMachineConfigSpec, name string) types.BaseMethodFault {
	switch {
	case spec.MemoryMB < 0 || spec.MemoryMB%4 != 0:
		return &types.InvalidArgument{InvalidProperty: "configSpec.memoryMB"}
	case spec.NumCPUs < 0 || spec.NumCPUs > MaxVCPUs:
		return &types.InvalidArgument{InvalidProperty: "configSpec.numCPUs"}
	case len(spec.Name) > 80 || strings.Contains(spec.Name, "/") || spec.Name == "" && name == "":
		return &types.InvalidName{Name: spec.Name}
	}
	return nil
}

// folder makes machines.
type folder struct {
	*simulator.Folder
	x *Extension
}

// CreateVMTask refuses what a host does, and lets the simulator make the rest.
func (f *folder) CreateVMTask(ctx *simulator.Context, req *types.CreateVM_Task) soap.HasFault {
	refuse := func(fault types.BaseMethodFault) soap.HasFault {
		return &methods.CreateVM_TaskBody{Fault_: simulator.Fault("", fault)}
	}
	if ref := f.x.stuck(ctx, "CreateVM_Task", f.Self); ref != nil {
		return &methods.CreateVM_TaskBody{Res: &types.CreateVM_TaskResponse{Returnval: *ref}}
	}
	for _, child := range f.ChildEntity {
		if e, ok := ctx.Map.Get(child).(mo.Entity); ok && e.Entity().Name == req.Config.Name {
			return refuse(&types.DuplicateName{Name: req.Config.Name, Object: child})
		}
	}
	if fault := wrong(&req.Config, ""); fault != nil {
		return refuse(fault)
	}
	if fault := f.x.lost(&req.Config); fault != nil {
		return refuse(fault)
	}
	return f.create(ctx, req)
}

// create makes a machine as a host does, which takes away the files of one that it could not make, and does not mind an old log. A name
// that has escapes goes round the simulator, which would escape it again and make every device twice.
func (f *folder) create(ctx *simulator.Context, req *types.CreateVM_Task) soap.HasFault {
	name := req.Config.Name
	req.Config.Name = strings.ReplaceAll(name, "%", "_")
	fresh := f.x.files(req.Config.Files, req.Config.Name)
	task := simulator.CreateTask(f.Folder, "createVm", func(*simulator.Task) (types.AnyType, types.BaseMethodFault) {
		body := f.Folder.CreateVMTask(ctx, req).(*methods.CreateVM_TaskBody)
		made := ctx.Map.Get(body.Res.Returnval).(*simulator.Task)
		made.Wait()
		if made.Info.Error != nil {
			for _, file := range fresh {
				_ = os.Remove(file)
			}
			return nil, made.Info.Error.Fault
		}
		ref := made.Info.Result.(types.ManagedObjectReference)
		if name != req.Config.Name {
			ctx.Map.AtomicUpdate(ctx, ctx.Map.Get(ref), []types.PropertyChange{
				{Name: "name", Val: name}, {Name: "config.name", Val: name}, {Name: "summary.config.name", Val: name},
			})
		}
		return ref, nil
	})
	return &methods.CreateVM_TaskBody{Res: &types.CreateVM_TaskResponse{Returnval: task.Run(ctx)}}
}

// files are those that making a machine adds to a folder, and are not there now.
func (x *Extension) files(info *types.VirtualMachineFileInfo, name string) []string {
	var p object.DatastorePath
	if info == nil || !p.FromString(info.VmPathName) || !strings.HasSuffix(p.Path, ".vmx") {
		return nil
	}
	var fresh []string
	for _, e := range x.registry.All("Datastore") {
		ds := e.(*simulator.Datastore)
		if ds.Name != p.Datastore {
			continue
		}
		folder := filepath.Join(ds.Info.GetDatastoreInfo().Url, filepath.Dir(p.Path))
		_ = os.Remove(filepath.Join(folder, "vmware.log"))
		for _, file := range []string{filepath.Base(p.Path), name + ".nvram", "vmware.log"} {
			if _, err := os.Stat(filepath.Join(folder, file)); err != nil {
				fresh = append(fresh, filepath.Join(folder, file))
			}
		}
	}
	return fresh
}

// picture is a PNG of one black pixel.
var picture = []byte("\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR\x00\x00\x00\x01\x00\x00\x00\x01\x08\x00\x00\x00\x00:~\x9bU" +
	"\x00\x00\x00\nIDATx\x9cc`\x00\x00\x00\x02\x00\x01H\xaf\xa4q\x00\x00\x00\x00IEND\xaeB`\x82")

// Screen shows a machine's screen to somebody who has the password, as ESX does.
func Screen(w http.ResponseWriter, r *http.Request) {
	user, password, _ := r.BasicAuth()
	switch {
	case user != User || password != Password:
		w.Header().Set("WWW-Authenticate", `Basic realm="VMware HTTP server"`)
		w.WriteHeader(http.StatusUnauthorized)
	case r.URL.Query().Get("id") == "":
		w.WriteHeader(http.StatusNotFound)
	default:
		w.Header().Set("Content-Type", "image/png")
		_, _ = w.Write(picture)
	}
}
