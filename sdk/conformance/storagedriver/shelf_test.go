package storagedriver_test

import (
	"context"
	"crypto/rand"
	"encoding/xml"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/lodgevirt/lodge/sdk/plugin"
	"github.com/lodgevirt/lodge/sdk/poolxml"
	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/storage/v1"
	"github.com/lodgevirt/lodge/sdk/storage"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// shelf is a small and sound driver for folders, which can have one fault.
type shelf struct{ fault string }

func (s *shelf) plugin() plugin.Plugin {
	return plugin.Plugin{Name: "shelf", Version: "1.0.0", Storage: func(plugin.Core) (storage.Driver, error) { return s, nil }}
}

func (s *shelf) Capabilities(context.Context) ([]*pb.PoolType, error) {
	t := &pb.PoolType{Name: "shelf", Supported: true, VolumeFormats: []string{"raw"}, DefaultVolumeFormat: "raw"}
	if s.fault == "the default is not among the formats" {
		t.DefaultVolumeFormat = "qcow2"
	}
	return []*pb.PoolType{t}, nil
}

func (s *shelf) parse(text string) (*poolxml.Pool, error) {
	if s.fault == "any type is taken" {
		text = strings.Replace(text, "fantasy", "shelf", 1)
	}
	p, err := poolxml.Parse(text, "shelf")
	if err != nil {
		return nil, err
	}
	return p, p.NeedTarget()
}

func (s *shelf) Validate(_ context.Context, req *pb.ValidateRequest) (*pb.ValidateResponse, error) {
	p, err := s.parse(req.GetXml())
	if err != nil {
		return nil, err
	}
	if s.fault == "a definition changes" {
		p.Target.Path += "/x"
	}
	text, err := p.XML()
	return &pb.ValidateResponse{Xml: text, Uuid: p.UUID, Name: p.Name, Type: p.Type, Exclusive: []string{p.Target.Path}}, err
}

func (s *shelf) active(p *pb.Pool) (dir, mark string, err error) {
	def, err := s.parse(p.GetXml())
	if err != nil {
		return "", "", err
	}
	return def.Target.Path, def.Target.Path + ".active", nil
}

func (s *shelf) Check(_ context.Context, p *pb.Pool) (bool, error) {
	_, mark, err := s.active(p)
	if err != nil {
		return false, err
	}
	_, err = os.Stat(mark)
	return err == nil || s.fault == "a pool is always usable", nil
}

func (s *shelf) Start(_ context.Context, p *pb.Pool) error {
	_, mark, err := s.active(p)
	if err != nil {
		return err
	}
	if _, err := os.Stat(mark); err == nil && s.fault == "a pool starts once" {
		return verr.New(verr.OperationInvalid, "active")
	}
	return os.WriteFile(mark, nil, 0o600)
}

func (s *shelf) Stop(_ context.Context, p *pb.Pool) error {
	_, mark, err := s.active(p)
	if err != nil {
		return err
	}
	if err := os.Remove(mark); err != nil && (!errors.Is(err, os.ErrNotExist) || s.fault == "a pool stops once") {
		return err
	}
	return nil
}

func (s *shelf) describe(dir, name string) (*pb.Volume, error) {
	info, err := os.Stat(filepath.Join(dir, name))
	if err != nil || name != filepath.Base(name) || strings.HasPrefix(name, ".") {
		return nil, storage.NoVolume(name)
	}
	v := &pb.Volume{
		Name: name, Key: filepath.Join(dir, name), Path: filepath.Join(dir, name), Type: pb.VolumeType_VOLUME_TYPE_FILE, Format: "raw",
		Capacity: uint64(info.Size()), Allocation: uint64(info.Size()),
	}
	if s.fault == "keys are the same" {
		v.Key = "key"
	}
	return v, nil
}

func (s *shelf) Refresh(_ context.Context, p *pb.Pool, found func(...*pb.Volume) error) (*pb.PoolSize, error) {
	dir, _, err := s.active(p)
	if err != nil {
		return nil, err
	}
	all, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	for _, e := range all {
		v, err := s.describe(dir, e.Name())
		if err != nil {
			if s.fault != "work is left" {
				_ = os.Remove(filepath.Join(dir, e.Name()))
			}
			if s.fault != "work is shown" {
				continue
			}
			v = &pb.Volume{Name: e.Name(), Key: e.Name(), Path: e.Name(), Type: pb.VolumeType_VOLUME_TYPE_FILE}
		}
		if err := found(v); err != nil {
			return nil, err
		}
		if s.fault == "volumes are told twice" {
			_ = found(v)
		}
	}
	if s.fault == "there is no size" {
		return nil, nil
	}
	return &pb.PoolSize{Capacity: 1 << 40, Available: 1 << 39}, nil
}

func (s *shelf) Build(_ context.Context, p *pb.Pool, _ uint32, _ storage.Progress) error {
	dir, _, err := s.active(p)
	if err != nil {
		return err
	}
	return os.MkdirAll(dir, 0o700)
}

func (s *shelf) Delete(context.Context, *pb.Pool, uint32, storage.Progress) error { return nil }

func (s *shelf) Look(_ context.Context, p *pb.Pool, name string) (*pb.Volume, error) {
	dir, _, err := s.active(p)
	if err != nil {
		return nil, err
	}
	if s.fault == "anything is found" && name != "" {
		return &pb.Volume{Name: name}, nil
	}
	return s.describe(dir, name)
}

func (s *shelf) Create(ctx context.Context, req *pb.CreateRequest, _ storage.Progress) (*pb.Volume, error) {
	dir, _, err := s.active(req.GetPool())
	if err != nil {
		return nil, err
	}
	text := req.GetXml()
	if s.fault == "names lead out" {
		raw := struct {
			Name string `xml:"name"`
		}{}
		if xml.Unmarshal([]byte(text), &raw) == nil && raw.Name == "../x" {
			return &pb.Volume{Name: "../x"}, os.WriteFile(filepath.Join(dir, raw.Name), nil, 0o600)
		}
	}
	def, err := poolxml.ParseVolume(text, nil, "raw")
	if err != nil {
		return nil, err
	}
	if err := def.NeedPlain(); err != nil {
		return nil, err
	}
	if def.AllocationBytes > 1<<40 {
		return nil, verr.New(verr.OperationFailed, "there is no room")
	}
	work, final := filepath.Join(dir, ".making-"+rand.Text()), filepath.Join(dir, def.Name)
	_, there := os.Stat(final)
	if there == nil && s.fault != "a name is given twice" {
		return nil, verr.New(verr.StorageVolExist, "there is one")
	}
	if s.fault == "volumes are made in place" {
		work = final
		_ = os.WriteFile(work, nil, 0o600)
		time.Sleep(20 * time.Millisecond)
	}
	if s.fault == "two look before they make" {
		time.Sleep(20 * time.Millisecond)
	}
	data := []byte{}
	if from := req.GetFrom(); from != nil {
		if data, err = os.ReadFile(from.GetPath()); err != nil {
			return nil, err
		}
		if s.fault == "half is copied" {
			data = data[:len(data)/4]
		}
	}
	if err := errors.Join(os.WriteFile(work, data, 0o600), os.Truncate(work, int64(def.CapacityBytes))); err != nil {
		return nil, err
	}
	if s.fault == "work is shown" {
		time.Sleep(30 * time.Millisecond) // it is killed over it, then
	}
	if ctx.Err() != nil && s.fault != "work is left" {
		return nil, errors.Join(ctx.Err(), os.Remove(work))
	}
	switch {
	case work == final:
	case s.fault == "two look before they make" || s.fault == "a name is given twice":
		err = os.Rename(work, final)
	default:
		if err = os.Link(work, final); err != nil {
			err = verr.New(verr.StorageVolExist, "there is one")
		}
		_ = os.Remove(work)
	}
	if err != nil {
		return nil, err
	}
	if s.fault == "a capacity is cut" {
		_ = os.Truncate(final, 100)
	}
	v, err := s.describe(dir, def.Name)
	if s.fault == "a volume is told otherwise" && err == nil {
		v.Path += "-x"
	}
	return v, err
}

func (s *shelf) Remove(_ context.Context, req *pb.RemoveRequest) error {
	dir, _, err := s.active(req.GetPool())
	if err != nil {
		return err
	}
	name := req.GetVolume().GetName()
	if _, err := s.describe(dir, name); err != nil {
		if s.fault == "anything is removed" {
			return nil
		}
		return err
	}
	return os.Remove(filepath.Join(dir, name))
}

func (s *shelf) open(p *pb.Pool, v *pb.Volume) (*os.File, error) {
	dir, _, err := s.active(p)
	if err != nil {
		return nil, err
	}
	if _, err := s.describe(dir, v.GetName()); err != nil {
		return nil, err
	}
	return os.OpenFile(filepath.Join(dir, v.GetName()), os.O_RDWR, 0)
}

func (s *shelf) Resize(_ context.Context, req *pb.ResizeRequest) (*pb.Volume, error) {
	f, err := s.open(req.GetPool(), req.GetVolume())
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if s.fault == "a resize starts anew" {
		_ = f.Truncate(0)
	}
	if s.fault != "a resize does nothing" {
		err = f.Truncate(int64(req.GetCapacity()))
	}
	if err != nil {
		return nil, err
	}
	return s.describe(filepath.Dir(f.Name()), req.GetVolume().GetName())
}

func (s *shelf) Wipe(_ context.Context, req *pb.WipeRequest, _ storage.Progress) error {
	if req.GetAlgorithm() > 9 && s.fault != "any algorithm is used" {
		return verr.New(verr.InvalidArg, "unknown algorithm")
	}
	f, err := s.open(req.GetPool(), req.GetVolume())
	if err != nil {
		return err
	}
	defer f.Close()
	n := req.GetVolume().GetCapacity()
	if s.fault == "a wipe leaves the end" {
		n -= 10
	}
	_, err = f.WriteAt(make([]byte, n), 0)
	return err
}

func (s *shelf) Download(_ context.Context, req *pb.DownloadRequest) (storage.Source, error) {
	f, err := s.open(req.GetPool(), req.GetVolume())
	if err != nil {
		return nil, err
	}
	size, err := f.Seek(0, io.SeekEnd)
	end := uint64(size)
	if err == nil && req.GetOffset() > end {
		if s.fault != "behind the end there is nothing" {
			return nil, errors.Join(verr.New(verr.InvalidArg, "behind the end"), f.Close())
		}
		return &source{File: f, at: end, end: end}, nil
	}
	if n := req.GetLength(); n > 0 {
		end = min(end, req.GetOffset()+n)
	}
	at := req.GetOffset()
	if s.fault == "offsets are rounded" {
		at -= at % 512
	}
	return &source{File: f, at: at, end: end, lie: s.fault == "holes are always told"}, err
}

type source struct {
	*os.File
	at, end uint64
	lie     bool
}

func (s *source) Next(context.Context) ([]byte, uint64, error) {
	if s.at >= s.end {
		return nil, 0, io.EOF
	}
	if s.lie && s.at < 1<<20 && s.end > 1<<20 && s.at > 200_000 {
		hole := min(4096, s.end-s.at)
		s.at += hole
		return nil, hole, nil
	}
	buf := make([]byte, min(64<<10, s.end-s.at))
	n, err := s.ReadAt(buf, int64(s.at))
	s.at += uint64(n)
	return buf[:n], 0, err
}

func (s *shelf) Upload(_ context.Context, begin *pb.UploadBegin) (storage.Sink, error) {
	f, err := s.open(begin.GetPool(), begin.GetVolume())
	if err != nil {
		return nil, err
	}
	left := int64(1<<62 - 1)
	if n := begin.GetLength(); n > 0 && s.fault != "lengths are ignored" {
		left = int64(n)
	}
	if begin.GetOffset() >= 1<<63 {
		return nil, errors.Join(verr.New(verr.Overflow, "too far"), f.Close())
	}
	return &sink{f, int64(begin.GetOffset()), left, s.fault}, nil
}

type sink struct {
	*os.File
	at, left int64
	fault    string
}

func (s *sink) Write(_ context.Context, data []byte) error {
	if s.left -= int64(len(data)); s.left < 0 {
		return verr.New(verr.OperationFailed, "too much")
	}
	if s.fault == "garbage is written first" {
		_, _ = s.WriteAt([]byte(strings.Repeat("g", len(data))), s.at)
		time.Sleep(5 * time.Millisecond)
	}
	n, err := s.WriteAt(data, s.at)
	s.at += int64(n)
	return err
}

func (s *sink) Hole(ctx context.Context, n uint64) error {
	if s.fault == "holes keep what was there" {
		s.at += int64(n)
		return nil
	}
	return s.Write(ctx, make([]byte, n))
}

func (s *sink) Finish(context.Context) error { return s.Close() }

func (s *sink) Abort() {
	if s.fault == "a lost client costs the volume" {
		_ = os.Remove(s.Name())
	}
	_ = s.Close()
}
