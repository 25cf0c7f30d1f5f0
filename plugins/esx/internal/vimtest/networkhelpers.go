package vimtest

import (
	"context"
	"slices"

	"github.com/vmware/govmomi/find"
	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/vim25/types"
)

// FirstHost is the first host of the server, reached beside the gate.
func (s *Server) FirstHost() *object.HostSystem {
	s.t.Helper()
	var host *object.HostSystem
	s.do("find host", func(ctx context.Context) error {
		all, err := find.NewFinder(s.admin.Client).HostSystemList(ctx, "/...")
		if err == nil {
			host = all[0]
		}
		return err
	})
	return host
}

// networks is the first host's HostNetworkSystem.
func (s *Server) networks() *networks {
	s.t.Helper()
	host := s.FirstHost()
	var found *networks
	s.do("find network system", func(ctx context.Context) error {
		system, err := host.ConfigManager().NetworkSystem(ctx)
		if err == nil {
			found = s.model.Map().Get(system.Reference()).(*networks)
		}
		return err
	})
	return found
}

// Networking is the network's configuration of the first host.
func (s *Server) Networking() *types.HostNetworkInfo {
	s.t.Helper()
	n := s.networks()
	var info *types.HostNetworkInfo
	s.model.Service.Context.WithLock(n, func() { info = clone(n.NetworkInfo) })
	return info
}

// EditNetworking changes the network's configuration of the first host in any way, without any check.
func (s *Server) EditNetworking(edit func(info *types.HostNetworkInfo)) {
	s.t.Helper()
	n := s.networks()
	ctx := s.model.Service.Context
	ctx.WithLock(n, func() {
		info := clone(n.NetworkInfo)
		edit(info)
		n.publish(ctx, info)
	})
}

// Plug connects something to a port group: "virtualMachine", "host" or "systemManagement".
func (s *Server) Plug(group, kind string) {
	s.t.Helper()
	s.EditNetworking(func(info *types.HostNetworkInfo) {
		i := slices.IndexFunc(info.Portgroup, func(p types.HostPortGroup) bool { return p.Spec.Name == group })
		if i < 0 {
			s.t.Errorf("there is no port group %q", group)
			return
		}
		info.Portgroup[i].Port = append(info.Portgroup[i].Port, types.HostPortGroupPort{Key: portGroupKey + group + "-port", Type: kind})
	})
}

// Link raises or cuts the link of a physical NIC.
func (s *Server) Link(device string, megabits int32) {
	s.t.Helper()
	s.EditNetworking(func(info *types.HostNetworkInfo) {
		for i := range info.Pnic {
			if info.Pnic[i].Device != device {
				continue
			}
			info.Pnic[i].LinkSpeed = nil
			if megabits > 0 {
				info.Pnic[i].LinkSpeed = &types.PhysicalNicLinkInfo{SpeedMb: megabits, Duplex: true}
			}
		}
	})
}

// Attach says that a machine has a NIC on a port group, as its configuration does whether it is active or not.
func (s *Server) Attach(machine, group string) {
	s.t.Helper()
	vm := s.vm(machine).Reference()
	n, ctx := s.networks(), s.model.Service.Context
	network := n.network(ctx, group)
	if network == nil {
		s.t.Fatalf("there is no network %q", group)
	}
	ctx.WithLock(network, func() {
		ctx.Update(network, []types.PropertyChange{{Name: "vm", Op: types.PropertyChangeOpAssign, Val: append(slices.Clone(network.Vm), vm)}})
	})
}

// OnNetworkChange has a function asked before each change of the first host's network, with the method and the name of the switch or port
// group. A fault that it returns is the answer; nil lets the change be made.
func (s *Server) OnNetworkChange(hook func(method, name string) types.BaseMethodFault) {
	s.t.Helper()
	n := s.networks()
	s.model.Service.Context.WithLock(n, func() { n.hook = hook })
}
