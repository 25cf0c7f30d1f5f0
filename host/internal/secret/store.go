// Package secret keeps libvirt's secrets: what they are for, and values that only those get who may.
//
// A Store owns all secrets of the host. Definitions and values of lasting secrets are in the catalog, the values sealed with a key of the
// host (XChaCha20-Poly1305, the secret's UUID as associated data), which lies in a file of its own or comes from systemd as a
// credential; ephemeral ones are in memory only and go with the process. Questions are answered from memory. All methods are safe
// concurrently. A change is on disk before it is in memory, and in memory before its event is sent. Values are never logged, and no
// error has one.
//
// The format of definitions is described at https://libvirt.org/formatsecret.html.
package secret

import (
	"bytes"
	"context"
	"slices"
	"strings"
	"sync"

	"github.com/google/uuid"

	"github.com/lodgevirt/lodge/host/internal/catalog"
	"github.com/lodgevirt/lodge/host/internal/event"
	storagev1 "github.com/lodgevirt/lodge/sdk/proto/lodge/storage/v1"
	"github.com/lodgevirt/lodge/sdk/verr"
)

const (
	// MaxValue is the largest value in bytes, libvirt's REMOTE_SECRET_VALUE_MAX.
	MaxValue = 65536
	// maxSecrets bounds the secrets of a host, libvirt's REMOTE_SECRET_LIST_MAX.
	maxSecrets = 16384
)

// Secret is a secret as it was when it was found. It is a value.
type Secret struct {
	Definition
	// Set says that it has a value.
	Set bool
}

// kept is a secret with its value.
type kept struct {
	Definition
	value []byte // nil if it has none
}

// Store is all secrets of the host.
type Store struct {
	catalog *catalog.Catalog
	events  *event.Bus
	seal    *seal

	changing sync.Mutex // one change at a time; never taken with mu held

	mu     sync.RWMutex // guards byUUID; never held across the disk
	byUUID map[uuid.UUID]*kept
}

// Open loads the secrets. The key is made if there is none.
func Open(c *catalog.Catalog, events *event.Bus, key KeySource) (*Store, error) {
	s, err := key.open()
	if err != nil {
		return nil, err
	}
	st := &Store{catalog: c, events: events, seal: s, byUUID: map[uuid.UUID]*kept{}}
	records, err := c.Secrets()
	if err != nil {
		return nil, err
	}
	for _, r := range records {
		def, err := parse(r.XML)
		if err != nil {
			return nil, err
		}
		k := &kept{Definition: def}
		if len(r.Value) > 0 {
			if k.value, err = s.unseal(def.UUID, r.Value); err != nil {
				return nil, verr.New(verr.Internal, "value of secret %s cannot be read: %w", def.UUID, err).In(verr.FromSecret)
			}
		}
		st.byUUID[def.UUID] = k
	}
	return st, nil
}

func (k *kept) secret() Secret { return Secret{k.Definition, k.value != nil} }

// All returns the secrets by UUID.
func (s *Store) All() []Secret {
	s.mu.RLock()
	defer s.mu.RUnlock()
	all := make([]Secret, 0, len(s.byUUID))
	for _, k := range s.byUUID {
		all = append(all, k.secret())
	}
	slices.SortFunc(all, func(a, b Secret) int { return bytes.Compare(a.UUID[:], b.UUID[:]) })
	return all
}

// ByUUID finds a secret, or fails with NoSecret.
func (s *Store) ByUUID(id uuid.UUID) (Secret, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if k := s.byUUID[id]; k != nil {
		return k.secret(), nil
	}
	return Secret{}, noSecret("no secret with matching uuid '%s'", id)
}

// ByUsage finds a secret by what it is for, or fails with NoSecret.
func (s *Store) ByUsage(kind UsageType, usage string) (Secret, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if k := s.used(kind, usage); k != nil {
		return k.secret(), nil
	}
	return Secret{}, noSecret("no secret with matching usage '%s'", usage)
}

// used finds the secret for a usage; mu is held.
func (s *Store) used(kind UsageType, usage string) *kept {
	for _, k := range s.byUUID {
		if kind != UsageNone && k.UsageType == kind && k.Usage == usage {
			return k
		}
	}
	return nil
}

func noSecret(format string, args ...any) error {
	return verr.New(verr.NoSecret, format, args...).In(verr.FromSecret)
}

func secretError(code verr.Code, format string, args ...any) error {
	return verr.New(code, format, args...).In(verr.FromSecret)
}

// Define stores a definition. One of the same UUID is replaced and keeps its value; what was private stays so.
func (s *Store) Define(xml string) (Secret, error) {
	def, err := parse(xml)
	if err != nil {
		return Secret{}, err
	}
	s.changing.Lock()
	defer s.changing.Unlock()
	old, err := s.conflict(&def)
	if err != nil {
		return Secret{}, err
	}
	k := &kept{Definition: def}
	if old != nil {
		k.value = old.value
	}
	if err := s.store(k, old); err != nil {
		return Secret{}, err
	}
	s.publish(k, event.Secret{Lifecycle: eventDefined})
	return k.secret(), nil
}

// conflict completes a definition by the secret that it is about, which it returns, or refuses it.
func (s *Store) conflict(def *Definition) (*kept, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	same := s.used(def.UsageType, def.Usage)
	if def.UUID == uuid.Nil {
		if same != nil {
			def.UUID = same.UUID
		} else {
			def.UUID = uuid.New()
		}
	}
	old := s.byUUID[def.UUID]
	switch {
	case same != nil && same.UUID != def.UUID:
		return nil, secretError(verr.Internal, "a secret with UUID %s already defined for use with %s", same.UUID, def.Usage)
	case old == nil && len(s.byUUID) >= maxSecrets:
		return nil, secretError(verr.OperationFailed, "there are %d secrets already", maxSecrets)
	case old == nil:
		return nil, nil
	case old.UsageType != def.UsageType || old.Usage != def.Usage:
		return nil, secretError(verr.Internal, "a secret with UUID %s is already defined for use with %s", old.UUID, old.Usage)
	case old.Private && !def.Private:
		return nil, secretError(verr.Internal, "cannot change private flag on existing secret")
	}
	return old, nil
}

// store makes a secret true: on disk, if it lasts, then in memory.
func (s *Store) store(k, old *kept) error {
	err := s.catalog.Update(func(tx *catalog.Tx) error {
		if k.Ephemeral {
			return tx.DeleteSecret(k.UUID)
		}
		r := &catalog.Secret{UUID: k.UUID, XML: k.XML()}
		if k.value != nil {
			r.Value = s.seal.seal(k.UUID, k.value)
		}
		return tx.PutSecret(r)
	})
	if err != nil {
		return secretError(verr.OperationFailed, "cannot store secret %s: %w", k.UUID, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.byUUID[k.UUID] = k
	return nil
}

// Undefine removes a secret with its value.
func (s *Store) Undefine(id uuid.UUID) error {
	s.changing.Lock()
	defer s.changing.Unlock()
	k, err := s.get(id)
	if err != nil {
		return err
	}
	if err := s.catalog.Update(func(tx *catalog.Tx) error { return tx.DeleteSecret(id) }); err != nil {
		return secretError(verr.OperationFailed, "cannot remove secret %s: %w", id, err)
	}
	s.mu.Lock()
	delete(s.byUUID, id)
	s.mu.Unlock()
	s.publish(k, event.Secret{Lifecycle: eventUndefined})
	return nil
}

func (s *Store) get(id uuid.UUID) (*kept, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if k := s.byUUID[id]; k != nil {
		return k, nil
	}
	return nil, noSecret("no secret with matching uuid '%s'", id)
}

// SetValue gives a secret a value of at most 64 KiB.
func (s *Store) SetValue(id uuid.UUID, value []byte) error {
	if len(value) > MaxValue {
		return secretError(verr.InvalidArg, "value of a secret has %d bytes, at most %d are allowed", len(value), MaxValue)
	}
	s.changing.Lock()
	defer s.changing.Unlock()
	old, err := s.get(id)
	if err != nil {
		return err
	}
	k := &kept{Definition: old.Definition, value: append([]byte{}, value...)}
	if err := s.store(k, old); err != nil {
		return err
	}
	s.publish(k, event.Secret{Changed: true})
	return nil
}

// Value returns the value for a client. A private one is refused.
func (s *Store) Value(id uuid.UUID) ([]byte, error) {
	k, err := s.get(id)
	switch {
	case err != nil:
		return nil, err
	case k.value == nil:
		return nil, noSecret("secret '%s' does not have a value", id)
	case k.Private:
		return nil, secretError(verr.InvalidSecret, "secret is private")
	}
	return slices.Clone(k.value), nil
}

// Values returns the values that definitions of other objects name, private ones too: they go to the driver of the object.
func (s *Store) Values(_ context.Context, refs []catalog.SecretRef) ([]*storagev1.Secret, error) {
	out := make([]*storagev1.Secret, len(refs))
	for n, r := range refs {
		k, err := s.named(r)
		if err != nil {
			return nil, err
		}
		if k.value == nil {
			return nil, noSecret("secret '%s' does not have a value", k.UUID)
		}
		out[n] = &storagev1.Secret{Uuid: k.UUID.String(), Usage: k.Usage, Value: slices.Clone(k.value)}
	}
	return out, nil
}

// OfVolume returns the UUID of the secret for the volume at a path, or "".
func (s *Store) OfVolume(path string) string {
	found, err := s.ByUsage(UsageVolume, path)
	if err != nil {
		return ""
	}
	return found.UUID.String()
}

func (s *Store) named(r catalog.SecretRef) (*kept, error) {
	if r.UUID != "" {
		id, err := uuid.Parse(r.UUID)
		if err != nil {
			return nil, secretError(verr.InvalidArg, "'%s' is no UUID of a secret: %w", r.UUID, err)
		}
		k, err := s.get(id)
		if want, known := usageTypes[strings.ToLower(r.Type)]; err == nil && known && k.UsageType != want {
			return nil, secretError(verr.ConfigUnsupported, "secret with uuid %s is not of type '%s'", id, r.Type)
		}
		return k, err
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	if k := s.used(usageTypes[strings.ToLower(r.Type)], r.Usage); k != nil {
		return k, nil
	}
	return nil, noSecret("no secret with matching usage '%s'", r.Usage)
}

// Lifecycle events of secrets, in virSecretEventLifecycleType's numbers.
const (
	eventDefined   = 0
	eventUndefined = 1
)

func (s *Store) publish(k *kept, what event.Secret) {
	what.UsageType = int32(k.UsageType)
	s.events.Publish(event.Event{Name: k.Usage, UUID: k.UUID, Secret: &what})
}
