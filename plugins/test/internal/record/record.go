// Package record keeps the pretended guests: each is one small file in a folder that a reboot empties.
//
// A guest lives for as long as its file is there. So it outlives this process as a real guest's process does, and removing the
// file kills it. Files are replaced as a whole and never synced: what a crash of the machine takes with it is as dead as
// a real guest would be. The driver owns the folder; a Store is safe concurrently for different guests. On failure nothing has
// changed.
package record

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/lodgevirt/lodge/plugins/test/internal/define"
	"github.com/lodgevirt/lodge/plugins/test/internal/fault"
	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/hypervisor/v1"
)

// maxSize bounds a file, in bytes.
const maxSize = 16 << 20

// Record is all that there is to a pretended guest.
type Record struct {
	// UUID, Name and Generation say which life of which guest it is.
	UUID       string `json:"uuid"`
	Name       string `json:"name"`
	Generation uint64 `json:"generation"`
	// State and Reason are libvirt's.
	State  pb.State `json:"state"`
	Reason int32    `json:"reason"`
	// Started is when the guest came to life.
	Started time.Time `json:"started"`
	// Ran is how long its vCPUs ran up to RunningSince, which is zero while they are stopped.
	Ran          time.Duration `json:"ran"`
	RunningSince time.Time     `json:"running_since"`
	// Shape is what of the definition matters while it lives.
	Shape define.Shape `json:"shape"`
	// Live is the live definition of a guest whose devices have changed, empty for any other.
	Live string `json:"live,omitempty"`
	// Acts are what it will do by itself.
	Acts []fault.Act `json:"acts,omitempty"`
}

// Uptime is how long the guest's vCPUs ran until now.
func (r *Record) Uptime(now time.Time) time.Duration {
	if r.RunningSince.IsZero() {
		return r.Ran
	}
	return r.Ran + now.Sub(r.RunningSince)
}

// SetState changes the state and starts or stops the guest's clock with it.
func (r *Record) SetState(now time.Time, state pb.State, reason int32) {
	r.Ran = r.Uptime(now)
	r.RunningSince = time.Time{}
	if state == pb.State_STATE_RUNNING {
		r.RunningSince = now
	}
	r.State, r.Reason = state, reason
}

// Store is a folder of records.
type Store struct {
	dir func() string
}

// NewStore returns the store in the folder that dir names at each call.
func NewStore(dir func() string) *Store { return &Store{dir: dir} }

// Load returns the record of a living guest, or nil if there is none.
func (s *Store) Load(uuid string) (*Record, error) {
	path, err := s.path(uuid)
	if err != nil {
		return nil, err
	}
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read guest %q: %w", uuid, err)
	}
	defer func() { _ = f.Close() }()
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("read guest %q: %w", uuid, err)
	}
	if info.Size() > maxSize {
		return nil, fmt.Errorf("read guest %q: record of %d bytes is too large", uuid, info.Size())
	}
	r := &Record{}
	if err := json.NewDecoder(f).Decode(r); err != nil {
		return nil, fmt.Errorf("read guest %q: %w", uuid, err)
	}
	return r, nil
}

// Save makes a guest be what its record says.
func (s *Store) Save(r *Record) error {
	b, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("write guest %q: %w", r.UUID, err)
	}
	path, err := s.path(r.UUID)
	if err != nil {
		return err
	}
	if err := os.WriteFile(path+".new", b, 0o600); err != nil {
		return fmt.Errorf("write guest %q: %w", r.UUID, err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		return fmt.Errorf("write guest %q: %w", r.UUID, err)
	}
	return nil
}

// Remove ends a guest; one that is gone already is a success.
func (s *Store) Remove(uuid string) error {
	path, err := s.path(uuid)
	if err != nil {
		return err
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove guest %q: %w", uuid, err)
	}
	return nil
}

// path keeps whatever a UUID may hold within the folder.
func (s *Store) path(uuid string) (string, error) {
	dir := s.dir()
	if dir == "" {
		return "", errors.New("plugin has not been configured: there is no folder for guests")
	}
	return filepath.Join(dir, filepath.Base(filepath.Clean("/"+uuid))+".guest"), nil
}
