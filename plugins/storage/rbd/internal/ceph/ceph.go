// Package ceph is what the driver needs of Ceph: one pool with its objects and images, as librados and librbd show it.
//
// Every method calls into C and blocks, for as long as Ceph's own timeouts say; callers bound that (see package lane). Methods of a Pool
// are safe concurrently, those of an Image are not. An error of Ceph wraps its number as a unix.Errno: ENOENT for what is not there, EEXIST,
// EBUSY for an image that somebody has open, ENOTEMPTY for one with snapshots, ETIMEDOUT.
package ceph

import "time"

// Options say where a pool is and who asks.
type Options struct {
	// Monitors are hosts with or without ports; none means those of Ceph's own configuration file.
	Monitors []string
	// User is a name without "client.", or empty for no authentication with the monitors named, else for what the file says.
	User string
	// Key is the user's key as Ceph writes it, in base64. It must not reach a log or an error.
	Key string
	// Pool is the Ceph pool.
	Pool string
	// Settings are further options of a client; they are set last.
	Settings []Setting
	// Timeout is how long a connection may take; it is rounded to seconds.
	Timeout time.Duration
}

// Setting is an option of a Ceph client.
type Setting struct{ Name, Value string }

// Dialer connects to a pool. ENOENT says that the cluster has no such pool.
type Dialer func(Options) (Pool, error)

// Pool is a connection to a Ceph pool.
type Pool interface {
	Objects
	Images
	// Size returns bytes of the cluster, those that are free in it, and those that the pool has in use.
	Size() (total, free, used uint64, err error)
	// Fence keeps what a client with this address may still have under way from being done, for good.
	Fence(addr string) error
	// Close ends the connection, when nothing of it is in use.
	Close()
}

// Objects are the objects of a pool, which hold the metadata of images.
type Objects interface {
	// Read returns an object's bytes, at most limit.
	Read(object string, limit int) ([]byte, error)
	// Delete removes an object.
	Delete(object string) error
	// Values returns the values that an object has for keys.
	Values(object string, keys ...string) (map[string][]byte, error)
	// AllValues returns those of all keys with a prefix; an object that is not there has none.
	AllValues(object, prefix string) (map[string][]byte, error)
	// SetValues sets values, and makes the object if it is not there. RemoveValues removes them.
	SetValues(object string, values map[string][]byte) error
	RemoveValues(object string, keys ...string) error
	Locks
}

// Locks are advisory locks on objects, which end by themselves.
type Locks interface {
	// Lock takes or renews a lock for a time. The cookie is for others to see. EBUSY says that somebody else has it.
	Lock(object, name, cookie string, d time.Duration) error
	// Unlock ends the caller's lock.
	Unlock(object, name, cookie string) error
	// Break ends somebody's lock.
	Break(object, name string, holder Holder) error
	// Holder tells who has a lock, or nil.
	Holder(object, name string) (*Holder, error)
}

// Holder is a client that has a lock.
type Holder struct{ Client, Cookie, Addr string }

// Images are the images of a pool.
type Images interface {
	// Names lists all images.
	Names() ([]string, error)
	// Open opens an image.
	Open(name string, readOnly bool) (Image, error)
	// Create makes an empty image with the features and layout that the settings say, or else Ceph's defaults.
	Create(name string, size uint64) error
	// Clone makes an image that shares what a snapshot, which is protected, has.
	Clone(parent, snapshot, name string) error
	// Rename names an image; EEXIST says that there is one of that name.
	Rename(from, to string) error
	// Remove removes an image; one that is half there, too.
	Remove(name string) error
}

// Image is an open image.
type Image interface {
	Content
	Snapshots
	// Size returns the capacity in bytes.
	Size() (uint64, error)
	// Resize sets it; what lies beyond is lost.
	Resize(size uint64) error
	// Watchers are the addresses of all who have it open for writing, this client's too.
	Watchers() ([]string, error)
	// Close closes it.
	Close() error
}

// Content is what is in an image.
type Content interface {
	ReadAt(p []byte, at int64) (int, error)
	WriteAt(p []byte, at int64) (int, error)
	// Discard makes bytes read as zeros, and frees room.
	Discard(at, length uint64) error
	// Sync returns when all that was written survives power loss.
	Sync() error
	// Extents lists where in a part of the image there may be data, in order, by objects; with what a parent has there, if wanted.
	Extents(at, length uint64, parent bool) ([]Extent, error)
}

// Extent is a part of an image in bytes.
type Extent struct{ At, Length uint64 }

// Snapshots are those of an image.
type Snapshots interface {
	// Snapshots lists names, the oldest first.
	Snapshots() ([]string, error)
	// Snapshot makes a snapshot that clones can be made of.
	Snapshot(name string) error
	// DropSnapshot removes a snapshot; EBUSY says that it has a clone.
	DropSnapshot(name string) error
	// Changed reports whether the image differs from a snapshot that clones can be made of; one that is not protected has changed.
	Changed(snapshot string) (bool, error)
	// Children lists the clones of all snapshots as "pool/image".
	Children() ([]string, error)
}
