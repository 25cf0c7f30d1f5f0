package storage

import (
	"context"

	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/storage/v1"
	"github.com/lodgevirt/lodge/sdk/storage"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// Driver hands calls to the backends of the pools that they name.
type Driver struct {
	find func(connection string) (*Store, error)
}

var (
	_ storage.Driver   = (*Driver)(nil)
	_ storage.Volumes  = (*Driver)(nil)
	_ storage.Resizer  = (*Driver)(nil)
	_ storage.Wiper    = (*Driver)(nil)
	_ storage.Transfer = (*Driver)(nil)
)

// NewDriver returns the driver of the pools of all stores that find finds.
func NewDriver(find func(connection string) (*Store, error)) storage.Driver {
	return &Driver{find: find}
}

// of finds the backend of a pool.
func (d *Driver) of(ref *pb.Pool) (backend, error) {
	store, err := d.find(ref.GetConnection())
	if err != nil {
		return nil, err
	}
	return store.pool(ref)
}

// able finds the backend of a pool, which must be able to do some things.
func able[T any](d *Driver, ref *pb.Pool, what string) (T, error) {
	var none T
	b, err := d.of(ref)
	if err != nil {
		return none, err
	}
	can, ok := b.(T)
	if !ok {
		o := b.Object()
		return none, verr.New(verr.NoSupport, "%s is not supported in pool '%s' of type '%s'", what, o.GetName(), o.GetType()).In(verr.FromStorage)
	}
	return can, nil
}

// Capabilities implements storage.Driver.
func (d *Driver) Capabilities(context.Context) ([]*pb.PoolType, error) {
	files := []string{"vmdk", "iso", "raw"}
	return []*pb.PoolType{
		{
			Name: "fs", Supported: true, SourceFormats: []string{"vmfs"}, DefaultSourceFormat: "vmfs",
			VolumeFormats: files, DefaultVolumeFormat: files[0],
		},
		{
			Name: "netfs", Supported: true, SourceFormats: []string{"nfs", "cifs"}, DefaultSourceFormat: "nfs",
			VolumeFormats: files, DefaultVolumeFormat: files[0],
		},
		{Name: "dir", Supported: true, VolumeFormats: files, DefaultVolumeFormat: files[0]},
		{Name: "iscsi", Supported: true},
	}, nil
}

// errHost is why pools are not made, started and stopped here.
func errHost(what string) error {
	return verr.New(verr.NoSupport, "pools are not %s by libvirt's clients on this hypervisor, which keeps them itself", what).In(verr.FromStorage)
}

// Validate implements storage.Driver.
func (d *Driver) Validate(context.Context, *pb.ValidateRequest) (*pb.ValidateResponse, error) {
	return nil, errHost("defined")
}

// Check implements storage.Driver.
func (d *Driver) Check(_ context.Context, ref *pb.Pool) (bool, error) {
	b, err := d.of(ref)
	if verr.Is(err, verr.NoStoragePool) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	return b.Accessible(), nil
}

// Start implements storage.Driver.
func (d *Driver) Start(context.Context, *pb.Pool) error { return errHost("started") }

// Stop implements storage.Driver.
func (d *Driver) Stop(context.Context, *pb.Pool) error { return errHost("stopped") }

// Refresh implements storage.Driver.
func (d *Driver) Refresh(ctx context.Context, ref *pb.Pool, found func(...*pb.Volume) error) (*pb.PoolSize, error) {
	b, err := d.of(ref)
	if err != nil {
		return nil, err
	}
	return b.Refresh(ctx, found)
}

// Look implements storage.Volumes.
func (d *Driver) Look(ctx context.Context, ref *pb.Pool, name string) (*pb.Volume, error) {
	b, err := d.of(ref)
	if err != nil {
		return nil, err
	}
	return b.Look(ctx, name)
}

// Create implements storage.Volumes.
func (d *Driver) Create(ctx context.Context, req *pb.CreateRequest, progress storage.Progress) (*pb.Volume, error) {
	const what = "making volumes"
	m, err := able[maker](d, req.GetPool(), what)
	if err != nil || req.GetFrom() == nil {
		return create(ctx, m, req, "", progress, err)
	}
	from := req.GetFromPool()
	if from.GetConnection() != req.GetPool().GetConnection() {
		name := req.GetFrom().GetName()
		return nil, verr.New(verr.NoSupport, "volume '%s' is at another endpoint, from which none can be copied", name).In(verr.FromStorage)
	}
	source, err := able[maker](d, from, "copying volumes")
	if err != nil {
		return nil, err
	}
	path, err := source.Source(req.GetFrom().GetName())
	return create(ctx, m, req, path, progress, err)
}

func create(ctx context.Context, m maker, req *pb.CreateRequest, source string, progress storage.Progress, err error) (*pb.Volume, error) {
	if err != nil {
		return nil, err
	}
	return m.Create(ctx, req, source, progress)
}

// Remove implements storage.Volumes.
func (d *Driver) Remove(ctx context.Context, req *pb.RemoveRequest) error {
	m, err := able[maker](d, req.GetPool(), "deleting volumes")
	if err != nil {
		return err
	}
	return m.Remove(ctx, req)
}

// Resize implements storage.Resizer.
func (d *Driver) Resize(ctx context.Context, req *pb.ResizeRequest) (*pb.Volume, error) {
	c, err := able[changer](d, req.GetPool(), "resizing volumes")
	if err != nil {
		return nil, err
	}
	return c.Resize(ctx, req)
}

// Wipe implements storage.Wiper.
func (d *Driver) Wipe(ctx context.Context, req *pb.WipeRequest, progress storage.Progress) error {
	c, err := able[changer](d, req.GetPool(), "wiping volumes")
	if err != nil {
		return err
	}
	return c.Wipe(ctx, req, progress)
}

// Download implements storage.Transfer.
func (d *Driver) Download(ctx context.Context, req *pb.DownloadRequest) (storage.Source, error) {
	m, err := able[mover](d, req.GetPool(), "reading volumes")
	if err != nil {
		return nil, err
	}
	return m.Download(ctx, req)
}

// Upload implements storage.Transfer.
func (d *Driver) Upload(ctx context.Context, begin *pb.UploadBegin) (storage.Sink, error) {
	m, err := able[mover](d, begin.GetPool(), "writing volumes")
	if err != nil {
		return nil, err
	}
	return m.Upload(ctx, begin)
}
