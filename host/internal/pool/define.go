package pool

import (
	"context"
	"slices"

	"github.com/google/uuid"

	"github.com/lodgevirt/lodge/host/internal/catalog"
	"github.com/lodgevirt/lodge/sdk/domxml"
	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/storage/v1"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// maxXML is the largest definition in bytes, libvirt's REMOTE_STRING_MAX.
const maxXML = 4 << 20

// definition is a definition that its driver has checked.
type definition struct {
	catalog.PoolDefinition
	uuid uuid.UUID
	name string
}

// validate has the driver check and complete a definition.
func (i *Inventory) validate(ctx context.Context, xml string) (*definition, error) {
	if i.followed != nil {
		return nil, errKept
	}
	if len(xml) > maxXML {
		return nil, storageError(verr.XMLError, "definition of storage pool has %d bytes, at most %d are allowed", len(xml), maxXML)
	}
	kind, err := domxml.RootAttribute(xml, "pool", "type")
	if err != nil {
		return nil, err
	}
	if kind == "" {
		return nil, storageError(verr.XMLError, "missing 'type' attribute of element 'pool'")
	}
	conn, err := i.backend(kind)
	if err != nil {
		return nil, err
	}
	rsp, err := pb.NewPoolServiceClient(conn).Validate(ctx, &pb.ValidateRequest{Xml: xml})
	if err != nil {
		return nil, err
	}
	id, err := uuid.Parse(rsp.GetUuid())
	if err != nil {
		return nil, storageError(verr.Internal, "driver of pool type '%s' returned a definition without a uuid: %w", kind, err)
	}
	if err := checkName(rsp.GetName()); err != nil {
		return nil, err
	}
	def := &definition{uuid: id, name: rsp.GetName(), PoolDefinition: catalog.PoolDefinition{
		Type: kind, Target: rsp.GetTargetPath(), Exclusive: rsp.GetExclusive(), XML: rsp.GetXml(),
	}}
	for _, s := range rsp.GetSecrets() {
		def.Secrets = append(def.Secrets, catalog.SecretRef{UUID: s.GetUuid(), Usage: s.GetUsage(), Type: s.GetUsageType()})
	}
	return def, nil
}

// put makes a record say what a definition says.
func (d *definition) put(r *catalog.Pool) {
	r.Type, r.Target, r.Exclusive, r.Secrets, r.XML, r.Next = d.Type, d.Target, d.Exclusive, d.Secrets, d.XML, nil
}

// claim takes the job of the pool that a definition is about.
func (i *Inventory) claim(ctx context.Context, def *definition) (*job, error) {
	for {
		p, err := i.reserve(def)
		if err != nil {
			return nil, err
		}
		j, err := p.begin(ctx)
		if verr.Is(err, verr.NoStoragePool) && ctx.Err() == nil {
			continue // removed while we waited: the name is free
		}
		return j, err
	}
}

// Define stores a definition. For a pool in use it counts from the next start on.
func (i *Inventory) Define(ctx context.Context, xml string) (*Pool, error) {
	def, err := i.validate(ctx, xml)
	if err != nil {
		return nil, err
	}
	j, err := i.claim(ctx, def)
	if err != nil {
		return nil, err
	}
	defer j.end()
	s := j.copy()
	fresh := s.hidden
	s.hidden, s.record.Persistent = false, true
	if s.Active() {
		next := def.PoolDefinition
		s.record.Next = &next
	} else {
		def.put(s.record)
	}
	if err := j.save(s); err != nil {
		if fresh {
			i.forget(j.p)
		}
		return nil, err
	}
	j.p.publish(eventDefined)
	return j.p, nil
}

// Bits of virStoragePoolCreateFlags and virStoragePoolBuildFlags.
const (
	createWithBuild            = 1 << 0
	createWithBuildOverwrite   = 1 << 1
	createWithBuildNoOverwrite = 1 << 2
	createKnown                = createWithBuild | createWithBuildOverwrite | createWithBuildNoOverwrite

	buildRepair      = 1 << 0
	buildResize      = 1 << 1
	buildNoOverwrite = 1 << 2
	buildOverwrite   = 1 << 3
	buildKnown       = buildRepair | buildResize | buildNoOverwrite | buildOverwrite
)

var errOverwrite = storageError(verr.InvalidArg, "flags to overwrite and not to overwrite exclude each other")

// buildOf says whether a start builds the pool first, and how.
func buildOf(flags uint32) (build bool, how uint32, err error) {
	switch {
	case flags&^createKnown != 0:
		return false, 0, unknownFlags(flags &^ createKnown)
	case flags&createWithBuildOverwrite != 0 && flags&createWithBuildNoOverwrite != 0:
		return false, 0, errOverwrite
	case flags&createWithBuildOverwrite != 0:
		how = buildOverwrite
	case flags&createWithBuildNoOverwrite != 0:
		how = buildNoOverwrite
	}
	return flags != 0, how, nil
}

// Create defines a transient pool and starts it; flags are virStoragePoolCreateFlags.
func (i *Inventory) Create(ctx context.Context, xml string, flags uint32) (*Pool, error) {
	if _, _, err := buildOf(flags); err != nil {
		return nil, err
	}
	def, err := i.validate(ctx, xml)
	if err != nil {
		return nil, err
	}
	j, err := i.claim(ctx, def)
	if err != nil {
		return nil, err
	}
	defer j.end()
	s := j.copy()
	if s.Active() {
		return nil, storageError(verr.OperationFailed, "pool '%s' is already active", s.Name)
	}
	fresh := s.hidden
	def.put(s.record)
	j.show(s)
	if err := j.start(s, flags); err != nil {
		if fresh {
			i.forget(j.p)
		}
		return nil, err
	}
	return j.p, nil
}

// Undefine removes the definition of a pool that is not in use.
func (p *Pool) Undefine(ctx context.Context) error {
	j, err := p.begin(ctx)
	if err != nil {
		return err
	}
	defer j.end()
	s := p.state.Load()
	if s.Active() {
		return storageError(verr.OperationInvalid, "storage pool '%s' is still active", s.Name)
	}
	if err := j.remove(); err != nil {
		return err
	}
	p.publish(eventUndefined)
	return nil
}

// SetAutostart says whether the host starts the pool at boot.
func (p *Pool) SetAutostart(ctx context.Context, on bool) error {
	j, err := p.begin(ctx)
	if err != nil {
		return err
	}
	defer j.end()
	s := j.copy()
	if !s.Persistent {
		return storageError(verr.InvalidArg, "pool has no config file")
	}
	s.record.Autostart = on
	return j.save(s)
}

func unknownFlags(bad uint32) error {
	return storageError(verr.InvalidArg, "unsupported flags (0x%x)", bad)
}

// checkName refuses names that cannot be told in a table or be a part of a path.
func checkName(name string) error {
	if name == "" || name == "." || name == ".." || len(name) > 255 || slices.ContainsFunc([]rune(name), odd) {
		return storageError(verr.XMLError, "name '%s' of a storage pool cannot be used", name)
	}
	return nil
}

// odd is a letter that a pool's name must not have.
func odd(r rune) bool { return r < ' ' || r == 0x7f || r == '/' || r == 0xfffd }
