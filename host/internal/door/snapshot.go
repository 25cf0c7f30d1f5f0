package door

import (
	"context"

	libvirt "github.com/digitalocean/go-libvirt"

	"github.com/lodgevirt/lodge/host/internal/connection"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// Flags of calls about snapshots; the core judges those that it gets.
const (
	snapshotCreateKnown = 1023
	snapshotRevertKnown = 15
	revertRunning       = 1
	revertPaused        = 2
	snapshotDeleteKnown = 7
	deleteChildren      = 1
	deleteChildrenOnly  = 4
)

// snapshots returns the snapshots of a domain, which are none if it cannot have any.
func (s *session) snapshots(ref libvirt.Domain) (*snapshotTree, error) {
	d, err := s.domain(ref)
	if err != nil {
		return nil, err
	}
	t := &snapshotTree{dom: reference(d.View())}
	if can, ok := d.(connection.Snapshots); ok {
		t.all, t.current = can.Snapshots()
	}
	return t, nil
}

// snapshot finds one snapshot among all of its domain, which can have some.
func (s *session) snapshot(ref libvirt.DomainSnapshot) (*snapshotTree, *connection.Snapshot, error) {
	if _, err := able[connection.Snapshots](s, ref.Dom); err != nil {
		return nil, nil, err
	}
	t, err := s.snapshots(ref.Dom)
	if err != nil {
		return nil, nil, err
	}
	found, err := t.find(ref.Name)
	return t, found, err
}

// onSnapshot calls f with the domain of a snapshot.
func onSnapshot(ctx context.Context, s *session, ref libvirt.DomainSnapshot, f func(ctx context.Context, d connection.Snapshots, name string) error) error {
	return onDomain(ctx, s, ref.Dom, func(ctx context.Context, d connection.Snapshots) error { return f(ctx, d, ref.Name) })
}

// The lists of snapshots have more arguments than those of other objects.
type (
	snapshotNamesArgs[R any] struct {
		Ref      R
		Maxnames int32
		Flags    uint32
	}
	snapshotListArgs[R any] struct {
		Ref         R
		NeedResults int32
		Flags       uint32
	}
)

// snapshotScope returns what a list with some flags has of a domain, or of the children of a snapshot.
type snapshotScope[R any] func(s *session, of R, flags uint32) (*snapshotTree, error)

// ofDomain and ofSnapshot are those two.
func ofDomain(s *session, ref libvirt.Domain, flags uint32) (*snapshotTree, error) {
	t, err := s.snapshots(ref)
	if err != nil {
		return nil, err
	}
	return t.that(func(one *connection.Snapshot) bool { return flags&listRoots == 0 || one.Parent == "" }, flags)
}

func ofSnapshot(s *session, ref libvirt.DomainSnapshot, flags uint32) (*snapshotTree, error) {
	t, _, err := s.snapshot(ref)
	if err != nil {
		return nil, err
	}
	return t.that(below(ref.Name, flags&listDescendants != 0), flags)
}

var (
	domainSnapshots  snapshotScope[libvirt.Domain]         = ofDomain
	snapshotChildren snapshotScope[libvirt.DomainSnapshot] = ofSnapshot
)

// count, names and list make the handlers of the three calls, which have names of their own in libvirt's API.
func (of snapshotScope[R]) count(function string) *handler {
	return memory(func(s *session, args *flagsArgs[R]) (*countRet, error) {
		if err := checkFlags(args.Flags, snapshotListKnown, function); err != nil {
			return nil, err
		}
		t, err := of(s, args.Ref, args.Flags)
		if err != nil {
			return nil, err
		}
		return &countRet{int32(len(t.all))}, nil
	})
}

func (of snapshotScope[R]) names(function string) *handler {
	return memory(func(s *session, args *snapshotNamesArgs[R]) (*namesRet, error) {
		if err := checkFlags(args.Flags, snapshotListKnown, function); err != nil {
			return nil, err
		}
		if err := room(args.Maxnames, "names"); err != nil {
			return nil, err
		}
		t, err := of(s, args.Ref, args.Flags)
		if err != nil {
			return nil, err
		}
		return &namesRet{each(firstOf(t.all, args.Maxnames), func(one *connection.Snapshot) string { return one.Name })}, nil
	})
}

func (of snapshotScope[R]) list(function string) *handler {
	return memory(func(s *session, args *snapshotListArgs[R]) (*listRet[libvirt.DomainSnapshot], error) {
		if err := checkFlags(args.Flags, snapshotListKnown, function); err != nil {
			return nil, err
		}
		t, err := of(s, args.Ref, args.Flags)
		if err != nil {
			return nil, err
		}
		return &listRet[libvirt.DomainSnapshot]{needed(t.all, args.NeedResults, t.reference), uint32(len(t.all))}, nil
	})
}

// snapshotIs makes a handler that tells whether something is so of a snapshot.
func snapshotIs(function string, so func(t *snapshotTree, one *connection.Snapshot) bool) *handler {
	return memory(func(s *session, args *flagsArgs[libvirt.DomainSnapshot]) (*boolRet, error) {
		if err := checkFlags(args.Flags, 0, function); err != nil {
			return nil, err
		}
		t, one, err := s.snapshot(args.Ref)
		if err != nil {
			return nil, err
		}
		return &boolRet{boolean(so(t, one))}, nil
	})
}

func isCurrent(t *snapshotTree, one *connection.Snapshot) bool { return one.Name == t.current }

// hasMetadata is no: who has snapshots keeps them itself, and nothing of them is lost with a definition.
func hasMetadata(*snapshotTree, *connection.Snapshot) bool { return false }

func domainHasCurrentSnapshot(s *session, args *flagsArgs[libvirt.Domain]) (*boolRet, error) {
	if err := checkFlags(args.Flags, 0, "virDomainHasCurrentSnapshot"); err != nil {
		return nil, err
	}
	t, err := s.snapshots(args.Ref)
	if err != nil {
		return nil, err
	}
	return &boolRet{boolean(t.current != "")}, nil
}

func domainSnapshotCurrent(s *session, args *flagsArgs[libvirt.Domain]) (*refRet[libvirt.DomainSnapshot], error) {
	if err := checkFlags(args.Flags, 0, "virDomainSnapshotCurrent"); err != nil {
		return nil, err
	}
	if _, err := able[connection.Snapshots](s, args.Ref); err != nil {
		return nil, err
	}
	t, err := s.snapshots(args.Ref)
	if err != nil {
		return nil, err
	}
	if t.current == "" {
		return nil, verr.New(verr.NoDomainSnapshot, "the domain does not have a current snapshot")
	}
	return &refRet[libvirt.DomainSnapshot]{libvirt.DomainSnapshot{Name: t.current, Dom: t.dom}}, nil
}

func domainSnapshotLookupByName(s *session, args *libvirt.DomainSnapshotLookupByNameArgs) (*refRet[libvirt.DomainSnapshot], error) {
	if err := checkFlags(args.Flags, 0, "virDomainSnapshotLookupByName"); err != nil {
		return nil, err
	}
	t, one, err := s.snapshot(libvirt.DomainSnapshot{Name: args.Name, Dom: args.Dom})
	if err != nil {
		return nil, err
	}
	return &refRet[libvirt.DomainSnapshot]{t.reference(one)}, nil
}

func domainSnapshotGetParent(s *session, args *flagsArgs[libvirt.DomainSnapshot]) (*refRet[libvirt.DomainSnapshot], error) {
	if err := checkFlags(args.Flags, 0, "virDomainSnapshotGetParent"); err != nil {
		return nil, err
	}
	t, one, err := s.snapshot(args.Ref)
	if err != nil {
		return nil, err
	}
	if one.Parent == "" {
		return nil, verr.New(verr.NoDomainSnapshot, "snapshot '%s' does not have a parent", one.Name)
	}
	return &refRet[libvirt.DomainSnapshot]{libvirt.DomainSnapshot{Name: one.Parent, Dom: t.dom}}, nil
}

func domainSnapshotGetXMLDesc(s *session, args *flagsArgs[libvirt.DomainSnapshot]) (*xmlRet, error) {
	const what = "virDomainSnapshotGetXMLDesc"
	if err := checkFlags(args.Flags, xmlSecure, what); err != nil {
		return nil, err
	}
	if err := s.allow(args.Flags, xmlSecure, what); err != nil {
		return nil, err
	}
	d, err := able[connection.Snapshots](s, args.Ref.Dom)
	if err != nil {
		return nil, err
	}
	xml, err := d.SnapshotXML(args.Ref.Name, args.Flags)
	return &xmlRet{xml}, err
}

func domainSnapshotCreateXML(ctx context.Context, s *session, args *libvirt.DomainSnapshotCreateXMLArgs) (*refRet[libvirt.DomainSnapshot], error) {
	if err := checkFlags(args.Flags, snapshotCreateKnown, "virDomainSnapshotCreateXML"); err != nil {
		return nil, err
	}
	d, err := able[connection.Snapshots](s, args.Dom)
	if err != nil {
		return nil, err
	}
	name, err := d.CreateSnapshot(ctx, args.XMLDesc, args.Flags)
	return &refRet[libvirt.DomainSnapshot]{libvirt.DomainSnapshot{Name: name, Dom: args.Dom}}, err
}

func domainRevertToSnapshot(ctx context.Context, s *session, args *flagsArgs[libvirt.DomainSnapshot]) error {
	const what = "virDomainRevertToSnapshot"
	if err := checkFlags(args.Flags, snapshotRevertKnown, what); err != nil {
		return err
	}
	if err := exclusive(args.Flags, revertRunning|revertPaused, what); err != nil {
		return err
	}
	return onSnapshot(ctx, s, args.Ref, func(ctx context.Context, d connection.Snapshots, name string) error {
		return d.RevertToSnapshot(ctx, name, args.Flags)
	})
}

func domainSnapshotDelete(ctx context.Context, s *session, args *flagsArgs[libvirt.DomainSnapshot]) error {
	const what = "virDomainSnapshotDelete"
	if err := checkFlags(args.Flags, snapshotDeleteKnown, what); err != nil {
		return err
	}
	if err := exclusive(args.Flags, deleteChildren|deleteChildrenOnly, what); err != nil {
		return err
	}
	return onSnapshot(ctx, s, args.Ref, func(ctx context.Context, d connection.Snapshots, name string) error {
		return d.DeleteSnapshot(ctx, name, args.Flags)
	})
}
