package lockserver

import (
	"context"
	"errors"
	"os"

	"golang.org/x/sys/unix"

	"github.com/lodgevirt/lodge/host/internal/lockproto"
	"github.com/lodgevirt/lodge/host/internal/lockspace"
	"github.com/lodgevirt/lodge/host/internal/lockspace/leases"
	"github.com/lodgevirt/lodge/host/internal/lockspace/process"
	"github.com/lodgevirt/lodge/host/internal/rpc"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// procedures of our program. The frame's files are closed by the caller.
var procedures = map[int32]func(*Server, context.Context, rpc.Frame) (answer, error){
	lockproto.Acquire:      (*Server).acquire,
	lockproto.SetProcess:   (*Server).setProcess,
	lockproto.Release:      (*Server).release,
	lockproto.List:         (*Server).list,
	lockproto.Adopt:        (*Server).adopt,
	lockproto.Status:       (*Server).status,
	lockproto.ForceRelease: (*Server).forceRelease,
}

// call runs a procedure of our program.
func (s *Server) call(c *session, f rpc.Frame) (answer, error) {
	if f.Procedure == lockproto.Watch {
		c.watch.begin(c, false)
		return answer{}, nil
	}
	do, ok := procedures[f.Procedure]
	if !ok {
		return answer{}, unknown(f)
	}
	ctx := &deadline{Context: s.calls}
	defer ctx.end()
	a, err := do(s, ctx, f)
	return a, translate(err)
}

func (s *Server) acquire(ctx context.Context, f rpc.Frame) (answer, error) {
	var args lockproto.AcquireArgs
	if err := decode(f, &args); err != nil {
		return answer{}, err
	}
	owner, resources := ownerOf(args.Owner), resourcesOf(args.Resources)
	granted, err := s.grant(ctx, owner, resources, nil)
	if err != nil {
		return answer{}, err
	}
	first := min(int(args.First), len(resources))
	some := resources[first:min(first+lockproto.MaxFiles, len(resources))]
	files, err := s.table.Files(ctx, owner, some)
	if err != nil {
		return answer{}, err
	}
	return answer{value: listOf(granted, false), files: files, fds: true}, nil
}

func (s *Server) adopt(ctx context.Context, f rpc.Frame) (answer, error) {
	var args lockproto.AcquireArgs
	if err := decode(f, &args); err != nil {
		return answer{}, err
	}
	if len(f.Files) > len(args.Resources) || len(args.Resources) > lockproto.MaxFiles {
		return answer{}, verr.New(verr.InvalidArg, "%d descriptors for %d resources", len(f.Files), len(args.Resources))
	}
	granted, err := s.grant(ctx, ownerOf(args.Owner), resourcesOf(args.Resources), f.Files)
	return answer{value: listOf(granted, false)}, err
}

// grant makes the lockspaces known and acquires.
func (s *Server) grant(ctx context.Context, o leases.Owner, rs []lockspace.Resource, files []*os.File) ([]leases.Info, error) {
	wants := make([]leases.Want, len(rs))
	for i, r := range rs {
		wants[i].Resource = r
		if i < len(files) {
			wants[i].File = files[i]
		}
		if s.table.HasSpace(r.Lockspace) {
			continue
		}
		if err := s.table.AddSpace(r.Lockspace); err != nil && !errors.Is(err, leases.ErrSpaceExists) {
			return nil, err
		}
	}
	return s.table.Acquire(ctx, o, wants)
}

func (s *Server) setProcess(ctx context.Context, f rpc.Frame) (answer, error) {
	var args lockproto.SetProcessArgs
	if err := decode(f, &args); err != nil {
		return answer{}, err
	}
	return answer{}, s.table.SetProcess(ctx, ownerOf(args.Owner))
}

func (s *Server) release(ctx context.Context, f rpc.Frame) (answer, error) {
	var args lockproto.ReleaseArgs
	if err := decode(f, &args); err != nil {
		return answer{}, err
	}
	owner := leases.Owner{UUID: args.UUID, Generation: args.Generation}
	n, err := s.table.Release(ctx, owner, resourcesOf(args.Resources))
	return answer{value: &lockproto.ReleaseRet{Released: uint32(n)}}, err
}

func (s *Server) forceRelease(ctx context.Context, f rpc.Frame) (answer, error) {
	var args lockproto.ForceReleaseArgs
	if err := decode(f, &args); err != nil {
		return answer{}, err
	}
	was, err := s.table.ForceRelease(ctx, args.Number)
	if err != nil {
		return answer{}, err
	}
	return answer{value: listOf([]leases.Info{was}, false)}, nil
}

func (s *Server) list(_ context.Context, f rpc.Frame) (answer, error) {
	var args lockproto.ListArgs
	if err := decode(f, &args); err != nil {
		return answer{}, err
	}
	page, more := s.table.Page(args.After, lockproto.MaxPage)
	return answer{value: listOf(page, more)}, nil
}

func (s *Server) status(context.Context, rpc.Frame) (answer, error) {
	n := s.table.Counts()
	return answer{value: &lockproto.StatusRet{
		PID: int32(os.Getpid()), Version: s.version, StartedMS: s.started.UnixMilli(), Clients: uint32(s.service.Count()),
		Held: uint32(n.Held), Unproven: uint32(n.Unproven), Lost: uint32(n.Lost), Owners: uint32(n.Owners),
	}}, nil
}

// translate gives the table's errors their libvirt codes; the domain is the program's.
func translate(err error) error {
	var busy *leases.BusyError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &busy):
		return verr.New(verr.ResourceBusy, "%w", err)
	case errors.Is(err, process.ErrGone):
		e := verr.New(verr.SystemError, "%w", err)
		e.Errno = int(unix.ESRCH)
		return e
	case errors.Is(err, lockspace.ErrName):
		return verr.New(verr.InvalidArg, "%w", err)
	case errors.Is(err, leases.ErrNotHeld):
		return verr.New(verr.OperationInvalid, "%w", err)
	}
	return err
}
