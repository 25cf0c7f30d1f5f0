package lockmanager

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"path/filepath"
	"strconv"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/lodgevirt/lodge/host/internal/lockclient"
	adminv1 "github.com/lodgevirt/lodge/sdk/proto/lodge/admin/v1"
	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/lock/v1"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// Keeper shows an operator the locks, and frees one whoever owns it.
type Keeper interface {
	// Locks lists all locks of this host, in no order.
	Locks(ctx context.Context) ([]*adminv1.Lock, error)
	// Release frees one that Locks has listed.
	Release(ctx context.Context, lock *adminv1.Lock) error
}

// DaemonKeeper is the lock daemon as a Keeper.
func DaemonKeeper(client *lockclient.Client) Keeper { return daemonKeeper{client} }

type daemonKeeper struct{ client *lockclient.Client }

// stateWords are the states of the daemon's leases.
var stateWords = map[lockclient.State]string{
	lockclient.Held: "held", lockclient.Unproven: "unproven", lockclient.Lost: "lost",
}

// Locks implements Keeper.
func (k daemonKeeper) Locks(ctx context.Context) ([]*adminv1.Lock, error) {
	leases, err := k.client.List(ctx)
	if err != nil {
		return nil, err
	}
	locks := make([]*adminv1.Lock, len(leases))
	for n, l := range leases {
		locks[n] = &adminv1.Lock{
			Id: strconv.FormatUint(l.Number, 10), Lockspace: l.Resource.Lockspace, Resource: l.Resource.Name, Path: l.Path,
			Disk: l.Resource.Disk, Shared: bool(l.Resource.Mode), OwnerName: l.Owner.Name, OwnerUuid: l.Owner.UUID.String(),
			OwnerPid: l.Owner.PID, OwnerGeneration: l.Owner.Generation, Since: timestamppb.New(l.Since),
			State: stateWords[l.State], Detail: l.Detail,
		}
	}
	return locks, nil
}

// Release implements Keeper.
func (k daemonKeeper) Release(ctx context.Context, lock *adminv1.Lock) error {
	number, err := strconv.ParseUint(lock.Id, 10, 64)
	if err != nil {
		return verr.New(verr.InvalidArg, "lock '%s': %w", lock.Id, err)
	}
	_, err = k.client.ForceRelease(ctx, number)
	return err
}

// PluginKeeper is a plugin that is a lock manager, behind a connection, as a Keeper.
func PluginKeeper(conn grpc.ClientConnInterface) Keeper {
	return pluginKeeper{pb.NewManagerServiceClient(conn)}
}

type pluginKeeper struct{ manager pb.ManagerServiceClient }

// idLength is the length of the id of a plugin's lock, in bytes of a hash.
const idLength = 6

// idOf names a lock of an owner in a few letters.
func idOf(l *pb.Lease) string {
	o := l.GetOwner()
	sum := sha256.Sum256(fmt.Appendf(nil, "%q %q %d", l.GetPlace(), o.GetUuid(), o.GetGeneration()))
	return hex.EncodeToString(sum[:idLength])
}

// Locks implements Keeper.
func (k pluginKeeper) Locks(ctx context.Context) ([]*adminv1.Lock, error) {
	leases, err := k.list(ctx)
	if err != nil {
		return nil, err
	}
	locks := make([]*adminv1.Lock, len(leases))
	for n, l := range leases {
		o, r := l.GetOwner(), l.GetResource()
		state := "held"
		if l.GetStatus() == pb.Status_STATUS_LOST {
			state = "lost"
		}
		locks[n] = &adminv1.Lock{
			Id: idOf(l), Lockspace: filepath.Join(r.GetPath(), r.GetLockspace()), Resource: r.GetKey(), Path: l.GetPlace(),
			Disk: r.GetDisk(), Shared: r.GetShared(), OwnerName: o.GetName(), OwnerUuid: o.GetUuid(), OwnerPid: o.GetPid(),
			OwnerGeneration: o.GetGeneration(), Since: l.GetSince(), State: state, Detail: l.GetDetail(),
		}
	}
	return locks, nil
}

func (k pluginKeeper) list(ctx context.Context) ([]*pb.Lease, error) {
	rsp, err := k.manager.List(ctx, &pb.ListRequest{})
	return rsp.GetLeases(), err
}

// Release implements Keeper.
func (k pluginKeeper) Release(ctx context.Context, lock *adminv1.Lock) error {
	leases, err := k.list(ctx)
	if err != nil {
		return err
	}
	for _, l := range leases {
		if idOf(l) != lock.Id {
			continue
		}
		_, err := k.manager.Release(ctx, &pb.ReleaseRequest{Owner: l.GetOwner(), Resources: []*pb.Resource{l.GetResource()}})
		return err
	}
	return verr.New(verr.InvalidArg, "lock '%s' is not held any more", lock.Id)
}
