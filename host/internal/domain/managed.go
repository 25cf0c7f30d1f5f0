package domain

import (
	"context"
	"os"
	"path/filepath"
	"strings"

	"github.com/google/uuid"

	"github.com/lodgevirt/lodge/host/internal/catalog"
	"github.com/lodgevirt/lodge/host/internal/saveimage"
	"github.com/lodgevirt/lodge/sdk/domxml"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// imageSecure is VIR_DOMAIN_SAVE_IMAGE_XML_SECURE.
const imageSecure = 1 << 0

// RemoveManagedSave removes the managed save image: the next start boots.
func (d *Domain) RemoveManagedSave(ctx context.Context) error {
	j, err := d.begin(ctx, "managed-save-remove")
	if err != nil {
		return err
	}
	defer j.end()
	s := *d.state.Load()
	if !s.Saved {
		return noManagedSave()
	}
	s.Saved = false
	if err := j.save(&s, nil); err != nil {
		return err
	}
	d.dropManaged()
	return nil
}

func noManagedSave() error {
	return verr.New(verr.OperationInvalid, "domain does not have managed save image")
}

// ManagedSaveXML returns the definition in the managed save image; flags are virDomainSaveImageXMLFlags.
func (d *Domain) ManagedSaveXML(flags uint32) (string, error) {
	if !d.View().Saved {
		return "", noManagedSave()
	}
	return d.inv.ImageXML(d.managedPath(), flags)
}

// DefineManagedSave replaces the definition in the managed save image; flags are virDomainSaveRestoreFlags, of which those about running say
// what the guest is to do.
func (d *Domain) DefineManagedSave(ctx context.Context, xml string, flags uint32) error {
	j, err := d.begin(ctx, "managed-save-define")
	if err != nil {
		return err
	}
	defer j.end()
	if !d.View().Saved {
		return noManagedSave()
	}
	return d.inv.DefineImage(j.ctx, d.managedPath(), xml, flags)
}

// ImageXML returns the definition in a file that a guest was saved to; flags are virDomainSaveImageXMLFlags.
func (i *Inventory) ImageXML(path string, flags uint32) (string, error) {
	if flags&^imageSecure != 0 {
		return "", unknownFlags(flags &^ imageSecure)
	}
	f, err := i.openImage(path, saveimage.Open)
	if err != nil {
		return "", err
	}
	defer f.Close()
	if flags&imageSecure != 0 {
		return f.Header.XML, nil
	}
	return domxml.Redact(f.Header.XML)
}

// DefineImage replaces the definition in a file that a guest was saved to by one that the guest can go on with; flags are
// virDomainSaveRestoreFlags, of which those about running say what the guest is to do. The file is good at any moment.
func (i *Inventory) DefineImage(ctx context.Context, path, xml string, flags uint32) error {
	if flags&^(saveRunning|savePaused) != 0 {
		return unknownFlags(flags &^ (saveRunning | savePaused))
	}
	if err := checkSaveFlags(flags); err != nil {
		return err
	}
	f, err := i.openImage(path, saveimage.OpenUpdate)
	if err != nil {
		return err
	}
	defer f.Close()
	h := f.Header
	if h.XML, err = i.likeSaved(ctx, h.XML, xml); err != nil {
		return err
	}
	if flags != 0 {
		h.Running = flags&saveRunning != 0
	}
	if err := f.Update(&h); err != nil {
		return imageError(path, err)
	}
	return nil
}

// sweepSaves removes files that a crash has left in the folder of managed save images: those of known domains whose records do not have
// them. What belongs to no known domain is nobody's to remove.
func (i *Inventory) sweepSaves(records []catalog.Domain) {
	entries, err := os.ReadDir(i.cfg.SaveDir)
	if err != nil {
		return // mostly there is none
	}
	known := map[uuid.UUID]*catalog.Domain{}
	for n := range records {
		known[records[n].UUID] = &records[n]
	}
	for _, e := range entries {
		base, _, _ := strings.Cut(strings.TrimPrefix(e.Name(), "."), ".save")
		id, err := uuid.Parse(base)
		if err != nil || known[id] == nil {
			continue
		}
		path := filepath.Join(i.cfg.SaveDir, e.Name())
		r := known[id]
		if r.Saved && path == filepath.Join(i.cfg.SaveDir, id.String()+".save") || r.Saving != nil && (path == r.Saving.Path || path == r.Saving.Part) {
			continue
		}
		if err := os.Remove(path); err != nil {
			i.cfg.Log.Warn("save image that was left could not be removed", "path", path, "error", err)
		}
	}
}
