package vimtest

import (
	"slices"
	"strings"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

// Prefixes of the keys that hosts give to parts of their network.
const (
	switchKey    = "key-vim.host.VirtualSwitch-"
	portGroupKey = "key-vim.host.PortGroup-"
	nicKey       = "key-vim.host.PhysicalNic-"
)

// networks is a HostNetworkSystem that keeps what it is told. The simulator's own drops the specification of switches, and does not
// change the copy of the configuration that HostSystem has. Of the simulator's own only the inventory's Network objects are used.
type networks struct {
	*simulator.HostNetworkSystem
	// hook is asked before each change, nil for none.
	hook func(method, name string) types.BaseMethodFault
}

// addNetworks puts one in the place of each host's.
func addNetworks(registry *simulator.Registry) {
	for _, entity := range registry.All("HostSystem") {
		host := entity.(*simulator.HostSystem)
		old, ok := registry.Get(*host.ConfigManager.NetworkSystem).(*simulator.HostNetworkSystem)
		if !ok {
			continue
		}
		old.Host = &host.HostSystem
		old.NetworkInfo = clone(host.Config.Network)
		registry.Put(&networks{HostNetworkSystem: old})
	}
	addUsers(registry)
}

// clone copies a configuration, so that what was told before stays what it was.
func clone(from *types.HostNetworkInfo) *types.HostNetworkInfo {
	c := *from
	c.Vswitch, c.Portgroup = slices.Clone(from.Vswitch), slices.Clone(from.Portgroup)
	c.Pnic, c.Vnic = slices.Clone(from.Pnic), slices.Clone(from.Vnic)
	for i := range c.Vswitch {
		c.Vswitch[i].Portgroup, c.Vswitch[i].Pnic = slices.Clone(c.Vswitch[i].Portgroup), slices.Clone(c.Vswitch[i].Pnic)
	}
	for i := range c.Portgroup {
		c.Portgroup[i].Port = slices.Clone(c.Portgroup[i].Port)
	}
	return &c
}

// change is a configuration that becomes the present one if nothing was refused.
type change struct {
	info  *types.HostNetworkInfo
	fault types.BaseMethodFault
}

// apply lets a function change a copy of the configuration, and tells it in both places if it does not refuse.
func (n *networks) apply(ctx *simulator.Context, method, name string, edit func(c *change)) *soap.Fault {
	if n.hook != nil {
		if fault := n.hook(method, name); fault != nil {
			return simulator.Fault("", fault)
		}
	}
	c := &change{info: clone(n.NetworkInfo)}
	if edit(c); c.fault != nil {
		return simulator.Fault("", c.fault)
	}
	n.publish(ctx, c.info)
	return nil
}

func (n *networks) publish(ctx *simulator.Context, info *types.HostNetworkInfo) {
	ctx.Update(n, []types.PropertyChange{{Name: "networkInfo", Op: types.PropertyChangeOpAssign, Val: info}})
	host := ctx.Map.Get(n.Host.Self)
	ctx.WithLock(host, func() {
		ctx.Update(host, []types.PropertyChange{{Name: "config.network", Op: types.PropertyChangeOpAssign, Val: clone(info)}})
	})
}

func (c *change) vswitch(name string) *types.HostVirtualSwitch {
	for i := range c.info.Vswitch {
		if c.info.Vswitch[i].Name == name {
			return &c.info.Vswitch[i]
		}
	}
	return nil
}

func (c *change) portGroup(name string) *types.HostPortGroup {
	for i := range c.info.Portgroup {
		if c.info.Portgroup[i].Spec.Name == name {
			return &c.info.Portgroup[i]
		}
	}
	return nil
}

// inUse says whether something is connected to a port group.
func (c *change) inUse(group *types.HostPortGroup) bool {
	return len(group.Port) > 0 || slices.ContainsFunc(c.info.Vnic, func(v types.HostVirtualNic) bool { return v.Portgroup == group.Spec.Name })
}

// configure gives a switch its specification.
func (c *change) configure(vs *types.HostVirtualSwitch, spec types.HostVirtualSwitchSpec) {
	nics, ok := c.bond(vs, spec.Bridge)
	if !ok {
		return
	}
	if spec.NumPorts < 0 || spec.Mtu != 0 && (spec.Mtu < 1280 || spec.Mtu > 9000) {
		c.fault = &types.InvalidArgument{InvalidProperty: "spec"}
		return
	}
	if policy := spec.Policy; policy != nil && policy.NicTeaming != nil && policy.NicTeaming.NicOrder != nil {
		for _, nic := range append(slices.Clone(policy.NicTeaming.NicOrder.ActiveNic), policy.NicTeaming.NicOrder.StandbyNic...) {
			if !slices.Contains(nics, nicKey+nic) {
				c.fault = &types.InvalidArgument{InvalidProperty: "nicOrder"}
				return
			}
		}
	}
	vs.Spec, vs.Pnic = spec, nics
	vs.NumPorts, vs.NumPortsAvailable, vs.Mtu = spec.NumPorts, spec.NumPorts-int32(len(nics)), spec.Mtu
	if vs.Mtu == 0 {
		vs.Mtu = 1500
	}
}

// bond returns the keys of the physical NICs of a bridge. libvirt's own driver names NICs by their keys, which hosts accept.
func (c *change) bond(vs *types.HostVirtualSwitch, bridge types.BaseHostVirtualSwitchBridge) (keys []string, ok bool) {
	bond, _ := bridge.(*types.HostVirtualSwitchBondBridge)
	if bond == nil {
		return nil, true
	}
	for i, name := range bond.NicDevice {
		name = strings.TrimPrefix(name, nicKey)
		bond.NicDevice[i] = name
		key := nicKey + name
		if !slices.ContainsFunc(c.info.Pnic, func(p types.PhysicalNic) bool { return p.Key == key }) {
			c.fault = &types.NotFound{}
			return nil, false
		}
		for _, other := range c.info.Vswitch {
			if other.Name != vs.Name && slices.Contains(other.Pnic, key) {
				c.fault = &types.ResourceInUse{Type: "PhysicalNic", Name: name}
				return nil, false
			}
		}
		keys = append(keys, key)
	}
	return keys, true
}

// AddVirtualSwitch makes a switch.
func (n *networks) AddVirtualSwitch(ctx *simulator.Context, req *types.AddVirtualSwitch) soap.HasFault {
	fault := n.apply(ctx, "AddVirtualSwitch", req.VswitchName, func(c *change) {
		switch {
		case c.vswitch(req.VswitchName) != nil:
			c.fault = &types.AlreadyExists{Name: req.VswitchName}
			return
		case req.VswitchName == "" || len([]rune(req.VswitchName)) > 32:
			c.fault = &types.InvalidArgument{InvalidProperty: "vswitchName"}
			return
		}
		vs := types.HostVirtualSwitch{Name: req.VswitchName, Key: switchKey + req.VswitchName}
		spec := types.HostVirtualSwitchSpec{NumPorts: 128}
		if req.Spec != nil {
			spec = *req.Spec
		}
		c.configure(&vs, spec)
		c.info.Vswitch = append(c.info.Vswitch, vs)
	})
	if fault != nil {
		return &methods.AddVirtualSwitchBody{Fault_: fault}
	}
	return &methods.AddVirtualSwitchBody{Res: &types.AddVirtualSwitchResponse{}}
}

// UpdateVirtualSwitch gives a switch another specification.
func (n *networks) UpdateVirtualSwitch(ctx *simulator.Context, req *types.UpdateVirtualSwitch) soap.HasFault {
	fault := n.apply(ctx, "UpdateVirtualSwitch", req.VswitchName, func(c *change) {
		if vs := c.vswitch(req.VswitchName); vs != nil {
			c.configure(vs, req.Spec)
			return
		}
		c.fault = &types.NotFound{}
	})
	if fault != nil {
		return &methods.UpdateVirtualSwitchBody{Fault_: fault}
	}
	return &methods.UpdateVirtualSwitchBody{Res: &types.UpdateVirtualSwitchResponse{}}
}

// RemoveVirtualSwitch removes a switch with its port groups, unless something is connected to one.
func (n *networks) RemoveVirtualSwitch(ctx *simulator.Context, req *types.RemoveVirtualSwitch) soap.HasFault {
	fault := n.apply(ctx, "RemoveVirtualSwitch", req.VswitchName, func(c *change) {
		vs := c.vswitch(req.VswitchName)
		if vs == nil {
			c.fault = &types.NotFound{}
			return
		}
		var groups []string
		for i, group := range c.info.Portgroup {
			if group.Spec.VswitchName != vs.Name {
				continue
			}
			if c.inUse(&c.info.Portgroup[i]) {
				c.fault = &types.ResourceInUse{Type: "PortGroup", Name: group.Spec.Name}
				return
			}
			groups = append(groups, group.Spec.Name)
		}
		for _, name := range groups {
			n.remove(ctx, c, name)
		}
		c.info.Vswitch = slices.DeleteFunc(c.info.Vswitch, func(v types.HostVirtualSwitch) bool { return v.Name == req.VswitchName })
	})
	if fault != nil {
		return &methods.RemoveVirtualSwitchBody{Fault_: fault}
	}
	return &methods.RemoveVirtualSwitchBody{Res: &types.RemoveVirtualSwitchResponse{}}
}

// network finds the inventory's object of a port group, which only those for machines have.
func (n *networks) network(ctx *simulator.Context, name string) *mo.Network {
	for _, entity := range ctx.Map.All("Network") {
		if network, ok := entity.(*mo.Network); ok && network.Name == name {
			return network
		}
	}
	return nil
}

// members tells the host which networks it has, but for those that the inventory does not have any more.
func (n *networks) members(ctx *simulator.Context, name string) {
	host := ctx.Map.Get(n.Host.Self)
	ctx.WithLock(host, func() {
		refs := slices.DeleteFunc(slices.Clone(n.Host.Network), func(ref types.ManagedObjectReference) bool { return ctx.Map.Get(ref) == nil })
		if network := n.network(ctx, name); network != nil && !slices.Contains(refs, network.Self) {
			refs = append(refs, network.Self)
		}
		ctx.Update(host, []types.PropertyChange{{Name: "network", Op: types.PropertyChangeOpAssign, Val: refs}})
	})
}

// addUsers tells the inventory's Network objects which machines are on them, which the simulator does not.
func addUsers(registry *simulator.Registry) {
	for _, entity := range registry.All("VirtualMachine") {
		vm := entity.(*simulator.VirtualMachine)
		for _, ref := range vm.Network {
			if network, ok := registry.Get(ref).(*mo.Network); ok && !slices.Contains(network.Vm, vm.Self) {
				network.Vm = append(network.Vm, vm.Self)
			}
		}
	}
}
