package storage

import (
	"context"

	"github.com/lodgevirt/lodge/plugins/esx/internal/storage/internal/datastore"
	"github.com/lodgevirt/lodge/plugins/esx/internal/storage/internal/iscsi"
	inventoryv1 "github.com/lodgevirt/lodge/sdk/proto/lodge/inventory/v1"
	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/storage/v1"
	"github.com/lodgevirt/lodge/sdk/storage"
)

// backend is a pool of some kind, as it was when it was read last.
type backend interface {
	// Object is the pool as clients are told of it.
	Object() *inventoryv1.PoolObject
	// Accessible says whether its host reaches it.
	Accessible() bool
	// Refresh tells its volumes and returns its size.
	Refresh(ctx context.Context, tell func(...*pb.Volume) error) (*pb.PoolSize, error)
	// Look looks at one volume.
	Look(ctx context.Context, name string) (*pb.Volume, error)
}

// maker is a backend whose volumes can be made and deleted.
type maker interface {
	// Source is how Create names a volume that is to be copied.
	Source(name string) (string, error)
	// Create makes a volume, of another one if source is not empty.
	Create(ctx context.Context, req *pb.CreateRequest, source string, progress storage.Progress) (*pb.Volume, error)
	// Remove deletes one.
	Remove(ctx context.Context, req *pb.RemoveRequest) error
}

// changer is a backend whose volumes can be resized and wiped.
type changer interface {
	Resize(ctx context.Context, req *pb.ResizeRequest) (*pb.Volume, error)
	Wipe(ctx context.Context, req *pb.WipeRequest, progress storage.Progress) error
}

// mover is a backend whose volumes can be read and written.
type mover interface {
	Download(ctx context.Context, req *pb.DownloadRequest) (storage.Source, error)
	Upload(ctx context.Context, begin *pb.UploadBegin) (storage.Sink, error)
}

var (
	_ backend = (*datastore.Pool)(nil)
	_ maker   = (*datastore.Pool)(nil)
	_ changer = (*datastore.Pool)(nil)
	_ mover   = (*datastore.Pool)(nil)
	_ backend = (*iscsi.Pool)(nil)
)
