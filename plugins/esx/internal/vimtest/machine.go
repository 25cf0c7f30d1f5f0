package vimtest

import (
	"strconv"
	"time"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

// machine is a virtual machine with the methods that the simulator's lacks, or that do too little there.
type machine struct {
	*simulator.VirtualMachine
	x *Extension
}

// ReconfigVMTask refuses what a host does, and tells of sizes as hosts do.
func (m *machine) ReconfigVMTask(ctx *simulator.Context, req *types.ReconfigVM_Task) soap.HasFault {
	if ref := m.x.stuck(ctx, "ReconfigVM_Task", m.Self); ref != nil {
		return &methods.ReconfigVM_TaskBody{Res: &types.ReconfigVM_TaskResponse{Returnval: *ref}}
	}
	fault := wrong(&req.Spec, m.Name)
	if fault == nil {
		fault = m.x.lost(&req.Spec)
	}
	on := m.Runtime.PowerState != types.VirtualMachinePowerStatePoweredOff
	switch {
	case fault != nil:
	case req.Spec.ChangeVersion != "" && req.Spec.ChangeVersion != m.Config.ChangeVersion:
		fault = &types.ConcurrentAccess{}
	case on && req.Spec.MemoryMB != 0 && int32(req.Spec.MemoryMB) != m.Config.Hardware.MemoryMB:
		fault = &types.InvalidPowerState{
			RequestedState: types.VirtualMachinePowerStatePoweredOff, ExistingState: m.Runtime.PowerState,
		}
	}
	if fault != nil {
		return &methods.ReconfigVM_TaskBody{Fault_: simulator.Fault("", fault)}
	}
	if changes := m.sizes(&req.Spec); len(changes) > 0 {
		ctx.Update(m.VirtualMachine, changes)
	}
	return m.VirtualMachine.ReconfigVMTask(ctx, req)
}

// sizes are the changes that the simulator makes in silence.
func (m *machine) sizes(spec *types.VirtualMachineConfigSpec) []types.PropertyChange {
	var changes []types.PropertyChange
	add := func(name string, value any) { changes = append(changes, types.PropertyChange{Name: name, Val: value}) }
	if spec.MemoryMB != 0 {
		add("config.hardware.memoryMB", int32(spec.MemoryMB))
		add("summary.config.memorySizeMB", int32(spec.MemoryMB))
	}
	if spec.NumCPUs != 0 {
		add("config.hardware.numCPU", spec.NumCPUs)
		add("summary.config.numCpu", spec.NumCPUs)
	}
	for _, a := range []struct {
		name      string
		spec, now **types.ResourceAllocationInfo
	}{
		{"config.cpuAllocation", &spec.CpuAllocation, &m.Config.CpuAllocation},
		{"config.memoryAllocation", &spec.MemoryAllocation, &m.Config.MemoryAllocation},
	} {
		if *a.spec == nil {
			continue
		}
		merged := merge(*a.now, *a.spec)
		*a.spec = merged
		add(a.name, *merged)
	}
	return changes
}

// sharesEach are the shares of a vCPU by level.
var sharesEach = map[types.SharesLevel]int32{types.SharesLevelLow: 500, types.SharesLevelNormal: 1000, types.SharesLevelHigh: 2000}

// merge takes over what a change of an allocation says.
func merge(now, change *types.ResourceAllocationInfo) *types.ResourceAllocationInfo {
	merged := types.ResourceAllocationInfo{}
	if now != nil {
		merged = *now
	}
	if change.Reservation != nil {
		merged.Reservation = change.Reservation
	}
	if change.Limit != nil {
		merged.Limit = change.Limit
	}
	if change.Shares != nil {
		shares := *change.Shares
		if each, ok := sharesEach[shares.Level]; ok {
			shares.Shares = each
		}
		merged.Shares = &shares
	}
	return &merged
}

// PowerOnVMTask asks first where that is wanted.
func (m *machine) PowerOnVMTask(ctx *simulator.Context, req *types.PowerOnVM_Task) soap.HasFault {
	if ref := m.x.stuck(ctx, "PowerOnVM_Task", m.Self); ref != nil {
		return &methods.PowerOnVM_TaskBody{Res: &types.PowerOnVM_TaskResponse{Returnval: *ref}}
	}
	m.x.mu.Lock()
	question, asks := m.x.asks[m.Self]
	delete(m.x.asks, m.Self)
	m.x.mu.Unlock()
	if !asks {
		return m.VirtualMachine.PowerOnVMTask(ctx, req)
	}
	ref := begin(ctx, m.Self, true)
	m.x.mu.Lock()
	m.x.waiting[m.Self] = func(ctx *simulator.Context) {
		body := m.VirtualMachine.PowerOnVMTask(ctx, req).(*methods.PowerOnVM_TaskBody)
		ctx.Map.Get(body.Res.Returnval).(*simulator.Task).Wait()
		ctx.Map.AtomicUpdate(ctx, ctx.Map.Get(ref), []types.PropertyChange{{Name: "info.state", Val: types.TaskInfoStateSuccess}})
	}
	m.x.mu.Unlock()
	ctx.Update(m.VirtualMachine, []types.PropertyChange{{Name: "runtime.question", Val: question}})
	return &methods.PowerOnVM_TaskBody{Res: &types.PowerOnVM_TaskResponse{Returnval: ref}}
}

// SuspendVMTask never ends where that is wanted.
func (m *machine) SuspendVMTask(ctx *simulator.Context, req *types.SuspendVM_Task) soap.HasFault {
	if ref := m.x.stuck(ctx, "SuspendVM_Task", m.Self); ref != nil {
		return &methods.SuspendVM_TaskBody{Res: &types.SuspendVM_TaskResponse{Returnval: *ref}}
	}
	return m.VirtualMachine.SuspendVMTask(ctx, req)
}

// CreateSnapshotTask never ends where that is wanted.
func (m *machine) CreateSnapshotTask(ctx *simulator.Context, req *types.CreateSnapshot_Task) soap.HasFault {
	if ref := m.x.stuck(ctx, "CreateSnapshot_Task", m.Self); ref != nil {
		return &methods.CreateSnapshot_TaskBody{Res: &types.CreateSnapshot_TaskResponse{Returnval: *ref}}
	}
	return m.VirtualMachine.CreateSnapshotTask(ctx, req)
}

// AnswerVM takes an answer, and lets go on what has waited for it.
func (m *machine) AnswerVM(ctx *simulator.Context, req *types.AnswerVM) soap.HasFault {
	q := m.Runtime.Question
	if q == nil || q.Id != req.QuestionId {
		return &methods.AnswerVMBody{Fault_: simulator.Fault("", &types.InvalidArgument{InvalidProperty: "questionId"})}
	}
	m.x.mu.Lock()
	m.x.answers = append(m.x.answers, req.AnswerChoice)
	goOn := m.x.waiting[m.Self]
	delete(m.x.waiting, m.Self)
	m.x.mu.Unlock()
	ctx.Update(m.VirtualMachine, []types.PropertyChange{{Name: "runtime.question", Val: nil}})
	if goOn != nil {
		goOn(ctx)
	}
	return &methods.AnswerVMBody{Res: &types.AnswerVMResponse{}}
}

// MigrateVMTask moves the machine to another host of the server.
func (m *machine) MigrateVMTask(ctx *simulator.Context, req *types.MigrateVM_Task) soap.HasFault {
	if ref := m.x.stuck(ctx, "MigrateVM_Task", m.Self); ref != nil {
		return &methods.MigrateVM_TaskBody{Res: &types.MigrateVM_TaskResponse{Returnval: *ref}}
	}
	task := simulator.CreateTask(m.VirtualMachine, "migrate", func(*simulator.Task) (types.AnyType, types.BaseMethodFault) {
		to, ok := ctx.Map.Get(*req.Host).(*simulator.HostSystem)
		if !ok {
			return nil, &types.ManagedObjectNotFound{Obj: *req.Host}
		}
		from := ctx.Map.Get(*m.Runtime.Host).(*simulator.HostSystem)
		ctx.Map.RemoveReference(ctx, from, &from.Vm, m.Self)
		ctx.Map.AppendReference(ctx, to, &to.Vm, m.Self)
		ctx.Update(m.VirtualMachine, []types.PropertyChange{
			{Name: "runtime.host", Val: to.Self}, {Name: "summary.runtime.host", Val: to.Self},
		})
		return nil, nil
	})
	return &methods.MigrateVM_TaskBody{Res: &types.MigrateVM_TaskResponse{Returnval: task.Run(ctx)}}
}

// snapshot is a snapshot that brings the configuration back.
type snapshot struct {
	*simulator.VirtualMachineSnapshot
	x *Extension
}

// RevertToSnapshotTask brings back configuration and power.
func (v *snapshot) RevertToSnapshotTask(ctx *simulator.Context, req *types.RevertToSnapshot_Task) soap.HasFault {
	vm := ctx.Map.Get(v.Vm).(*simulator.VirtualMachine)
	ctx.WithLock(vm, func() {
		version := strconv.FormatInt(time.Now().UnixNano(), 10)
		devices := v.Config.Hardware
		state := types.VirtualMachinePowerStatePoweredOff
		if n := findNode(vm.Snapshot.RootSnapshotList, v.Self); n != nil {
			state = n.State
		}
		ctx.Update(vm, []types.PropertyChange{
			{Name: "config.hardware", Val: devices},
			{Name: "config.hardware.memoryMB", Val: devices.MemoryMB},
			{Name: "config.hardware.numCPU", Val: devices.NumCPU},
			{Name: "config.annotation", Val: v.Config.Annotation},
			{Name: "config.changeVersion", Val: version},
			{Name: "runtime.powerState", Val: state},
			{Name: "summary.runtime.powerState", Val: state},
		})
	})
	return v.VirtualMachineSnapshot.RevertToSnapshotTask(ctx, req)
}

// findNode finds a snapshot in a tree.
func findNode(nodes []types.VirtualMachineSnapshotTree, ref types.ManagedObjectReference) *types.VirtualMachineSnapshotTree {
	for i := range nodes {
		if nodes[i].Snapshot == ref {
			return &nodes[i]
		}
		if n := findNode(nodes[i].ChildSnapshotList, ref); n != nil {
			return n
		}
	}
	return nil
}

// Ask has a machine ask something when it is powered on next, with answers of which the one at the default index is the default.
func (s *Server) Ask(name, text string, answers []string, byDefault int32) {
	s.t.Helper()
	q := types.VirtualMachineQuestionInfo{Id: strconv.FormatInt(time.Now().UnixNano(), 36), Text: text}
	q.Choice.DefaultIndex = byDefault
	for i, answer := range answers {
		q.Choice.ChoiceInfo = append(q.Choice.ChoiceInfo, &types.ElementDescription{
			Description: types.Description{Label: answer, Summary: answer}, Key: strconv.Itoa(i),
		})
	}
	ref := s.vm(name).Reference()
	s.extra.mu.Lock()
	defer s.extra.mu.Unlock()
	s.extra.asks[ref] = q
}

// Answers are the keys of the answers that questions were given.
func (s *Server) Answers() []string {
	s.extra.mu.Lock()
	defer s.extra.mu.Unlock()
	return append([]string(nil), s.extra.answers...)
}
