package lockserver

import (
	"context"
	"errors"
	"io/fs"
	"strings"
	"time"

	"github.com/hashicorp/go-hclog"
	"golang.org/x/sys/unix"

	"github.com/lodgevirt/lodge/host/internal/lockproto"
	"github.com/lodgevirt/lodge/host/internal/lockserver/hub"
	"github.com/lodgevirt/lodge/host/internal/lockspace"
	"github.com/lodgevirt/lodge/host/internal/lockspace/leases"
	"github.com/lodgevirt/lodge/host/internal/lockspace/process"
	"github.com/lodgevirt/lodge/host/internal/rpc"
	"github.com/lodgevirt/lodge/sdk/procfs"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// patience is how long an owner that closed its connection has to end before SIGKILL: virtlockd gives it as long.
const patience = 8 * 200 * time.Millisecond

// classic is the state of a connection in virtlockd's program.
type classic struct {
	server     *Server
	pid        int32 // of the client
	registered bool
	restricted bool
	owner      leases.Owner
}

// request is the arguments of any procedure of virtlockd's program; each has some of them.
type request struct {
	owner      lockproto.RegisterArgs
	path, name string
	flags      uint32
}

// classicProcedure is one procedure of virtlockd's program. What is wrong with a call is found in the order of the fields.
type classicProcedure struct {
	decode func(rpc.Frame, *request) error
	flags  uint32 // that are known
	owner  bool   // needs one
	do     func(*classic, context.Context, *request) error
}

// classicProcedures are all procedures by their numbers.
var classicProcedures = [...]classicProcedure{
	lockproto.ClassicRegister:       {decode: decodeOwner, do: (*classic).register},
	lockproto.ClassicRestrict:       {decode: decodeFlags, owner: true, do: (*classic).restrict},
	lockproto.ClassicNew:            {decode: decodeNew, owner: true, do: (*classic).newSpace},
	lockproto.ClassicCreateResource: {decode: decodeResource, owner: true, do: (*classic).create},
	lockproto.ClassicDeleteResource: {decode: decodeResource, owner: true, do: (*classic).remove},
	lockproto.ClassicAcquireResource: {
		decode: decodeResource, owner: true, flags: lockproto.ClassicShared | lockproto.ClassicAutocreate, do: (*classic).acquire,
	},
	lockproto.ClassicReleaseResource: {decode: decodeResource, owner: true, do: (*classic).release},
	lockproto.ClassicCreateLockspace: {decode: decodePath, do: (*classic).createSpace},
}

// call runs a procedure of virtlockd's program. It returns the domain of an error that names none itself.
func (c *classic) call(f rpc.Frame) (verr.Domain, error) {
	if f.Procedure <= 0 || int(f.Procedure) >= len(classicProcedures) {
		return verr.FromRPC, unknown(f)
	}
	p := &classicProcedures[f.Procedure]
	var r request
	if err := p.decode(f, &r); err != nil {
		return verr.FromRPC, err
	}
	switch {
	case r.flags&^p.flags != 0:
		return verr.FromRPC, verr.New(verr.InvalidArg, "unsupported flags 0x%x", r.flags)
	case c.restricted:
		return verr.FromRPC, verr.New(verr.OperationDenied, "lock manager connection has been restricted")
	case p.owner && !c.registered:
		return verr.FromRPC, verr.New(verr.OperationInvalid, "lock owner details have not been registered")
	}
	ctx := &deadline{Context: c.server.calls}
	defer ctx.end()
	err := classicError(p.do(c, ctx, &r))
	if f.Procedure == lockproto.ClassicCreateResource && err != nil && verr.From(err).Code == verr.SystemError {
		return verr.FromNone, err // virtlockd makes the file by other means than all else
	}
	return verr.FromLockspace, err
}

func decodeOwner(f rpc.Frame, r *request) error {
	err := decode(f, &r.owner)
	r.flags = r.owner.Flags
	return err
}

func decodeFlags(f rpc.Frame, r *request) error {
	var args lockproto.RestrictArgs
	err := decode(f, &args)
	r.flags = args.Flags
	return err
}

func decodeNew(f rpc.Frame, r *request) error {
	var args lockproto.NewArgs
	err := decode(f, &args)
	r.path, r.flags = args.Path, args.Flags
	return err
}

func decodeResource(f rpc.Frame, r *request) error {
	var args lockproto.ResourceArgs
	if err := args.Decode(f.Payload); err != nil {
		return malformed(f, err)
	}
	r.path, r.name, r.flags = args.Path, args.Name, args.Flags
	return nil
}

func decodePath(f rpc.Frame, r *request) error {
	var args lockproto.CreateLockspaceArgs
	err := decode(f, &args)
	r.path = args.Path
	return err
}

// register says for whom the connection acts. As for virtlockd, the last word counts, and whether there is such a process shows when it is
// to have a lock.
func (c *classic) register(_ context.Context, r *request) error {
	if r.owner.ID == 0 {
		return verr.New(verr.OperationInvalid, "a lock owner needs an id").In(verr.FromRPC)
	}
	c.registered = true
	c.owner = leases.Owner{
		UUID: r.owner.UUID, Name: strings.ToValidUTF8(r.owner.Name, "?"), ID: r.owner.ID, Classic: true,
		Process: processOf(int64(r.owner.PID)),
	}
	return nil
}

func (c *classic) restrict(context.Context, *request) error {
	c.restricted = true
	return nil
}

func (c *classic) newSpace(_ context.Context, r *request) error {
	if r.path == "" {
		return verr.New(verr.OperationInvalid, "the default lockspace already exists").In(verr.FromRPC)
	}
	return c.addSpace(r.path)
}

// createSpace makes a lockspace known. If it is known, its folder is made again if it was deleted: no lock can be had in it else.
func (c *classic) createSpace(_ context.Context, r *request) error {
	if r.path == "" {
		return nil
	}
	if err := c.addSpace(r.path); !errors.Is(err, leases.ErrSpaceExists) {
		return err
	}
	return nil
}

func (c *classic) addSpace(path string) error {
	err := c.server.table.AddSpace(path)
	var at *fs.PathError
	if errors.As(err, &at) && errors.Is(err, unix.ENOTDIR) && at.Path == path {
		return verr.New(verr.Internal, "lockspace location %q is there and is no folder: %w", path, err)
	}
	return err
}

func (c *classic) create(_ context.Context, r *request) error {
	res, err := c.resource(r)
	if err != nil {
		return err
	}
	return c.server.table.Create(res)
}

func (c *classic) remove(_ context.Context, r *request) error {
	res, err := c.resource(r)
	if err != nil {
		return err
	}
	return c.server.table.Delete(res)
}

func (c *classic) acquire(ctx context.Context, r *request) error {
	res, err := c.resource(r)
	if err != nil {
		return err
	}
	res.Mode = lockspace.Mode(r.flags&lockproto.ClassicShared != 0)
	res.Temporary = r.flags&lockproto.ClassicAutocreate != 0
	_, err = c.server.table.Acquire(ctx, c.owner, []leases.Want{{Resource: res}})
	return err
}

func (c *classic) release(ctx context.Context, r *request) error {
	res, err := c.resource(r)
	if errors.Is(err, lockspace.ErrName) {
		err = leases.ErrNotHeld // nothing that has such a name can be
	}
	if err != nil {
		return err
	}
	return c.server.table.ReleaseOne(ctx, c.owner, res)
}

// resource is the one that a request names, in a lockspace that is known.
func (c *classic) resource(r *request) (lockspace.Resource, error) {
	if !c.server.table.HasSpace(r.path) {
		return lockspace.Resource{}, verr.New(verr.Internal, "there is no lockspace %q", r.path).In(verr.FromRPC)
	}
	res := lockspace.Resource{Lockspace: r.path, Name: r.name}
	return res, res.Check()
}

// classicError gives errors the codes that virtlockd answers with.
func classicError(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, leases.ErrNotHeld):
		return verr.New(verr.ResourceBusy, "%w", err)
	case errors.Is(err, leases.ErrNotOwner):
		return verr.New(verr.Internal, "%w", err)
	case errors.Is(err, leases.ErrSpaceExists):
		return verr.New(verr.Internal, "%w", err).In(verr.FromRPC)
	case errors.Is(err, lockspace.ErrName):
		// virtlockd has no rules for names: what cannot be is what the system refuses to open.
		e := verr.New(verr.SystemError, "%w", err)
		e.Errno = int(unix.EINVAL)
		return e
	}
	return translate(err)
}

// left is called when the connection has ended. Whoever holds locks for itself and lets go of its connection has lost its right to them: it
// is ended, as virtlockd does, and its locks are free once it is gone. Locks that were taken on behalf of another process stay
// with that process. Nothing happens when it is the daemon that ends.
func (c *classic) left(why error) {
	if errors.Is(why, hub.ErrEnded) || !c.registered || c.owner.Process.PID != c.pid {
		return
	}
	id := c.server.table.Holder(c.owner)
	if id.PID == 0 {
		return
	}
	level := hclog.Warn
	if exiting(id) {
		level = hclog.Debug // as every guest ends
	}
	c.server.log.Log(level, "lock owner closed its connection", "guest", c.owner.Name, "pid", id.PID)
	c.server.fences.Add(1)
	c.server.work.Go(func() {
		defer c.server.fences.Add(-1)
		if err := fence(c.server.calls, id); err != nil {
			c.server.log.Warn("cannot end a lock owner", "pid", id.PID, "error", err)
		}
	})
}

// exiting reports that a process has ended or is on its way out, which is what has closed its connection then.
func exiting(id process.ID) bool {
	stat, err := procfs.ReadStat(int(id.PID))
	return errors.Is(err, fs.ErrNotExist) || err == nil && (stat.Exiting || stat.Ended() || stat.StartTime != id.StartTime)
}

// fence ends a process, first kindly. It gives up when the context ends.
func fence(ctx context.Context, id process.ID) error {
	p, err := process.Open(id)
	if errors.Is(err, process.ErrGone) {
		return nil
	}
	if err != nil {
		return err
	}
	defer p.Close()
	if err := p.Signal(unix.SIGTERM); err != nil {
		return err
	}
	patient, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if p.Wait(patient) == nil || ctx.Err() != nil {
		return nil
	}
	return p.Signal(unix.SIGKILL)
}
