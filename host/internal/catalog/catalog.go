// Package catalog is the core's memory on disk: what every object is and shall be. It is one bbolt file; a change is durable against
// loss of power when Update has returned, and either whole or absent.
//
// The catalog owns the file and nothing else: it knows records and texts, and no rule about them. All methods are safe
// concurrently. Reads come from the mapped file and never wait for a writer. Changes that arrive together are written by one
// commit, so many clients share the price of a sync. When the disk is full, Update fails, and the catalog stays as it was.
package catalog

import (
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"time"

	bolt "go.etcd.io/bbolt"
)

// schema is the layout of the file; a file of another layout is refused, not guessed at.
const schema = 1

// openTimeout is how long Open waits for another process that has the file open.
const openTimeout = 5 * time.Second

// ErrSchema means that the file was written by another version.
var ErrSchema = errors.New("the catalog has a layout that this version does not know")

var (
	bucketMeta    = []byte("meta")
	bucketDomains = []byte("domains")
	bucketConfig  = []byte("config")
	bucketLive    = []byte("live")
	bucketPlugins = []byte("plugins")
	bucketPools   = []byte("pools")
	bucketSecrets = []byte("secrets")
	keySchema     = []byte("schema")
	keyStarts     = []byte("starts")
)

// Catalog is an open catalog.
type Catalog struct {
	db      *bolt.DB
	changes chan *change
	done    chan struct{}

	mu     sync.RWMutex // closed only with no Update under way
	closed bool
}

// change is one caller's part of a commit.
type change struct {
	apply func(*Tx) error
	err   chan error
}

// Open opens the file, making it if it is missing. Only one process can have it open.
func Open(path string) (*Catalog, error) {
	db, err := bolt.Open(path, 0o600, &bolt.Options{
		Timeout: openTimeout, NoFreelistSync: true, FreelistType: bolt.FreelistMapType,
	})
	if err != nil {
		return nil, fmt.Errorf("open catalog %q: %w", path, err)
	}
	if err := db.Update(prepare); err != nil {
		return nil, errors.Join(fmt.Errorf("prepare catalog %q: %w", path, err), db.Close())
	}
	c := &Catalog{db: db, changes: make(chan *change, maxGroup), done: make(chan struct{})}
	go c.commit()
	return c, nil
}

// prepare makes the buckets and counts the start.
func prepare(tx *bolt.Tx) error {
	for _, name := range [][]byte{bucketMeta, bucketDomains, bucketConfig, bucketLive, bucketPlugins, bucketPools, bucketSecrets} {
		if _, err := tx.CreateBucketIfNotExists(name); err != nil {
			return fmt.Errorf("make bucket %q: %w", name, err)
		}
	}
	meta := tx.Bucket(bucketMeta)
	switch v := number(meta.Get(keySchema)); v {
	case 0:
		if err := meta.Put(keySchema, bytesOf(schema)); err != nil {
			return err
		}
	case schema:
	default:
		return fmt.Errorf("layout %d, this version writes %d: %w", v, schema, ErrSchema)
	}
	return meta.Put(keyStarts, bytesOf(number(meta.Get(keyStarts))+1))
}

// Starts counts how often the catalog was opened, this time included.
func (c *Catalog) Starts() (uint64, error) {
	var n uint64
	err := c.db.View(func(tx *bolt.Tx) error {
		n = number(tx.Bucket(bucketMeta).Get(keyStarts))
		return nil
	})
	return n, err
}

// Close waits for changes under way and closes the file. Later changes fail.
func (c *Catalog) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil
	}
	c.closed = true
	close(c.changes)
	<-c.done
	return c.db.Close()
}

func number(b []byte) uint64 {
	if len(b) != 8 {
		return 0
	}
	return binary.BigEndian.Uint64(b)
}

func bytesOf(n uint64) []byte { return binary.BigEndian.AppendUint64(nil, n) }
