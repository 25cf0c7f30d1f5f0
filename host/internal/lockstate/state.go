// Package lockstate reads and writes what a lock daemon leaves to the program that is executed in its place: a JSON document that both
// libvirt's virtlockd and ours understand, so that either can follow the other in one process, with its connections and locks.
//
// The document is libvirt's (of libvirt 9.0.0, and read in all of its historical forms): a daemon with servers, their sockets and clients, and the
// lockspaces with the descriptors of their locks. What only our daemon knows is in a key of its own, Own, which virtlockd ignores. Keys
// that nobody knows are ignored. An error of Parse says at which key or line the document is wrong.
//
// The package holds values only and is safe concurrently. Descriptors are numbers here: nothing is opened, closed or checked.
package lockstate

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
)

// ownKey is the key of what only our daemon knows.
const ownKey = "lodge"

// MaxSize bounds a document, in bytes; virtlockd reads no larger one.
const MaxSize = 10 << 20

// ErrDamaged says that a document cannot be understood.
var ErrDamaged = errors.New("saved state is damaged")

// State is the whole document of a lock daemon.
type State struct {
	// Magic is the process's number, in decimal digits. A document with another is not this process's.
	Magic string
	// Daemon has the servers.
	Daemon Daemon
	// Default is the lockspace of paths, Lockspaces are the folders.
	Default    Lockspace
	Lockspaces []Lockspace
	// Own is what only our daemon writes and reads: nil if virtlockd wrote the document. It must be good JSON.
	Own json.RawMessage
}

// Daemon is the servers of a daemon, each with a name: a lock daemon has "virtlockd" and "admin".
type Daemon struct {
	Servers []Server
}

// Server returns the server of a name, or nil.
func (d *Daemon) Server(name string) *Server {
	for i := range d.Servers {
		if d.Servers[i].Name == name {
			return &d.Servers[i]
		}
	}
	return nil
}

// Server is some sockets and their clients.
type Server struct {
	Name string
	// MinWorkers, MaxWorkers and PriorityWorkers are of servers with threads; a lock daemon's have none.
	MinWorkers, MaxWorkers, PriorityWorkers uint32
	// MaxClients bounds the connections, MaxAnonymous those that are not authenticated yet.
	MaxClients, MaxAnonymous uint32
	// KeepaliveInterval is in seconds, -1 is never; KeepaliveCount is how many pings may go unanswered.
	KeepaliveInterval int32
	KeepaliveCount    uint32
	// NextClientID is the number of the next client.
	NextClientID uint64
	Services     []Service
	Clients      []Client
}

// Service is sockets that listen, with one way of access.
type Service struct {
	// Auth is the kind of authentication; 0 is none.
	Auth     int32
	ReadOnly bool
	// MaxRequests bounds the requests of one client that are under way.
	MaxRequests uint32
	Sockets     []Socket
}

// Socket is a descriptor of a socket.
type Socket struct {
	FD int32
	// ErrorFD and PID are of sockets that are another program's pipes; -1 and 0 otherwise.
	ErrorFD int32
	PID     int32
	// Client is set for a connection, Unlink for a listener whose file goes with it.
	Client, Unlink bool
}

// Client is a connection.
type Client struct {
	ID   uint64
	Auth int32
	// AuthPending says that it is not authenticated yet.
	AuthPending bool
	ReadOnly    bool
	MaxRequests uint32
	// Connected is when it was accepted, in seconds after the start of 1970; 0 is not known.
	Connected int64
	Socket    Socket
	// Private is what the server's program keeps of it; a lock daemon's is a Private.
	Private json.RawMessage
}

// Private is what a lock daemon keeps of a client.
type Private struct {
	Restricted bool   `json:"restricted"`
	OwnerPID   int64  `json:"ownerPid"`
	OwnerID    uint32 `json:"ownerId"`
	// OwnerName and OwnerUUID are empty and of zeros while the client has not said for whom it acts.
	OwnerName string `json:"ownerName"`
	OwnerUUID string `json:"ownerUUID"`
}

// Lockspace is a folder with locks, or the lockspace of paths.
type Lockspace struct {
	// Directory is empty for the lockspace of paths.
	Directory string
	Resources []Resource
}

// Resource is a lock.
type Resource struct {
	Name, Path string
	FD         int32
	// Held is whether it is locked; virtlockd has none that is not.
	Held bool
	// Flags are those that it was acquired with: 1 is shared, 2 is autocreate.
	Flags uint32
	// Owners are processes, each as often as it has the lock.
	Owners []int64
}

// Parse reads a document. Its errors wrap ErrDamaged.
func Parse(text []byte) (*State, error) {
	if len(text) > MaxSize {
		return nil, fmt.Errorf("read state: %d bytes, at most %d: %w", len(text), MaxSize, ErrDamaged)
	}
	var w wireState
	if err := json.Unmarshal(text, &w); err != nil {
		return nil, damaged(text, err)
	}
	s, err := w.state()
	if err != nil {
		return nil, fmt.Errorf("read state: %w", err)
	}
	return s, nil
}

// ParseHead reads the beginning of a document that our daemon wrote: its own part, which is decoded into what own points to, and all but the
// lockspaces, which that part makes unnecessary and which are most of a document. It reports false if the document begins otherwise;
// then it is Parse that knows what is wrong, if anything.
func ParseHead(text []byte, own any) (*State, bool) {
	in := json.NewDecoder(bytes.NewReader(text))
	if first, err := in.Token(); err != nil || first != json.Delim('{') {
		return nil, false
	}
	s := &State{}
	var daemon wireDaemon
	for _, part := range []struct {
		key  string
		into any
	}{{ownKey, own}, {"magic", &s.Magic}, {"daemon", &daemon}} {
		key, err := in.Token()
		if err != nil || key != part.key || in.Decode(part.into) != nil {
			return nil, false
		}
	}
	var err error
	s.Daemon, err = daemon.daemon("daemon.", nil)
	return s, err == nil
}

// ParseDaemon reads the part about a daemon alone, as other daemons of libvirt write it. Old forms do not name servers: they get the names
// in their order. Its errors wrap ErrDamaged.
func ParseDaemon(text []byte, names ...string) (Daemon, error) {
	var w wireDaemon
	if err := json.Unmarshal(text, &w); err != nil {
		return Daemon{}, damaged(text, err)
	}
	d, err := w.daemon("", names)
	if err != nil {
		return Daemon{}, fmt.Errorf("read state: %w", err)
	}
	return d, nil
}

// Append appends the document.
func (s *State) Append(b []byte) ([]byte, error) {
	text, err := json.Marshal(wireOf(s))
	if err != nil {
		return b, fmt.Errorf("write state: %w", err)
	}
	if n := len(text) + len(s.Own) + len(ownKey); n > MaxSize {
		return b, fmt.Errorf("write state: %d bytes, at most %d can be read", n, MaxSize)
	}
	if s.Own == nil {
		return append(b, text...), nil
	}
	// What ParseHead reads comes first. It goes in as it is: encoding/json would copy it twice.
	b = fmt.Appendf(slices.Grow(b, len(text)+len(s.Own)+len(ownKey)+8), `{"%s":`, ownKey)
	b = append(append(b, s.Own...), ',')
	return append(b, text[1:]...), nil
}

// MarshalJSON writes the part about a daemon.
func (d Daemon) MarshalJSON() ([]byte, error) { return json.Marshal(wireDaemonOf(d)) }
