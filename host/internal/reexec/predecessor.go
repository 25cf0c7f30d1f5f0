package reexec

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/google/uuid"
	"github.com/hashicorp/go-hclog"
	"golang.org/x/sys/unix"

	"github.com/lodgevirt/lodge/host/internal/lockserver"
	"github.com/lodgevirt/lodge/host/internal/lockserver/hub"
	"github.com/lodgevirt/lodge/host/internal/lockspace"
	"github.com/lodgevirt/lodge/host/internal/lockspace/leases"
	"github.com/lodgevirt/lodge/host/internal/lockspace/process"
	"github.com/lodgevirt/lodge/host/internal/lockstate"
)

// Predecessor is what a program has left that ran in this process before.
type Predecessor struct {
	log hclog.Logger
	at  Places
	// state is nil if there is none, or none that can be used.
	state *lockstate.State
	// own is nil if the predecessor was virtlockd, or a version of ours that is not known yet.
	own   *own
	locks leases.Inheritance
	// found are listeners, by their services; used are descriptors that somebody has.
	found map[string][]hub.Listener
	used  map[int]bool
	// pidFile is the descriptor of the pid file, or -1.
	pidFile int
	// sure says that there was one of ours, whatever it has left.
	sure bool
	// doubtful says that the state tells something of descriptors that is not so.
	doubtful bool
}

// Places are where a daemon has what it leaves to its successor.
type Places struct {
	// State and PIDFile are files.
	State, PIDFile string
	// Sockets are where services listen, by their names.
	Sockets map[string]string
}

// Find looks for what a predecessor has left: a state in a file, which is removed, or else descriptors. It is called before anything else
// opens such descriptors, and always returns a Predecessor.
func Find(at Places, log hclog.Logger) *Predecessor {
	p := &Predecessor{log: log, at: at, found: map[string][]hub.Listener{}, used: map[int]bool{0: true, 1: true, 2: true}, pidFile: -1}
	p.sure = replaced()
	os.Unsetenv(variable)
	p.load()
	if p.own == nil || p.doubtful {
		p.addUndescribed()
	}
	if p.state == nil && p.Left() {
		p.scan()
	}
	return p
}

// Expected reports whether Find will find something, for whoever must know before the time for Find has come. It changes nothing.
func Expected(state string) bool {
	if replaced() || lockstate.Names(state, strconv.Itoa(os.Getpid())) {
		return true
	}
	locks, err := lockspace.Scan()
	return err != nil || len(locks) > 0
}

// load reads the state, as far as there is one that can be used.
func (p *Predecessor) load() {
	text, err := lockstate.Load(p.at.State)
	if errors.Is(err, fs.ErrNotExist) {
		return
	}
	var state *lockstate.State
	if err == nil {
		var mine own
		var ok bool
		// Where our own part can be used, the rest says nothing more.
		if state, ok = lockstate.ParseHead(text, &mine); !ok || p.use(&mine) != nil {
			state, err = lockstate.Parse(text)
		}
	}
	switch {
	case err != nil:
		p.log.Error("state of a predecessor cannot be read: locks are looked for without it", "path", p.at.State, "error", err)
	case state.Magic != strconv.Itoa(os.Getpid()):
		p.log.Warn("state of another process is not used", "path", p.at.State, "pid", state.Magic)
		p.own = nil
	default:
		p.state = state
		if p.own == nil {
			p.readTheirs()
		}
	}
}

// use takes what our own part says, if it can be understood.
func (p *Predecessor) use(mine *own) error {
	var locks []leases.Inherited
	err := fmt.Errorf("it is of version %d", mine.Version)
	if mine.Version == version {
		locks, err = mine.inherited()
	}
	if err != nil {
		p.log.Warn("a part of the predecessor's state is not understood, and not used", "error", err)
		return err
	}
	p.own, p.pidFile = mine, mine.PIDFile
	p.locks.Spaces = mine.Spaces[min(1, len(mine.Spaces)):]
	for _, l := range locks {
		if p.isFile(l.FD) {
			p.locks.Locks = append(p.locks.Locks, l)
		}
	}
	return nil
}

// readTheirs reads what the state says of locks in libvirt's terms.
func (p *Predecessor) readTheirs() {
	p.locks.Complete = p.state.Own == nil
	names := p.names()
	add := func(dir string, all []lockstate.Resource) {
		for _, r := range all {
			fd := int(r.FD)
			if !p.isFile(fd) {
				continue
			}
			i := leases.Inherited{FD: fd, Resource: resourceOf(dir, r)}
			i.Exclusive = i.Resource.Mode == lockspace.Exclusive
			for _, pid := range r.Owners {
				i.Owners = append(i.Owners, names[pid].owner(pid))
			}
			p.locks.Locks = append(p.locks.Locks, i)
		}
	}
	add("", p.state.Default.Resources)
	for _, s := range p.state.Lockspaces {
		p.locks.Spaces = append(p.locks.Spaces, s.Directory)
		add(s.Directory, s.Resources)
	}
}

// Left reports whether there is anything that a predecessor has left, so that this process must not end without need.
func (p *Predecessor) Left() bool { return p.sure || p.state != nil || len(p.locks.Locks) > 0 }

// Leases returns the locks that this process has had all the time.
func (p *Predecessor) Leases() leases.Inheritance { return p.locks }

// PIDFile returns the descriptor by which the pid file is locked, or -1.
func (p *Predecessor) PIDFile() int { return p.pidFile }

// known is what a client has said about a process.
type known struct{ *lockstate.Private }

// owner is the owner with a process. virtlockd keeps no more than the process with a lock, but its clients have said more.
func (k known) owner(pid int64) leases.Owner {
	o := leases.Owner{Classic: true, Process: process.ID{PID: int32(pid)}}
	if k.Private != nil {
		o.Name, o.ID = k.OwnerName, k.OwnerID
		if id, err := uuid.Parse(k.OwnerUUID); err == nil {
			o.UUID = id
		}
	}
	return o
}

// names are what the clients of the state have said about processes.
func (p *Predecessor) names() map[int64]known {
	out := map[int64]known{}
	s := p.state.Daemon.Server(lockserver.Name)
	if s == nil {
		return out
	}
	for _, c := range s.Clients {
		var private lockstate.Private
		if json.Unmarshal(c.Private, &private) == nil && private.OwnerID != 0 {
			out[private.OwnerPID] = known{&private}
		}
	}
	return out
}

// resourceOf is the resource of a lock of the state. virtlockd has no rules for names; one that we would refuse becomes that of its file.
func resourceOf(dir string, r lockstate.Resource) lockspace.Resource {
	out := resourceWith(dir, r.Name, r.Flags)
	if out.Check() == nil {
		return out
	}
	out.Lockspace, out.Name = "", filepath.Clean(r.Path)
	if out.Check() == nil {
		return out
	}
	if path, err := os.Readlink("/proc/self/fd/" + strconv.Itoa(int(r.FD))); err == nil {
		out.Name = path
	}
	return out
}

// Adopt hands the connections and listeners over to a hub's services. What cannot be is closed.
func (p *Predecessor) Adopt(h *hub.Hub, locks *lockserver.Server) {
	if p.state != nil {
		for i := range p.state.Daemon.Servers {
			p.adoptServer(h, locks, &p.state.Daemon.Servers[i])
		}
		if p.doubtful {
			p.scan()
		}
	}
	for name, all := range p.found {
		listening := all[:0]
		for _, l := range all {
			if err := listen(h.Service(name), l); err != nil {
				p.log.Warn("listener cannot be taken over", "server", name, "error", err)
				continue
			}
			listening = append(listening, l)
		}
		p.found[name] = listening
	}
}

// adoptServer hands over what the state says of a server.
func (p *Predecessor) adoptServer(h *hub.Hub, locks *lockserver.Server, s *lockstate.Server) {
	service := h.Service(s.Name)
	if service != nil {
		service.Continue(s.NextClientID)
		service.SetLimit(int(s.MaxClients))
	}
	for _, v := range s.Services {
		for _, socket := range v.Sockets {
			p.findListener(s.Name, socket)
		}
	}
	clients := p.ownClients(s.Name)
	for _, c := range s.Clients {
		if err := p.adoptClient(service, locks, s.Name, c, clients[c.ID]); err != nil {
			p.log.Warn("connection cannot be taken over", "server", s.Name, "client", c.ID, "error", err)
		}
	}
}

// Listening reports whether the predecessor has left a listener of a service.
func (p *Predecessor) Listening(name string) bool { return len(p.found[name]) > 0 }

func (p *Predecessor) ownClients(server string) map[uint64]ownClient {
	out := map[uint64]ownClient{}
	if p.own == nil {
		return out
	}
	for _, c := range p.own.Clients {
		if c.Server == server {
			out[c.ID] = c
		}
	}
	return out
}

// findListener finds a listener of the state, if it is one.
func (p *Predecessor) findListener(name string, s lockstate.Socket) {
	fd := int(s.FD)
	path, err := p.claim(fd, true)
	if err != nil {
		p.log.Warn("listener cannot be taken over", "server", name, "error", err)
		return
	}
	l := hub.Listener{FD: fd}
	if s.Unlink {
		l.Path = path
	}
	p.found[name] = append(p.found[name], l)
}

func listen(service *hub.Service, l hub.Listener) error {
	err := errNoService
	if service != nil {
		err = service.Listen(l)
	}
	if err != nil {
		unix.Close(l.FD)
	}
	return err
}

// errNoService says that the state tells of a service that this daemon does not have.
var errNoService = errors.New("there is no such service")

// adoptClient takes a connection of the state over, if it is one.
func (p *Predecessor) adoptClient(service *hub.Service, locks *lockserver.Server, name string, c lockstate.Client, mine ownClient) error {
	fd := int(c.Socket.FD)
	if _, err := p.claim(fd, false); err != nil {
		return err
	}
	f := hub.FrozenClient{ID: c.ID, Connected: time.Unix(c.Connected, 0), FD: fd, In: mine.In, FDs: mine.FDs}
	for _, o := range mine.Out {
		f.Out = append(f.Out, hub.Chunk(o))
	}
	err := errNoService
	switch {
	case service == nil:
	case name == lockserver.Name:
		var private lockstate.Private
		if err = json.Unmarshal(c.Private, &private); err == nil {
			err = locks.Adopt(f, private, mine.Session)
		}
	default:
		_, err = service.Adopt(f)
	}
	if err != nil {
		unix.Close(fd)
	}
	return err
}
