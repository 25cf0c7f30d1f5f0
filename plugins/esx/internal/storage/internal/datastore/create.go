package datastore

import (
	"context"

	"github.com/vmware/govmomi/vim25"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/lodgevirt/lodge/plugins/esx/internal/storage/internal/dspath"
	"github.com/lodgevirt/lodge/plugins/esx/internal/storage/internal/task"
	"github.com/lodgevirt/lodge/plugins/esx/internal/storage/internal/webfile"
	"github.com/lodgevirt/lodge/sdk/poolxml"
	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/storage/v1"
	"github.com/lodgevirt/lodge/sdk/storage"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// maxCapacity is that of the biggest disk that hosts know, 62 TiB.
const maxCapacity = 62 << 40

// plan is a volume that is to be made.
type plan struct {
	name, format string
	// bytes is the capacity, kind how a disk is stored.
	bytes uint64
	kind  types.VirtualDiskType
	// from is the volume to copy, nil for an empty one, and source its path with the datastore.
	from   *pb.Volume
	source string
}

func refuse(code verr.Code, format string, args ...any) error {
	return verr.New(code, format, args...).In(verr.FromStorage)
}

// read reads the definition of a volume. source is the path of the one to copy.
func read(req *pb.CreateRequest, source string) (*plan, error) {
	if err := storage.UnknownFlags(req.GetFlags(), 0); err != nil {
		return nil, err
	}
	var least *uint64
	if req.GetFrom() != nil {
		least = &req.GetFrom().Capacity
	}
	const unstated = ""
	def, err := poolxml.ParseVolumeNamed(req.GetXml(), least, dspath.Check, unstated, vmdkFormat, isoFormat, flpFormat)
	if err != nil {
		return nil, err
	}
	if err := def.NeedPlain(); err != nil {
		return nil, err
	}
	p := &plan{name: def.Name, bytes: def.CapacityBytes, from: req.GetFrom(), source: source}
	if p.format, err = formatOf(def.Name); err != nil {
		return nil, err
	}
	if f := def.Target.Format.Type; f != unstated && f != p.format {
		return nil, refuse(verr.InvalidArg, "volume name '%s' is that of a volume of format '%s', not '%s'", def.Name, p.format, f)
	}
	return p, p.check(def)
}

// check refuses what hosts cannot make.
func (p *plan) check(def *poolxml.Volume) error {
	folder, base := dspath.Split(p.name)
	switch {
	case folder == "":
		return refuse(verr.InvalidArg, "volume name '%s' doesn't have the expected form '<folder>/<file>'", p.name)
	case isHidden(base):
		return refuse(verr.InvalidArg, "volume name '%s' begins with '%s', which is for volumes that are being made", p.name, hidden)
	case p.bytes > maxCapacity:
		return refuse(verr.Overflow, "capacity %d of volume '%s' is too big", p.bytes, p.name)
	case p.bytes == 0 && p.format == vmdkFormat:
		return refuse(verr.InvalidArg, "volume '%s' needs a capacity", p.name)
	case p.from != nil && p.from.GetFormat() != p.format:
		return refuse(verr.ConfigUnsupported, "volume '%s' of format '%s' cannot be made from '%s' of format '%s'",
			p.name, p.format, p.from.GetName(), p.from.GetFormat())
	case p.from != nil && p.format != vmdkFormat && p.bytes != p.from.GetCapacity():
		return refuse(verr.ConfigUnsupported, "a copy of '%s' has its capacity of %d bytes", p.from.GetName(), p.from.GetCapacity())
	}
	switch {
	case def.AllocationBytes == 0:
		p.kind = types.VirtualDiskTypeThin
	case def.AllocationBytes == def.CapacityBytes:
		p.kind = types.VirtualDiskTypePreallocated
	case p.from != nil && def.AllocationBytes < def.CapacityBytes:
		p.kind = types.VirtualDiskTypeThin // a clone's definition is that of its origin, with the room that it takes
	default:
		return refuse(verr.ConfigUnsupported, "volume '%s' can have an allocation of 0 or of its capacity of %d bytes, not %d",
			p.name, def.CapacityBytes, def.AllocationBytes)
	}
	if p.format != vmdkFormat && p.from == nil && def.AllocationBytes == 0 && p.bytes > 0 {
		return refuse(verr.ConfigUnsupported, "volume '%s' of format '%s' cannot have less allocation than capacity", p.name, p.format)
	}
	return nil
}

// kib is the capacity as hosts count it.
func (p *plan) kib() int64 { return int64((p.bytes + 1023) >> 10) }

// Source is the path, with its datastore, of a volume that is to be copied.
func (p *Pool) Source(name string) (string, error) {
	if err := dspath.Check(name); err != nil {
		return "", err
	}
	return p.path(name), p.reachable()
}

// Create makes a volume, in a folder that is made if it is not there. source is the path of the volume to copy, if the request has one.
func (p *Pool) Create(ctx context.Context, req *pb.CreateRequest, source string, progress storage.Progress) (*pb.Volume, error) {
	want, err := read(req, source)
	if err != nil {
		return nil, err
	}
	switch _, err := p.lookAt(ctx, want.name); {
	case err == nil:
		return nil, refuse(verr.StorageVolExist, "storage volume '%s' exists already", p.path(want.name))
	case !verr.Is(err, verr.NoStorageVol):
		return nil, err
	}
	made, err := p.folder(ctx, want.name)
	if err != nil {
		return nil, err
	}
	if err := p.make(ctx, want, progress); err != nil {
		if made != "" {
			// An empty folder is left: hosts delete folders with all that is in them, which by now may be somebody's.
			err = verr.New(verr.From(err).Code, "%w; the folder '%s', which was made for it, stays", err, made).In(verr.FromStorage)
		}
		return nil, err
	}
	v, err := p.Look(ctx, want.name)
	if err != nil {
		return nil, verr.New(verr.From(err).Code, "volume '%s' was made, but cannot be looked at: %w", p.path(want.name), err).In(verr.FromStorage)
	}
	return v, nil
}

// make makes a volume under a hidden name and then gives it its own.
func (p *Pool) make(ctx context.Context, want *plan, progress storage.Progress) error {
	m := p.begin(want.name)
	err := p.fill(ctx, m, want, inBytes(progress, want.bytes))
	if err == nil {
		err = p.move(ctx, m.work, want.name)
	}
	if err == nil {
		return nil
	}
	remove := p.remove
	if want.from == nil && want.format != vmdkFormat {
		remove = p.removeWritten
	}
	return p.undo(ctx, m.work, remove, err)
}

// fill makes what the volume has in it.
func (p *Pool) fill(ctx context.Context, m *making, want *plan, progress storage.Progress) error {
	switch {
	case want.from == nil && want.format == vmdkFormat:
		return p.createDisk(ctx, m.work, want.kib(), want.kind, progress)
	case want.from == nil:
		return p.zeros(ctx, m.work, want.bytes, progress)
	}
	if err := p.copy(ctx, want.source, m.work, want.kind, progress); err != nil {
		return err
	}
	if want.bytes > want.from.GetCapacity() {
		return p.extend(ctx, m.work, want.kib(), false)
	}
	return nil
}

// zeros makes a file of zeros.
func (p *Pool) zeros(ctx context.Context, name string, size uint64, progress storage.Progress) error {
	w, err := p.web().Create(ctx, name, size)
	if err != nil {
		return err
	}
	piece := make([]byte, webfile.Piece)
	for done := uint64(0); done < size; {
		n := min(size-done, webfile.Piece)
		if err := w.Write(ctx, piece[:n]); err != nil {
			w.Abort()
			return err
		}
		done += n
		progress(done, size)
	}
	return w.Finish(ctx)
}

// folder makes the folder of a volume, if it is not there, and returns its path if it had to be made.
func (p *Pool) folder(ctx context.Context, name string) (made string, err error) {
	folder, _ := dspath.Split(name)
	path := p.path(folder)
	err = p.place.Endpoint.Do(ctx, func(ctx context.Context, client *vim25.Client) error {
		h, err := p.hands(client)
		if err != nil {
			return err
		}
		return h.files.MakeDirectory(ctx, path, h.dc, true)
	})
	if err == nil {
		return path, nil
	}
	told := task.Explain(err, "volume '%s': make folder '%s'", p.path(name), path)
	if verr.Is(told, verr.StorageVolExist) {
		return "", nil
	}
	return "", told
}
