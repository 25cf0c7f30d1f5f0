package mirror

import (
	"context"
	"encoding/xml"
	"slices"
	"strconv"
	"time"

	"libvirt.org/go/libvirtxml"

	"github.com/lodgevirt/lodge/host/internal/connection"
	"github.com/lodgevirt/lodge/host/internal/domain"
	"github.com/lodgevirt/lodge/sdk/domxml"
	hypervisorv1 "github.com/lodgevirt/lodge/sdk/proto/lodge/hypervisor/v1"
	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/inventory/v1"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// Bits of libvirt's flags about snapshots.
const (
	createDiskOnly = 1 << 4
	createQuiesce  = 1 << 6
	createAtomic   = 1 << 7
	createValidate = 1 << 9

	revertRunning = 1 << 0
	revertPaused  = 1 << 1
	revertForce   = 1 << 2

	deleteChildren = 1 << 0

	snapshotXMLSecure = 1 << 0
)

// Limits of what clients say of a snapshot, in bytes.
const (
	maxSnapshotName = 255
	maxDescription  = 64 << 10
)

// Snapshots lists the snapshots and names the current one.
func (d *Domain) Snapshots() (all []connection.Snapshot, current string) {
	s := d.state.Load()
	for _, o := range s.object.GetSnapshots() {
		all = append(all, connection.Snapshot{
			Name: o.GetName(), Parent: o.GetParent(), Description: o.GetDescription(), Created: o.GetCreated().AsTime(),
			State: domain.State(o.GetState()),
		})
	}
	return all, s.object.GetCurrentSnapshot()
}

// find returns a snapshot.
func (s *guest) find(name string) (*pb.SnapshotObject, error) {
	i := slices.IndexFunc(s.object.GetSnapshots(), func(o *pb.SnapshotObject) bool { return o.GetName() == name })
	if i < 0 {
		return nil, verr.New(verr.NoDomainSnapshot, "no domain snapshot with matching name '%s'", name).In(verr.FromDomainSnapshot)
	}
	return s.object.GetSnapshots()[i], nil
}

// snapshotStates are virDomainSnapshotState in words.
var snapshotStates = map[hypervisorv1.State]string{
	hypervisorv1.State_STATE_RUNNING: "running", hypervisorv1.State_STATE_PAUSED: "paused", hypervisorv1.State_STATE_SHUTOFF: "shutoff",
}

// snapshotXML is <domainsnapshot> with the domain's UUID alone, which libvirtxml's type cannot print.
type snapshotXML struct {
	XMLName      xml.Name `xml:"domainsnapshot"`
	Name         string   `xml:"name"`
	Description  string   `xml:"description,omitempty"`
	State        string   `xml:"state,omitempty"`
	Parent       *string  `xml:"parent>name"`
	CreationTime int64    `xml:"creationTime"`
	UUID         string   `xml:"domain>uuid"`
}

// SnapshotXML describes a snapshot; flags are virDomainSnapshotXMLFlags.
func (d *Domain) SnapshotXML(name string, flags uint32) (string, error) {
	if err := refuse(flags, snapshotXMLSecure); err != nil {
		return "", err
	}
	s, err := d.now()
	if err != nil {
		return "", err
	}
	o, err := s.find(name)
	if err != nil {
		return "", err
	}
	doc := snapshotXML{
		Name: o.GetName(), Description: o.GetDescription(), State: snapshotStates[o.GetState()],
		CreationTime: o.GetCreated().GetSeconds(), UUID: d.uuid.String(),
	}
	if o.GetParent() != "" {
		doc.Parent = &o.Parent
	}
	text, err := xml.Marshal(doc)
	if err != nil {
		return "", verr.New(verr.Internal, "print snapshot '%s': %w", name, err)
	}
	return domxml.Reformat(string(text))
}

func (d *Domain) snapshots() pb.SnapshotServiceClient {
	return pb.NewSnapshotServiceClient(d.m.cfg.Plugin)
}

// CreateSnapshot makes a snapshot; flags are virDomainSnapshotCreateFlags.
func (d *Domain) CreateSnapshot(ctx context.Context, text string, flags uint32) (string, error) {
	if err := refuse(flags, createDiskOnly|createQuiesce|createAtomic|createValidate); err != nil {
		return "", err
	}
	if err := checkXML(text, "domainsnapshot"); err != nil {
		return "", err
	}
	var def libvirtxml.DomainSnapshot
	if err := def.Unmarshal(text); err != nil {
		return "", verr.New(verr.XMLError, "(domain_snapshot): %w", err)
	}
	if err := checkSnapshot(&def); err != nil {
		return "", err
	}
	if def.Name == "" {
		def.Name = strconv.FormatInt(time.Now().Unix(), 10) // as libvirt names it
	}
	s, err := d.now()
	if err != nil {
		return "", err
	}
	if _, err := s.find(def.Name); err == nil {
		return "", verr.New(verr.OperationInvalid, "domain '%s' has a snapshot '%s' already", s.view.Name, def.Name)
	}
	return def.Name, d.change(ctx, func(ctx context.Context, g *hypervisorv1.Guest) (uint64, error) {
		rsp, err := d.snapshots().CreateSnapshot(ctx, &pb.CreateSnapshotRequest{
			Guest: g, Name: def.Name, Description: def.Description, DiskOnly: flags&createDiskOnly != 0, Quiesce: flags&createQuiesce != 0,
		})
		return rsp.GetSeq(), err
	}, func(s *guest) bool { _, err := s.find(def.Name); return err == nil })
}

// checkSnapshot refuses what no hypervisor of this kind can be told.
func checkSnapshot(def *libvirtxml.DomainSnapshot) error {
	switch {
	case len(def.Name) > maxSnapshotName:
		return verr.New(verr.XMLError, "name of snapshot has %d bytes, at most %d are allowed", len(def.Name), maxSnapshotName)
	case len(def.Description) > maxDescription:
		return verr.New(verr.XMLError, "description of snapshot has %d bytes, at most %d are allowed", len(def.Description), maxDescription)
	case def.Disks != nil && len(def.Disks.Disks) > 0:
		return verr.New(verr.ConfigUnsupported, "the hypervisor takes snapshots of all disks: <disks> is not supported")
	case def.Memory != nil && (def.Memory.File != "" || def.Memory.Snapshot == "external"):
		return verr.New(verr.ConfigUnsupported, "the hypervisor keeps the memory with the snapshot: <memory file=> is not supported")
	}
	return nil
}

// RevertToSnapshot makes the guest what it was; flags are virDomainSnapshotRevertFlags.
func (d *Domain) RevertToSnapshot(ctx context.Context, name string, flags uint32) error {
	if err := refuse(flags, revertRunning|revertPaused|revertForce); err != nil {
		return err
	}
	if flags&revertRunning != 0 && flags&revertPaused != 0 {
		return verr.New(verr.InvalidArg, "running and paused exclude each other")
	}
	return d.onSnapshot(ctx, name, func(ctx context.Context, g *hypervisorv1.Guest) (uint64, error) {
		rsp, err := d.snapshots().RevertToSnapshot(ctx, &pb.RevertToSnapshotRequest{
			Guest: g, Name: name, Running: flags&revertRunning != 0, Paused: flags&revertPaused != 0,
		})
		return rsp.GetSeq(), err
	}, nil)
}

// DeleteSnapshot removes a snapshot; flags are virDomainSnapshotDeleteFlags.
func (d *Domain) DeleteSnapshot(ctx context.Context, name string, flags uint32) error {
	if err := refuse(flags, deleteChildren); err != nil {
		return err
	}
	return d.onSnapshot(ctx, name, func(ctx context.Context, g *hypervisorv1.Guest) (uint64, error) {
		rsp, err := d.snapshots().DeleteSnapshot(ctx, &pb.DeleteSnapshotRequest{Guest: g, Name: name, Children: flags&deleteChildren != 0})
		return rsp.GetSeq(), err
	}, func(s *guest) bool { _, err := s.find(name); return err != nil })
}

// onSnapshot makes a change that is about a snapshot, which must be there.
func (d *Domain) onSnapshot(
	ctx context.Context, name string, do func(context.Context, *hypervisorv1.Guest) (uint64, error), done func(*guest) bool,
) error {
	s, err := d.now()
	if err == nil {
		_, err = s.find(name)
	}
	if err != nil {
		return err
	}
	return d.change(ctx, do, done)
}
