package reexec

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"

	"github.com/lodgevirt/lodge/host/internal/lockproto"
	"github.com/lodgevirt/lodge/host/internal/lockserver"
	"github.com/lodgevirt/lodge/host/internal/lockserver/hub"
	"github.com/lodgevirt/lodge/host/internal/lockspace"
	"github.com/lodgevirt/lodge/host/internal/lockspace/leases"
	"github.com/lodgevirt/lodge/host/internal/lockstate"
)

// version of the own part. A reader of a lower version leaves the part alone.
const version = 1

// own is the part of the document that only our daemon reads. Everything in it is about what the rest of the document says, or cannot
// say in libvirt's terms.
type own struct {
	Version int `json:"version"`
	// PIDFile is the descriptor of the pid file.
	PIDFile int `json:"pidFile"`
	// Owners are the leases' owners, Locks refer to them.
	Owners []leases.Owner `json:"owners"`
	Locks  []ownLock      `json:"locks"`
	// Clients are those that are within a frame, have something to read, or more to remember.
	Clients []ownClient `json:"clients,omitempty"`
}

// ownLock is a lease with a lock.
type ownLock struct {
	FD     int    `json:"fd"`
	Number uint64 `json:"n"`
	Owner  int    `json:"o"`
	// Resource is missing if the document has one with the descriptor.
	Resource *lockspace.Resource `json:"r,omitempty"`
	Others   []int               `json:"x,omitempty"`
}

// ownClient is what libvirt's document does not say about a client.
type ownClient struct {
	Server string     `json:"server"`
	ID     uint64     `json:"id"`
	In     []byte     `json:"in,omitempty"`
	FDs    []int      `json:"fds,omitempty"`
	Out    []ownChunk `json:"out,omitempty"`
	// Session is what the client's session remembers besides.
	Session json.RawMessage `json:"session,omitempty"`
}

// ownChunk is something to be sent; FD is -1 if there is no descriptor.
type ownChunk struct {
	Bytes []byte `json:"bytes"`
	FD    int    `json:"fd"`
}

// save makes the document, and lets the descriptors in it survive. Those of the locks do already.
func (p *Program) save(frozen []hub.Frozen, locks []leases.Inherited, kept *keeper) (*lockstate.State, error) {
	state := &lockstate.State{Magic: strconv.Itoa(os.Getpid())}
	mine := own{Version: version, PIDFile: -1}
	if p.PIDFile != nil {
		mine.PIDFile = p.PIDFile.Descriptor()
		if err := kept.keep(mine.PIDFile); err != nil {
			return nil, err
		}
	}
	for _, f := range frozen {
		s, err := server(f, &mine, kept)
		if err != nil {
			return nil, fmt.Errorf("server %s: %w", f.Name, err)
		}
		state.Daemon.Servers = append(state.Daemon.Servers, s)
	}
	slices.SortFunc(state.Daemon.Servers, func(a, b lockstate.Server) int { return cmp.Compare(a.Name, b.Name) })
	lockspaces(state, &mine, locks, p.Table.Spaces())
	text, err := json.Marshal(mine)
	if err != nil {
		return nil, err
	}
	state.Own = text
	return state, nil
}

// server describes one of the hub's services as virtlockd does.
func server(f hub.Frozen, mine *own, kept *keeper) (lockstate.Server, error) {
	s := lockstate.Server{
		Name: f.Name, MaxClients: uint32(f.MaxClients), MaxAnonymous: uint32(f.MaxClients), KeepaliveInterval: -1, NextClientID: f.NextID,
	}
	service := lockstate.Service{MaxRequests: 1}
	var all error
	keep := func(fd int) {
		if err := kept.keep(fd); err != nil {
			all = errors.Join(all, err)
		}
	}
	for _, l := range f.Listeners {
		keep(l.FD)
		service.Sockets = append(service.Sockets, lockstate.Socket{FD: int32(l.FD), ErrorFD: -1, Unlink: l.Path != ""})
	}
	s.Services = append(s.Services, service)
	slices.SortFunc(f.Clients, func(a, b hub.FrozenClient) int { return cmp.Compare(a.ID, b.ID) })
	for _, c := range f.Clients {
		keep(c.FD)
		private, session, err := remembered(c.Session)
		if err != nil {
			return s, err
		}
		s.Clients = append(s.Clients, lockstate.Client{
			ID: c.ID, MaxRequests: 1, Connected: c.Connected.Unix(), Private: private,
			Socket: lockstate.Socket{FD: int32(c.FD), ErrorFD: -1, Client: true},
		})
		o := ownClient{Server: f.Name, ID: c.ID, In: c.In, FDs: c.FDs, Session: session}
		for _, fd := range c.FDs {
			keep(fd)
		}
		for _, chunk := range c.Out {
			if chunk.FD >= 0 {
				keep(chunk.FD)
			}
			o.Out = append(o.Out, ownChunk(chunk))
		}
		if len(o.In)+len(o.FDs)+len(o.Out)+len(o.Session) > 0 {
			mine.Clients = append(mine.Clients, o)
		}
	}
	return s, all
}

// remembered is what the two programs keep of a client. Only the lock server's sessions have anything to remember.
func remembered(s hub.Session) (private, session json.RawMessage, err error) {
	saver, ok := s.(lockserver.Saver)
	if !ok {
		return json.RawMessage("{}"), nil, nil
	}
	theirs, session, err := saver.Save()
	if err == nil {
		private, err = json.Marshal(theirs)
	}
	return private, session, err
}

// lockspaces describes the locks as virtlockd does: a resource has one descriptor and a list of owners' processes. What else there is to know
// goes into the own part.
func lockspaces(state *lockstate.State, mine *own, locks []leases.Inherited, spaces []string) {
	at := map[string]*lockstate.Lockspace{"": &state.Default}
	state.Lockspaces = make([]lockstate.Lockspace, len(spaces))
	for i, dir := range spaces {
		state.Lockspaces[i].Directory = dir
		at[dir] = &state.Lockspaces[i]
	}
	owners := map[leases.Owner]int{}
	type key struct{ space, name string }
	known := map[key]int{}
	for _, l := range locks {
		o := ownLock{FD: l.FD, Number: l.Number, Owner: -1, Others: l.Others}
		pid := int64(0)
		if len(l.Owners) > 0 {
			owner := l.Owners[0]
			pid = int64(owner.Process.PID)
			n, ok := owners[owner]
			if !ok {
				n = len(mine.Owners)
				owners[owner] = n
				mine.Owners = append(mine.Owners, owner)
			}
			o.Owner = n
		}
		space := at[l.Resource.Lockspace]
		if space == nil {
			// A lockspace that is not known holds leases only after somebody has edited the journal.
			o.Resource = &l.Resource
			mine.Locks = append(mine.Locks, o)
			continue
		}
		k := key{l.Resource.Lockspace, l.Resource.Name}
		n, ok := known[k]
		if !ok {
			n = len(space.Resources)
			known[k] = n
			space.Resources = append(space.Resources, resource(l))
		}
		r := &space.Resources[n]
		if int(r.FD) != l.FD {
			o.Resource = &l.Resource
		}
		if pid != 0 {
			r.Owners = append(r.Owners, pid)
		}
		mine.Locks = append(mine.Locks, o)
	}
}

// resource describes a lock without its owners.
func resource(l leases.Inherited) lockstate.Resource {
	r := lockstate.Resource{Name: l.Resource.Name, Path: l.Resource.Path(), FD: int32(l.FD), Held: true}
	if l.Resource.Mode == lockspace.Shared {
		r.Flags |= lockproto.ClassicShared
	}
	if l.Resource.Temporary {
		r.Flags |= lockproto.ClassicAutocreate
	}
	return r
}
