package catalog

import (
	"bytes"
	"fmt"

	bolt "go.etcd.io/bbolt"
)

// MaxKeys bounds what Keys returns.
const MaxKeys = 16384

// Value reads a value of a namespace; ok is false if there is none. Namespaces belong to plugins, by name, and to the core itself
// ("core/...").
func (c *Catalog) Value(namespace, key string) (value []byte, ok bool, err error) {
	err = c.db.View(func(tx *bolt.Tx) error {
		if b := tx.Bucket(bucketPlugins).Bucket([]byte(namespace)); b != nil {
			if v := b.Get([]byte(key)); v != nil {
				value, ok = bytes.Clone(v), true
			}
		}
		return nil
	})
	return value, ok, err
}

// Keys lists the keys of a namespace that have a prefix, ascending, at most MaxKeys.
func (c *Catalog) Keys(namespace, prefix string) ([]string, error) {
	var keys []string
	err := c.db.View(func(tx *bolt.Tx) error {
		b := tx.Bucket(bucketPlugins).Bucket([]byte(namespace))
		if b == nil {
			return nil
		}
		cur := b.Cursor()
		for k, _ := cur.Seek([]byte(prefix)); bytes.HasPrefix(k, []byte(prefix)) && k != nil; k, _ = cur.Next() {
			if len(keys) == MaxKeys {
				return fmt.Errorf("list keys of %q: more than %d", namespace, MaxKeys)
			}
			keys = append(keys, string(k))
		}
		return nil
	})
	return keys, err
}

// PutValue writes a value of a namespace.
func (t *Tx) PutValue(namespace, key string, value []byte) error {
	return t.put(bucketPlugins, namespace, []byte(key), value)
}

// DeleteValue removes a value of a namespace.
func (t *Tx) DeleteValue(namespace, key string) error {
	return t.del(bucketPlugins, namespace, []byte(key))
}
