package core

import (
	"context"
	"sync"
	"time"

	"github.com/google/uuid"
	"google.golang.org/grpc"

	"github.com/lodgevirt/lodge/host/internal/domain"
	"github.com/lodgevirt/lodge/host/internal/lockmanager"
	"github.com/lodgevirt/lodge/host/internal/manifest"
	"github.com/lodgevirt/lodge/host/internal/supervise"
	corev1 "github.com/lodgevirt/lodge/sdk/proto/lodge/core/v1"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// lockPlugin is a plugin that is the host's lock manager.
type lockPlugin struct {
	part
	// work follows the locks of a process; it ends with it.
	work sync.WaitGroup
}

func (h *Host) addLockPlugin(m *manifest.Manifest) error {
	settings, err := h.settings(m)
	if err != nil || settings.Disabled {
		return err
	}
	l := &lockPlugin{part: part{host: h, manifest: m, settings: settings}}
	l.plugin = l.supervised(func(c *supervise.Config) { c.Recover = l.recover })
	h.lockPlugin = l
	return nil
}

// recover opens the watch of a process that has just come up, and tells it in the background who lives: the guests' own calls for locks
// need not wait for that.
func (l *lockPlugin) recover(ctx context.Context, conn grpc.ClientConnInterface, _ uint64, _ bool) error {
	stream, err := lockmanager.Watch(ctx, conn)
	if err != nil {
		return err
	}
	l.work.Go(func() { l.follow(ctx, conn, stream) })
	return nil
}

// follow reaffirms all guests and deals with the locks that are lost, for as long as the process lives.
func (l *lockPlugin) follow(ctx context.Context, conn grpc.ClientConnInterface, stream *lockmanager.Stream) {
	for {
		var enforcing sync.WaitGroup
		enforcing.Go(func() { l.host.reaffirm(ctx) })
		err := stream.Follow(func(lost lockmanager.Lost) {
			enforcing.Go(func() { l.host.lost(ctx, lost.UUID, lost.Generation, lost.Lock) })
		})
		enforcing.Wait()
		for stream = nil; stream == nil; {
			select {
			case <-ctx.Done():
				return
			case <-time.After(rewatchPause):
			}
			l.log().Warn("watch of locks broke", "error", err)
			stream, err = lockmanager.Watch(ctx, conn)
		}
	}
}

// reaffirm tells the lock manager who lives.
func (h *Host) reaffirm(ctx context.Context) {
	for _, inv := range h.inventories {
		inv.Reaffirm(ctx)
	}
}

// lost finds the guest that has lost a lock and has it dealt with.
func (h *Host) lost(ctx context.Context, id string, generation uint64, lock domain.LostLock) {
	guest, err := uuid.Parse(id)
	if err != nil {
		h.cfg.Log.Warn("lock manager told of the lock of no guest", "guest", id, "path", lock.Path)
		return
	}
	for _, inv := range h.inventories {
		if d, err := inv.ByUUID(guest); err == nil && d.View().Generation == generation {
			d.LocksLost(ctx, generation, []domain.LostLock{lock})
			return
		}
	}
}

// claimService takes claims of guests' processes from one driver.
type claimService struct {
	corev1.UnimplementedLockServiceServer
	driver *driver
}

// Claim finds the guest that is being started.
func (c *claimService) Claim(ctx context.Context, req *corev1.ClaimRequest) (*corev1.ClaimResponse, error) {
	id, err := uuid.Parse(req.Uuid)
	if err != nil {
		return nil, verr.Status(verr.New(verr.InvalidArg, "guest '%s': %w", req.Uuid, err))
	}
	for _, inv := range c.driver.inventories() {
		if inv.Connection() != req.Connection {
			continue
		}
		if d := inv.Starting(id); d != nil {
			return &corev1.ClaimResponse{}, verr.Status(d.Claim(ctx, req.Generation, req.Pid, req.StartTime))
		}
	}
	return nil, verr.Status(verr.New(verr.OperationInvalid, "guest '%s' of connection '%s' is not being started", req.Uuid, req.Connection))
}
