package network

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/property"
	"github.com/vmware/govmomi/vim25"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/lodgevirt/lodge/sdk/inventory"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// UndefineNetwork removes a switch with its port groups, and returns the number of the feed's message that no longer has it. It fails
// with NoNetwork for one that is not there, and with OperationInvalid, by name, for one that machines (active or not) or the hypervisor
// itself use; nothing was done then.
func (n *Networks) UndefineNetwork(ctx context.Context, uuid string) (seq uint64, err error) {
	leave, err := n.enter(ctx)
	if err != nil {
		return 0, err
	}
	defer leave()
	s, err := n.read(ctx)
	if err != nil {
		return 0, err
	}
	present := find(s.info, identified(uuid))
	if present == nil {
		return 0, verr.New(verr.NoNetwork, "no network with matching uuid '%s'", uuid).In(verr.FromNetwork)
	}
	for _, pg := range s.info.Portgroup {
		if pg.Spec.VswitchName == present.Name && own(s.info, pg) {
			return 0, verr.New(verr.OperationInvalid, "network %q is used by the hypervisor itself: port group %q is its own", present.Name,
				pg.Spec.Name).In(verr.FromNetwork)
		}
	}
	if err := n.checkUnused(ctx, s, ofSwitch(s.info, *present), vswitch{name: present.Name}); err != nil {
		return 0, err
	}
	if err := n.removeSwitch(ctx, s, present.Name); err != nil {
		return 0, err
	}
	if seq, err = n.feed.Await(ctx, func(v *inventory.View) bool { return v.Networks[uuid] == nil }); err != nil {
		return 0, explain(err, fmt.Sprintf("network %q is removed, but the driver still sees it", present.Name))
	}
	return seq, nil
}

// removeSwitch removes a switch. If the endpoint does not answer, it is asked whether it is gone.
func (n *Networks) removeSwitch(ctx context.Context, s state, name string) error {
	remove := s.on(func(ctx context.Context, system *object.HostNetworkSystem) error {
		return system.RemoveVirtualSwitch(ctx, name)
	})
	err := n.endpoint.Do(ctx, remove)
	switch {
	case err == nil:
		return nil
	case answered(err):
		return explain(err, fmt.Sprintf("remove network %q", name))
	}
	bounded, cancel := context.WithTimeout(ctx, takeBack)
	defer cancel()
	for bounded.Err() == nil {
		if _, lost := n.endpoint.Await(bounded); lost != nil {
			break
		}
		now, unread := n.read(bounded)
		switch {
		case unread != nil:
			rest(bounded)
			continue
		case find(now.info, named(name)) == nil:
			return nil
		}
		return explain(err, fmt.Sprintf("remove network %q (it is still there)", name))
	}
	return explain(err, fmt.Sprintf("remove network %q (it is not known whether it is gone)", name))
}

// checkUnused refuses to take away port groups that machines use.
func (n *Networks) checkUnused(ctx context.Context, s state, have, want vswitch) error {
	goes := func(name string) bool {
		return slices.ContainsFunc(have.groups, func(g group) bool { return g.name == name }) &&
			!slices.ContainsFunc(want.groups, func(g group) bool { return g.name == name })
	}
	if !slices.ContainsFunc(have.groups, func(g group) bool { return goes(g.name) }) {
		return nil
	}
	used := func(name, by string) error {
		return verr.New(verr.OperationInvalid, "port group %q of network %q is used by %s", name, have.name, by).In(verr.FromNetwork)
	}
	for _, pg := range s.info.Portgroup {
		if goes(pg.Spec.Name) && len(pg.Port) > 0 {
			return used(pg.Spec.Name, "active machines")
		}
	}
	users, err := n.users(ctx, s)
	if err != nil {
		return err
	}
	for name, machines := range users {
		if goes(name) {
			return used(name, "machines: "+strings.Join(machines, ", "))
		}
	}
	return nil
}

// mostNames bounds how many machines an error names.
const mostNames = 5

// users names machines of the host by the port groups that their NICs are on, some of each.
func (n *Networks) users(ctx context.Context, s state) (map[string][]string, error) {
	all := map[string][]string{}
	return all, n.endpoint.Do(ctx, func(ctx context.Context, c *vim25.Client) error {
		collector := property.DefaultCollector(c)
		var host mo.HostSystem
		if err := collector.RetrieveOne(ctx, s.host, []string{"network", "vm"}, &host); err != nil {
			return err
		}
		refs := slices.DeleteFunc(host.Network, func(r types.ManagedObjectReference) bool { return r.Type != "Network" })
		if len(refs) == 0 {
			return nil
		}
		var networks []mo.Network
		if err := collector.Retrieve(ctx, refs, []string{"name", "vm"}, &networks); err != nil {
			return err
		}
		for _, network := range networks {
			here := slices.DeleteFunc(network.Vm, func(vm types.ManagedObjectReference) bool { return !slices.Contains(host.Vm, vm) })
			if len(here) == 0 {
				continue
			}
			names, err := machineNames(ctx, collector, here[:min(len(here), mostNames)])
			if err != nil {
				return err
			}
			all[unescape.Replace(network.Name)] = names
		}
		return nil
	})
}

// unescape undoes how the inventory writes characters that its names can't have.
var unescape = strings.NewReplacer("%2f", "/", "%2F", "/", "%5c", `\`, "%5C", `\`, "%25", "%")

func machineNames(ctx context.Context, c *property.Collector, refs []types.ManagedObjectReference) (names []string, err error) {
	var machines []mo.VirtualMachine
	if err := c.Retrieve(ctx, refs, []string{"name"}, &machines); err != nil {
		return nil, err
	}
	for _, vm := range machines {
		names = append(names, vm.Name)
	}
	slices.Sort(names)
	return names, nil
}
