package driver

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/lodgevirt/lodge/plugins/storage/sheepdog/internal/define"
	"github.com/lodgevirt/lodge/plugins/storage/sheepdog/internal/dog"
	"github.com/lodgevirt/lodge/sdk/poolxml"
	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/storage/v1"
	"github.com/lodgevirt/lodge/sdk/storage"
	"github.com/lodgevirt/lodge/sdk/verr"
)

const (
	// workTag begins the tags of snapshots that clones are made from.
	workTag = "lodge-clone-"
	// workTime is how long one may be there, longer than its steps may take together.
	workTime = time.Hour
	// withSnapshots is VIR_STORAGE_VOL_DELETE_WITH_SNAPSHOTS.
	withSnapshots = 1 << 1
	// shrink is VIR_STORAGE_VOL_RESIZE_SHRINK.
	shrink = 1 << 2
)

// showable reports whether a name, which another program may have given, can be told in XML.
func showable(name string) bool {
	return utf8.ValidString(name) && !strings.ContainsFunc(name, func(r rune) bool { return unicode.IsControl(r) || r == utf8.RuneError })
}

// Look implements storage.Volumes.
func (d *Driver) Look(ctx context.Context, ref *pb.Pool, name string) (*pb.Volume, error) {
	p, err := d.pool(ref)
	if err != nil {
		return nil, err
	}
	return p.look(ctx, name)
}

// look describes the image of a name, or fails with NoStorageVol.
func (p *pool) look(ctx context.Context, name string) (*pb.Volume, error) {
	if define.CheckName(name) != nil {
		return nil, storage.NoVolume(name)
	}
	i, err := p.cluster.Find(ctx, name)
	if err != nil {
		return nil, p.about("look at", name, err)
	}
	return p.volume(i), nil
}

// about says what could not be done with a volume.
func (p *pool) about(what, name string, err error) error {
	var known *verr.Error
	switch {
	case errors.As(err, &known):
		return err
	case errors.Is(err, dog.ErrNone):
		return storage.NoVolume(name)
	case errors.Is(err, dog.ErrExists):
		return verr.New(verr.StorageVolExist, "'%s'", name).In(verr.FromStorage)
	}
	return p.failed(what+" volume '"+name+"'", err)
}

// Create implements storage.Volumes.
func (d *Driver) Create(ctx context.Context, req *pb.CreateRequest, _ storage.Progress) (*pb.Volume, error) {
	p, err := d.pool(req.GetPool())
	if err != nil {
		return nil, err
	}
	var size *uint64
	if req.GetFrom() != nil {
		size = &req.GetFrom().Capacity
	}
	def, err := define.ParseVolume(req.GetXml(), size)
	if err != nil {
		return nil, err
	}
	const validate = 1 << 2
	if err := storage.UnknownFlags(req.GetFlags(), validate); err != nil {
		return nil, err
	}
	if req.GetFrom() == nil {
		err = p.cluster.Create(ctx, def.Name, def.CapacityBytes)
	} else {
		err = d.clone(ctx, p, def, req)
	}
	if err != nil {
		return nil, p.about("make", def.Name, err)
	}
	return p.look(ctx, def.Name)
}

// clone makes an image that shares what it has in common with another one. It gets its name with all of its content, so its size must be
// the same: it could only be changed when everybody sees it.
func (d *Driver) clone(ctx context.Context, p *pool, def *poolxml.Volume, req *pb.CreateRequest) error {
	from := req.GetFrom().GetName()
	other, err := d.pool(req.GetFromPool())
	if err != nil {
		return err
	}
	if other.Host() != p.Host() || other.Port() != p.Port() {
		return verr.New(verr.NoSupport, "volume '%s' is in another cluster, and cannot be copied from there", from).In(verr.FromStorage)
	}
	i, err := p.cluster.Find(ctx, from)
	if err != nil {
		return p.about("copy", from, err)
	}
	if def.CapacityBytes != i.Size {
		return verr.New(verr.ConfigUnsupported, "a copy of volume '%s' has %d bytes as it has: resize the copy afterwards", from, i.Size).In(verr.FromStorage)
	}
	if _, err := p.cluster.Find(ctx, def.Name); err == nil {
		return dog.ErrExists
	}
	var id [8]byte
	_, _ = rand.Read(id[:]) // never fails
	tag := workTag + hex.EncodeToString(id[:])
	if err := p.cluster.Snapshot(ctx, from, tag); err != nil {
		return err
	}
	defer func() {
		// A clone does not need the snapshot any more. If it cannot be deleted now, a Refresh does it.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), p.cluster.Timeout)
		defer cancel()
		_ = p.cluster.DeleteSnapshot(ctx, from, tag)
	}()
	return p.cluster.Clone(ctx, from, tag, def.Name)
}

// sweep deletes a snapshot that a clone has left, if it is one.
func (d *Driver) sweep(ctx context.Context, p *pool, i dog.Image) {
	if !strings.HasPrefix(i.Tag, workTag) || time.Since(time.Unix(i.Made, 0)) < workTime || define.CheckName(i.Name) != nil {
		return
	}
	if err := p.cluster.DeleteSnapshot(ctx, i.Name, i.Tag); err != nil {
		d.core.Logger().Warn("a snapshot that a copy has left cannot be deleted", "pool", p.Name, "image", i.Name, "tag", i.Tag, "error", err)
	}
}

// Remove implements storage.Volumes.
func (d *Driver) Remove(ctx context.Context, req *pb.RemoveRequest) error {
	p, err := d.pool(req.GetPool())
	if err != nil {
		return err
	}
	if err := storage.UnknownFlags(req.GetFlags(), withSnapshots); err != nil {
		return err
	}
	name := req.GetVolume().GetName()
	if define.CheckName(name) != nil {
		return storage.NoVolume(name)
	}
	if _, err := p.cluster.Find(ctx, name); err != nil {
		return p.about("delete", name, err)
	}
	if req.GetFlags()&withSnapshots != 0 {
		all, err := p.cluster.Snapshots(ctx, name)
		for _, s := range all {
			err = errors.Join(err, p.cluster.DeleteSnapshot(ctx, name, s.Snapshot))
		}
		if err != nil {
			return p.about("delete the snapshots of", name, err)
		}
	}
	if err := p.cluster.Delete(ctx, name); err != nil {
		return p.about("delete", name, err)
	}
	return nil
}

// Resize implements storage.Resizer: sheepdog only makes images bigger.
func (d *Driver) Resize(ctx context.Context, req *pb.ResizeRequest) (*pb.Volume, error) {
	p, err := d.pool(req.GetPool())
	if err != nil {
		return nil, err
	}
	if err := storage.UnknownFlags(req.GetFlags(), shrink); err != nil {
		return nil, err
	}
	name := req.GetVolume().GetName()
	now, err := p.look(ctx, name)
	if err != nil {
		return nil, err
	}
	switch {
	case req.GetCapacity() == now.GetCapacity():
		return now, nil
	case req.GetCapacity() < now.GetCapacity():
		return nil, verr.New(verr.OperationUnsupported, "volume '%s' has %d bytes, and sheepdog makes no volume smaller", name, now.GetCapacity()).In(verr.FromStorage)
	}
	if err := p.cluster.Resize(ctx, name, req.GetCapacity()); err != nil {
		return nil, p.about("resize", name, err)
	}
	return p.look(ctx, name)
}
