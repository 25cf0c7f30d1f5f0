package pool

import (
	"context"
	"errors"
	"io"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/lodgevirt/lodge/host/internal/catalog"
	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/storage/v1"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// Start makes a pool usable; flags are virStoragePoolCreateFlags.
func (p *Pool) Start(ctx context.Context, flags uint32) error {
	if _, _, err := buildOf(flags); err != nil {
		return err
	}
	j, err := p.begin(ctx)
	if err != nil {
		return err
	}
	defer j.end()
	s := j.copy()
	if s.Active() {
		return storageError(verr.OperationInvalid, "storage pool '%s' is already active", s.Name)
	}
	return j.start(s, flags)
}

// start makes the pool usable and looks at it. That it is in use is on disk before the driver is asked, so that a crash in between leaves
// nothing that nobody stops.
func (j *job) start(s *state, flags uint32) error {
	build, how, err := buildOf(flags)
	if err != nil {
		return err
	}
	if build {
		if err := j.build(how); err != nil {
			return err
		}
	}
	conn, err := j.p.conn()
	if err != nil {
		return err
	}
	ref, err := j.p.ref(j.ctx)
	if err != nil {
		return err
	}
	s.record.Active, s.record.Boot = true, j.p.inv.cfg.Boot
	if err := j.p.inv.cfg.Catalog.Update(func(tx *catalog.Tx) error { return tx.PutPool(s.record) }); err != nil {
		return storageError(verr.OperationFailed, "cannot store storage pool '%s': %w", s.record.Name, err)
	}
	_, err = pb.NewPoolServiceClient(conn).Start(j.ctx, &pb.StartRequest{Pool: ref})
	if err == nil {
		j.p.volumes.reset()
		err = j.p.look(j.ctx)
	}
	if err != nil {
		return errors.Join(err, j.stop(s))
	}
	s.hidden, s.Condition = false, Running
	s.fill()
	j.show(s)
	j.p.publish(eventStarted)
	return nil
}

// stop has the driver put the pool away, and notes that it is not in use.
func (j *job) stop(s *state) error {
	ctx, cancel := detached(j.ctx)
	defer cancel()
	conn, err := j.p.conn()
	if err != nil {
		return err
	}
	ref, err := j.p.ref(ctx)
	if err != nil {
		return err
	}
	if _, err := pb.NewPoolServiceClient(conn).Stop(ctx, &pb.StopRequest{Pool: ref}); err != nil {
		return err
	}
	s.record.Active, s.record.Boot, s.Condition = false, "", Inactive
	if next := s.record.Next; next != nil {
		r := s.record
		r.Type, r.Target, r.Exclusive, r.Secrets, r.XML, r.Next = next.Type, next.Target, next.Exclusive, next.Secrets, next.XML, nil
	}
	if !s.record.Persistent {
		return j.remove()
	}
	return j.save(s)
}

// Stop puts a pool away; a transient one is gone then.
func (p *Pool) Stop(ctx context.Context) error {
	j, err := p.begin(ctx)
	if err != nil {
		return err
	}
	defer j.end()
	s := j.copy()
	if !s.Active() {
		return notActive(s.Name)
	}
	if p.busy() {
		return storageError(verr.Internal, "pool '%s' has asynchronous jobs running.", s.Name)
	}
	if err := j.stop(s); err != nil {
		return err
	}
	p.volumes.reset()
	p.publish(eventStopped)
	return nil
}

func notActive(name string) error {
	return storageError(verr.OperationInvalid, "storage pool '%s' is not active", name)
}

// Build makes what a pool lies on; flags are virStoragePoolBuildFlags.
func (p *Pool) Build(ctx context.Context, flags uint32) error {
	switch {
	case flags&^buildKnown != 0:
		return unknownFlags(flags &^ buildKnown)
	case flags&buildOverwrite != 0 && flags&buildNoOverwrite != 0:
		return errOverwrite
	}
	return p.rebuild(ctx, eventCreated, func(j *job) error { return j.build(flags) })
}

// Delete removes what a pool lies on; flags are virStoragePoolDeleteFlags.
func (p *Pool) Delete(ctx context.Context, flags uint32) error {
	const zeroed = 1 << 0
	if flags&^zeroed != 0 {
		return unknownFlags(flags &^ zeroed)
	}
	return p.rebuild(ctx, eventDeleted, func(j *job) error {
		conn, ref, err := j.driver()
		if err != nil {
			return err
		}
		err = j.follow("delete", func(ctx context.Context, t *task) error {
			stream, err := pb.NewBuildServiceClient(conn).Delete(ctx, &pb.DeleteRequest{Pool: ref, Flags: flags})
			if err != nil {
				return err
			}
			return follow(t, stream)
		})
		return unlessLacking(err, "pool deletion")
	})
}

// rebuild runs work on a pool that must not be in use.
func (p *Pool) rebuild(ctx context.Context, lifecycle int32, do func(*job) error) error {
	j, err := p.begin(ctx)
	if err != nil {
		return err
	}
	defer j.end()
	s := j.copy()
	if s.Active() {
		return storageError(verr.OperationInvalid, "storage pool '%s' is already active", s.Name)
	}
	s.Condition = Building
	j.show(s)
	err = do(j)
	s.Condition = Inactive
	j.show(s)
	if err == nil {
		p.publish(lifecycle)
	}
	return err
}

func (j *job) build(flags uint32) error {
	conn, ref, err := j.driver()
	if err != nil {
		return err
	}
	err = j.follow("build", func(ctx context.Context, t *task) error {
		stream, err := pb.NewBuildServiceClient(conn).Build(ctx, &pb.BuildRequest{Pool: ref, Flags: flags})
		if err != nil {
			return err
		}
		return follow(t, stream)
	})
	if lacks(err) {
		return nil // there is nothing to be built, as in libvirt
	}
	return err
}

// follow runs work on the pool as a task.
func (j *job) follow(kind string, do func(context.Context, *task) error) error {
	return j.p.follow(j.ctx, kind, "", do)
}

// follow runs work on the pool or one of its volumes as a task.
func (p *Pool) follow(ctx context.Context, kind, volume string, do func(context.Context, *task) error) error {
	ctx, t := p.task(ctx, kind, volume)
	defer p.end(t)
	return t.failed(ctx, do(ctx, t))
}

func (j *job) driver() (grpc.ClientConnInterface, *pb.Pool, error) { return j.p.driver(j.ctx) }

// driver is the pool's driver, and the pool as it knows it.
func (p *Pool) driver(ctx context.Context) (grpc.ClientConnInterface, *pb.Pool, error) {
	conn, err := p.conn()
	if err != nil {
		return nil, nil, err
	}
	ref, err := p.ref(ctx)
	return conn, ref, err
}

// Refresh looks at the pool anew. Nobody who asks about it waits for that.
func (p *Pool) Refresh(ctx context.Context) error {
	s := p.state.Load()
	if !s.Active() {
		return notActive(s.Name)
	}
	if err := p.look(ctx); err != nil {
		return err
	}
	p.publishRefresh()
	return nil
}

// look has the driver tell all volumes, and puts them in the place of those that are known. What was made and removed meanwhile stays so.
func (p *Pool) look(ctx context.Context) error {
	select {
	case p.looking <- struct{}{}:
		defer func() { <-p.looking }()
	case <-ctx.Done():
		return storageError(verr.OperationTimeout, "another refresh of storage pool '%s' is under way: %w", p.View().Name, ctx.Err())
	}
	revision, _ := p.volumes.outdated()
	if err := p.lookOnce(ctx); err != nil {
		return err
	}
	p.volumes.lookedAt(revision)
	return nil
}

// lookOnce is look, as the only one of its kind.
func (p *Pool) lookOnce(ctx context.Context) error {
	return p.follow(ctx, "refresh", "", func(ctx context.Context, t *task) error {
		var err error
		// A driver that has died in the middle is there again soon, and nothing was changed.
		for range lookTries {
			t.done.Store(0)
			if err = p.lookAll(ctx, t); status.Code(err) != codes.Unavailable || ctx.Err() != nil {
				return err
			}
		}
		return err
	})
}

// lookTries is how often a refresh is begun whose driver dies.
const lookTries = 3

// lookAll is look, as the only one of its kind and as a task.
func (p *Pool) lookAll(ctx context.Context, t *task) error {
	conn, ref, err := p.driver(ctx)
	if err != nil {
		return err
	}
	stream, err := pb.NewPoolServiceClient(conn).Refresh(ctx, &pb.RefreshRequest{Pool: ref})
	if err != nil {
		return err
	}
	next := p.volumes.beginLook()
	for {
		msg, err := stream.Recv()
		if err != nil {
			p.volumes.giveUp()
			if errors.Is(err, io.EOF) {
				return storageError(verr.Internal, "driver of storage pool '%s' ended a refresh without the pool's size", ref.Name)
			}
			return err
		}
		if err := next.add(msg.GetVolumes()); err != nil {
			p.volumes.giveUp()
			return err
		}
		t.add(uint64(len(msg.GetVolumes())))
		if msg.GetSize() != nil {
			p.volumes.endLook(next, msg.GetSize())
			return nil
		}
	}
}
