package driver

import (
	"context"
	"time"

	"github.com/lodgevirt/lodge/plugins/esx/internal/storage"
	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/inventory/v1"
	sdkstorage "github.com/lodgevirt/lodge/sdk/storage"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// findTimeout bounds the making of a connection for a call about storage, which waits for a secret of the core's at most.
const findTimeout = 10 * time.Second

// noHost is the error of what a connection to all of a vCenter server does not have.
func noHost(what string) error {
	return verr.New(verr.NoSupport, "the connection is to all hosts of a vCenter server, which has no %s: open "+
		"vpx://SERVER/DATACENTER/HOST", what).In(verr.FromESX)
}

// Storage implements inventory.Storage.
func (d *Driver) Storage() sdkstorage.Driver { return storage.NewDriver(d.store) }

// store finds the storage of a connection.
func (d *Driver) store(connection string) (*storage.Store, error) {
	ctx, cancel := context.WithTimeout(context.Background(), findTimeout)
	defer cancel()
	p, done, err := d.parts(ctx, connection)
	if err != nil {
		return nil, err
	}
	defer done()
	if p.store == nil {
		return nil, noHost("storage")
	}
	return p.store, nil
}

// DefineNetwork implements inventory.Networks.
func (d *Driver) DefineNetwork(ctx context.Context, req *pb.DefineNetworkRequest) (*pb.DefineNetworkResponse, error) {
	p, done, err := d.parts(ctx, req.GetConnection())
	if err != nil {
		return nil, err
	}
	defer done()
	if p.networks == nil {
		return nil, noHost("networks")
	}
	id, seq, err := p.networks.DefineNetwork(ctx, req.GetXml())
	return &pb.DefineNetworkResponse{Uuid: id, Seq: seq}, err
}

// UndefineNetwork implements inventory.Networks.
func (d *Driver) UndefineNetwork(ctx context.Context, req *pb.UndefineNetworkRequest) (*pb.UndefineNetworkResponse, error) {
	p, done, err := d.parts(ctx, req.GetConnection())
	if err != nil {
		return nil, err
	}
	defer done()
	if p.networks == nil {
		return nil, noHost("networks")
	}
	seq, err := p.networks.UndefineNetwork(ctx, req.GetUuid())
	return &pb.UndefineNetworkResponse{Seq: seq}, err
}
