package manager

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/encoding/protojson"

	"github.com/lodgevirt/lodge/plugins/lock/sanlock/internal/client"
	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/lock/v1"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// recordPrefix begins the keys of records in the core's State: "owner/UUID/GENERATION".
const recordPrefix = "owner/"

func (k key) String() string {
	return recordPrefix + k.uuid + "/" + strconv.FormatUint(k.generation, 10)
}

// record is an owner as it is kept in the core's State.
type record struct {
	Owner     json.RawMessage  `json:"owner"`
	OnFailure pb.Action        `json:"on_failure"`
	Leases    []recordedLease  `json:"leases"`
	Asleep    []suspendedLease `json:"asleep,omitempty"`
}

type recordedLease struct {
	Resource json.RawMessage `json:"resource"`
	Lease    client.Resource `json:"lease"`
	Since    time.Time       `json:"since"`
}

// save keeps an owner for a successor of this process. Whoever calls it has the owner's turn.
func (m *Manager) save(ctx context.Context, o *owner) error {
	m.mu.Lock()
	who := o.who
	text, err := o.format()
	empty := len(o.leases)+len(o.asleep) == 0
	m.mu.Unlock()
	if err != nil {
		return fmt.Errorf("keep locks of guest %q: %w", who.GetName(), err)
	}
	if empty {
		return m.forget(ctx, keyOf(who))
	}
	if err := m.core.State().Put(ctx, keyOf(who).String(), text); err != nil {
		return fmt.Errorf("keep locks of guest %q: %w", who.GetName(), err)
	}
	return nil
}

// forget drops the record of an owner.
func (m *Manager) forget(ctx context.Context, k key) error {
	if err := m.core.State().Delete(ctx, k.String()); err != nil {
		return fmt.Errorf("forget locks of guest %s: %w", k.uuid, err)
	}
	return nil
}

// load returns an owner of which there is a record, else one that has nothing. Its leases are lost until the daemon says otherwise.
func (m *Manager) load(ctx context.Context, k key) (*owner, error) {
	text, found, err := m.core.State().Get(ctx, k.String())
	if err != nil {
		return nil, fmt.Errorf("look for locks of guest %s: %w", k.uuid, err)
	}
	if !found {
		return &owner{who: &pb.Owner{Uuid: k.uuid, Generation: k.generation}}, nil
	}
	o, err := parseRecord(text)
	if err == nil && keyOf(o.who) != k {
		err = errors.New("it is another guest's")
	}
	if err != nil {
		return nil, fmt.Errorf("read record of the locks of guest %s: %w", k.uuid, err)
	}
	return o, nil
}

func (o *owner) format() ([]byte, error) {
	who, err := protojson.Marshal(o.who)
	if err != nil {
		return nil, err
	}
	r := record{Owner: who, OnFailure: o.onFailure, Asleep: o.asleep}
	for _, h := range o.leases {
		resource, err := protojson.Marshal(h.resource)
		if err != nil {
			return nil, err
		}
		r.Leases = append(r.Leases, recordedLease{Resource: resource, Lease: h.lease, Since: h.since})
	}
	return json.Marshal(r)
}

func parseRecord(text []byte) (*owner, error) {
	var r record
	if err := json.Unmarshal(text, &r); err != nil {
		return nil, err
	}
	o := &owner{who: &pb.Owner{}, onFailure: r.OnFailure, asleep: r.Asleep}
	lenient := protojson.UnmarshalOptions{DiscardUnknown: true}
	if err := lenient.Unmarshal(r.Owner, o.who); err != nil {
		return nil, err
	}
	for _, l := range r.Leases {
		if err := l.Lease.Check(); err != nil {
			return nil, err
		}
		h := &held{resource: &pb.Resource{}, lease: l.Lease, since: l.Since}
		if err := lenient.Unmarshal(l.Resource, h.resource); err != nil {
			return nil, err
		}
		o.leases = append(o.leases, h)
	}
	return o, nil
}

// parseKey reads what key.String wrote.
func parseKey(text string) (key, bool) {
	uuid, generation, ok := strings.Cut(strings.TrimPrefix(text, recordPrefix), "/")
	n, err := strconv.ParseUint(generation, 10, 64)
	return key{uuid, n}, ok && err == nil && key{uuid, n}.String() == text
}

// sweep drops the records of owners that are gone: the daemon has given up what they had.
func (m *Manager) sweep(ctx context.Context) error {
	keys, err := m.core.State().List(ctx, recordPrefix)
	if err != nil {
		return fmt.Errorf("look for records of guests that are gone: %w", err)
	}
	for _, text := range keys {
		k, ok := parseKey(text)
		if !ok || m.known(k) != nil {
			continue
		}
		// One that cannot be read is of no use either.
		if o, err := m.load(ctx, k); err == nil && lives(o.who) {
			continue
		}
		if err := m.core.State().Delete(ctx, text); err != nil {
			return fmt.Errorf("forget guest that is gone: %w", err)
		}
	}
	return nil
}

// suspended is what the core keeps of a guest that was suspended: the versions of its leases, which grow when somebody takes them.
type suspended struct {
	Version int              `json:"version"`
	Leases  []suspendedLease `json:"leases"`
}

type suspendedLease struct {
	Lockspace string `json:"lockspace"`
	Name      string `json:"name"`
	Version   uint64 `json:"lease_version"`
}

func (l suspendedLease) id() id { return id{l.Lockspace, l.Name} }

const suspendedVersion = 1

// formatSuspended is what the core keeps of versions, or nothing if there are none.
func formatSuspended(leases []suspendedLease) ([]byte, error) {
	if len(leases) == 0 {
		return nil, nil
	}
	return json.Marshal(suspended{Version: suspendedVersion, Leases: leases})
}

// parseSuspended reads what formatSuspended wrote; nothing is no versions.
func parseSuspended(text []byte) (map[id]uint64, error) {
	if len(text) == 0 {
		return nil, nil
	}
	var s suspended
	if err := json.Unmarshal(text, &s); err != nil {
		return nil, verr.New(verr.InvalidArg, "state of the locks of a suspended guest: %w", err)
	}
	if s.Version != suspendedVersion {
		return nil, verr.New(verr.InvalidArg, "state of the locks of a suspended guest is of version %d, not %d", s.Version, suspendedVersion)
	}
	return versionsOf(s.Leases), nil
}

func versionsOf(leases []suspendedLease) map[id]uint64 {
	versions := make(map[id]uint64, len(leases))
	for _, l := range leases {
		versions[l.id()] = l.Version
	}
	return versions
}
