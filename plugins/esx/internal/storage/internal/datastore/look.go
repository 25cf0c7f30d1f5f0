package datastore

import (
	"context"

	"github.com/lodgevirt/lodge/plugins/esx/internal/storage/internal/dspath"
	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/storage/v1"
	"github.com/lodgevirt/lodge/sdk/storage"
)

// Refresh tells all volumes by name, and the room.
func (p *Pool) Refresh(ctx context.Context, tell func(...*pb.Volume) error) (*pb.PoolSize, error) {
	if err := p.reachable(); err != nil {
		return nil, err
	}
	all, err := p.browse(ctx)
	if err != nil {
		return nil, err
	}
	all = p.sweep(ctx, all)
	if len(all) > MaxVolumes {
		p.place.Log.Warn("volumes left out", "datastore", p.name(), "volumes", len(all), "told", MaxVolumes)
		all = all[:MaxVolumes]
	}
	if err := p.ask(ctx, all); err != nil {
		return nil, err
	}
	p.keys.keep(all)
	for _, f := range all {
		if err := tell(p.keyed(f)); err != nil {
			return nil, err
		}
	}
	return p.size(), nil
}

// keyed is a volume with its key: a disk's UUID, or the path.
func (p *Pool) keyed(f found) *pb.Volume {
	v := p.volume(f)
	if uuid, ok := p.keys.get(f); ok && uuid != "" {
		v.Key = uuid
	}
	return v
}

// Look looks at one volume.
func (p *Pool) Look(ctx context.Context, name string) (*pb.Volume, error) {
	f, err := p.lookAt(ctx, name)
	if err != nil {
		return nil, err
	}
	if err := p.ask(ctx, []found{f}); err != nil {
		return nil, err
	}
	return p.keyed(f), nil
}

// lookAt finds the file of a volume.
func (p *Pool) lookAt(ctx context.Context, name string) (found, error) {
	if err := p.reachable(); err != nil {
		return found{}, err
	}
	if err := dspath.Check(name); err != nil {
		return found{}, err
	}
	if _, err := formatOf(name); err != nil || isHidden(name) {
		return found{}, storage.NoVolume(name)
	}
	return p.find(ctx, name)
}
