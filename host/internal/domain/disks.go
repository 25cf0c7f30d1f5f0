package domain

import (
	"path/filepath"

	"github.com/lodgevirt/lodge/sdk/domxml"
)

// Disks returns the images on this machine of a domain's disks: those of the guest if it is active, else those of the definition.
func (d *Domain) Disks() ([]domxml.LockedDisk, error) {
	s := d.state.Load()
	return d.disks(s, s.ID >= 0)
}

func (d *Domain) disks(s *state, live bool) ([]domxml.LockedDisk, error) {
	xml, err := d.text(s, live)
	if err != nil {
		return nil, err
	}
	def, err := domxml.Parse(xml)
	if err != nil {
		return nil, err
	}
	return domxml.LocalDisks(def), nil
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
	disks, err := d.disks(s, s.ID >= 0)
	if err != nil {
		d.inv.cfg.Log.Debug("disks are not known", "guest", s.Name, "error", err)
		return nil
	}
	folders := make([]string, 0, len(disks))
	for _, disk := range disks {
		if filepath.IsAbs(disk.Path) {
			folders = append(folders, filepath.Dir(filepath.Clean(disk.Path)))
		}
	}
	return folders
}
