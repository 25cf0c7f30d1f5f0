// Package record is what the locks look like in etcd: the names of the keys, and their values. It is a format that hosts of different
// versions share, and whose values anybody with access to the cluster may have written: they are read with suspicion.
//
// Below the prefix there are
//
//	host/INSTANCE                    Host: a lodge host that works here; ends with its etcd lease
//	disk/SHA256/h/e                  Holder: who has a disk for itself; ends with its host's etcd lease
//	disk/SHA256/h/s/LIFE             Holder: one of those that share a disk; likewise
//	disk/SHA256/last                 Last: the last holder, or kind of holders, that there was; stays
//	lease/LOCKSPACE/KEY/...          the same for a <lease>
//
// A disk is named by the SHA-256 of its path, a lease by its lockspace and key with everything escaped that is not plain, so no name
// of one resource is the beginning of another's. A holder that shares has a key of its own, named by its life.
//
// All of it is pure, and safe concurrently.
package record

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"time"

	lockv1 "github.com/lodgevirt/lodge/sdk/proto/lodge/lock/v1"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// Limits of what is written, and of what is read.
const (
	// MaxPath is the longest path of a disk, in bytes: Linux's PATH_MAX.
	MaxPath = 4096
	// MaxName is the longest lockspace, key or name of a guest, in bytes.
	MaxName = 1024
	// MaxValue is the largest value that is looked into, in bytes.
	MaxValue = 128 << 10
	// shown is how much of a text that others wrote is put into a sentence, in bytes.
	shown = 256
)

// ID names a resource within the prefix.
type ID string

// NewID checks a resource and returns its name. What is wrong is verr.ConfigUnsupported.
func NewID(r *lockv1.Resource) (ID, error) {
	disk, lockspace, key := r.GetDisk(), r.GetLockspace(), r.GetKey()
	switch {
	case disk != "" && (lockspace != "" || key != ""):
		return "", verr.New(verr.ConfigUnsupported, "a resource is disk %q and lease %q at once", Show(disk), Show(key))
	case disk != "":
		if !strings.HasPrefix(disk, "/") || len(disk) > MaxPath {
			return "", verr.New(verr.ConfigUnsupported, "disk %q has no absolute path of at most %d bytes, so it cannot be locked in etcd", Show(disk), MaxPath)
		}
		sum := sha256.Sum256([]byte(disk))
		return ID("disk/" + hex.EncodeToString(sum[:])), nil
	case key == "":
		return "", verr.New(verr.ConfigUnsupported, "a resource without a disk's path has no lease's key either")
	case len(key) > MaxName || len(lockspace) > MaxName:
		return "", verr.New(verr.ConfigUnsupported, "lease %q in lockspace %q: names may have at most %d bytes", Show(key), Show(lockspace), MaxName)
	case r.GetOffset() != 0:
		return "", verr.New(verr.ConfigUnsupported, "lease %q in lockspace %q: a lock in etcd has no offset, but %d is given", Show(key), Show(lockspace), r.GetOffset())
	}
	return ID("lease/" + url.PathEscape(lockspace) + "/" + url.PathEscape(key)), nil
}

// Title names a resource in a sentence.
func Title(r *lockv1.Resource) string {
	if r.GetDisk() != "" {
		return fmt.Sprintf("disk %q", Show(r.GetDisk()))
	}
	return fmt.Sprintf("lease %q of lockspace %q", Show(r.GetKey()), Show(r.GetLockspace()))
}

// Show cuts a text to what a sentence can bear.
func Show(s string) string {
	if len(s) > shown {
		return strings.ToValidUTF8(s[:shown], "") + "..."
	}
	return s
}

// Life is one life of a guest, on whatever host.
type Life struct {
	// UUID of the guest.
	UUID string
	// Generation counts its starts.
	Generation uint64
}

// LifeOf returns the life that an owner is.
func LifeOf(o *lockv1.Owner) Life { return Life{UUID: o.GetUuid(), Generation: o.GetGeneration()} }

// String is the life as part of a key.
func (l Life) String() string { return l.UUID + "." + strconv.FormatUint(l.Generation, 10) }

// Keys makes the names of keys below a prefix.
type Keys struct {
	// Prefix ends with a slash.
	Prefix string
}

// Host is the key of a host.
func (k Keys) Host(instance string) string { return k.Prefix + "host/" + instance }

// Hosts is before the keys of all hosts.
func (k Keys) Hosts() string { return k.Prefix + "host/" }

// Holders is before the keys of all holders of a resource.
func (k Keys) Holders(id ID) string { return k.Prefix + string(id) + "/h/" }

// Exclusive is the key of a holder that does not share.
func (k Keys) Exclusive(id ID) string { return k.Holders(id) + "e" }

// Shared is the key of a holder that shares; two hosts may have the same life of a guest while it migrates.
func (k Keys) Shared(id ID, instance string, l Life) string {
	return k.Holders(id) + "s/" + l.String() + "." + instance
}

// Last is the key of a resource's last holder.
func (k Keys) Last(id ID) string { return k.Prefix + string(id) + "/last" }

// IsHolder says whether a key is that of a holder, of whatever resource.
func (k Keys) IsHolder(key string) bool {
	rest, ok := strings.CutPrefix(key, k.Prefix)
	parts := strings.Split(rest, "/")
	switch {
	case ok && parts[0] == "disk":
		parts = parts[1:]
	case ok && parts[0] == "lease" && len(parts) > 2:
		parts = parts[2:]
	default:
		return false
	}
	return (len(parts) == 3 && parts[1] == "h" && parts[2] == "e") || (len(parts) == 4 && parts[1] == "h" && parts[2] == "s")
}

// Holder returns the key of one holder.
func (k Keys) Holder(id ID, shared bool, instance string, l Life) string {
	if shared {
		return k.Shared(id, instance, l)
	}
	return k.Exclusive(id)
}

// Holder is the value of a lock.
type Holder struct {
	// Owner is the guest's UUID; Generation counts its starts on its host.
	Owner      string `json:"owner"`
	Generation uint64 `json:"generation"`
	// Name of the guest, and the URI of its connection.
	Name string `json:"name"`
	URI  string `json:"uri,omitempty"`
	// Host is its name for people; Instance and Boot tell hosts apart, and what a host was before it started anew.
	Host     string `json:"host"`
	Instance string `json:"instance"`
	Boot     string `json:"boot"`
	// PID and StartTime are the guest's process, or 0.
	PID       int32  `json:"pid,omitempty"`
	StartTime uint64 `json:"start_time,omitempty"`
	// Since is when it got the lock, by its host's clock.
	Since time.Time `json:"since"`
	// Path of the disk, or Lockspace and Key of the lease.
	Path      string `json:"path,omitempty"`
	Lockspace string `json:"lockspace,omitempty"`
	Key       string `json:"key,omitempty"`
	// Shared says that others may have it too.
	Shared bool `json:"shared,omitempty"`
}

// Life returns whose lock it is.
func (h *Holder) Life() Life { return Life{UUID: h.Owner, Generation: h.Generation} }

// Resource returns what is locked.
func (h *Holder) Resource() *lockv1.Resource {
	return &lockv1.Resource{Disk: h.Path, Lockspace: h.Lockspace, Key: h.Key, Shared: h.Shared}
}

// String tells of the holder in a sentence: guest "web" (UUID) on host "a" since 2026-01-02T15:04:05Z.
func (h *Holder) String() string {
	process := ""
	if h.PID != 0 {
		process = fmt.Sprintf(", process %d", h.PID)
	}
	return fmt.Sprintf("guest %q (%s) on host %q%s since %s",
		Show(h.Name), Show(h.Owner), Show(h.Host), process, h.Since.UTC().Format(time.RFC3339))
}

// Host is the value of a host's key.
type Host struct {
	// Name of the host for people; Boot is which of its starts this is.
	Name string `json:"name"`
	Boot string `json:"boot"`
	// Process is of the plugin's process that wrote it: another one for each.
	Process string `json:"process"`
	// PID is that process, for people.
	PID int `json:"pid"`
	// Since is when that process began to work, by its host's clock.
	Since time.Time `json:"since"`
}

// Last is the value of a resource's last holder. What counts of it is its revision; and Shared, since a holder that shares leaves the
// record of those that share as it is; and whose it is, since who releases a resource for good takes its own record away.
type Last struct {
	Owner      string    `json:"owner"`
	Generation uint64    `json:"generation"`
	Name       string    `json:"name"`
	Host       string    `json:"host"`
	Instance   string    `json:"instance"`
	Since      time.Time `json:"since"`
	Shared     bool      `json:"shared,omitempty"`
}

// Life returns whose record it is.
func (l *Last) Life() Life { return Life{UUID: l.Owner, Generation: l.Generation} }

// Encode makes a value.
func Encode[T Holder | Host | Last](v T) string {
	text, err := json.Marshal(v)
	if err != nil { // there is nothing in them that cannot be encoded
		panic(fmt.Sprintf("encode %T: %v", v, err))
	}
	return string(text)
}

// Decode reads a value that anybody may have written. What it does not know it leaves out: a newer version may have written it.
func Decode[T Holder | Host | Last](value []byte) (*T, error) {
	if len(value) > MaxValue {
		return nil, fmt.Errorf("value has %d bytes, at most %d are expected", len(value), MaxValue)
	}
	v := new(T)
	if err := json.Unmarshal(value, v); err != nil {
		return nil, fmt.Errorf("read value: %w", err)
	}
	return v, nil
}
