package domain

import (
	"context"

	"github.com/google/uuid"

	"github.com/lodgevirt/lodge/host/internal/catalog"
	"github.com/lodgevirt/lodge/sdk/domxml"
	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/hypervisor/v1"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// maxXML is the largest definition in bytes, libvirt's REMOTE_STRING_MAX.
const maxXML = 4 << 20

// Bits of virDomainDefineFlags, virDomainUndefineFlagsValues and virDomainCreateFlags that mean something here.
const (
	defineValidate = 1 << 0

	undefineManagedSave   = 1 << 0
	undefineSnapshots     = 1 << 1
	undefineNVRAM         = 1 << 2
	undefineKeepNVRAM     = 1 << 3
	undefineCheckpoints   = 1 << 4
	undefineTPM           = 1 << 5
	undefineKeepTPM       = 1 << 6
	createPaused          = 1 << 0
	createAutodestroy     = 1 << 1
	createBypassCache     = 1 << 2
	createForceBoot       = 1 << 3
	createValidate        = 1 << 4
	createResetNVRAM      = 1 << 5
	supportedCreateFlags  = createPaused | createForceBoot | createValidate | createBypassCache
	supportedUndefineBits = undefineManagedSave | undefineSnapshots | undefineNVRAM | undefineKeepNVRAM |
		undefineCheckpoints | undefineTPM | undefineKeepTPM
)

// lifecycle builds a lifecycle event.
func lifecycle(kind, detail int32) *pb.Event {
	return &pb.Event{Event: &pb.Event_Lifecycle{Lifecycle: &pb.LifecycleEvent{Event: kind, Detail: detail}}}
}

// Lifecycle events that the core itself sends, in virDomainEventType's numbers.
const (
	eventDefined   = 0
	eventUndefined = 1

	definedAdded     = 0
	definedUpdated   = 1
	definedRenamed   = 2
	undefinedRemoved = 0
	undefinedRenamed = 1
)

// validate has the driver check and complete a definition, and checks what the driver says of it.
func (i *Inventory) validate(ctx context.Context, xml string, schema bool) (*pb.ValidateResponse, uuid.UUID, error) {
	if len(xml) > maxXML {
		return nil, uuid.Nil, verr.New(verr.XMLError, "domain definition has %d bytes, at most %d are allowed", len(xml), maxXML)
	}
	rsp, err := i.driver.Validate(ctx, &pb.ValidateRequest{Connection: i.cfg.Connection, Xml: xml, Schema: schema})
	if err != nil {
		return nil, uuid.Nil, err
	}
	id, err := uuid.Parse(rsp.GetSummary().GetUuid())
	if err != nil {
		return nil, uuid.Nil, verr.New(verr.Internal, "driver %s returned a definition without a uuid: %w", i.cfg.Driver, err)
	}
	if err := domxml.CheckName(rsp.GetSummary().GetName()); err != nil {
		return nil, uuid.Nil, err
	}
	// It is the core's to act on, so no driver needs to know it.
	action, err := domxml.OnLockFailure(xml)
	if err == nil {
		rsp.Xml, err = domxml.SetOnLockFailure(rsp.Xml, action)
	}
	return rsp, id, err
}

// Define stores a definition; flags are virDomainDefineFlags. The definition is on disk when Define returns.
func (i *Inventory) Define(ctx context.Context, xml string, flags uint32) (*Domain, error) {
	if flags&^defineValidate != 0 {
		return nil, unknownFlags(flags &^ defineValidate)
	}
	rsp, id, err := i.validate(ctx, xml, flags&defineValidate != 0)
	if err != nil {
		return nil, err
	}
	return i.define(ctx, id, rsp, false)
}

func (i *Inventory) define(ctx context.Context, id uuid.UUID, rsp *pb.ValidateResponse, seed bool) (*Domain, error) {
	j, err := i.claim(ctx, id, rsp.Summary.Name, "define")
	if err != nil {
		return nil, err
	}
	defer j.end()
	d, before := j.d, j.d.state.Load()
	s := *before
	s.Persistent, s.hidden = true, false
	s.seed = s.seed || seed
	if s.phase == catalog.Inactive {
		s.describe(rsp.Summary)
	} else {
		s.Updated = true
		s.hasSecrets = s.hasSecrets || rsp.Summary.HasSecrets
	}
	if err := j.save(&s, func(tx *catalog.Tx) error { return tx.PutConfig(i.cfg.URI, id, rsp.Xml) }); err != nil {
		if before.hidden {
			d.forget()
		}
		return nil, err
	}
	detail := int32(definedUpdated)
	if !before.Persistent {
		detail = definedAdded
	}
	i.publish(s.View, lifecycle(eventDefined, detail))
	return d, nil
}

// Create starts a transient domain, or a persistent inactive one from another definition; flags are virDomainCreateFlags.
func (i *Inventory) Create(ctx context.Context, xml string, flags uint32) (*Domain, error) {
	if err := checkCreateFlags(flags); err != nil {
		return nil, err
	}
	rsp, id, err := i.validate(ctx, xml, flags&createValidate != 0)
	if err != nil {
		return nil, err
	}
	j, err := i.claim(ctx, id, rsp.Summary.Name, "create")
	if err != nil {
		return nil, err
	}
	defer j.end()
	d, before := j.d, j.d.state.Load()
	if before.phase != catalog.Inactive {
		return nil, verr.New(verr.OperationInvalid, "domain '%s' is already active as '%s'", before.Name, before.Name)
	}
	if before.Saved {
		return nil, savedElsewhere(before.Name)
	}
	s := *before
	s.hidden = false
	s.describe(rsp.Summary)
	if err := j.start(&s, rsp.Xml, flags); err != nil {
		if d.state.Load().hidden {
			d.forget()
		}
		return nil, err
	}
	return d, nil
}

// claim takes the job of the domain that a definition is about, making a hidden one if there is none.
func (i *Inventory) claim(ctx context.Context, id uuid.UUID, name, what string) (*job, error) {
	for {
		d, err := i.reserve(id, name)
		if err != nil {
			return nil, err
		}
		j, err := d.begin(ctx, what)
		if verr.Is(err, verr.NoDomain) && ctx.Err() == nil {
			continue // removed while we waited: the name is free
		}
		if err != nil {
			return nil, err
		}
		if have := d.state.Load().Name; have != name {
			j.end()
			return nil, verr.New(verr.OperationFailed, "domain '%s' is already defined with uuid %s", have, id)
		}
		return j, nil
	}
}

// Undefine removes the definition; a running domain goes on as a transient one. flags are virDomainUndefineFlagsValues.
func (d *Domain) Undefine(ctx context.Context, flags uint32) error {
	if flags&^supportedUndefineBits != 0 {
		return unknownFlags(flags &^ supportedUndefineBits)
	}
	j, err := d.begin(ctx, "undefine")
	if err != nil {
		return err
	}
	defer j.end()
	s := *d.state.Load()
	if !s.Persistent {
		return verr.New(verr.OperationInvalid, "cannot undefine transient domain")
	}
	if s.Saved && flags&undefineManagedSave == 0 {
		return verr.New(verr.OperationInvalid, "Refusing to undefine while domain managed save image exists")
	}
	if s.phase == catalog.Inactive {
		if err := j.remove(); err != nil {
			return err
		}
		if s.Saved {
			d.dropManaged()
		}
	} else {
		s.Persistent, s.Autostart, s.seed, s.Updated = false, false, false, false
		if err := j.save(&s, nil); err != nil {
			return err
		}
	}
	d.inv.publish(s.View, lifecycle(eventUndefined, undefinedRemoved))
	return nil
}

// checkCreateFlags refuses what start cannot do, by name.
func checkCreateFlags(flags uint32) error {
	if bad := flags &^ (supportedCreateFlags | createAutodestroy | createResetNVRAM); bad != 0 {
		return unknownFlags(bad)
	}
	if flags&createAutodestroy != 0 {
		return verr.New(verr.ArgumentUnsupported, "autodestroy is not supported")
	}
	if flags&createResetNVRAM != 0 {
		return verr.New(verr.ArgumentUnsupported, "resetting NVRAM at start is not supported")
	}
	return nil
}

func unknownFlags(bad uint32) error {
	return verr.New(verr.InvalidArg, "unsupported flags (0x%x)", bad)
}
