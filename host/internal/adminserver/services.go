package adminserver

import (
	"cmp"
	"os/user"
	"slices"
	"strconv"

	"github.com/lodgevirt/lodge/host/internal/adminproto"
	"github.com/lodgevirt/lodge/sdk/verr"
)

func (p *Program) threadpool(args *adminproto.ServerArgs) (any, error) {
	s, err := p.service(args.Server.Name, args.Flags)
	if err != nil {
		return nil, err
	}
	w := workersOf(s)
	return &adminproto.ParamsRet{Params: []adminproto.Param{
		uintParam(adminproto.WorkersMin, w.Min), uintParam(adminproto.WorkersMax, w.Max),
		uintParam(adminproto.WorkersCurrent, w.Current), uintParam(adminproto.WorkersFree, w.Free),
		uintParam(adminproto.WorkersPriority, w.Priority), uintParam(adminproto.JobQueueDepth, w.Queue),
	}}, nil
}

func workersOf(s Service) Workers {
	if pooled, ok := s.(Pooled); ok {
		return pooled.Workers()
	}
	return Workers{}
}

func (p *Program) setThreadpool(args *adminproto.SetParamsArgs) (any, error) {
	s, err := p.service(args.Server.Name, args.Flags)
	if err != nil {
		return nil, err
	}
	p.changing.Lock()
	defer p.changing.Unlock()
	now := workersOf(s)
	w := now
	err = readUints(args.Params, map[string]*uint32{
		adminproto.WorkersMin: &w.Min, adminproto.WorkersMax: &w.Max, adminproto.WorkersPriority: &w.Priority,
	})
	pooled, ok := s.(Pooled)
	switch {
	case err != nil:
		return nil, err
	case w.Min > w.Max:
		return nil, verr.New(verr.InvalidArg, "%s %d is above %s %d", adminproto.WorkersMin, w.Min, adminproto.WorkersMax, w.Max)
	case (w.Max == 0) != (now.Max == 0):
		return nil, verr.New(verr.InvalidArg, "%s can neither become 0 nor stop being it", adminproto.WorkersMax)
	case w == now:
		return nil, nil
	case !ok:
		return nil, verr.New(verr.InvalidArg, "server %q does its calls without workers: there are none to change", s.Name())
	}
	return nil, pooled.SetWorkers(w.Min, w.Max, w.Priority)
}

func (p *Program) clientLimits(args *adminproto.ServerArgs) (any, error) {
	s, err := p.service(args.Server.Name, args.Flags)
	if err != nil {
		return nil, err
	}
	l := s.Limits()
	return &adminproto.ParamsRet{Params: []adminproto.Param{
		uintParam(adminproto.ClientsMax, l.MaxClients), uintParam(adminproto.ClientsCurrent, l.Clients),
		uintParam(adminproto.ClientsUnauthenticatedMax, l.MaxUnauthenticated),
		uintParam(adminproto.ClientsUnauthenticatedNumber, l.Unauthenticated),
	}}, nil
}

func (p *Program) setClientLimits(args *adminproto.SetParamsArgs) (any, error) {
	s, err := p.service(args.Server.Name, args.Flags)
	if err != nil {
		return nil, err
	}
	p.changing.Lock()
	defer p.changing.Unlock()
	l := s.Limits()
	err = readUints(args.Params, map[string]*uint32{
		adminproto.ClientsMax: &l.MaxClients, adminproto.ClientsUnauthenticatedMax: &l.MaxUnauthenticated,
	})
	if err == nil && l.MaxUnauthenticated > l.MaxClients {
		err = verr.New(verr.InvalidArg, "%s %d is above %s %d: set both",
			adminproto.ClientsUnauthenticatedMax, l.MaxUnauthenticated, adminproto.ClientsMax, l.MaxClients)
	}
	if err != nil {
		return nil, err
	}
	s.SetLimits(l.MaxClients, l.MaxUnauthenticated)
	p.cfg.Logger.Info("client limits are changed", "server", s.Name(), "clients", l.MaxClients, "unauthenticated", l.MaxUnauthenticated)
	return nil, nil
}

func wireClient(s Service, c Client) adminproto.Client {
	return adminproto.Client{Server: adminproto.Server{Name: s.Name()}, ID: c.ID, Since: c.Since.Unix(), Transport: c.Transport}
}

func (p *Program) listClients(args *adminproto.ListClientsArgs) (any, error) {
	s, err := p.service(args.Server.Name, args.Flags)
	if err != nil {
		return nil, err
	}
	clients := s.Clients()
	slices.SortFunc(clients, func(a, b Client) int { return cmp.Compare(a.ID, b.ID) })
	ret := &adminproto.ListClientsRet{Number: uint32(len(clients))}
	if args.NeedResults == 0 {
		return ret, nil
	}
	for _, c := range clients {
		ret.Clients = append(ret.Clients, wireClient(s, c))
	}
	return ret, nil
}

// client finds a client.
func (p *Program) client(server string, id uint64, flags uint32) (Service, Client, error) {
	s, err := p.service(server, flags)
	if err != nil {
		return nil, Client{}, err
	}
	for _, c := range s.Clients() {
		if c.ID == id {
			return s, c, nil
		}
	}
	return s, Client{}, noClient(s, id)
}

func noClient(s Service, id uint64) error {
	return verr.New(verr.NoClient, "server %q has no client with the number %d", s.Name(), id)
}

func (p *Program) lookupClient(args *adminproto.LookupClientArgs) (any, error) {
	s, c, err := p.client(args.Server.Name, args.ID, args.Flags)
	if err != nil {
		return nil, err
	}
	return &adminproto.ClientRet{Client: wireClient(s, c)}, nil
}

func (p *Program) clientInfo(args *adminproto.ClientArgs) (any, error) {
	_, c, err := p.client(args.Client.Server.Name, args.Client.ID, args.Flags)
	if err != nil {
		return nil, err
	}
	params := []adminproto.Param{boolParam(adminproto.InfoReadOnly, c.ReadOnly)}
	if c.Peer != nil {
		params = append(
			params,
			intParam(adminproto.InfoUserID, int32(c.Peer.UID)), textParam(adminproto.InfoUserName, userName(c.Peer.UID)),
			intParam(adminproto.InfoGroupID, int32(c.Peer.GID)), textParam(adminproto.InfoGroupName, groupName(c.Peer.GID)),
			intParam(adminproto.InfoProcessID, c.Peer.PID),
		)
	}
	for _, known := range []struct{ name, value string }{
		{adminproto.InfoSocketAddress, c.Address},
		{adminproto.InfoSASLUser, c.SASLUser},
		{adminproto.InfoTLSName, c.TLSName},
		{adminproto.InfoSELinuxContext, c.SELinuxContext},
	} {
		if known.value != "" {
			params = append(params, textParam(known.name, known.value))
		}
	}
	return &adminproto.ClientInfoRet{Params: params}, nil
}

// userName is the name of a user, or the number if nobody knows one.
func userName(uid uint32) string {
	number := strconv.FormatUint(uint64(uid), 10)
	if u, err := user.LookupId(number); err == nil {
		return u.Username
	}
	return number
}

// groupName is the name of a group, or the number if nobody knows one.
func groupName(gid uint32) string {
	number := strconv.FormatUint(uint64(gid), 10)
	if g, err := user.LookupGroupId(number); err == nil {
		return g.Name
	}
	return number
}

func (p *Program) clientClose(args *adminproto.ClientArgs) (any, error) {
	s, err := p.service(args.Client.Server.Name, args.Flags)
	if err != nil {
		return nil, err
	}
	if !s.Disconnect(args.Client.ID) {
		return nil, noClient(s, args.Client.ID)
	}
	p.cfg.Logger.Info("client is disconnected", "server", s.Name(), "client", args.Client.ID)
	return nil, nil
}
