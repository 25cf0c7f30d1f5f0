package reexec

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"time"

	"github.com/lodgevirt/lodge/host/internal/lockproto"
	"github.com/lodgevirt/lodge/host/internal/lockserver"
	"github.com/lodgevirt/lodge/host/internal/lockserver/hub"
	"github.com/lodgevirt/lodge/host/internal/lockspace"
	"github.com/lodgevirt/lodge/host/internal/lockspace/leases"
	"github.com/lodgevirt/lodge/host/internal/lockstate"
)

// version of the own part. A reader of a lower version leaves the part alone.
const version = 1

// own is the part of the document that only our daemon reads. It has all that there is to know of locks, so that our daemon has no need of
// what is said of them in libvirt's terms, and what cannot be said in these terms of clients.
type own struct {
	Version int `json:"version"`
	// PIDFile is the descriptor of the pid file.
	PIDFile int `json:"pidFile"`
	// Spaces are the known lockspaces, the empty one first.
	Spaces []string `json:"spaces"`
	// Owners are the leases' owners.
	Owners []leases.Owner `json:"owners"`
	Locks  ownLocks       `json:"locks"`
	// Clients are those that are within a frame, have something to read, or more to remember.
	Clients []ownClient `json:"clients,omitempty"`
}

// ownLocks are the leases with a lock, each at the same place of all lists: there may be many thousands, and lists of numbers are read
// many times faster than objects.
type ownLocks struct {
	FD     []int    `json:"fd"`
	Number []uint64 `json:"n"`
	// Owner and Space are places in Owners and Spaces.
	Owner []int    `json:"owner"`
	Space []int    `json:"space"`
	Name  []string `json:"name"`
	// Flags are those of virtlockd's program.
	Flags []uint32 `json:"flags"`
	// Since is in milliseconds after the start of 1970.
	Since []int64 `json:"since"`
	// Disks are images by the places of their locks, Others descriptors that must stay open with a lock.
	Disks  map[int]string `json:"disks,omitempty"`
	Others map[int][]int  `json:"others,omitempty"`
}

// add appends a lock.
func (l *ownLocks) add(i leases.Inherited, owner, space int) {
	n := len(l.FD)
	l.FD, l.Number = append(l.FD, i.FD), append(l.Number, i.Number)
	l.Owner, l.Space = append(l.Owner, owner), append(l.Space, space)
	l.Name, l.Flags = append(l.Name, i.Resource.Name), append(l.Flags, flags(i.Resource))
	l.Since = append(l.Since, i.Since.UnixMilli())
	if i.Resource.Disk != "" {
		if l.Disks == nil {
			l.Disks = map[int]string{}
		}
		l.Disks[n] = i.Resource.Disk
	}
	if len(i.Others) > 0 {
		if l.Others == nil {
			l.Others = map[int][]int{}
		}
		l.Others[n] = i.Others
	}
}

// inherited returns the locks again, or an error if they make no sense.
func (o *own) inherited() ([]leases.Inherited, error) {
	l := &o.Locks
	out := make([]leases.Inherited, len(l.FD))
	for _, n := range []int{len(l.Number), len(l.Owner), len(l.Space), len(l.Name), len(l.Flags), len(l.Since)} {
		if n != len(out) {
			return nil, fmt.Errorf("%d locks have %d of something", len(out), n)
		}
	}
	for n := range out {
		if l.Owner[n] < 0 || l.Owner[n] >= len(o.Owners) || l.Space[n] < 0 || l.Space[n] >= len(o.Spaces) {
			return nil, fmt.Errorf("lock %d has no owner or no lockspace", n)
		}
		r := resourceWith(o.Spaces[l.Space[n]], l.Name[n], l.Flags[n])
		r.Disk = l.Disks[n]
		out[n] = leases.Inherited{
			FD: l.FD[n], Number: l.Number[n], Resource: r, Owners: o.Owners[l.Owner[n] : l.Owner[n]+1 : l.Owner[n]+1],
			Exclusive: r.Mode == lockspace.Exclusive, Since: time.UnixMilli(l.Since[n]).UTC(), Others: l.Others[n],
		}
	}
	return out, nil
}

// flags are those of virtlockd's program for a resource.
func flags(r lockspace.Resource) (f uint32) {
	if r.Mode == lockspace.Shared {
		f |= lockproto.ClassicShared
	}
	if r.Temporary {
		f |= lockproto.ClassicAutocreate
	}
	return f
}

// resourceWith is a resource with flags of virtlockd's program.
func resourceWith(space, name string, flags uint32) lockspace.Resource {
	return lockspace.Resource{
		Lockspace: space, Name: name, Mode: lockspace.Mode(flags&lockproto.ClassicShared != 0),
		Temporary: flags&lockproto.ClassicAutocreate != 0,
	}
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

// lockspaces describes the locks, for ourselves and as virtlockd does: there a resource has one descriptor and a list of owners'
// processes.
func lockspaces(state *lockstate.State, mine *own, locks []leases.Inherited, spaces []string) {
	mine.Spaces = append([]string{""}, spaces...)
	at := map[string]int{}
	theirs := make([]*lockstate.Lockspace, 0, len(mine.Spaces))
	state.Lockspaces = make([]lockstate.Lockspace, len(spaces))
	for i, dir := range mine.Spaces {
		at[dir] = i
		if i == 0 {
			theirs = append(theirs, &state.Default)
			continue
		}
		state.Lockspaces[i-1].Directory = dir
		theirs = append(theirs, &state.Lockspaces[i-1])
	}
	owners := map[leases.Owner]int{}
	type key struct {
		space int
		name  string
	}
	known := make(map[key]int, len(locks))
	for _, l := range locks {
		owner := leases.Owner{Unknown: true}
		if len(l.Owners) > 0 {
			owner = l.Owners[0]
		}
		o, ok := owners[owner]
		if !ok {
			o = len(mine.Owners)
			owners[owner] = o
			mine.Owners = append(mine.Owners, owner)
		}
		space, ok := at[l.Resource.Lockspace]
		if !ok {
			// Its lockspace is not known, which only an edited journal can bring about: then it is the path's.
			l.Resource.Name, l.Resource.Lockspace = l.Resource.Path(), ""
		}
		mine.Locks.add(l, o, space)
		s := theirs[space]
		k := key{space, l.Resource.Name}
		n, ok := known[k]
		if !ok {
			n = len(s.Resources)
			known[k] = n
			s.Resources = append(s.Resources, lockstate.Resource{
				Name: l.Resource.Name, Path: l.Resource.Path(), FD: int32(l.FD), Held: true, Flags: flags(l.Resource),
			})
		}
		if pid := owner.Process.PID; pid != 0 {
			s.Resources[n].Owners = append(s.Resources[n].Owners, int64(pid))
		}
	}
}
