package catalog

import (
	"encoding/json"
	"fmt"

	"github.com/google/uuid"
	bolt "go.etcd.io/bbolt"
)

// Phase says how far a guest's life is known to have come.
type Phase string

// Phases of a guest.
const (
	// Inactive: nothing runs.
	Inactive Phase = ""
	// Starting: the core wanted to start it; whether it did is to be found out by Recover.
	Starting Phase = "starting"
	// Active: it was started and its handle is known.
	Active Phase = "active"
)

// Domain is the record of a domain: all that the core needs at its start without parsing XML.
type Domain struct {
	UUID       uuid.UUID `json:"uuid"`
	Name       string    `json:"name"`
	Persistent bool      `json:"persistent,omitempty"`
	Autostart  bool      `json:"autostart,omitempty"`
	// Updated says that config differs from what the guest was started with.
	Updated bool `json:"updated,omitempty"`
	// Seed says that the domain belongs to the connection and is started at boot.
	Seed    bool    `json:"seed,omitempty"`
	Summary Summary `json:"summary"`
	// Generation counts the starts.
	Generation uint64 `json:"generation,omitempty"`
	Phase      Phase  `json:"phase,omitempty"`
	// ID is libvirt's domain id, for a phase other than Inactive.
	ID int32 `json:"id,omitempty"`
	// Paused says that the guest was asked to start with stopped vCPUs.
	Paused bool `json:"paused,omitempty"`
	// LockState is what the lock manager wants to see again when a suspended guest goes on.
	LockState []byte `json:"lock_state,omitempty"`
	// Volumes are what the volumes stand for that disks of the guest name, for a phase other than Inactive.
	Volumes []DiskVolume `json:"volumes,omitempty"`
	// Loose are locks that may be held for the guest and are to be freed unless its live definition needs them.
	Loose []Lock `json:"loose,omitempty"`
	// Handle is the driver's, for phase Active.
	Handle *Handle `json:"handle,omitempty"`
	// Saved says that the managed file has the state that the guest goes on from at its next start.
	Saved bool `json:"saved,omitempty"`
	// Saving is a save under way, for phase Active.
	Saving *Saving `json:"saving,omitempty"`
	// Restoring says that the guest is started from a file, for phase Starting.
	Restoring *Restoring `json:"restoring,omitempty"`
	// Resume says that the guest was restored and is still to be let run, for phase Active.
	Resume bool `json:"resume,omitempty"`
}

// Saving is the intent to save a guest.
type Saving struct {
	// ID is that of the file.
	ID [16]byte `json:"id"`
	// Path is the file that there is to be, Part the one that is written.
	Path string `json:"path"`
	Part string `json:"part"`
	// Managed says that the file is the core's own.
	Managed bool `json:"managed,omitempty"`
	// Ran says that the guest's vCPUs ran before.
	Ran bool `json:"ran,omitempty"`
}

// Restoring is the intent to start a guest from a file.
type Restoring struct {
	// Managed says that the file is the core's own, and is given up when the guest is alive.
	Managed bool `json:"managed,omitempty"`
	// Run says that the guest is to run, and not to stay paused.
	Run bool `json:"run,omitempty"`
	// Wish says that it stays paused by a wish, and not because it was paused when it was saved.
	Wish bool `json:"wish,omitempty"`
}

// DiskVolume is what a volume stands for that a disk of a guest names. It was found when the disk was opened and stays so for as long as
// the guest has it, whatever becomes of the pool.
type DiskVolume struct {
	// Target is the disk's name in the guest.
	Target string `json:"target"`
	Pool   string `json:"pool"`
	Volume string `json:"volume"`
	// Path is the file or, with Block, the device on this machine; empty for a volume that is reached by Network.
	Path    string         `json:"path,omitempty"`
	Block   bool           `json:"block,omitempty"`
	Network *NetworkSource `json:"network,omitempty"`
}

// Names reports whether it is about the same names as another one, whatever they stand for.
func (v DiskVolume) Names(other *DiskVolume) bool {
	return v.Target == other.Target && v.Pool == other.Pool && v.Volume == other.Volume
}

// NetworkSource is how a volume is reached over a network.
type NetworkSource struct {
	Protocol string        `json:"protocol"`
	Name     string        `json:"name"`
	Hosts    []NetworkHost `json:"hosts,omitempty"`
	User     string        `json:"user,omitempty"`
	// Secret is that of User, or nil.
	Secret *SecretRef `json:"secret,omitempty"`
}

// NetworkHost is one host of such a source; port 0 is the protocol's own.
type NetworkHost struct {
	Name string `json:"name"`
	Port uint32 `json:"port,omitempty"`
}

// Lock is what a lock manager locks: a disk by its path, or a lease by its name.
type Lock struct {
	Disk   string `json:"disk,omitempty"`
	Target string `json:"target,omitempty"`
	Shared bool   `json:"shared,omitempty"`

	Lockspace string `json:"lockspace,omitempty"`
	Key       string `json:"key,omitempty"`
	Path      string `json:"path,omitempty"`
	Offset    uint64 `json:"offset,omitempty"`
}

// Summary is what lists show of the definition.
type Summary struct {
	Title        string `json:"title,omitempty"`
	OSType       string `json:"os_type,omitempty"`
	MaxMemoryKiB uint64 `json:"max_memory_kib,omitempty"`
	MemoryKiB    uint64 `json:"memory_kib,omitempty"`
	MaxVCPUs     uint32 `json:"max_vcpus,omitempty"`
	VCPUs        uint32 `json:"vcpus,omitempty"`
	HasSecrets   bool   `json:"has_secrets,omitempty"`
}

// Handle is how the driver finds the guest again.
type Handle struct {
	Version   uint32 `json:"version"`
	Data      []byte `json:"data,omitempty"`
	PID       int32  `json:"pid,omitempty"`
	StartTime uint64 `json:"start_time,omitempty"`
	Cgroup    string `json:"cgroup,omitempty"`
}

// Tx is a change under way.
type Tx struct{ tx *bolt.Tx }

// PutDomain writes a domain's record under its connection's URI.
func (t *Tx) PutDomain(uri string, d *Domain) error {
	data, err := json.Marshal(d)
	if err != nil {
		return fmt.Errorf("encode domain %q: %w", d.Name, err)
	}
	return t.put(bucketDomains, uri, d.UUID[:], data)
}

// PutConfig writes the definition that outlives the guest.
func (t *Tx) PutConfig(uri string, id uuid.UUID, xml string) error {
	return t.put(bucketConfig, uri, id[:], []byte(xml))
}

// PutLive writes the definition of the running guest.
func (t *Tx) PutLive(uri string, id uuid.UUID, xml string) error {
	return t.put(bucketLive, uri, id[:], []byte(xml))
}

// DeleteLive removes the definition of the running guest.
func (t *Tx) DeleteLive(uri string, id uuid.UUID) error {
	return t.del(bucketLive, uri, id[:])
}

// DeleteDomain removes all that is known of a domain.
func (t *Tx) DeleteDomain(uri string, id uuid.UUID) error {
	for _, bucket := range [][]byte{bucketDomains, bucketConfig, bucketLive} {
		if err := t.del(bucket, uri, id[:]); err != nil {
			return err
		}
	}
	return nil
}

func (t *Tx) put(bucket []byte, name string, key, value []byte) error {
	b, err := t.tx.Bucket(bucket).CreateBucketIfNotExists([]byte(name))
	if err != nil {
		return fmt.Errorf("make bucket %q of %s: %w", name, bucket, err)
	}
	if err := b.Put(key, value); err != nil {
		return fmt.Errorf("put into %q of %s: %w", name, bucket, err)
	}
	return nil
}

func (t *Tx) del(bucket []byte, name string, key []byte) error {
	b := t.tx.Bucket(bucket).Bucket([]byte(name))
	if b == nil {
		return nil
	}
	if err := b.Delete(key); err != nil {
		return fmt.Errorf("delete from %q of %s: %w", name, bucket, err)
	}
	return nil
}

// Domains reads all records of a connection.
func (c *Catalog) Domains(uri string) ([]Domain, error) {
	var all []Domain
	err := c.db.View(func(tx *bolt.Tx) error {
		b := tx.Bucket(bucketDomains).Bucket([]byte(uri))
		if b == nil {
			return nil
		}
		return b.ForEach(func(k, v []byte) error {
			var d Domain
			if err := json.Unmarshal(v, &d); err != nil {
				return fmt.Errorf("decode domain %x of %q: %w", k, uri, err)
			}
			all = append(all, d)
			return nil
		})
	})
	return all, err
}

// Config reads the definition that outlives the guest, or "".
func (c *Catalog) Config(uri string, id uuid.UUID) (string, error) {
	return c.text(bucketConfig, uri, id[:])
}

// Live reads the definition of the running guest, or "".
func (c *Catalog) Live(uri string, id uuid.UUID) (string, error) {
	return c.text(bucketLive, uri, id[:])
}

func (c *Catalog) text(bucket []byte, name string, key []byte) (string, error) {
	var text string
	err := c.db.View(func(tx *bolt.Tx) error {
		if b := tx.Bucket(bucket).Bucket([]byte(name)); b != nil {
			text = string(b.Get(key))
		}
		return nil
	})
	return text, err
}
