package pool

import (
	"context"
	"sync"
	"time"

	"google.golang.org/grpc"

	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/storage/v1"
)

// retryEvery is the time between two tries to make a pool usable whose storage does not answer.
const retryEvery = 15 * time.Second

// Waiting reports whether a driver of some pool types has work at the start of the core: pools in use, or to be started at boot.
func (i *Inventory) Waiting(types []string) bool {
	for _, p := range i.of(types) {
		if s := p.state.Load(); s.Active() || s.due(i.cfg.Boot) {
			return true
		}
	}
	return false
}

// due reports whether the pool is to be started because of this boot.
func (s *state) due(boot string) bool { return s.Autostart && s.record.Started != boot }

// of returns the pools of some types.
func (i *Inventory) of(types []string) []*Pool {
	wanted := map[string]bool{}
	for _, t := range types {
		wanted[t] = true
	}
	var pools []*Pool
	for _, p := range i.All() {
		if wanted[p.View().Type] {
			pools = append(pools, p)
		}
	}
	return pools
}

// Recover makes the pools of some types usable again by a driver process that has just come up, starts those that this boot is to start, and
// looks at them; each for itself, and again and again where the storage does not answer. It ends with the context, which is
// the process's.
func (i *Inventory) Recover(ctx context.Context, conn grpc.ClientConnInterface, types []string) {
	var all sync.WaitGroup
	for _, p := range i.of(types) {
		all.Go(func() {
			first := sync.OnceFunc(p.tried)
			for !p.recover(ctx, conn) {
				first()
				select {
				case <-ctx.Done():
					return
				case <-time.After(retryEvery):
				}
			}
			first()
		})
	}
	all.Wait()
}

// tried tells those who wait for a start at boot that it has been tried, well or not.
func (p *Pool) tried() {
	p.mu.Lock()
	defer p.mu.Unlock()
	select {
	case <-p.booted:
	default:
		if p.booted != nil {
			close(p.booted)
		}
	}
}

// awaitBoot waits until a start that this boot is to make was tried: guests are started at boot, too, and need the volumes.
func (p *Pool) awaitBoot(ctx context.Context) {
	if p.booted == nil || p.state.Load().Active() {
		return
	}
	late := time.NewTimer(firstLook)
	defer late.Stop()
	select {
	case <-p.booted:
	case <-late.C:
	case <-ctx.Done():
	}
}

// recover makes one pool usable, and reports whether nothing is left to be done.
func (p *Pool) recover(ctx context.Context, conn grpc.ClientConnInterface) bool {
	j, err := p.begin(ctx)
	if err != nil {
		return ctx.Err() != nil || p.state.Load().gone
	}
	defer j.end()
	s := j.copy()
	switch {
	case s.Active():
		err = j.reclaim(conn, s)
	case s.due(p.inv.cfg.Boot):
		s.record.Started = p.inv.cfg.Boot
		err = j.start(s, 0)
	default:
		return true
	}
	if err != nil {
		p.inv.cfg.Log.Warn("storage pool is not usable yet", "pool", s.Name, "error", err)
		return ctx.Err() != nil
	}
	return true
}

// reclaim makes a pool usable that was so before the driver's process, or the core, came anew.
func (j *job) reclaim(conn grpc.ClientConnInterface, s *state) error {
	ref, err := j.p.ref(j.ctx)
	if err != nil {
		return err
	}
	client := pb.NewPoolServiceClient(conn)
	rsp, err := client.Check(j.ctx, &pb.CheckRequest{Pool: ref})
	if err == nil && !rsp.GetActive() {
		_, err = client.Start(j.ctx, &pb.StartRequest{Pool: ref})
	}
	if err == nil {
		err = j.p.look(j.ctx)
	}
	s.Condition = Running
	if err != nil {
		s.Condition = Inaccessible
	}
	j.show(s)
	return err
}
