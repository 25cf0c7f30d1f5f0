// Package direct serves pools of type "iscsi-direct": an initiator in this process logs in at the target for each call, and out after it,
// so that nothing is kept and nothing is left when the process is killed.
//
// A target that does not answer costs each call the time-out, and a place among the few sessions that it may have at once: calls for other
// targets do not notice. All methods are safe concurrently.
package direct

import (
	"context"
	"errors"
	"time"

	"github.com/lodgevirt/lodge/plugins/storage/iscsi/internal/define"
	"github.com/lodgevirt/lodge/plugins/storage/iscsi/internal/initiator"
	"github.com/lodgevirt/lodge/sdk/poolxml"
	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/storage/v1"
	"github.com/lodgevirt/lodge/sdk/storage"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// Pools are the pools of the type.
type Pools struct {
	// Initiator makes the sessions.
	Initiator initiator.Initiator
	// Timeout says how long a step of a session may take.
	Timeout func() time.Duration

	places places
}

// login is where a pool logs in, and as whom.
func (p *Pools) login(pool *define.Pool, secrets []*pb.Secret) (initiator.Login, error) {
	l := initiator.Login{Portal: pool.Portal(), Initiator: pool.Initiator(), Target: pool.Target(), Timeout: p.Timeout()}
	if a := pool.Source.Auth; a != nil {
		if len(secrets) == 0 {
			return l, verr.New(verr.NoSecret, "the value of the secret of pool '%s' did not come along", pool.Name).In(verr.FromStorage)
		}
		l.User, l.Password = a.Username, secrets[0].GetValue()
	}
	return l, nil
}

// with runs work in a session of a pool.
func (p *Pools) with(ctx context.Context, pool *define.Pool, secrets []*pb.Secret, do func(initiator.Session) error) error {
	s, err := p.open(ctx, pool, secrets)
	if err != nil {
		return err
	}
	defer s.Close()
	return do(s)
}

// held is a session that gives its place back.
type held struct {
	initiator.Session
	leave func()
}

// Close implements initiator.Session.
func (h *held) Close() {
	h.Session.Close()
	h.leave()
}

// open makes a session of a pool.
func (p *Pools) open(ctx context.Context, pool *define.Pool, secrets []*pb.Secret) (initiator.Session, error) {
	login, err := p.login(pool, secrets)
	if err != nil {
		return nil, err
	}
	leave, err := p.places.enter(ctx, login.Portal)
	if err != nil {
		return nil, failed(pool.Target(), login.Portal, err)
	}
	s, err := p.Initiator.Open(ctx, login)
	if err != nil {
		leave()
		return nil, failed(pool.Target(), login.Portal, err)
	}
	return &held{s, leave}, nil
}

// failed says what went wrong with a target.
func failed(target, portal string, err error) error {
	code := verr.OperationFailed
	switch {
	case errors.Is(err, initiator.ErrUnavailable):
		code = verr.NoSupport
	case errors.Is(err, initiator.ErrDenied):
		code = verr.AuthFailed
	case errors.Is(err, initiator.ErrTimeout), errors.Is(err, context.DeadlineExceeded):
		code = verr.OperationTimeout
	case errors.Is(err, context.Canceled):
		code = verr.OperationAborted
	}
	if target == "" {
		return verr.New(code, "iSCSI server at %s: %w", portal, err).In(verr.FromStorage)
	}
	return verr.New(code, "iSCSI target '%s' at %s: %w", target, portal, err).In(verr.FromStorage)
}

// Check tells whether the target lets the pool in.
func (p *Pools) Check(ctx context.Context, pool *define.Pool, secrets []*pb.Secret) (bool, error) {
	err := p.Start(ctx, pool, secrets)
	return err == nil, err
}

// Start proves that the target lets the pool in.
func (p *Pools) Start(ctx context.Context, pool *define.Pool, secrets []*pb.Secret) error {
	return p.with(ctx, pool, secrets, func(initiator.Session) error { return nil })
}

// Stop has nothing to end.
func (p *Pools) Stop(context.Context, *define.Pool) error { return nil }

// Refresh tells all units that are disks.
func (p *Pools) Refresh(ctx context.Context, pool *define.Pool, secrets []*pb.Secret, found func(...*pb.Volume) error) (*pb.PoolSize, error) {
	size := &pb.PoolSize{}
	err := p.with(ctx, pool, secrets, func(s initiator.Session) error {
		luns, err := s.LUNs(ctx)
		if err != nil {
			return failed(pool.Target(), pool.Portal(), err)
		}
		for _, lun := range luns {
			v, err := look(ctx, s, pool, lun)
			if errors.Is(err, initiator.ErrNotDisk) {
				continue
			}
			if err != nil {
				return failed(pool.Target(), pool.Portal(), err)
			}
			size.Capacity += v.Capacity
			size.Allocation += v.Allocation
			if err := found(v); err != nil {
				return err
			}
		}
		return nil
	})
	return size, err
}

// look describes a unit. One that does not let itself be looked at is told with why; an error is that of the session, or ErrNotDisk.
func look(ctx context.Context, s initiator.Session, pool *define.Pool, lun int) (*pb.Volume, error) {
	v := &pb.Volume{
		Name: define.VolumeName(lun), Key: pool.Link(lun), Path: pool.Link(lun), Type: pb.VolumeType_VOLUME_TYPE_NETWORK,
		Format: poolxml.Raw, Network: pool.Network(lun),
	}
	u, err := s.Unit(ctx, lun)
	var check *initiator.CheckError
	switch {
	case errors.As(err, &check):
		v.Trouble = err.Error()
	case err != nil:
		return nil, err
	default:
		v.Capacity = u.Capacity().Bytes()
		v.Allocation, v.Physical = v.Capacity, v.Capacity
	}
	return v, nil
}

// listed fails with NoStorageVol unless the target has a unit of that number: what it answers for others is not always an error.
func listed(ctx context.Context, s initiator.Session, lun int, name string) error {
	luns, err := s.LUNs(ctx)
	if err != nil {
		return err
	}
	for _, l := range luns {
		if l == lun {
			return nil
		}
	}
	return storage.NoVolume(name)
}

// failedUnless makes an error of the target of what is none of libvirt's yet.
func failedUnless(pool *define.Pool, err error) error {
	var known *verr.Error
	if err == nil || errors.As(err, &known) {
		return err
	}
	return failed(pool.Target(), pool.Portal(), err)
}

// FindSources asks a server for its targets.
func (p *Pools) FindSources(ctx context.Context, spec *poolxml.Source) (string, error) {
	host := spec.Hosts[0]
	portal, name := define.PortalOf(host), define.InitiatorOf(spec)
	if name == "" {
		return "", verr.New(verr.InvalidArg, "missing initiator IQN").In(verr.FromStorage)
	}
	leave, err := p.places.enter(ctx, portal)
	if err != nil {
		return "", failed("", portal, err)
	}
	defer leave()
	targets, err := p.Initiator.Discover(ctx, initiator.Login{Portal: portal, Initiator: name, Timeout: p.Timeout()})
	if err != nil {
		return "", failed("", portal, err)
	}
	var all []poolxml.Source
	for _, t := range targets {
		all = append(all, poolxml.Source{
			Hosts: []poolxml.Host{host}, Devices: []poolxml.Device{{Path: t.Name}}, Initiator: spec.Initiator,
		})
	}
	return poolxml.Sources(all)
}
