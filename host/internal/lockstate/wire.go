package lockstate

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math"
)

// What follows is the document as it is written. A pointer is nil when the key is missing.

type wireState struct {
	Daemon *wireDaemon `json:"daemon,omitempty"`
	// Server is the only server's in documents of before there was a daemon with several.
	Server     *wireDaemon     `json:"server,omitempty"`
	Default    *wireLockspace  `json:"defaultLockspace"`
	Lockspaces []wireLockspace `json:"lockspaces"`
	Magic      *string         `json:"magic"`
	Own        json.RawMessage `json:"lodge,omitempty"`
}

// wireDaemon has a list of servers, or is a server itself in the oldest documents.
type wireDaemon struct {
	Servers *wireServers `json:"servers,omitempty"`
	wireServer
}

// wireServers are servers by name, in their order, or without names in old documents.
type wireServers struct {
	names   []string
	servers []wireServer
}

type wireServer struct {
	MinWorkers        *uint32       `json:"min_workers,omitempty"`
	MaxWorkers        *uint32       `json:"max_workers,omitempty"`
	PriorityWorkers   *uint32       `json:"priority_workers,omitempty"`
	MaxClients        *uint32       `json:"max_clients,omitempty"`
	MaxAnonymous      *uint32       `json:"max_anonymous_clients,omitempty"`
	KeepaliveInterval *int64        `json:"keepaliveInterval,omitempty"` // -1 is written as an unsigned number of 32 bits
	KeepaliveCount    *uint32       `json:"keepaliveCount,omitempty"`
	NextClientID      *uint64       `json:"next_client_id,omitempty"`
	Services          []wireService `json:"services"`
	Clients           []wireClient  `json:"clients"`
}

type wireService struct {
	Auth        *int32       `json:"auth"`
	ReadOnly    *bool        `json:"readonly"`
	MaxRequests *uint32      `json:"nrequests_client_max"`
	Sockets     []wireSocket `json:"socks"`
}

type wireSocket struct {
	FD      *int32 `json:"fd"`
	ErrorFD *int32 `json:"errfd"`
	PID     *int32 `json:"pid"`
	Client  *bool  `json:"isClient"`
	Unlink  *bool  `json:"unlinkUNIX,omitempty"`
}

type wireClient struct {
	ID          *uint64         `json:"id,omitempty"`
	Auth        *int32          `json:"auth"`
	AuthPending *bool           `json:"auth_pending,omitempty"`
	ReadOnly    *bool           `json:"readonly"`
	MaxRequests *uint32         `json:"nrequests_max"`
	Connected   *int64          `json:"conn_time,omitempty"`
	Socket      *wireSocket     `json:"sock"`
	Private     json.RawMessage `json:"privateData,omitempty"`
}

type wireLockspace struct {
	Directory *string        `json:"directory,omitempty"`
	Resources []wireResource `json:"resources"`
}

type wireResource struct {
	Name   *string `json:"name"`
	Path   *string `json:"path"`
	FD     *int32  `json:"fd"`
	Held   *bool   `json:"lockHeld"`
	Flags  *uint32 `json:"flags"`
	Owners []int64 `json:"owners"`
}

// damaged says in which line the JSON is wrong.
func damaged(text []byte, err error) error {
	var syntax *json.SyntaxError
	var kind *json.UnmarshalTypeError
	at := int64(-1)
	switch {
	case errors.As(err, &syntax):
		at = syntax.Offset
	case errors.As(err, &kind):
		at = kind.Offset
	}
	if at < 0 || at > int64(len(text)) {
		return fmt.Errorf("read state: %w: %w", ErrDamaged, err)
	}
	before := text[:at]
	line := 1 + bytes.Count(before, []byte{'\n'})
	column := len(before) - 1 - bytes.LastIndexByte(before, '\n')
	return fmt.Errorf("read state: line %d, column %d: %w: %w", line, column, ErrDamaged, err)
}

// UnmarshalJSON reads servers by name or in a list. encoding/json would lose the order of the names.
func (s *wireServers) UnmarshalJSON(text []byte) error {
	if text = bytes.TrimLeft(text, " \t\r\n"); len(text) > 0 && text[0] == '[' {
		return json.Unmarshal(text, &s.servers)
	}
	in := json.NewDecoder(bytes.NewReader(text))
	if first, err := in.Token(); err != nil || first != json.Delim('{') {
		return errors.Join(errors.New("servers are neither a list nor an object"), err)
	}
	for in.More() {
		key, err := in.Token()
		if err != nil {
			return err
		}
		name, _ := key.(string) // an object has no other keys
		var one wireServer
		err = in.Decode(&one)
		var kind *json.UnmarshalTypeError
		if errors.As(err, &kind) {
			// Its offset would be taken for one in the whole text.
			return fmt.Errorf("server %q: %s is a %s", name, kind.Field, kind.Value)
		}
		if err != nil {
			return fmt.Errorf("server %q: %w", name, err)
		}
		s.names, s.servers = append(s.names, name), append(s.servers, one)
	}
	return nil
}

// MarshalJSON writes servers by name.
func (s wireServers) MarshalJSON() ([]byte, error) {
	out := []byte{'{'}
	for i, name := range s.names {
		key, err := json.Marshal(name)
		if err != nil {
			return nil, err
		}
		value, err := json.Marshal(s.servers[i])
		if err != nil {
			return nil, err
		}
		if i > 0 {
			out = append(out, ',')
		}
		out = append(append(append(out, key...), ':'), value...)
	}
	return append(out, '}'), nil
}

// reader collects the first thing that is wrong.
type reader struct{ err error }

// need returns the value of a key, which must be there.
func need[T any](r *reader, at, key string, v *T) (out T) {
	if v == nil {
		r.fail(at+key, "is missing")
		return out
	}
	return *v
}

// may returns the value of a key, or what it is without one.
func may[T any](v *T, otherwise T) T {
	if v == nil {
		return otherwise
	}
	return *v
}

func (r *reader) fail(at, what string) {
	if r.err == nil {
		r.err = fmt.Errorf("%s %s: %w", at, what, ErrDamaged)
	}
}

func (w *wireState) state() (*State, error) {
	var r reader
	s := &State{Magic: need(&r, "", "magic", w.Magic), Own: w.Own}
	daemon := w.Daemon
	if daemon == nil {
		daemon = w.Server
	}
	if daemon == nil {
		r.fail("daemon", "is missing")
		return nil, r.err
	}
	var err error
	if s.Daemon, err = daemon.daemon("daemon.", []string{"virtlockd", "admin"}); err != nil {
		return nil, err
	}
	if w.Default == nil {
		r.fail("defaultLockspace", "is missing")
		return nil, r.err
	}
	s.Default = w.Default.lockspace(&r, "defaultLockspace.")
	if w.Lockspaces == nil {
		r.fail("lockspaces", "are missing")
	}
	for i := range w.Lockspaces {
		at := fmt.Sprintf("lockspaces[%d].", i)
		space := w.Lockspaces[i].lockspace(&r, at)
		if space.Directory == "" {
			r.fail(at+"directory", "is missing")
		}
		s.Lockspaces = append(s.Lockspaces, space)
	}
	return s, r.err
}

func (w *wireDaemon) daemon(at string, names []string) (Daemon, error) {
	var r reader
	var d Daemon
	if w.Servers == nil {
		w.Servers = &wireServers{servers: []wireServer{w.wireServer}}
	}
	if w.Servers.names != nil {
		names = w.Servers.names
	}
	if len(w.Servers.servers) > len(names) {
		r.fail(at+"servers", fmt.Sprintf("are %d, and only %d are known", len(w.Servers.servers), len(names)))
		return d, r.err
	}
	seen := map[string]bool{}
	for i := range w.Servers.servers {
		name := names[i]
		if seen[name] {
			r.fail(at+"servers."+name, "is there twice")
		}
		seen[name] = true
		d.Servers = append(d.Servers, w.Servers.servers[i].server(&r, at+"servers."+name+".", name))
	}
	return d, r.err
}

func (w *wireServer) server(r *reader, at, name string) Server {
	s := Server{
		Name: name, MinWorkers: need(r, at, "min_workers", w.MinWorkers), MaxWorkers: need(r, at, "max_workers", w.MaxWorkers),
		PriorityWorkers:   need(r, at, "priority_workers", w.PriorityWorkers),
		MaxClients:        need(r, at, "max_clients", w.MaxClients),
		KeepaliveInterval: interval(r, at, w.KeepaliveInterval),
		KeepaliveCount:    need(r, at, "keepaliveCount", w.KeepaliveCount),
		NextClientID:      may(w.NextClientID, 1),
	}
	s.MaxAnonymous = may(w.MaxAnonymous, s.MaxClients)
	if s.MaxAnonymous > s.MaxClients {
		r.fail(at+"max_anonymous_clients", "is above max_clients")
	}
	if w.Services == nil {
		r.fail(at+"services", "are missing")
	}
	if w.Clients == nil {
		r.fail(at+"clients", "are missing")
	}
	for i := range w.Services {
		s.Services = append(s.Services, w.Services[i].service(r, fmt.Sprintf("%sservices[%d].", at, i)))
	}
	for i := range w.Clients {
		c := w.Clients[i].client(r, fmt.Sprintf("%sclients[%d].", at, i))
		if w.Clients[i].ID == nil {
			c.ID = s.NextClientID
			s.NextClientID++
		}
		s.Clients = append(s.Clients, c)
	}
	return s
}

func (w *wireService) service(r *reader, at string) Service {
	s := Service{
		Auth: need(r, at, "auth", w.Auth), ReadOnly: need(r, at, "readonly", w.ReadOnly),
		MaxRequests: need(r, at, "nrequests_client_max", w.MaxRequests),
	}
	if w.Sockets == nil {
		r.fail(at+"socks", "are missing")
	}
	for i := range w.Sockets {
		s.Sockets = append(s.Sockets, w.Sockets[i].socket(r, fmt.Sprintf("%ssocks[%d].", at, i)))
	}
	return s
}

func (w *wireSocket) socket(r *reader, at string) Socket {
	s := Socket{
		FD: need(r, at, "fd", w.FD), ErrorFD: need(r, at, "errfd", w.ErrorFD), PID: need(r, at, "pid", w.PID),
		Client: need(r, at, "isClient", w.Client),
	}
	if s.FD < 0 {
		r.fail(at+"fd", "is negative")
	}
	s.Unlink = may(w.Unlink, !s.Client)
	return s
}

func (w *wireClient) client(r *reader, at string) Client {
	c := Client{
		ID: may(w.ID, 0), Auth: need(r, at, "auth", w.Auth), ReadOnly: need(r, at, "readonly", w.ReadOnly),
		MaxRequests: need(r, at, "nrequests_max", w.MaxRequests), Connected: may(w.Connected, 0), Private: w.Private,
	}
	c.AuthPending = may(w.AuthPending, c.Auth != 0)
	if c.AuthPending && c.Auth == 0 {
		r.fail(at+"auth_pending", "is set where auth is none")
	}
	if w.Socket == nil {
		r.fail(at+"sock", "is missing")
		return c
	}
	c.Socket = w.Socket.socket(r, at+"sock.")
	return c
}

func (w *wireLockspace) lockspace(r *reader, at string) Lockspace {
	s := Lockspace{Directory: may(w.Directory, "")}
	if w.Resources == nil {
		r.fail(at+"resources", "are missing")
	}
	for i := range w.Resources {
		s.Resources = append(s.Resources, w.Resources[i].resource(r, at, i))
	}
	return s
}

func (w *wireResource) resource(r *reader, space string, i int) Resource {
	if w.Name == nil || w.Path == nil || w.FD == nil || w.Held == nil || w.Flags == nil || w.Owners == nil || *w.FD < 0 {
		at := fmt.Sprintf("%sresources[%d].", space, i)
		need(r, at, "name", w.Name)
		need(r, at, "path", w.Path)
		need(r, at, "fd", w.FD)
		need(r, at, "lockHeld", w.Held)
		need(r, at, "flags", w.Flags)
		if w.Owners == nil {
			r.fail(at+"owners", "are missing")
		}
		r.fail(at+"fd", "is negative")
		return Resource{}
	}
	return Resource{Name: *w.Name, Path: *w.Path, FD: *w.FD, Held: *w.Held, Flags: *w.Flags, Owners: w.Owners}
}

// interval is a number of 32 bits, with or without a sign.
func interval(r *reader, at string, v *int64) int32 {
	n := need(r, at, "keepaliveInterval", v)
	if n < -1 || n > math.MaxUint32 {
		r.fail(at+"keepaliveInterval", "is out of range")
	}
	return int32(uint32(n))
}

// wireToday is a daemon as it is written today.
type wireToday struct {
	Servers wireServers `json:"servers"`
}

func wireOf(s *State) any {
	space := wireLockspaceOf(s.Default)
	space.Directory = nil
	spaces := make([]wireLockspace, len(s.Lockspaces))
	for i, l := range s.Lockspaces {
		spaces[i] = wireLockspaceOf(l)
	}
	// What ParseHead reads comes first, but for the own part, which goes before all of this.
	return struct {
		Magic      string          `json:"magic"`
		Daemon     wireToday       `json:"daemon"`
		Default    wireLockspace   `json:"defaultLockspace"`
		Lockspaces []wireLockspace `json:"lockspaces"`
	}{s.Magic, wireDaemonOf(s.Daemon), space, spaces}
}

func wireDaemonOf(d Daemon) (out wireToday) {
	for i := range d.Servers {
		out.Servers.names = append(out.Servers.names, d.Servers[i].Name)
		out.Servers.servers = append(out.Servers.servers, wireServerOf(&d.Servers[i]))
	}
	return out
}

func wireServerOf(s *Server) wireServer {
	every := int64(uint32(s.KeepaliveInterval))
	w := wireServer{
		MinWorkers: &s.MinWorkers, MaxWorkers: &s.MaxWorkers, PriorityWorkers: &s.PriorityWorkers, MaxClients: &s.MaxClients,
		MaxAnonymous: &s.MaxAnonymous, KeepaliveInterval: &every, KeepaliveCount: &s.KeepaliveCount, NextClientID: &s.NextClientID,
		Services: make([]wireService, len(s.Services)), Clients: make([]wireClient, len(s.Clients)),
	}
	for i := range s.Services {
		v := &s.Services[i]
		w.Services[i] = wireService{
			Auth: &v.Auth, ReadOnly: &v.ReadOnly, MaxRequests: &v.MaxRequests, Sockets: make([]wireSocket, len(v.Sockets)),
		}
		for j := range v.Sockets {
			w.Services[i].Sockets[j] = wireSocketOf(&v.Sockets[j])
		}
	}
	for i := range s.Clients {
		w.Clients[i] = wireClientOf(&s.Clients[i])
	}
	return w
}

func wireSocketOf(s *Socket) wireSocket {
	return wireSocket{FD: &s.FD, ErrorFD: &s.ErrorFD, PID: &s.PID, Client: &s.Client, Unlink: &s.Unlink}
}

func wireClientOf(c *Client) wireClient {
	socket := wireSocketOf(&c.Socket)
	w := wireClient{
		ID: &c.ID, Auth: &c.Auth, AuthPending: &c.AuthPending, ReadOnly: &c.ReadOnly, MaxRequests: &c.MaxRequests,
		Socket: &socket, Private: c.Private,
	}
	if c.Connected != 0 {
		w.Connected = &c.Connected
	}
	return w
}

func wireLockspaceOf(l Lockspace) wireLockspace {
	w := wireLockspace{Directory: &l.Directory, Resources: make([]wireResource, len(l.Resources))}
	for i := range l.Resources {
		r := &l.Resources[i]
		w.Resources[i] = wireResource{Name: &r.Name, Path: &r.Path, FD: &r.FD, Held: &r.Held, Flags: &r.Flags, Owners: r.Owners}
		if r.Owners == nil {
			w.Resources[i].Owners = []int64{}
		}
	}
	return w
}
