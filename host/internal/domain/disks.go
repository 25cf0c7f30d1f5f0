package domain

import (
	"context"
	"path/filepath"

	"libvirt.org/go/libvirtxml"

	"github.com/lodgevirt/lodge/sdk/domxml"
	storagev1 "github.com/lodgevirt/lodge/sdk/proto/lodge/storage/v1"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// Disk returns the disk with a name in the guest, or with a path, and what its volume stands for if it names one: as the guest has it if
// it is active, else as a start would find it. It fails with InvalidArg if there is no such disk.
func (d *Domain) Disk(ctx context.Context, name string) (*libvirtxml.DomainDisk, *storagev1.Volume, error) {
	s := d.state.Load()
	def, err := d.definition(s)
	if err != nil {
		return nil, nil, err
	}
	for _, dev := range domxml.Devices(def.Devices) {
		k, ok := dev.Value.(*libvirtxml.DomainDisk)
		if !ok || name == "" || k.Target == nil || k.Target.Dev != name && domxml.SourcePath(k.Source) != name {
			continue
		}
		if s.ID >= 0 || k.Source == nil || k.Source.Volume == nil || d.inv.cfg.Volumes == nil {
			return k, nil, nil
		}
		_, volume, err := d.inv.cfg.Volumes.Resolve(ctx, k.Source.Volume.Pool, k.Source.Volume.Volume)
		return k, volume, err
	}
	return nil, nil, verr.New(verr.InvalidArg, "invalid path %s not assigned to domain", name)
}

// definition reads the live definition of a guest, with the paths of its volumes, or else the one that outlives it.
func (d *Domain) definition(s *state) (*libvirtxml.Domain, error) {
	xml, err := d.text(s, s.ID >= 0)
	if err != nil {
		return nil, err
	}
	def, err := domxml.Parse(xml)
	if err != nil {
		return nil, err
	}
	placeVolumes(def, s.volumes)
	return def, nil
}

// diskFolders are the folders of a domain's disks, as they were in a state.
type diskFolders struct {
	of      *state
	folders []string
}

// DiskFolders returns the folders that hold disks of the connection's domains, in no order and perhaps more than once. Only domains that
// changed since the last call are read again.
func (i *Inventory) DiskFolders() []string {
	var all []string
	for _, d := range i.all() {
		s := d.state.Load()
		if s.hidden || s.gone {
			continue
		}
		known := d.folders.Load()
		if known == nil || known.of != s {
			known = &diskFolders{of: s, folders: d.readFolders(s)}
			d.folders.Store(known)
		}
		all = append(all, known.folders...)
	}
	return all
}

// readFolders finds the folders of a domain's disks. A definition that cannot be read has none, which is no news for whoever asks for
// folders: it is told to those who ask for the domain.
func (d *Domain) readFolders(s *state) []string {
	def, err := d.definition(s)
	if err != nil {
		d.inv.cfg.Log.Debug("disks are not known", "guest", s.Name, "error", err)
		return nil
	}
	disks := domxml.LocalDisks(def)
	folders := make([]string, 0, len(disks))
	for _, disk := range disks {
		if filepath.IsAbs(disk.Path) {
			folders = append(folders, filepath.Dir(filepath.Clean(disk.Path)))
		}
	}
	return folders
}
