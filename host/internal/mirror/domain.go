package mirror

import (
	"context"
	"io"
	"strconv"
	"strings"
	"sync/atomic"

	"github.com/google/uuid"

	"github.com/lodgevirt/lodge/host/internal/connection"
	"github.com/lodgevirt/lodge/host/internal/domain"
	"github.com/lodgevirt/lodge/sdk/domxml"
	hypervisorv1 "github.com/lodgevirt/lodge/sdk/proto/lodge/hypervisor/v1"
	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/inventory/v1"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// inactiveID is libvirt's id of a domain that is not active.
const inactiveID = -1

// guest is all that is known of a domain. It is replaced as a whole and never changed in place.
type guest struct {
	view   domain.View
	object *pb.GuestObject
	gone   bool
}

func newGuest(id uuid.UUID, o *pb.GuestObject) *guest {
	return &guest{object: o, view: domain.View{
		UUID: id, Name: o.GetName(), ID: max(o.GetId(), inactiveID), State: domain.State(o.GetState()), Reason: o.GetReason(),
		Persistent: true, Autostart: o.GetAutostart(), Title: o.GetTitle(), OSType: o.GetOsType(),
		MaxMemoryKiB: o.GetMaxMemoryKib(), MemoryKiB: o.GetMemoryKib(), MaxVCPUs: o.GetMaxVcpus(), VCPUs: o.GetVcpus(),
		Snapshots: len(o.GetSnapshots()) > 0,
	}}
}

// Domain is one domain. It stays valid after the domain has gone; its methods then fail with NoDomain.
type Domain struct {
	m     *Mirror
	uuid  uuid.UUID
	state atomic.Pointer[guest]
	// slot holds one token while a change is under way.
	slot chan struct{}
}

var _ interface {
	connection.Domain
	connection.Reader
	connection.Tuning
	connection.Snapshots
	connection.MigrationSource
} = (*Domain)(nil)

// View returns what is known now.
func (d *Domain) View() domain.View { return d.state.Load().view }

// now is the domain as it is, or NoDomain.
func (d *Domain) now() (*guest, error) {
	s := d.state.Load()
	if s.gone {
		return nil, d.none()
	}
	return s, nil
}

func (d *Domain) none() error {
	return verr.New(verr.NoDomain, "no domain with matching uuid '%s'", d.uuid)
}

// ref names the guest to the driver.
func (d *Domain) ref() *hypervisorv1.Guest {
	return &hypervisorv1.Guest{Connection: d.m.cfg.Connection, Uuid: d.uuid.String(), Name: d.View().Name}
}

// Bits of virDomainXMLFlags.
const (
	xmlInactive = 1 << 1
	xmlKnown    = 15
)

// XML returns the definition; that of an active domain has its id, unless the inactive one is asked for.
func (d *Domain) XML(flags uint32) (string, error) {
	if unknown := flags &^ xmlKnown; unknown != 0 {
		return "", verr.New(verr.InvalidArg, "unsupported flags (0x%x)", unknown)
	}
	s, err := d.now()
	switch {
	case err != nil:
		return "", err
	case s.object.GetXml() == "":
		return "", connection.ErrUnread
	case s.view.Active() && flags&xmlInactive == 0:
		if rest, ok := strings.CutPrefix(s.object.GetXml(), "<domain "); ok {
			before, after, _ := strings.Cut(rest, ">")
			return "<domain " + before + " id='" + strconv.Itoa(int(s.view.ID)) + "'>" + after, nil
		}
	}
	return s.object.GetXml(), nil
}

// Read has the driver read the definition, and waits until it is in the picture.
func (d *Domain) Read(ctx context.Context) error {
	_, err := pb.NewGuestServiceClient(d.m.cfg.Plugin).Describe(ctx, &pb.DescribeRequest{Guest: d.ref()})
	if err != nil {
		return err
	}
	wait, cancel := context.WithTimeout(ctx, seenWait)
	defer cancel()
	if _, err := d.m.wait(wait, func(progress) bool { s := d.state.Load(); return s.gone || s.object.GetXml() != "" }); err != nil {
		return verr.New(verr.OperationTimeout, "the definition of domain '%s' was read and is not told: %w", d.View().Name, err)
	}
	return nil
}

// Metadata returns the description (kind 0), the title (1) or the element with a namespace (2).
func (d *Domain) Metadata(kind int32, uri string, impact uint32) (string, error) {
	s, err := d.now()
	if err != nil {
		return "", err
	}
	if err := s.impact(impact); err != nil {
		return "", err
	}
	switch {
	case kind == domxml.MetadataTitle && s.view.Title != "":
		return s.view.Title, nil
	case kind == domxml.MetadataTitle:
		return "", verr.New(verr.NoDomainMetadata, "metadata not found: Requested metadata element is not present")
	case s.object.GetXml() == "":
		return "", connection.ErrUnread
	}
	return domxml.GetMetadata(s.object.GetXml(), kind, uri)
}

// Bits of virDomainModificationImpact.
const (
	affectLive   = 1 << 0
	affectConfig = 1 << 1
)

// impact checks virDomainModificationImpact: there is one definition, which is the guest's.
func (s *guest) impact(flags uint32) error {
	switch {
	case flags&^(affectLive|affectConfig) != 0:
		return verr.New(verr.InvalidArg, "unsupported flags (0x%x)", flags&^(affectLive|affectConfig))
	case flags&affectLive != 0 && !s.view.Active():
		return verr.New(verr.OperationInvalid, "domain is not running")
	}
	return nil
}

// CPUTime asks the driver for the CPU time of an active guest; one that does not answer makes it 0.
func (d *Domain) CPUTime(ctx context.Context) (uint64, error) {
	s, err := d.now()
	if err != nil || !s.view.Active() {
		return 0, err
	}
	return domain.CPUTimeOf(ctx, d.m.cfg.Plugin, &hypervisorv1.GuestHandle{Guest: d.ref()}, d.m.cfg.Log), nil
}

// Screenshot reads a screen's picture.
func (d *Domain) Screenshot(ctx context.Context, screen uint32) (mime string, picture io.ReadCloser, err error) {
	s, err := d.now()
	switch {
	case err != nil:
		return "", nil, err
	case !s.view.Active():
		return "", nil, verr.New(verr.OperationInvalid, "domain is not running")
	}
	return domain.ReadScreen(ctx, d.m.cfg.Plugin, &hypervisorv1.ScreenshotRequest{Guest: d.ref(), Screen: screen})
}

// ByName finds a domain; of several with the name, any one.
func (m *Mirror) ByName(name string) (connection.Domain, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	if named := m.byName[name]; len(named) > 0 {
		return named[0], nil
	}
	return nil, verr.New(verr.NoDomain, "no domain with matching name '%s'", name)
}

// ByUUID finds a domain.
func (m *Mirror) ByUUID(id uuid.UUID) (connection.Domain, error) {
	d := m.domain(id)
	if d == nil {
		return nil, verr.New(verr.NoDomain, "no domain with matching uuid '%s'", id)
	}
	return d, nil
}

func (m *Mirror) domain(id uuid.UUID) *Domain {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.byUUID[id]
}

// ByID finds an active domain.
func (m *Mirror) ByID(id int32) (connection.Domain, error) {
	m.mu.RLock()
	d := m.byID[id]
	m.mu.RUnlock()
	if d == nil {
		return nil, verr.New(verr.NoDomain, "no domain with matching id %d", id)
	}
	return d, nil
}

// each calls f with every domain that passes the filter.
func (m *Mirror) each(filter domain.ListFlags, f func(*Domain, *guest)) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	for _, d := range m.byUUID {
		if s := d.state.Load(); filter.Match(&s.view) {
			f(d, s)
		}
	}
}

// Count returns how many domains pass the filter.
func (m *Mirror) Count(filter domain.ListFlags) (n int) {
	m.each(filter, func(*Domain, *guest) { n++ })
	return n
}

// List returns the views that pass the filter.
func (m *Mirror) List(filter domain.ListFlags) []domain.View {
	var views []domain.View
	m.each(filter, func(_ *Domain, s *guest) { views = append(views, s.view) })
	return views
}

// Select returns the domains that pass the filter.
func (m *Mirror) Select(filter domain.ListFlags) []connection.Domain {
	var domains []connection.Domain
	m.each(filter, func(d *Domain, _ *guest) { domains = append(domains, d) })
	return domains
}

// Stats collects figures: what is known from memory, the rest from the driver, as far as it answers in time.
func (m *Mirror) Stats(ctx context.Context, domains []connection.Domain, groups uint32) ([]domain.StatsRecord, error) {
	views := make([]*domain.View, 0, len(domains))
	handles := make([]*hypervisorv1.GuestHandle, 0, len(domains))
	for _, one := range domains {
		if d, ok := one.(*Domain); ok {
			views = append(views, &d.state.Load().view)
			handles = append(handles, &hypervisorv1.GuestHandle{Guest: d.ref()})
		}
	}
	return domain.CollectStats(ctx, m.cfg.Plugin, views, handles, groups, m.cfg.Log), nil
}
