package catalog

import (
	"encoding/json"
	"fmt"

	"github.com/google/uuid"
	bolt "go.etcd.io/bbolt"
)

// Secret is the record of a secret.
type Secret struct {
	UUID uuid.UUID `json:"uuid"`
	// XML is the definition.
	XML string `json:"xml"`
	// Value is sealed by its owner, or empty.
	Value []byte `json:"value,omitempty"`
}

// PutSecret writes a secret's record.
func (t *Tx) PutSecret(s *Secret) error {
	data, err := json.Marshal(s)
	if err != nil {
		return fmt.Errorf("encode secret %s: %w", s.UUID, err)
	}
	if err := t.tx.Bucket(bucketSecrets).Put(s.UUID[:], data); err != nil {
		return fmt.Errorf("put secret %s: %w", s.UUID, err)
	}
	return nil
}

// DeleteSecret removes a secret's record; a missing one is no error.
func (t *Tx) DeleteSecret(id uuid.UUID) error {
	if err := t.tx.Bucket(bucketSecrets).Delete(id[:]); err != nil {
		return fmt.Errorf("delete secret %s: %w", id, err)
	}
	return nil
}

// Secrets reads all records of secrets.
func (c *Catalog) Secrets() ([]Secret, error) {
	var all []Secret
	err := c.db.View(func(tx *bolt.Tx) error {
		return tx.Bucket(bucketSecrets).ForEach(func(k, v []byte) error {
			var s Secret
			if err := json.Unmarshal(v, &s); err != nil {
				return fmt.Errorf("decode secret %x: %w", k, err)
			}
			all = append(all, s)
			return nil
		})
	})
	return all, err
}
