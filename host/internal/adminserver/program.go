package adminserver

import (
	"errors"
	"fmt"
	"runtime/debug"
	"sync"
	"syscall"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/lodgevirt/lodge/host/internal/adminproto"
	"github.com/lodgevirt/lodge/host/internal/rpc"
	"github.com/lodgevirt/lodge/host/internal/xdr"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// Config is what a program needs.
type Config struct {
	// Services are the daemon's, in the order in which they are listed.
	Services []Service
	// Log and Timeout are the daemon's.
	Log     Log
	Timeout Timeout
	// LibVersion is the version of libvirt that the daemon stands for.
	LibVersion uint64
	// Logger is where to log.
	Logger hclog.Logger
}

// Program answers calls of the admin program.
type Program struct {
	cfg Config
	// changing is held while limits or workers are read, checked and replaced.
	changing sync.Mutex
}

// NewProgram returns a program.
func NewProgram(cfg Config) *Program { return &Program{cfg: cfg} }

// procedure answers one call: it decodes the payload, and returns what is to be encoded.
type procedure func(*Program, []byte) (any, error)

// with makes a procedure of a function that has its arguments decoded.
func with[A any](do func(*Program, *A) (any, error)) procedure {
	return func(p *Program, payload []byte) (any, error) {
		var args A
		if _, err := xdr.Unmarshal(payload, &args); err != nil {
			return nil, verr.New(verr.RPC, "decode arguments: %w", err).In(verr.FromRPC)
		}
		return do(p, &args)
	}
}

var procedures = map[int32]procedure{
	adminproto.ConnectOpen:       with((*Program).connectOpen),
	adminproto.ConnectClose:      func(*Program, []byte) (any, error) { return nil, nil },
	adminproto.GetLibVersion:     (*Program).libVersion,
	adminproto.ListServers:       with((*Program).listServers),
	adminproto.LookupServer:      with((*Program).lookupServer),
	adminproto.GetThreadpool:     with((*Program).threadpool),
	adminproto.SetThreadpool:     with((*Program).setThreadpool),
	adminproto.ListClients:       with((*Program).listClients),
	adminproto.LookupClient:      with((*Program).lookupClient),
	adminproto.ClientGetInfo:     with((*Program).clientInfo),
	adminproto.ClientClose:       with((*Program).clientClose),
	adminproto.GetClientLimits:   with((*Program).clientLimits),
	adminproto.SetClientLimits:   with((*Program).setClientLimits),
	adminproto.GetLoggingOutputs: with((*Program).loggingOutputs),
	adminproto.GetLoggingFilters: with((*Program).loggingFilters),
	adminproto.SetLoggingOutputs: with((*Program).setLoggingOutputs),
	adminproto.SetLoggingFilters: with((*Program).setLoggingFilters),
	adminproto.UpdateTLSFiles:    with((*Program).updateTLS),
	adminproto.SetDaemonTimeout:  with((*Program).setTimeout),
}

// Call answers a call of any program: with the status and payload of the reply, and whether the connection ends after it. It does not
// keep the frame's payload.
func (p *Program) Call(f rpc.Frame) (status rpc.Status, payload []byte, last bool) {
	ret, err := p.guard(f)
	if err == nil && ret != nil {
		payload, err = xdr.Append(nil, ret)
	}
	if err == nil {
		return rpc.OK, payload, f.Procedure == adminproto.ConnectClose
	}
	p.cfg.Logger.Debug("call refused", "procedure", f.Procedure, "error", err)
	if payload, err = rpc.NewError(err, verr.FromAdmin).Append(nil); err != nil {
		p.cfg.Logger.Error("cannot encode an error", "error", err)
		return rpc.Failed, nil, true
	}
	return rpc.Failed, payload, false
}

// guard turns a panic into an error: one bad call must not end the daemon.
func (p *Program) guard(f rpc.Frame) (ret any, err error) {
	defer func() {
		if r := recover(); r != nil {
			p.cfg.Logger.Error("call panicked", "procedure", f.Procedure, "panic", r, "stack", string(debug.Stack()))
			err = verr.New(verr.Internal, "procedure %d panicked", f.Procedure)
		}
	}()
	return p.call(f)
}

func (p *Program) call(f rpc.Frame) (any, error) {
	if f.Program != adminproto.Program || f.Version != adminproto.Version {
		return nil, verr.New(verr.RPC, "unknown program 0x%x version %d", f.Program, f.Version).In(verr.FromRPC)
	}
	if f.Status != rpc.OK {
		return nil, verr.New(verr.RPC, "call with status %d", f.Status).In(verr.FromRPC)
	}
	do, ok := procedures[f.Procedure]
	if !ok {
		// Clients know the case by the first words.
		return nil, verr.New(verr.RPC, "unknown procedure: %d", f.Procedure).In(verr.FromRPC)
	}
	return do(p, f.Payload)
}

// service finds a service for a procedure that takes no flags.
func (p *Program) service(name string, flags uint32) (Service, error) {
	if err := noFlags(flags); err != nil {
		return nil, err
	}
	for _, s := range p.cfg.Services {
		if s.Name() == name {
			return s, nil
		}
	}
	return nil, verr.New(verr.NoServer, "no server is named %q", name)
}

func noFlags(flags uint32) error {
	if flags != 0 {
		return verr.New(verr.InvalidArg, "flags 0x%x are not supported", flags)
	}
	return nil
}

func (p *Program) connectOpen(args *adminproto.FlagsArgs) (any, error) {
	return nil, noFlags(args.Flags)
}

func (p *Program) libVersion([]byte) (any, error) {
	return &adminproto.LibVersionRet{Version: p.cfg.LibVersion}, nil
}

func (p *Program) listServers(args *adminproto.ListServersArgs) (any, error) {
	ret := &adminproto.ListServersRet{Number: uint32(len(p.cfg.Services))}
	if args.NeedResults != 0 {
		for _, s := range p.cfg.Services {
			ret.Servers = append(ret.Servers, adminproto.Server{Name: s.Name()})
		}
	}
	return ret, noFlags(args.Flags)
}

func (p *Program) lookupServer(args *adminproto.LookupServerArgs) (any, error) {
	s, err := p.service(args.Name, args.Flags)
	if err != nil {
		return nil, err
	}
	return &adminproto.ServerRet{Server: adminproto.Server{Name: s.Name()}}, nil
}

func (p *Program) updateTLS(args *adminproto.ServerArgs) (any, error) {
	s, err := p.service(args.Server.Name, args.Flags)
	if err != nil {
		return nil, err
	}
	t, ok := s.(TLSUser)
	if !ok {
		return nil, verr.New(verr.Internal, "server %q has no certificates to read again: it does not use TLS", s.Name())
	}
	return nil, t.UpdateTLS()
}

func (p *Program) loggingOutputs(args *adminproto.FlagsArgs) (any, error) {
	outputs := p.cfg.Log.Outputs()
	return &adminproto.OutputsRet{Outputs: outputs.String(), Number: uint32(len(outputs))}, noFlags(args.Flags)
}

func (p *Program) loggingFilters(args *adminproto.FlagsArgs) (any, error) {
	filters := p.cfg.Log.Filters()
	ret := &adminproto.FiltersRet{Number: uint32(len(filters))}
	if len(filters) > 0 {
		// libvirt's daemons put a blank behind each.
		text := filters.String() + " "
		ret.Filters = &text
	}
	return ret, noFlags(args.Flags)
}

func (p *Program) setLoggingOutputs(args *adminproto.SetLoggingArgs) (any, error) {
	return nil, p.setLogging("log outputs", args, p.cfg.Log.SetOutputs)
}

func (p *Program) setLoggingFilters(args *adminproto.SetLoggingArgs) (any, error) {
	return nil, p.setLogging("log filters", args, p.cfg.Log.SetFilters)
}

func (p *Program) setLogging(what string, args *adminproto.SetLoggingArgs, set func(string) error) error {
	if err := noFlags(args.Flags); err != nil {
		return err
	}
	text := ""
	if args.Text != nil {
		text = *args.Text
	}
	err := set(text)
	var errno syscall.Errno
	switch {
	case err == nil:
		p.cfg.Logger.Info(what+" are changed", "now", text)
		return nil
	case errors.As(err, &errno):
		return fmt.Errorf("change %s: %w", what, err)
	}
	return verr.New(verr.InvalidArg, "%w", err)
}

func (p *Program) setTimeout(args *adminproto.SetTimeoutArgs) (any, error) {
	if err := noFlags(args.Flags); err != nil {
		return nil, err
	}
	p.cfg.Timeout.SetTimeout(time.Duration(args.Seconds) * time.Second)
	return nil, nil
}
