package vimtest

import (
	"slices"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

// AddPortGroup makes a port group, and the inventory's object for it.
func (n *networks) AddPortGroup(ctx *simulator.Context, req *types.AddPortGroup) soap.HasFault {
	fault := n.apply(ctx, "AddPortGroup", req.Portgrp.Name, func(c *change) { n.add(ctx, c, req.Portgrp) })
	if fault != nil {
		return &methods.AddPortGroupBody{Fault_: fault}
	}
	return &methods.AddPortGroupBody{Res: &types.AddPortGroupResponse{}}
}

// add makes a port group. The inventory's object is made by the simulator's own method, which is shown a configuration that it leaves
// its traces in.
func (n *networks) add(ctx *simulator.Context, c *change, spec types.HostPortGroupSpec) {
	vs := c.vswitch(spec.VswitchName)
	switch {
	case c.portGroup(spec.Name) != nil:
		c.fault = &types.AlreadyExists{Name: spec.Name}
		return
	case vs == nil:
		c.fault = &types.NotFound{}
		return
	case spec.VlanId < 0 || spec.VlanId > 4095:
		c.fault = &types.InvalidArgument{InvalidProperty: "vlanId"}
		return
	}
	c.fault = n.beside(func() soap.HasFault {
		n.NetworkInfo = &types.HostNetworkInfo{Vswitch: []types.HostVirtualSwitch{{Name: vs.Name}}}
		return n.HostNetworkSystem.AddPortGroup(ctx, &types.AddPortGroup{Portgrp: spec})
	})
	if c.fault != nil {
		return
	}
	n.members(ctx, spec.Name)
	group := types.HostPortGroup{Key: portGroupKey + spec.Name, Vswitch: vs.Key, Spec: spec}
	c.info.Portgroup = append(c.info.Portgroup, group)
	vs.Portgroup = append(vs.Portgroup, group.Key)
}

// UpdatePortGroup gives a port group another specification, its name and switch included.
func (n *networks) UpdatePortGroup(ctx *simulator.Context, req *types.UpdatePortGroup) soap.HasFault {
	fault := n.apply(ctx, "UpdatePortGroup", req.PgName, func(c *change) {
		group := c.portGroup(req.PgName)
		switch {
		case group == nil, c.vswitch(req.Portgrp.VswitchName) == nil:
			c.fault = &types.NotFound{}
		case req.Portgrp.Name != req.PgName && c.portGroup(req.Portgrp.Name) != nil:
			c.fault = &types.AlreadyExists{Name: req.Portgrp.Name}
		case req.Portgrp.VlanId < 0 || req.Portgrp.VlanId > 4095:
			c.fault = &types.InvalidArgument{InvalidProperty: "vlanId"}
		case group.Spec.VswitchName != req.Portgrp.VswitchName || req.Portgrp.Name != req.PgName:
			c.fault = &types.HostConfigFault{} // hosts can do this, and nobody here asks for it
		default:
			group.Spec = req.Portgrp
		}
	})
	if fault != nil {
		return &methods.UpdatePortGroupBody{Fault_: fault}
	}
	return &methods.UpdatePortGroupBody{Res: &types.UpdatePortGroupResponse{}}
}

// RemovePortGroup removes a port group that nothing is connected to.
func (n *networks) RemovePortGroup(ctx *simulator.Context, req *types.RemovePortGroup) soap.HasFault {
	fault := n.apply(ctx, "RemovePortGroup", req.PgName, func(c *change) {
		group := c.portGroup(req.PgName)
		switch {
		case group == nil:
			c.fault = &types.NotFound{}
		case c.inUse(group):
			c.fault = &types.ResourceInUse{Type: "PortGroup", Name: req.PgName}
		default:
			n.remove(ctx, c, req.PgName)
		}
	})
	if fault != nil {
		return &methods.RemovePortGroupBody{Fault_: fault}
	}
	return &methods.RemovePortGroupBody{Res: &types.RemovePortGroupResponse{}}
}

// remove removes a port group, and the inventory's object for it if there is one.
func (n *networks) remove(ctx *simulator.Context, c *change, name string) {
	if n.network(ctx, name) != nil {
		c.fault = n.beside(func() soap.HasFault {
			n.NetworkInfo = &types.HostNetworkInfo{Vswitch: []types.HostVirtualSwitch{{Portgroup: []string{name}}}}
			return n.HostNetworkSystem.RemovePortGroup(ctx, &types.RemovePortGroup{PgName: name})
		})
		n.members(ctx, name)
	}
	for i := range c.info.Vswitch {
		vs := &c.info.Vswitch[i]
		vs.Portgroup = slices.DeleteFunc(vs.Portgroup, func(key string) bool { return key == portGroupKey+name })
	}
	c.info.Portgroup = slices.DeleteFunc(c.info.Portgroup, func(p types.HostPortGroup) bool { return p.Spec.Name == name })
}

// beside calls a method of the simulator's own and keeps its hands off the configuration.
func (n *networks) beside(call func() soap.HasFault) types.BaseMethodFault {
	info := n.NetworkInfo
	defer func() { n.NetworkInfo = info }()
	if fault := call().Fault(); fault != nil {
		return fault.VimFault().(types.BaseMethodFault)
	}
	return nil
}
