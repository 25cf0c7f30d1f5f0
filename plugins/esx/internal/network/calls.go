package network

import (
	"context"
	"fmt"

	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/vim25"
	"github.com/vmware/govmomi/vim25/types"
)

// on makes a call of the host's network system.
func (s state) on(make func(ctx context.Context, system *object.HostNetworkSystem) error) call {
	return func(ctx context.Context, c *vim25.Client) error {
		return make(ctx, object.NewHostNetworkSystem(c, s.system))
	}
}

func (s state) addSwitch(name string, spec types.HostVirtualSwitchSpec) step {
	return step{
		name: fmt.Sprintf("make network %q", name), left: fmt.Sprintf("network %q is left", name),
		do: s.on(func(ctx context.Context, system *object.HostNetworkSystem) error {
			return system.AddVirtualSwitch(ctx, name, &spec)
		}),
		undo: s.on(func(ctx context.Context, system *object.HostNetworkSystem) error {
			return system.RemoveVirtualSwitch(ctx, name)
		}),
	}
}

func (s state) updateSwitch(name string, old, spec types.HostVirtualSwitchSpec) step {
	update := func(to types.HostVirtualSwitchSpec) call {
		return s.on(func(ctx context.Context, system *object.HostNetworkSystem) error {
			return system.UpdateVirtualSwitch(ctx, name, to)
		})
	}
	return step{
		name: fmt.Sprintf("change network %q", name), left: fmt.Sprintf("network %q stays changed", name),
		do: update(spec), undo: update(old),
	}
}

// add and remove are the two directions of making a port group.
func (s state) add(spec types.HostPortGroupSpec) call {
	return s.on(func(ctx context.Context, system *object.HostNetworkSystem) error {
		return system.AddPortGroup(ctx, spec)
	})
}

func (s state) remove(spec types.HostPortGroupSpec) call {
	return s.on(func(ctx context.Context, system *object.HostNetworkSystem) error {
		return system.RemovePortGroup(ctx, spec.Name)
	})
}

func (s state) addGroup(spec types.HostPortGroupSpec) step {
	return step{
		name: fmt.Sprintf("make port group %q of network %q", spec.Name, spec.VswitchName),
		left: fmt.Sprintf("port group %q is left", spec.Name), do: s.add(spec), undo: s.remove(spec),
	}
}

func (s state) removeGroup(spec types.HostPortGroupSpec) step {
	return step{
		name: fmt.Sprintf("remove port group %q of network %q", spec.Name, spec.VswitchName),
		left: fmt.Sprintf("port group %q is gone", spec.Name), do: s.remove(spec), undo: s.add(spec),
	}
}

func (s state) updateGroup(old, spec types.HostPortGroupSpec) step {
	update := func(to types.HostPortGroupSpec) call {
		return s.on(func(ctx context.Context, system *object.HostNetworkSystem) error {
			return system.UpdatePortGroup(ctx, spec.Name, to)
		})
	}
	return step{
		name: fmt.Sprintf("change port group %q of network %q", spec.Name, spec.VswitchName),
		left: fmt.Sprintf("port group %q stays changed", spec.Name), do: update(spec), undo: update(old),
	}
}
