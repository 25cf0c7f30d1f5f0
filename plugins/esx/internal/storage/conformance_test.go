package storage_test

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/lodgevirt/lodge/plugins/esx/internal/vimtest"
	"github.com/lodgevirt/lodge/sdk/conformance/storagedriver"
	"github.com/lodgevirt/lodge/sdk/plugin"
	"github.com/lodgevirt/lodge/sdk/poolxml"
	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/storage/v1"
	"github.com/lodgevirt/lodge/sdk/storage"
)

// standing is the driver as the suite wants it: the host's pools can be defined, started and stopped, which does nothing.
type standing struct{ driver }

func (standing) Validate(_ context.Context, req *pb.ValidateRequest) (*pb.ValidateResponse, error) {
	p, err := poolxml.Parse(req.GetXml(), "fs", "netfs", "dir", "iscsi")
	if err != nil {
		return nil, err
	}
	return p.Validated([]string{"datastore " + p.Name}, "")
}

func (s standing) pool(ref *pb.Pool) *pb.Pool {
	ref.Connection = "esx:///lab"
	return ref
}

func (standing) Start(context.Context, *pb.Pool) error { return nil }
func (standing) Stop(context.Context, *pb.Pool) error  { return nil }

func (s standing) Check(ctx context.Context, ref *pb.Pool) (bool, error) {
	return s.driver.Check(ctx, s.pool(ref))
}

func (s standing) Refresh(ctx context.Context, ref *pb.Pool, found func(...*pb.Volume) error) (*pb.PoolSize, error) {
	return s.driver.Refresh(ctx, s.pool(ref), found)
}

func (s standing) Look(ctx context.Context, ref *pb.Pool, name string) (*pb.Volume, error) {
	return s.driver.Look(ctx, s.pool(ref), name)
}

func (s standing) Create(ctx context.Context, req *pb.CreateRequest, progress storage.Progress) (*pb.Volume, error) {
	s.pool(req.GetPool())
	if req.GetFromPool() != nil {
		s.pool(req.GetFromPool())
	}
	return s.driver.Create(ctx, req, progress)
}

func (s standing) Remove(ctx context.Context, req *pb.RemoveRequest) error {
	s.pool(req.GetPool())
	return s.driver.Remove(ctx, req)
}

func (s standing) Resize(ctx context.Context, req *pb.ResizeRequest) (*pb.Volume, error) {
	s.pool(req.GetPool())
	return s.driver.Resize(ctx, req)
}

func (s standing) Wipe(ctx context.Context, req *pb.WipeRequest, progress storage.Progress) error {
	s.pool(req.GetPool())
	return s.driver.Wipe(ctx, req, progress)
}

func (s standing) Download(ctx context.Context, req *pb.DownloadRequest) (storage.Source, error) {
	s.pool(req.GetPool())
	return s.driver.Download(ctx, req)
}

func (s standing) Upload(ctx context.Context, begin *pb.UploadBegin) (storage.Sink, error) {
	s.pool(begin.GetPool())
	return s.driver.Upload(ctx, begin)
}

// TestConformance runs the suite of all storage drivers over disks of a datastore.
func TestConformance(t *testing.T) {
	b := open(t, vimtest.Options{})
	var pools atomic.Int32
	storagedriver.Run(t, storagedriver.Factory{
		Plugin: func() plugin.Plugin {
			return plugin.Plugin{Name: "esx", Version: "1.0.0", Storage: func(plugin.Core) (storage.Driver, error) { return standing{b.driver}, nil }}
		},
		Pool: func(*testing.T) storagedriver.Pool {
			pool, _ := b.vmfs(fmt.Sprintf("suite-%d", pools.Add(1)))
			return storagedriver.Pool{XML: strings.TrimSpace(pool.GetXml()), Standing: true, Built: true}
		},
		Name:     func(n int) string { return fmt.Sprintf("disks/volume-%d.vmdk", n) },
		Capacity: 1 << 20,
		Thin:     true,
	})
}
