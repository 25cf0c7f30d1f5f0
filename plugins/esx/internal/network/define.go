package network

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/vmware/govmomi/vim25/types"

	"github.com/lodgevirt/lodge/sdk/inventory"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// newPorts is the number of ports of a new switch, as in libvirt's own driver; hosts of today have as many as are needed.
const newPorts = 128

// look is how long the feed may take to show a change before the host is asked anew what there is to be shown.
const look = 2 * time.Second

// DefineNetwork makes a switch, or changes the one with the definition's name in place, and returns its UUID and the number of the feed's
// message that has it. The definition says all: port groups, NICs and bandwidth that it does not have are taken away.
//
// What is no network fails with XMLError, what a host does not have with ConfigUnsupported by name. A name or UUID that clashes with
// another fails with OperationFailed, a NIC that is not there with NoInterface, one that another switch has with ResourceBusy, and a port
// group that would go although machines use it with OperationInvalid; nothing was done then.
func (n *Networks) DefineNetwork(ctx context.Context, xml string) (uuid string, seq uint64, err error) {
	want, err := parse(xml)
	if err != nil {
		return "", 0, err
	}
	leave, err := n.enter(ctx)
	if err != nil {
		return "", 0, err
	}
	defer leave()
	s, err := n.read(ctx)
	if err != nil {
		return "", 0, err
	}
	present := find(s.info, named(want.name))
	if err := s.check(present, want); err != nil {
		return "", 0, err
	}
	steps := s.create(want)
	if present != nil {
		have := ofSwitch(s.info, *present)
		if err := n.checkUnused(ctx, s, have, want); err != nil {
			return "", 0, err
		}
		steps = s.edit(*present, have, want)
	}
	if err := n.run(ctx, steps); err != nil {
		return "", 0, err
	}
	if uuid, seq, err = n.shown(ctx, want.name); err != nil {
		return "", 0, explain(err, fmt.Sprintf("network %q is as it was asked for, but the driver does not see it", want.name))
	}
	return uuid, seq, nil
}

// shown waits until the feed shows a network as the host has it. Whoever changes it meanwhile is caught up with.
func (n *Networks) shown(ctx context.Context, name string) (uuid string, seq uint64, err error) {
	for {
		s, err := n.read(ctx)
		if err != nil {
			return "", 0, err
		}
		present := find(s.info, named(name))
		if present == nil {
			return "", 0, verr.New(verr.OperationFailed, "network %q was made, and is gone again", name).In(verr.FromNetwork)
		}
		object, err := networkObject(ofSwitch(s.info, *present))
		if err != nil {
			return "", 0, err
		}
		bounded, cancel := context.WithTimeout(ctx, look)
		seq, err := n.feed.Await(bounded, func(v *inventory.View) bool {
			return v.Networks[object.GetUuid()].GetXml() == object.GetXml()
		})
		cancel()
		if err == nil || !errors.Is(err, context.DeadlineExceeded) || ctx.Err() != nil {
			return object.GetUuid(), seq, err
		}
	}
}

// enter takes the turn of a change.
func (n *Networks) enter(ctx context.Context) (leave func(), err error) {
	select {
	case n.turn <- struct{}{}:
		return func() { <-n.turn }, nil
	case <-ctx.Done():
		return nil, verr.New(verr.OperationTimeout, "wait for another change of the networks of endpoint %q: %w", n.endpoint.Name(),
			ctx.Err()).In(verr.FromNetwork)
	}
}

// check refuses what clashes with anything that is there.
func (s state) check(present *types.HostVirtualSwitch, want vswitch) error {
	if err := s.checkUUID(present, want); err != nil {
		return err
	}
	for _, nic := range want.nics {
		if err := s.checkNIC(nic, want.name); err != nil {
			return err
		}
	}
	for _, g := range want.groups {
		for _, pg := range s.info.Portgroup {
			switch {
			case pg.Spec.Name != g.name:
			case own(s.info, pg):
				return verr.New(verr.OperationFailed, "port group %q is the hypervisor's own", g.name).In(verr.FromNetwork)
			case pg.Spec.VswitchName != want.name:
				return verr.New(verr.OperationFailed, "port group %q already exists in network %q", g.name, pg.Spec.VswitchName).
					In(verr.FromNetwork)
			}
		}
	}
	return nil
}

// checkUUID accepts the UUID that the network has, or will have: it follows from the name.
func (s state) checkUUID(present *types.HostVirtualSwitch, want vswitch) error {
	if want.uuid == "" {
		return nil
	}
	if other := find(s.info, identified(want.uuid)); other != nil && other.Name != want.name {
		return verr.New(verr.OperationFailed, "network %q already exists with uuid %s: a network can't be renamed", other.Name, want.uuid).
			In(verr.FromNetwork)
	}
	switch {
	case present == nil && want.uuid != switchUUID(keyPrefix+want.name):
		return unsupported("the uuid of network %q can't be chosen: leave <uuid> out", want.name)
	case present != nil && want.uuid != switchUUID(present.Key):
		return verr.New(verr.OperationFailed, "network %q already exists with uuid %s", want.name, switchUUID(present.Key)).In(verr.FromNetwork)
	}
	return nil
}

// checkNIC accepts a physical NIC that is there and that no other switch has, be it a distributed one.
func (s state) checkNIC(device, of string) error {
	i := slices.IndexFunc(s.info.Pnic, func(p types.PhysicalNic) bool { return p.Device == device })
	if i < 0 {
		return verr.New(verr.NoInterface, "network %q: the host has no physical NIC %q", of, device).In(verr.FromNetwork)
	}
	taken := ""
	for _, vs := range s.info.Vswitch {
		if vs.Name != of && slices.Contains(vs.Pnic, s.info.Pnic[i].Key) {
			taken = vs.Name
		}
	}
	for _, ps := range s.info.ProxySwitch {
		if slices.Contains(ps.Pnic, s.info.Pnic[i].Key) {
			taken = ps.DvsName
		}
	}
	if taken != "" {
		return verr.New(verr.ResourceBusy, "network %q: physical NIC %q is used by switch %q", of, device, taken).In(verr.FromNetwork)
	}
	return nil
}

// create makes a switch and then its port groups.
func (s state) create(want vswitch) []step {
	spec := types.HostVirtualSwitchSpec{NumPorts: newPorts}
	if want.mtu != defaultMTU {
		spec.Mtu = want.mtu
	}
	if len(want.nics) > 0 {
		spec.Bridge = &types.HostVirtualSwitchBondBridge{NicDevice: want.nics}
	}
	if policy := want.shaping.policy(); policy != nil {
		spec.Policy = &types.HostNetworkPolicy{ShapingPolicy: policy}
	}
	steps := []step{s.addSwitch(want.name, spec)}
	for _, g := range want.groups {
		steps = append(steps, s.addGroup(newGroup(want.name, g)))
	}
	return steps
}

func newGroup(of string, g group) types.HostPortGroupSpec {
	return types.HostPortGroupSpec{
		Name: g.name, VswitchName: of, VlanId: g.vlan, Policy: types.HostNetworkPolicy{ShapingPolicy: g.shaping.policy()},
	}
}

// edit makes a switch what is wanted: first the switch, then what comes and what changes, and last what goes.
func (s state) edit(present types.HostVirtualSwitch, have, want vswitch) (steps []step) {
	if want.mtu != have.mtu || want.shaping != have.shaping || !sameNICs(want.nics, have.nics) {
		steps = append(steps, s.updateSwitch(present.Name, present.Spec, respec(present.Spec, have, want)))
	}
	old := map[string]group{}
	for _, g := range have.groups {
		old[g.name] = g
	}
	for _, g := range want.groups {
		before, ok := old[g.name]
		delete(old, g.name)
		switch {
		case !ok:
			steps = append(steps, s.addGroup(newGroup(want.name, g)))
		case before != g:
			steps = append(steps, s.updateGroup(s.groupSpec(g.name), regroup(s.groupSpec(g.name), before, g)))
		}
	}
	for _, g := range have.groups {
		if _, goes := old[g.name]; goes {
			steps = append(steps, s.removeGroup(s.groupSpec(g.name)))
		}
	}
	return steps
}

func sameNICs(a, b []string) bool {
	a, b = slices.Clone(a), slices.Clone(b)
	slices.Sort(a)
	slices.Sort(b)
	return slices.Equal(a, b)
}

// groupSpec is the specification of a port group that is there.
func (s state) groupSpec(name string) types.HostPortGroupSpec {
	for _, pg := range s.info.Portgroup {
		if pg.Spec.Name == name {
			return pg.Spec
		}
	}
	return types.HostPortGroupSpec{}
}

// respec changes what a definition says of a switch, and nothing else of its specification.
func respec(spec types.HostVirtualSwitchSpec, have, want vswitch) types.HostVirtualSwitchSpec {
	policy := types.HostNetworkPolicy{}
	if spec.Policy != nil {
		policy = *spec.Policy
	}
	if want.shaping != have.shaping {
		policy.ShapingPolicy = want.shaping.policy()
		if policy.ShapingPolicy == nil {
			policy.ShapingPolicy = &types.HostNetworkTrafficShapingPolicy{Enabled: types.NewBool(false)}
		}
	}
	if want.mtu != have.mtu {
		spec.Mtu = want.mtu
	}
	if !sameNICs(want.nics, have.nics) {
		spec.Bridge = rebridge(spec.Bridge, want.nics)
		policy.NicTeaming = reorder(policy.NicTeaming, want.nics)
	}
	spec.Policy = &policy
	return spec
}

// rebridge gives a bridge other NICs.
func rebridge(bridge types.BaseHostVirtualSwitchBridge, nics []string) types.BaseHostVirtualSwitchBridge {
	if len(nics) == 0 {
		return nil
	}
	bond := types.HostVirtualSwitchBondBridge{}
	if old, ok := bridge.(*types.HostVirtualSwitchBondBridge); ok {
		bond = *old
	}
	bond.NicDevice = nics
	return &bond
}

// reorder takes NICs that go out of the order in which they are used, and makes new ones active.
func reorder(teaming *types.HostNicTeamingPolicy, nics []string) *types.HostNicTeamingPolicy {
	if teaming == nil || teaming.NicOrder == nil {
		return teaming
	}
	stay := func(all []string) []string {
		return slices.DeleteFunc(slices.Clone(all), func(nic string) bool { return !slices.Contains(nics, nic) })
	}
	order := types.HostNicOrderPolicy{ActiveNic: stay(teaming.NicOrder.ActiveNic), StandbyNic: stay(teaming.NicOrder.StandbyNic)}
	for _, nic := range nics {
		if !slices.Contains(teaming.NicOrder.ActiveNic, nic) && !slices.Contains(teaming.NicOrder.StandbyNic, nic) {
			order.ActiveNic = append(order.ActiveNic, nic)
		}
	}
	c := *teaming
	c.NicOrder = &order
	return &c
}

// regroup changes what a definition says of a port group, and nothing else of its specification.
func regroup(spec types.HostPortGroupSpec, before, want group) types.HostPortGroupSpec {
	spec.VlanId = want.vlan
	if before.shaping != want.shaping {
		spec.Policy.ShapingPolicy = want.shaping.policy()
	}
	return spec
}
