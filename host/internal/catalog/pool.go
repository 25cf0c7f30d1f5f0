package catalog

import (
	"encoding/json"
	"fmt"

	"github.com/google/uuid"
	bolt "go.etcd.io/bbolt"
)

// Pool is the record of a storage pool.
type Pool struct {
	UUID       uuid.UUID `json:"uuid"`
	Name       string    `json:"name"`
	Type       string    `json:"type"`
	Persistent bool      `json:"persistent,omitempty"`
	Autostart  bool      `json:"autostart,omitempty"`
	// Active says that the pool shall be usable, and Boot on which boot of the machine it was made so.
	Active bool   `json:"active,omitempty"`
	Boot   string `json:"boot,omitempty"`
	// Started is the last boot on which the pool was started because of Autostart.
	Started string `json:"started,omitempty"`
	// Target is the path of the pool, or empty.
	Target string `json:"target,omitempty"`
	// Exclusive is what no other pool may have too.
	Exclusive []string `json:"exclusive,omitempty"`
	// Secrets are those that the definition names.
	Secrets []SecretRef `json:"secrets,omitempty"`
	// XML is the definition, with which the pool is in use too.
	XML string `json:"xml"`
	// Next is a definition that counts from the next start on, or empty.
	Next *PoolDefinition `json:"next,omitempty"`
}

// PoolDefinition is what a definition says.
type PoolDefinition struct {
	Type      string      `json:"type"`
	Target    string      `json:"target,omitempty"`
	Exclusive []string    `json:"exclusive,omitempty"`
	Secrets   []SecretRef `json:"secrets,omitempty"`
	XML       string      `json:"xml"`
}

// SecretRef names a secret by UUID or usage.
type SecretRef struct {
	UUID  string `json:"uuid,omitempty"`
	Usage string `json:"usage,omitempty"`
	Type  string `json:"type,omitempty"`
}

// PutPool writes a pool's record.
func (t *Tx) PutPool(p *Pool) error {
	data, err := json.Marshal(p)
	if err != nil {
		return fmt.Errorf("encode storage pool %q: %w", p.Name, err)
	}
	if err := t.tx.Bucket(bucketPools).Put(p.UUID[:], data); err != nil {
		return fmt.Errorf("put storage pool %q: %w", p.Name, err)
	}
	return nil
}

// DeletePool removes a pool's record.
func (t *Tx) DeletePool(id uuid.UUID) error {
	if err := t.tx.Bucket(bucketPools).Delete(id[:]); err != nil {
		return fmt.Errorf("delete storage pool %s: %w", id, err)
	}
	return nil
}

// Pools reads all records of storage pools.
func (c *Catalog) Pools() ([]Pool, error) {
	var all []Pool
	err := c.db.View(func(tx *bolt.Tx) error {
		return tx.Bucket(bucketPools).ForEach(func(k, v []byte) error {
			var p Pool
			if err := json.Unmarshal(v, &p); err != nil {
				return fmt.Errorf("decode storage pool %x: %w", k, err)
			}
			all = append(all, p)
			return nil
		})
	})
	return all, err
}
