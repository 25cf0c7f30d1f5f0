package adapter

import (
	"context"

	"google.golang.org/grpc"

	"github.com/lodgevirt/lodge/sdk/inventory"
	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/inventory/v1"
)

// RegisterInventory adds the services of a driver whose hypervisor keeps its objects; streams end when done is closed.
func RegisterInventory(s grpc.ServiceRegistrar, driver inventory.Driver, files Files, done <-chan struct{}) {
	pb.RegisterInventoryServiceServer(s, &inventoryService{Driver: driver, done: done})
	if g, ok := driver.(inventory.Guests); ok {
		pb.RegisterGuestServiceServer(s, &guestService{Guests: g})
	}
	if t, ok := driver.(inventory.Tuning); ok {
		pb.RegisterTuningServiceServer(s, &tuningService{Tuning: t})
	}
	if p, ok := driver.(inventory.Snapshots); ok {
		pb.RegisterSnapshotServiceServer(s, &snapshotService{Snapshots: p})
	}
	if m, ok := driver.(inventory.Migration); ok {
		pb.RegisterMigrationServiceServer(s, &migrationService{Migration: m})
	}
	if n, ok := driver.(inventory.Natives); ok {
		pb.RegisterNativeServiceServer(s, &nativeService{Natives: n})
	}
	if n, ok := driver.(inventory.Networks); ok {
		pb.RegisterNetworkServiceServer(s, &networkService{Networks: n})
	}
	if st, ok := driver.(inventory.Storage); ok {
		RegisterStorage(s, st.Storage(), files)
	}
	registerOptional(s, driver)
}

// inventoryService is the driver itself.
type inventoryService struct {
	pb.UnsafeInventoryServiceServer
	inventory.Driver
	done <-chan struct{}
}

// Follow sends the picture of a connection, then what changes in it.
func (i *inventoryService) Follow(req *pb.FollowRequest, stream grpc.ServerStreamingServer[pb.FollowResponse]) error {
	feed, done, err := i.Driver.Follow(stream.Context(), req.GetConnection())
	if err != nil {
		return err
	}
	defer done()
	follower := feed.Follow()
	defer follower.Close()
	ctx, cancel := context.WithCancel(stream.Context())
	defer cancel()
	go func() {
		select {
		case <-i.done:
			cancel()
		case <-ctx.Done():
		}
	}()
	for {
		m, err := follower.Next(ctx)
		if err != nil {
			return err
		}
		if err := stream.Send(m); err != nil {
			return err
		}
	}
}

type (
	guestService struct {
		pb.UnsafeGuestServiceServer
		inventory.Guests
	}
	tuningService struct {
		pb.UnsafeTuningServiceServer
		inventory.Tuning
	}
	snapshotService struct {
		pb.UnsafeSnapshotServiceServer
		inventory.Snapshots
	}
	migrationService struct {
		pb.UnsafeMigrationServiceServer
		inventory.Migration
	}
	nativeService struct {
		pb.UnsafeNativeServiceServer
		inventory.Natives
	}
	networkService struct {
		pb.UnsafeNetworkServiceServer
		inventory.Networks
	}
)
