package door

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/google/uuid"

	"github.com/lodgevirt/lodge/host/internal/connection"
	"github.com/lodgevirt/lodge/host/internal/domain"
	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/hypervisor/v1"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// mirrorURI is a connection whose hypervisor is on another machine and keeps its objects itself.
const (
	mirrorURI  = "mirror:///host"
	mirrorHost = "far.example"
)

// fakeMirror is what such a connection has. What it is asked to change it writes down.
type fakeMirror struct {
	connection.Domains
	guests   []*fakeGuest
	networks []connection.Network
	ports    []connection.Interface

	mu  sync.Mutex // guards log
	log []string
}

var (
	_ interface {
		connection.Domains
		connection.Natives
		connection.MigrationTarget
	} = (*fakeMirror)(nil)
	_ interface {
		connection.Domain
		connection.Tuning
		connection.Snapshots
		connection.MigrationSource
	} = (*fakeGuest)(nil)
	_ connection.Networks   = fakeNetworks{}
	_ connection.Interfaces = fakeInterfaces{}
)

// fakeID makes an identity of a number.
func fakeID(n byte) uuid.UUID { return uuid.UUID{15: n} }

func newFakeMirror() *fakeMirror {
	m := &fakeMirror{
		networks: []connection.Network{
			{UUID: fakeID(1), Name: "isolated", Bridge: "", Active: true, Persistent: true, Autostart: true},
			{UUID: fakeID(2), Name: "lan", Bridge: "br0", Active: true, Persistent: true, Autostart: true},
			{UUID: fakeID(3), Name: "spare", Bridge: "br1", Persistent: true},
			{UUID: fakeID(4), Name: "transient", Bridge: "br2", Active: true},
		},
		ports: []connection.Interface{
			{Name: "vmk0", MAC: "00:50:56:00:00:01", Active: true},
			{Name: "vmk1", MAC: "00:50:56:00:00:02", Active: true},
			{Name: "vmk2", MAC: "00:50:56:00:00:02"},
		},
	}
	m.guests = []*fakeGuest{
		{mirror: m, view: domain.View{UUID: fakeID(11), Name: "runs", ID: 5, State: domain.Running, Persistent: true, Snapshots: true, MaxVCPUs: 1}},
		{mirror: m, view: domain.View{UUID: fakeID(12), Name: "bare", ID: -1, State: domain.ShutOff, Persistent: true}, plain: true},
		{mirror: m, view: domain.View{UUID: fakeID(13), Name: "young", ID: -1, State: domain.ShutOff, Persistent: true}, young: true},
	}
	return m
}

// said is what has been asked for since the last call.
func (m *fakeMirror) said() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	out := strings.Join(m.log, "; ")
	m.log = nil
	return out
}

func (m *fakeMirror) note(format string, args ...any) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.log = append(m.log, fmt.Sprintf(format, args...))
}

// guest finds a guest.
func (m *fakeMirror) guest(is func(*fakeGuest) bool) (connection.Domain, error) {
	n := slices.IndexFunc(m.guests, is)
	if n < 0 {
		return nil, verr.New(verr.NoDomain, "no such guest")
	}
	if g := m.guests[n]; !g.plain {
		return g, nil
	}
	return plainGuest{Domain: m.guests[n]}, nil
}

func (m *fakeMirror) URI() string { return mirrorURI }

func (m *fakeMirror) ByUUID(id uuid.UUID) (connection.Domain, error) {
	return m.guest(func(g *fakeGuest) bool { return g.view.UUID == id })
}

func (m *fakeMirror) Select(filter domain.ListFlags) []connection.Domain {
	var all []connection.Domain
	for _, g := range m.guests {
		if filter.Match(&g.view) {
			all = append(all, g)
		}
	}
	return all
}

func (m *fakeMirror) FromNative(_ context.Context, format, native string) (string, error) {
	return "<from " + format + " " + native + ">", nil
}

func (m *fakeMirror) ToNative(_ context.Context, format, xml string) (string, error) {
	return "to " + format + " " + xml, nil
}

func (m *fakeMirror) PrepareMigration(_ context.Context, uri string, flags uint64, name string) (string, error) {
	m.note("prepare %q %d %q", uri, flags, name)
	return "far://there", nil
}

func (m *fakeMirror) FinishMigration(_ context.Context, name, uri string, flags uint64) (connection.Domain, error) {
	m.note("finish %q %q %d", name, uri, flags)
	return m.guest(func(g *fakeGuest) bool { return g.view.Name == name })
}

// fakeGuest is a guest that can be tuned, sent away and snapshot. Its snapshots are
//
//	root ── mid ── leaf
//	    └── side
//	other ── last (current)
type fakeGuest struct {
	connection.Domain
	mirror *fakeMirror
	view   domain.View
	// plain: it can do nothing that is optional.
	plain bool
	// young: it has no snapshot.
	young bool
}

// plainGuest is a guest that can do nothing that is optional.
type plainGuest struct{ connection.Domain }

func (g *fakeGuest) View() domain.View { return g.view }

func (g *fakeGuest) SetVCPUs(_ context.Context, count, flags uint32) error {
	g.mirror.note("vcpus %d %d", count, flags)
	return nil
}

func (g *fakeGuest) SetMemory(_ context.Context, kib uint64, flags uint32) error {
	g.mirror.note("memory %d %d", kib, flags)
	return nil
}

func (g *fakeGuest) Scheduler() (string, []*pb.Stat, error) {
	return "allocation", []*pb.Stat{
		{Name: "reservation", Value: &pb.Stat_Llong{Llong: 5}},
		{Name: "limit", Value: &pb.Stat_Llong{Llong: -1}},
		{Name: "level", Value: &pb.Stat_String_{String_: "high"}},
	}, nil
}

func (g *fakeGuest) SetScheduler(_ context.Context, parameters []*pb.Stat, impact uint32) error {
	for _, p := range parameters {
		g.mirror.note("%s %d", strings.ReplaceAll(p.String(), "  ", " "), impact)
	}
	return nil
}

func (g *fakeGuest) Snapshots() ([]connection.Snapshot, string) {
	if g.young {
		return nil, ""
	}
	return []connection.Snapshot{
		{Name: "root", State: domain.ShutOff},
		{Name: "mid", Parent: "root", State: domain.Running},
		{Name: "leaf", Parent: "mid", State: domain.Paused},
		{Name: "side", Parent: "root", State: diskSnapshot},
		{Name: "other", State: domain.Running},
		{Name: "last", Parent: "other", State: domain.ShutOff},
	}, "last"
}

func (g *fakeGuest) CreateSnapshot(_ context.Context, xml string, flags uint32) (string, error) {
	g.mirror.note("snapshot %q %d", xml, flags)
	return "made", nil
}

func (g *fakeGuest) SnapshotXML(name string, flags uint32) (string, error) {
	return fmt.Sprintf("<%s %d>", name, flags), nil
}

func (g *fakeGuest) RevertToSnapshot(_ context.Context, name string, flags uint32) error {
	g.mirror.note("revert %q %d", name, flags)
	return nil
}

func (g *fakeGuest) DeleteSnapshot(_ context.Context, name string, flags uint32) error {
	g.mirror.note("delete %q %d", name, flags)
	return nil
}

func (g *fakeGuest) PerformMigration(_ context.Context, uri string, flags uint64, name string) error {
	g.mirror.note("perform %q %d %q", uri, flags, name)
	return nil
}

// fakeNetworks and fakeInterfaces are what the mirror knows of its machine.
type (
	fakeNetworks   struct{ *fakeMirror }
	fakeInterfaces struct{ *fakeMirror }
)

func (f fakeNetworks) All() []connection.Network { return f.networks }

func (f fakeNetworks) find(is func(connection.Network) bool) (connection.Network, error) {
	if n := slices.IndexFunc(f.networks, is); n >= 0 {
		return f.networks[n], nil
	}
	return connection.Network{}, verr.New(verr.NoNetwork, "no such network")
}

func (f fakeNetworks) ByName(name string) (connection.Network, error) {
	return f.find(func(n connection.Network) bool { return n.Name == name })
}

func (f fakeNetworks) ByUUID(id uuid.UUID) (connection.Network, error) {
	return f.find(func(n connection.Network) bool { return n.UUID == id })
}

func (f fakeNetworks) XML(id uuid.UUID, flags uint32) (string, error) {
	n, err := f.ByUUID(id)
	return fmt.Sprintf("<network %s %d>", n.Name, flags), err
}

func (f fakeNetworks) Define(_ context.Context, xml string) (connection.Network, error) {
	f.note("define %q", xml)
	return f.networks[0], nil
}

func (f fakeNetworks) Undefine(_ context.Context, id uuid.UUID) error {
	n, err := f.ByUUID(id)
	f.note("undefine %q", n.Name)
	return err
}

func (f fakeInterfaces) All() []connection.Interface { return f.ports }

func (f fakeInterfaces) ByName(name string) (connection.Interface, error) {
	if n := slices.IndexFunc(f.ports, func(i connection.Interface) bool { return i.Name == name }); n >= 0 {
		return f.ports[n], nil
	}
	return connection.Interface{}, verr.New(verr.NoInterface, "no interface %q", name)
}

func (f fakeInterfaces) ByMAC(mac string) ([]connection.Interface, error) {
	var found []connection.Interface
	for _, i := range f.ports {
		if strings.EqualFold(i.MAC, mac) {
			found = append(found, i)
		}
	}
	if found == nil {
		return nil, verr.New(verr.NoInterface, "no interface with %s", mac)
	}
	return found, nil
}

func (f fakeInterfaces) XML(name string, flags uint32) (string, error) {
	i, err := f.ByName(name)
	return fmt.Sprintf("<interface %s %d>", i.Name, flags), err
}
