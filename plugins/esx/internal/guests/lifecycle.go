package guests

import (
	"context"
	"time"

	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/vim25"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/lodgevirt/lodge/plugins/esx/internal/inventory"
	hv "github.com/lodgevirt/lodge/sdk/proto/lodge/hypervisor/v1"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// power is a change of a machine's power.
type power struct {
	what string
	// from are the states that it is possible in, and refusal what is said in another.
	from    []hv.State
	refusal string
	// to is the state after it.
	to hv.State
	// large says that it takes as long as the machine's memory is large, so that it is not cancelled when a call's time is over.
	large bool
	start func(ctx context.Context, vm *object.VirtualMachine) (*object.Task, error)
}

// Changes of power.
var (
	powerOn = power{
		what: "start", from: []hv.State{hv.State_STATE_SHUTOFF}, refusal: "Domain is not powered off", to: hv.State_STATE_RUNNING,
		start: func(ctx context.Context, vm *object.VirtualMachine) (*object.Task, error) { return vm.PowerOn(ctx) },
	}
	powerOff = power{
		what: "stop", from: []hv.State{hv.State_STATE_RUNNING, hv.State_STATE_PAUSED}, refusal: "Domain is not powered on", to: hv.State_STATE_SHUTOFF,
		start: func(ctx context.Context, vm *object.VirtualMachine) (*object.Task, error) { return vm.PowerOff(ctx) },
	}
	suspend = power{
		what: "suspend", from: []hv.State{hv.State_STATE_RUNNING}, refusal: "Domain is not powered on", to: hv.State_STATE_PAUSED, large: true,
		start: func(ctx context.Context, vm *object.VirtualMachine) (*object.Task, error) { return vm.Suspend(ctx) },
	}
	resume = power{
		what: "resume", from: []hv.State{hv.State_STATE_PAUSED}, refusal: "Domain is not suspended", to: hv.State_STATE_RUNNING, large: true,
		start: func(ctx context.Context, vm *object.VirtualMachine) (*object.Task, error) { return vm.PowerOn(ctx) },
	}
	reset = power{
		what: "reset", from: []hv.State{hv.State_STATE_RUNNING}, refusal: "Domain is not powered on", to: hv.State_STATE_RUNNING,
		start: func(ctx context.Context, vm *object.VirtualMachine) (*object.Task, error) { return vm.Reset(ctx) },
	}
)

// Start powers a guest on.
func (g *Guests) Start(ctx context.Context, guest *hv.Guest) (seq uint64, err error) {
	return g.power(ctx, guest, powerOn)
}

// Stop powers a guest off at once.
func (g *Guests) Stop(ctx context.Context, guest *hv.Guest) (seq uint64, err error) {
	return g.power(ctx, guest, powerOff)
}

// Suspend suspends a guest: its memory is written to a file, as by libvirt's own driver.
func (g *Guests) Suspend(ctx context.Context, guest *hv.Guest) (seq uint64, err error) {
	return g.power(ctx, guest, suspend)
}

// Resume lets a suspended guest go on.
func (g *Guests) Resume(ctx context.Context, guest *hv.Guest) (seq uint64, err error) {
	return g.power(ctx, guest, resume)
}

// Reset is the reset button.
func (g *Guests) Reset(ctx context.Context, guest *hv.Guest) (seq uint64, err error) {
	return g.power(ctx, guest, reset)
}

// power changes a guest's power and waits until the feed shows it.
func (g *Guests) power(ctx context.Context, guest *hv.Guest, p power) (uint64, error) {
	vm, err := g.find(guest)
	if err != nil {
		return 0, err
	}
	what := p.what + " domain '" + guest.GetName() + "'"
	if err := inState(vm, p.from, p.refusal); err != nil {
		return 0, err
	}
	if vm.Template {
		return 0, failed(verr.OperationInvalid, "%s: it is a template, which can only be cloned", what)
	}
	if p.to == hv.State_STATE_SHUTOFF {
		defer g.switchesOff(vm.Ref)()
	}
	end := g.giveUp
	if p.large {
		end = g.letGo
	}
	_, err = g.runOr(ctx, what, vm, func(ctx context.Context, client *vim25.Client) (types.ManagedObjectReference, error) {
		return began(p.start(ctx, object.NewVirtualMachine(client, vm.Ref)))
	}, end)
	if err != nil {
		return 0, err
	}
	if p.to == vm.State() {
		// A reset looks like nothing has happened, or like an end and a beginning, which the time of the boot tells.
		brief, cancel := context.WithTimeout(ctx, resetShown)
		defer cancel()
		return g.awaitQuietly(brief, func(s *inventory.Snapshot) bool {
			now, ok := s.Ref(vm.Ref)
			return !ok || now.State() == p.to && now.Boot != vm.Boot
		}), nil
	}
	return g.await(ctx, func(s *inventory.Snapshot) bool {
		now, ok := s.Ref(vm.Ref)
		return !ok || now.State() == p.to
	}), nil
}

// resetShown is how long the time of the boot after a reset is waited for; a host may leave it as it was.
const resetShown = time.Second

// inState refuses a guest that is in none of some states.
func inState(vm inventory.VM, states []hv.State, refusal string) error {
	for _, s := range states {
		if vm.State() == s {
			return nil
		}
	}
	return failed(verr.OperationInvalid, "%s", refusal)
}

// began is the reference of a task that has begun.
func began(t *object.Task, err error) (types.ManagedObjectReference, error) {
	if err != nil {
		return types.ManagedObjectReference{}, err
	}
	return t.Reference(), nil
}

// Shutdown asks the guest's system to shut down; it needs VMware Tools.
func (g *Guests) Shutdown(ctx context.Context, guest *hv.Guest) error {
	return g.ask(ctx, guest, "shut down", func(ctx context.Context, vm *object.VirtualMachine) error { return vm.ShutdownGuest(ctx) })
}

// Reboot asks the guest's system to reboot; it needs VMware Tools.
func (g *Guests) Reboot(ctx context.Context, guest *hv.Guest) error {
	return g.ask(ctx, guest, "reboot", func(ctx context.Context, vm *object.VirtualMachine) error { return vm.RebootGuest(ctx) })
}

// ask asks the system of a guest for something, and does not wait.
func (g *Guests) ask(ctx context.Context, guest *hv.Guest, what string, call func(context.Context, *object.VirtualMachine) error) error {
	vm, err := g.find(guest)
	if err != nil {
		return err
	}
	if err := inState(vm, []hv.State{hv.State_STATE_RUNNING}, "Domain is not powered on"); err != nil {
		return err
	}
	if err := g.unasked(vm); err != nil {
		return err
	}
	return g.do(ctx, what+" domain '"+guest.GetName()+"'", func(ctx context.Context, client *vim25.Client) error {
		return call(ctx, object.NewVirtualMachine(client, vm.Ref))
	})
}
