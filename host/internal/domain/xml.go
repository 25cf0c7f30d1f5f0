package domain

import (
	"context"
	"strings"

	"github.com/lodgevirt/lodge/host/internal/catalog"
	"github.com/lodgevirt/lodge/sdk/domxml"
	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/hypervisor/v1"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// Bits of virDomainXMLFlags.
const (
	xmlSecure     = 1 << 0
	xmlInactive   = 1 << 1
	xmlUpdateCPU  = 1 << 2
	xmlMigratable = 1 << 3
)

// Bits of virDomainModificationImpact.
const (
	affectLive   = 1 << 0
	affectConfig = 1 << 1
)

// XML returns the live definition of an active domain, else the one that outlives the guest; flags are virDomainXMLFlags. It is
// answered from the catalog.
func (d *Domain) XML(flags uint32) (string, error) {
	if bad := flags &^ (xmlSecure | xmlInactive | xmlUpdateCPU | xmlMigratable); bad != 0 {
		return "", unknownFlags(bad)
	}
	s := d.state.Load()
	if s.gone {
		return "", verr.New(verr.NoDomain, "no domain with matching uuid '%s'", d.uuid)
	}
	xml, err := d.text(s, s.ID >= 0 && flags&(xmlInactive|xmlMigratable) == 0)
	if err != nil {
		return "", err
	}
	if s.hasSecrets && flags&xmlSecure == 0 {
		return domxml.Redact(xml)
	}
	return xml, nil
}

// text reads one of a domain's definitions.
func (d *Domain) text(s *state, live bool) (string, error) {
	read := d.inv.cfg.Catalog.Config
	if live {
		read = d.inv.cfg.Catalog.Live
	}
	xml, err := read(d.inv.cfg.URI, d.uuid)
	if err != nil {
		return "", verr.New(verr.OperationFailed, "cannot read definition of domain '%s': %w", s.Name, err)
	}
	if xml == "" {
		return "", verr.New(verr.NoDomain, "no domain with matching uuid '%s'", d.uuid)
	}
	return xml, nil
}

// keepOwn puts into a driver's new live definition what is the core's own in the present one: title, description, metadata, and the
// action on the loss of a lock.
func (d *Domain) keepOwn(live string) string {
	now, err := d.inv.cfg.Catalog.Live(d.inv.cfg.URI, d.uuid)
	if err != nil || live == "" || now == "" || now == live {
		return live
	}
	kept, err := domxml.KeepTexts(now, live)
	if err == nil && strings.Contains(now, "<on_lockfailure>") {
		var action string
		if action, err = domxml.OnLockFailure(now); err == nil {
			kept, err = domxml.SetOnLockFailure(kept, action)
		}
	}
	if err != nil {
		d.inv.cfg.Log.Warn("live definition cannot be completed", "guest", d.View().Name, "error", err)
		return live
	}
	return kept
}

// impact resolves virDomainModificationImpact for a domain's present state.
func (s *state) impact(flags uint32) (live, config bool, err error) {
	if bad := flags &^ (affectLive | affectConfig); bad != 0 {
		return false, false, unknownFlags(bad)
	}
	active := s.ID >= 0
	live, config = flags&affectLive != 0, flags&affectConfig != 0
	if flags == 0 {
		live, config = active, !active
	}
	switch {
	case live && !active:
		return false, false, notRunning()
	case config && !s.Persistent:
		return false, false, verr.New(verr.OperationInvalid, "transient domains do not have any persistent config")
	}
	return live, config, nil
}

// Metadata returns the description (kind 0), the title (1) or the element with a namespace (2); impact flags are
// virDomainModificationImpact. It fails with NoDomainMetadata if there is none.
func (d *Domain) Metadata(kind int32, uri string, impact uint32) (string, error) {
	s := d.state.Load()
	live, config, err := s.impact(impact)
	if err != nil {
		return "", err
	}
	if live && config {
		return "", verr.New(verr.InvalidArg, "live and persistent metadata cannot be read at once")
	}
	xml, err := d.text(s, live)
	if err != nil {
		return "", err
	}
	return domxml.GetMetadata(xml, kind, uri)
}

// SetMetadata sets the description (kind 0), the title (1) or the element with a namespace (2), or removes it if text is nil. It is on
// disk when SetMetadata returns.
func (d *Domain) SetMetadata(ctx context.Context, kind int32, text *string, key, uri string, impact uint32) error {
	j, err := d.begin(ctx, "set-metadata")
	if err != nil {
		return err
	}
	defer j.end()
	s := *d.state.Load()
	live, config, err := s.impact(impact)
	if err != nil {
		return err
	}
	puts := make([]func(*catalog.Tx) error, 0, 2)
	edit := func(isLive bool, put func(*catalog.Tx, string) error) error {
		xml, err := d.text(&s, isLive)
		if err != nil {
			return err
		}
		if xml, err = domxml.SetMetadata(xml, kind, key, uri, text); err != nil {
			return err
		}
		puts = append(puts, func(tx *catalog.Tx) error { return put(tx, xml) })
		return nil
	}
	if live {
		if err := edit(true, func(tx *catalog.Tx, xml string) error { return tx.PutLive(d.inv.cfg.URI, d.uuid, xml) }); err != nil {
			return err
		}
	}
	if config {
		if err := edit(false, func(tx *catalog.Tx, xml string) error { return tx.PutConfig(d.inv.cfg.URI, d.uuid, xml) }); err != nil {
			return err
		}
	}
	if kind == domxml.MetadataTitle {
		s.Title = ""
		if text != nil {
			s.Title = *text
		}
	}
	err = j.save(&s, func(tx *catalog.Tx) error {
		for _, put := range puts {
			if err := put(tx); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	d.inv.publish(s.View, &pb.Event{Event: &pb.Event_MetadataChange{
		MetadataChange: &pb.MetadataChangeEvent{Type: kind, NamespaceUri: uri},
	}})
	return nil
}

// SetAutostart says whether the host starts the domain at boot.
func (d *Domain) SetAutostart(ctx context.Context, on bool) error {
	j, err := d.begin(ctx, "set-autostart")
	if err != nil {
		return err
	}
	defer j.end()
	s := *d.state.Load()
	if !s.Persistent {
		return verr.New(verr.OperationInvalid, "cannot set autostart for transient domain")
	}
	if s.Autostart == on {
		return nil
	}
	s.Autostart = on
	return j.save(&s, nil)
}

// Rename gives an inactive persistent domain another name.
func (d *Domain) Rename(ctx context.Context, name string) error {
	if err := domxml.CheckName(name); err != nil {
		return err
	}
	j, err := d.begin(ctx, "rename")
	if err != nil {
		return err
	}
	defer j.end()
	before := d.state.Load()
	switch {
	case before.phase != catalog.Inactive:
		return verr.New(verr.OperationInvalid, "cannot rename active domain")
	case !before.Persistent:
		return verr.New(verr.OperationInvalid, "cannot rename a transient domain")
	case before.Name == name:
		return verr.New(verr.OperationInvalid, "Can't rename domain to itself")
	case before.Saved:
		return verr.New(verr.OperationInvalid, "domain with a managed saved state can't be renamed")
	}
	xml, err := d.text(before, false)
	if err != nil {
		return err
	}
	if xml, err = domxml.SetName(xml, name); err != nil {
		return err
	}
	if err := d.inv.holdName(d, name); err != nil {
		return err
	}
	s := *before
	s.Name = name
	if err := j.save(&s, func(tx *catalog.Tx) error { return tx.PutConfig(d.inv.cfg.URI, d.uuid, xml) }); err != nil {
		d.inv.dropName(name)
		return err
	}
	d.inv.publish(before.View, lifecycle(eventUndefined, undefinedRenamed))
	d.inv.publish(s.View, lifecycle(eventDefined, definedRenamed))
	return nil
}

// holdName keeps a free name for a domain that is about to get it.
func (i *Inventory) holdName(d *Domain, name string) error {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.byName[name] != nil {
		return verr.New(verr.OperationInvalid, "domain with name '%s' already exists", name)
	}
	i.byName[name] = d
	return nil
}

func (i *Inventory) dropName(name string) {
	i.mu.Lock()
	defer i.mu.Unlock()
	delete(i.byName, name)
}
