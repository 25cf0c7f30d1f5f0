// Package pooltest is a storage driver in memory, for tests of whoever has pools.
package pooltest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/google/uuid"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/lodgevirt/lodge/sdk/domxml"
	"github.com/lodgevirt/lodge/sdk/plugin"
	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/storage/v1"
	"github.com/lodgevirt/lodge/sdk/storage"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// Type is the type of its pools.
const Type = "shelf"

// Plugin is the plugin that has the driver.
func (s *Shelf) Plugin() plugin.Plugin {
	return plugin.Plugin{Name: Type, Version: "1.0.0", Storage: func(plugin.Core) (storage.Driver, error) { return s, nil }}
}

// Definition is a definition of a pool, which has a path of its own.
func Definition(name string) string {
	return fmt.Sprintf("<pool type='%s'><name>%s</name><path>/%s</path></pool>", Type, name, name)
}

// New returns an empty one.
func New() *Shelf {
	return &Shelf{Pools: map[string]map[string][]byte{}, Active: map[string]bool{}, Refuse: map[string]error{}}
}

// Shelf is a storage driver in memory. What is stored outlives it. Its fields are guarded by Lock, and may be used without it while no call is
// under way.
type Shelf struct {
	sync.Mutex
	// Pools are the volumes' bytes by the names of pool and volume; Active are the pools in use.
	Pools  map[string]map[string][]byte
	Active map[string]bool
	// Refuse makes calls fail, by their names; Hold makes refreshes and the ends of uploads wait until it is closed.
	Refuse map[string]error
	Hold   chan struct{}
	// Deaths is how many of the next refreshes end as if the driver's process had died.
	Deaths int
	// Entangled says that the shelf must be looked at after each change of a volume.
	Entangled bool
	// Secrets are the values that the last call brought.
	Secrets []*pb.Secret
}

func (s *Shelf) fail(call string, p *pb.Pool) error {
	s.Lock()
	defer s.Unlock()
	s.Secrets = p.GetSecrets()
	return s.Refuse[call]
}

// Capabilities tells that the type is supported.
func (s *Shelf) Capabilities(context.Context) ([]*pb.PoolType, error) {
	return []*pb.PoolType{{Name: "shelf", Supported: true}}, nil
}

// Validate reads name, uuid and path.
func (s *Shelf) Validate(_ context.Context, req *pb.ValidateRequest) (*pb.ValidateResponse, error) {
	name, err := domxml.RootChild(req.Xml, "pool", "name")
	if err != nil {
		return nil, err
	}
	id, err := domxml.RootChild(req.Xml, "pool", "uuid")
	if err != nil {
		return nil, err
	}
	if id == "" {
		id = uuid.NewSHA1(uuid.Nil, []byte(name)).String()
	}
	path, err := domxml.RootChild(req.Xml, "pool", "path")
	if err != nil {
		return nil, err
	}
	text := fmt.Sprintf("<pool type='shelf'>\n  <name>%s</name>\n  <uuid>%s</uuid>\n  <path>%s</path>\n</pool>\n", name, id, path)
	rsp := &pb.ValidateResponse{Xml: text, Uuid: id, Name: name, Type: "shelf", TargetPath: path, Exclusive: []string{path}}
	if strings.HasSuffix(path, "/secret") {
		rsp.Secrets = []*pb.SecretRef{{Usage: "shelf"}}
	}
	return rsp, nil
}

// Check tells whether a pool was started.
func (s *Shelf) Check(_ context.Context, p *pb.Pool) (bool, error) {
	s.Lock()
	defer s.Unlock()
	return s.Active[p.Name], nil
}

// Start starts a pool.
func (s *Shelf) Start(_ context.Context, p *pb.Pool) error {
	if err := s.fail("start", p); err != nil {
		return err
	}
	s.Lock()
	defer s.Unlock()
	s.Active[p.Name] = true
	if s.Pools[p.Name] == nil {
		s.Pools[p.Name] = map[string][]byte{}
	}
	return nil
}

// Stop ends that.
func (s *Shelf) Stop(_ context.Context, p *pb.Pool) error {
	s.Lock()
	defer s.Unlock()
	delete(s.Active, p.Name)
	return nil
}

func (s *Shelf) volume(p *pb.Pool, name string) *pb.Volume {
	data := s.Pools[p.Name][name]
	path := filepath.Join("/shelf", p.Name, name)
	return &pb.Volume{
		Name: name, Key: path, Path: path, Type: pb.VolumeType_VOLUME_TYPE_FILE, Capacity: uint64(len(data)), Allocation: uint64(len(data)),
		Format: "raw",
	}
}

// Refresh tells all volumes.
func (s *Shelf) Refresh(ctx context.Context, p *pb.Pool, found func(...*pb.Volume) error) (*pb.PoolSize, error) {
	if err := s.fail("refresh", p); err != nil {
		return nil, err
	}
	s.Lock()
	var all []*pb.Volume
	used := uint64(0)
	for name, data := range s.Pools[p.Name] {
		all = append(all, s.volume(p, name))
		used += uint64(len(data))
	}
	hold, dies := s.Hold, s.Deaths > 0
	if dies {
		s.Deaths--
	}
	s.Unlock()
	if dies {
		return nil, errors.Join(found(all...), status.Error(codes.Unavailable, "connection reset by peer"))
	}
	if hold != nil {
		select {
		case <-hold:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	return &pb.PoolSize{Capacity: 1000, Allocation: used, Available: 1000 - used, Entangled: s.Entangled}, found(all...)
}

// Create makes a volume of ten bytes, or a copy.
func (s *Shelf) Create(_ context.Context, req *pb.CreateRequest, progress storage.Progress) (*pb.Volume, error) {
	if err := s.fail("create", req.Pool); err != nil {
		return nil, err
	}
	name, err := domxml.RootChild(req.Xml, "volume", "name")
	if err != nil {
		return nil, err
	}
	progress(1, 2)
	s.Lock()
	defer s.Unlock()
	data := make([]byte, 10)
	if req.From != nil {
		data = slices.Clone(s.Pools[req.FromPool.Name][req.From.Name])
	}
	s.Pools[req.Pool.Name][name] = data
	if err := s.Refuse["created"]; err != nil {
		return nil, err
	}
	return s.volume(req.Pool, name), nil
}

// Remove removes a volume.
func (s *Shelf) Remove(_ context.Context, req *pb.RemoveRequest) error {
	s.Lock()
	defer s.Unlock()
	delete(s.Pools[req.Pool.Name], req.Volume.Name)
	return s.Refuse["removed"]
}

// Look tells one volume.
func (s *Shelf) Look(_ context.Context, p *pb.Pool, name string) (*pb.Volume, error) {
	s.Lock()
	defer s.Unlock()
	if _, ok := s.Pools[p.Name][name]; !ok {
		return nil, verr.New(verr.NoStorageVol, "no volume '%s'", name)
	}
	return s.volume(p, name), nil
}

// Resize gives a volume another length.
func (s *Shelf) Resize(_ context.Context, req *pb.ResizeRequest) (*pb.Volume, error) {
	s.Lock()
	defer s.Unlock()
	s.Pools[req.Pool.Name][req.Volume.Name] = make([]byte, req.Capacity)
	return s.volume(req.Pool, req.Volume.Name), nil
}

// Download reads a volume.
func (s *Shelf) Download(_ context.Context, req *pb.DownloadRequest) (storage.Source, error) {
	s.Lock()
	defer s.Unlock()
	data := s.Pools[req.Pool.Name][req.Volume.Name]
	return &reading{bytes.NewReader(slices.Clone(data))}, nil
}

type reading struct{ *bytes.Reader }

// Next returns four bytes.
func (r *reading) Next(context.Context) ([]byte, uint64, error) {
	b := make([]byte, 4)
	n, err := r.Read(b)
	return b[:n], 0, err
}

// Close does nothing.
func (r *reading) Close() error { return nil }

// Upload replaces what is in a volume.
func (s *Shelf) Upload(_ context.Context, begin *pb.UploadBegin) (storage.Sink, error) {
	return &writing{shelf: s, begin: begin}, nil
}

type writing struct {
	shelf *Shelf
	begin *pb.UploadBegin
	data  []byte
}

// Write keeps the bytes, at most 100.
func (w *writing) Write(_ context.Context, data []byte) error {
	if len(w.data)+len(data) > 100 {
		return verr.New(verr.OperationFailed, "the shelf is full")
	}
	w.data = append(w.data, data...)
	return nil
}

// Hole keeps zeros.
func (w *writing) Hole(_ context.Context, n uint64) error {
	w.data = append(w.data, make([]byte, n)...)
	return nil
}

// Finish puts them into the volume.
func (w *writing) Finish(ctx context.Context) error {
	w.shelf.Lock()
	hold := w.shelf.Hold
	w.shelf.Unlock()
	if hold != nil {
		select {
		case <-hold:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	w.shelf.Lock()
	defer w.shelf.Unlock()
	w.shelf.Pools[w.begin.Pool.Name][w.begin.Volume.Name] = w.data
	return nil
}

// Abort does nothing.
func (w *writing) Abort() {}
