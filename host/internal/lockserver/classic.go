package lockserver

import (
	"context"
	"errors"
	"math"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lodgevirt/lodge/host/internal/lockproto"
	"github.com/lodgevirt/lodge/host/internal/lockspace"
	"github.com/lodgevirt/lodge/host/internal/lockspace/leases"
	"github.com/lodgevirt/lodge/host/internal/lockspace/process"
	"github.com/lodgevirt/lodge/host/internal/rpc"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// Patience with an owner that closed its connection: virtlockd gives it as long before SIGKILL.
const patience = 8 * 200 * time.Millisecond

// classic is the state of a connection in virtlockd's program.
type classic struct {
	server     *Server
	pid        int32 // of the client
	registered bool
	restricted bool
	owner      leases.Owner
}

// classicProcedure is one procedure of virtlockd's program, and whether it needs an owner.
type classicProcedure struct {
	do    func(*classic, context.Context, rpc.Frame) error
	owner bool
}

var classicProcedures = map[int32]classicProcedure{
	lockproto.ClassicRegister:        {do: (*classic).register},
	lockproto.ClassicRestrict:        {do: (*classic).restrict, owner: true},
	lockproto.ClassicNew:             {do: (*classic).newSpace, owner: true},
	lockproto.ClassicCreateResource:  {do: (*classic).create, owner: true},
	lockproto.ClassicDeleteResource:  {do: (*classic).remove, owner: true},
	lockproto.ClassicAcquireResource: {do: (*classic).acquire, owner: true},
	lockproto.ClassicReleaseResource: {do: (*classic).release, owner: true},
	lockproto.ClassicCreateLockspace: {do: (*classic).createSpace},
}

// call runs a procedure of virtlockd's program.
func (c *classic) call(ctx context.Context, f rpc.Frame) error {
	p, ok := classicProcedures[f.Procedure]
	switch {
	case !ok:
		return unknown(f)
	case c.restricted:
		return verr.New(verr.OperationDenied, "the connection is restricted").In(verr.FromRPC)
	case p.owner && !c.registered:
		return verr.New(verr.OperationInvalid, "the connection has no lock owner").In(verr.FromRPC)
	}
	return classicError(p.do(c, ctx, f))
}

func (c *classic) register(_ context.Context, f rpc.Frame) error {
	var args lockproto.RegisterArgs
	if err := decode(f, &args); err != nil {
		return err
	}
	switch {
	case args.Flags != 0:
		return badFlags(args.Flags)
	case args.ID == 0 || args.PID == 0 || args.PID > math.MaxInt32:
		return verr.New(verr.OperationInvalid, "a lock owner needs an id and a process").In(verr.FromRPC)
	}
	id, err := process.Find(int32(args.PID))
	if err != nil {
		return err
	}
	c.registered = true
	c.owner = leases.Owner{
		UUID: args.UUID, Name: strings.ToValidUTF8(args.Name, "?"), ID: args.ID, Classic: true, Process: id,
	}
	return nil
}

func (c *classic) restrict(_ context.Context, f rpc.Frame) error {
	var args lockproto.RestrictArgs
	if err := decode(f, &args); err != nil {
		return err
	}
	if args.Flags != 0 {
		return badFlags(args.Flags)
	}
	c.restricted = true
	return nil
}

func (c *classic) newSpace(_ context.Context, f rpc.Frame) error {
	var args lockproto.NewArgs
	if err := decode(f, &args); err != nil {
		return err
	}
	switch {
	case args.Flags != 0:
		return badFlags(args.Flags)
	case args.Path == "":
		return verr.New(verr.OperationInvalid, "the default lockspace exists already").In(verr.FromRPC)
	}
	return c.server.table.AddSpace(args.Path)
}

func (c *classic) createSpace(_ context.Context, f rpc.Frame) error {
	var args lockproto.CreateLockspaceArgs
	if err := decode(f, &args); err != nil {
		return err
	}
	if err := c.server.table.AddSpace(args.Path); !errors.Is(err, leases.ErrSpaceExists) {
		return err
	}
	return nil
}

func (c *classic) create(_ context.Context, f rpc.Frame) error {
	r, _, err := c.resource(f, 0)
	if err != nil {
		return err
	}
	return c.server.table.Create(r)
}

func (c *classic) remove(_ context.Context, f rpc.Frame) error {
	r, _, err := c.resource(f, 0)
	if err != nil {
		return err
	}
	return c.server.table.Delete(r)
}

func (c *classic) acquire(ctx context.Context, f rpc.Frame) error {
	r, flags, err := c.resource(f, lockproto.ClassicShared|lockproto.ClassicAutocreate)
	if err != nil {
		return err
	}
	r.Mode = lockspace.Mode(flags&lockproto.ClassicShared != 0)
	r.Temporary = flags&lockproto.ClassicAutocreate != 0
	_, err = c.server.table.Acquire(ctx, c.owner, []leases.Want{{Resource: r}})
	return err
}

func (c *classic) release(ctx context.Context, f rpc.Frame) error {
	r, _, err := c.resource(f, 0)
	if err != nil {
		return err
	}
	return c.server.table.ReleaseOne(ctx, c.owner, r)
}

// resource decodes the arguments about a resource and checks its lockspace and flags.
func (c *classic) resource(f rpc.Frame, known uint32) (lockspace.Resource, uint32, error) {
	var args lockproto.ResourceArgs
	if err := decode(f, &args); err != nil {
		return lockspace.Resource{}, 0, err
	}
	if args.Flags&^known != 0 {
		return lockspace.Resource{}, 0, badFlags(args.Flags)
	}
	if !c.server.table.HasSpace(args.Path) {
		return lockspace.Resource{}, 0, verr.New(verr.Internal, "there is no lockspace %q", args.Path).In(verr.FromRPC)
	}
	r := lockspace.Resource{Lockspace: args.Path, Name: args.Name}
	return r, args.Flags, r.Check()
}

func badFlags(flags uint32) error {
	return verr.New(verr.InvalidArg, "unsupported flags 0x%x", flags).In(verr.FromRPC)
}

// classicError gives errors the codes that virtlockd answers with.
func classicError(err error) error {
	switch {
	case errors.Is(err, leases.ErrNotHeld):
		return verr.New(verr.ResourceBusy, "%w", err)
	case errors.Is(err, leases.ErrNotOwner):
		return verr.New(verr.Internal, "%w", err)
	case errors.Is(err, leases.ErrSpaceExists):
		return verr.New(verr.Internal, "%w", err).In(verr.FromRPC)
	}
	return translate(err)
}

// left is called when the peer has closed its connection. Whoever holds locks for itself and lets go of its connection has lost
// its right to them: it is ended, as virtlockd does, and its locks are free once it is gone. Locks that were taken on behalf
// of another process stay with that process.
func (c *classic) left() {
	if !c.registered || c.owner.Process.PID != c.pid {
		return
	}
	id := c.server.table.Holder(c.owner)
	if id.PID == 0 {
		return
	}
	p, err := process.Open(id)
	if err != nil {
		return
	}
	defer p.Close()
	c.server.log.Warn("lock owner closed its connection", "guest", c.owner.Name, "pid", id.PID)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	err = p.Signal(unix.SIGTERM)
	if err == nil && p.Wait(ctx) != nil {
		err = p.Signal(unix.SIGKILL)
	}
	if err != nil {
		c.server.log.Warn("cannot end a lock owner", "pid", id.PID, "error", err)
	}
}
