package mirror

import (
	"context"
	"slices"
	"strings"

	"github.com/google/uuid"

	"github.com/lodgevirt/lodge/host/internal/connection"
	"github.com/lodgevirt/lodge/host/internal/event"
	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/inventory/v1"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// Lifecycle events of networks: virNetworkEventLifecycleType.
const (
	networkDefined   = 0
	networkUndefined = 1
	networkStarted   = 2
	networkStopped   = 3
)

// network and iface are an object with its definition.
type (
	network struct {
		connection.Network
		xml string
	}
	iface struct {
		connection.Interface
		xml string
	}
)

// applyNetworks changes the networks of the picture and returns the events; mu is held.
func (m *Mirror) applyNetworks(o *pb.Objects) []event.Event {
	var events []event.Event
	tell := func(n *network, lifecycle int32) {
		events = append(events, event.Event{URI: m.cfg.URI, Name: n.Name, UUID: n.UUID, Network: &event.Network{Lifecycle: lifecycle}})
	}
	for _, key := range o.GetGoneNetworks() {
		id, err := uuid.Parse(key)
		if n := m.networks[id]; err == nil && n != nil {
			delete(m.networks, id)
			if n.Active {
				tell(n, networkStopped)
			}
			tell(n, networkUndefined)
		}
	}
	for _, one := range o.GetNetworks() {
		id, err := uuid.Parse(one.GetUuid())
		before := m.networks[id]
		if err != nil || one.GetName() == "" || before == nil && len(m.networks) >= maxObjects {
			m.cfg.Log.Error("driver told of a network that cannot be shown", "uri", m.cfg.URI, "name", one.GetName(), "uuid", one.GetUuid())
			continue
		}
		n := &network{xml: one.GetXml(), Network: connection.Network{
			UUID: id, Name: one.GetName(), Bridge: one.GetBridge(), Active: one.GetActive(), Persistent: one.GetPersistent(),
			Autostart: one.GetAutostart(),
		}}
		m.networks[id] = n
		if before == nil || before.xml != n.xml || before.Name != n.Name {
			tell(n, networkDefined)
		}
		switch was := before != nil && before.Active; {
		case n.Active && !was:
			tell(n, networkStarted)
		case !n.Active && was:
			tell(n, networkStopped)
		}
	}
	return events
}

// applyInterfaces changes the interfaces of the picture; mu is held.
func (m *Mirror) applyInterfaces(o *pb.Objects) {
	for _, name := range o.GetGoneInterfaces() {
		delete(m.ifaces, name)
	}
	for _, one := range o.GetInterfaces() {
		if one.GetName() == "" || len(m.ifaces) >= maxObjects {
			continue
		}
		m.ifaces[one.GetName()] = &iface{
			Interface: connection.Interface{Name: one.GetName(), MAC: one.GetMac(), Active: one.GetActive()}, xml: one.GetXml(),
		}
	}
}

// Networks are the connection's networks.
func (m *Mirror) Networks() connection.Networks { return networks{m} }

// Interfaces are the connection's interfaces.
func (m *Mirror) Interfaces() connection.Interfaces { return interfaces{m} }

type networks struct{ m *Mirror }

// All returns the networks by name.
func (n networks) All() []connection.Network {
	n.m.mu.RLock()
	all := make([]connection.Network, 0, len(n.m.networks))
	for _, one := range n.m.networks {
		all = append(all, one.Network)
	}
	n.m.mu.RUnlock()
	slices.SortFunc(all, func(a, b connection.Network) int { return strings.Compare(a.Name, b.Name) })
	return all
}

// ByName finds a network.
func (n networks) ByName(name string) (connection.Network, error) {
	n.m.mu.RLock()
	defer n.m.mu.RUnlock()
	for _, one := range n.m.networks {
		if one.Name == name {
			return one.Network, nil
		}
	}
	return connection.Network{}, verr.New(verr.NoNetwork, "no network with matching name '%s'", name).In(verr.FromNetwork)
}

// ByUUID finds a network.
func (n networks) ByUUID(id uuid.UUID) (connection.Network, error) {
	one, err := n.find(id)
	if err != nil {
		return connection.Network{}, err
	}
	return one.Network, nil
}

func (n networks) find(id uuid.UUID) (*network, error) {
	n.m.mu.RLock()
	defer n.m.mu.RUnlock()
	one := n.m.networks[id]
	if one == nil {
		return nil, verr.New(verr.NoNetwork, "no network with matching uuid '%s'", id).In(verr.FromNetwork)
	}
	return one, nil
}

// networkXMLInactive is VIR_NETWORK_XML_INACTIVE; there is one definition.
const networkXMLInactive = 1 << 0

// XML describes a network.
func (n networks) XML(id uuid.UUID, flags uint32) (string, error) {
	if err := refuse(flags, networkXMLInactive); err != nil {
		return "", err
	}
	one, err := n.find(id)
	if err != nil {
		return "", err
	}
	return one.xml, nil
}

func (n networks) service() pb.NetworkServiceClient {
	return pb.NewNetworkServiceClient(n.m.cfg.Plugin)
}

// Define makes a network or changes it.
func (n networks) Define(ctx context.Context, xml string) (connection.Network, error) {
	if err := checkXML(xml, "network"); err != nil {
		return connection.Network{}, err
	}
	id, err := n.m.made(ctx, func(ctx context.Context) (string, uint64, error) {
		rsp, err := n.service().DefineNetwork(ctx, &pb.DefineNetworkRequest{Connection: n.m.cfg.Connection, Xml: xml})
		return rsp.GetUuid(), rsp.GetSeq(), err
	})
	if err != nil {
		return connection.Network{}, err
	}
	return n.ByUUID(id)
}

// Undefine removes a network.
func (n networks) Undefine(ctx context.Context, id uuid.UUID) error {
	if _, err := n.find(id); err != nil {
		return err
	}
	return n.m.change(ctx, func(ctx context.Context) (uint64, error) {
		rsp, err := n.service().UndefineNetwork(ctx, &pb.UndefineNetworkRequest{Connection: n.m.cfg.Connection, Uuid: id.String()})
		return rsp.GetSeq(), err
	}, func() bool { _, err := n.find(id); return err != nil })
}

type interfaces struct{ m *Mirror }

// All returns the interfaces by name.
func (i interfaces) All() []connection.Interface {
	return i.matching(func(*iface) bool { return true })
}

func (i interfaces) matching(is func(*iface) bool) []connection.Interface {
	i.m.mu.RLock()
	defer i.m.mu.RUnlock()
	var all []connection.Interface
	for _, one := range i.m.ifaces {
		if is(one) {
			all = append(all, one.Interface)
		}
	}
	slices.SortFunc(all, func(a, b connection.Interface) int { return strings.Compare(a.Name, b.Name) })
	return all
}

// ByName finds an interface.
func (i interfaces) ByName(name string) (connection.Interface, error) {
	one, err := i.find(name)
	if err != nil {
		return connection.Interface{}, err
	}
	return one.Interface, nil
}

func (i interfaces) find(name string) (*iface, error) {
	i.m.mu.RLock()
	defer i.m.mu.RUnlock()
	one := i.m.ifaces[name]
	if one == nil {
		return nil, noInterface("name", name)
	}
	return one, nil
}

func noInterface(what, word string) error {
	return verr.New(verr.NoInterface, "no interface with matching %s '%s'", what, word).In(verr.FromInterface)
}

// ByMAC finds interfaces by their address.
func (i interfaces) ByMAC(mac string) ([]connection.Interface, error) {
	found := i.matching(func(one *iface) bool { return strings.EqualFold(one.MAC, mac) })
	if len(found) == 0 {
		return nil, noInterface("mac address", mac)
	}
	return found, nil
}

// interfaceXMLInactive is VIR_INTERFACE_XML_INACTIVE; there is one definition.
const interfaceXMLInactive = 1 << 0

// XML describes an interface.
func (i interfaces) XML(name string, flags uint32) (string, error) {
	if err := refuse(flags, interfaceXMLInactive); err != nil {
		return "", err
	}
	one, err := i.find(name)
	if err != nil {
		return "", err
	}
	return one.xml, nil
}
