package pool

import (
	"slices"
	"strings"
	"sync"

	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/storage/v1"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// maxVolumes bounds the volumes of one pool; libvirt's clients take 16,384 in one list.
const maxVolumes = 1 << 20

// mirror is the picture of a pool's volumes. Volumes in it are never changed in place.
type mirror struct {
	mu      sync.RWMutex // guards all below; never held across a call
	first   chan struct{}
	isSeen  bool
	volumes picture
	size    *pb.PoolSize
	sorted  []*pb.Volume // nil when it must be made anew
	// during are the changes made while a look is under way: nil volumes are removed ones. It is nil when none is.
	during map[string]*pb.Volume
	// told is the revision that the driver has told last of a pool that a hypervisor keeps, looked that of the last look.
	told, looked string
}

// picture is volumes with their indexes.
type picture struct {
	byName, byKey, byPath map[string]*pb.Volume
}

func newPicture() picture {
	return picture{byName: map[string]*pb.Volume{}, byKey: map[string]*pb.Volume{}, byPath: map[string]*pb.Volume{}}
}

// add puts volumes in that a driver has told.
func (p *picture) add(volumes []*pb.Volume) error {
	for _, v := range volumes {
		if v.GetName() == "" || v.GetKey() == "" || v.GetType() == pb.VolumeType_VOLUME_TYPE_UNSPECIFIED {
			return storageError(verr.Internal, "driver told of a volume without name, key or type: %q", v.GetName())
		}
		if len(p.byName) >= maxVolumes {
			return storageError(verr.OperationFailed, "storage pool has more than %d volumes", maxVolumes)
		}
		p.put(v)
	}
	return nil
}

func (p *picture) put(v *pb.Volume) {
	p.drop(v.GetName())
	p.byName[v.GetName()], p.byKey[v.GetKey()] = v, v
	if v.GetPath() != "" {
		p.byPath[v.GetPath()] = v
	}
}

func (p *picture) drop(name string) {
	old := p.byName[name]
	if old == nil {
		return
	}
	delete(p.byName, name)
	if p.byKey[old.GetKey()] == old {
		delete(p.byKey, old.GetKey())
	}
	if p.byPath[old.GetPath()] == old {
		delete(p.byPath, old.GetPath())
	}
}

// reset forgets everything: the pool has not been looked at.
func (m *mirror) reset() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.volumes, m.size, m.sorted, m.during = newPicture(), &pb.PoolSize{}, nil, nil
	if m.first == nil || m.isSeen {
		m.first, m.isSeen = make(chan struct{}), false
	}
}

// seen is closed once the pool has been looked at.
func (m *mirror) seen() <-chan struct{} {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.first
}

// beginLook returns an empty picture; changes are noted from now on.
func (m *mirror) beginLook() *picture {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.during = map[string]*pb.Volume{}
	next := newPicture()
	return &next
}

// giveUp ends a look that has failed.
func (m *mirror) giveUp() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.during = nil
}

// endLook makes a picture the present one.
func (m *mirror) endLook(next *picture, size *pb.PoolSize) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for name, v := range m.during {
		if v == nil {
			next.drop(name)
		} else {
			next.put(v)
		}
	}
	m.volumes, m.size, m.during, m.sorted = *next, size, nil, nil
	if !m.isSeen {
		close(m.first)
		m.isSeen = true
	}
}

// put enters a volume that was made or changed. grown is how much more room it takes.
func (m *mirror) put(v *pb.Volume) {
	m.mu.Lock()
	defer m.mu.Unlock()
	old := m.volumes.byName[v.GetName()]
	m.account(int64(v.GetAllocation()) - int64(old.GetAllocation()))
	m.volumes.put(v)
	m.sorted = nil
	if m.during != nil {
		m.during[v.GetName()] = v
	}
}

// drop removes a volume.
func (m *mirror) drop(name string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.account(-int64(m.volumes.byName[name].GetAllocation()))
	m.volumes.drop(name)
	m.sorted = nil
	if m.during != nil {
		m.during[name] = nil
	}
}

// account keeps the pool's room true until the next look; mu is held.
func (m *mirror) account(grown int64) {
	size := &pb.PoolSize{
		Capacity: m.size.GetCapacity(), Allocation: moved(m.size.GetAllocation(), grown), Available: moved(m.size.GetAvailable(), -grown),
		Permissions: m.size.GetPermissions(), Free: m.size.GetFree(), Entangled: m.size.GetEntangled(),
	}
	m.size = size
}

// moved adds within what the number can be.
func moved(n uint64, by int64) uint64 {
	if by < 0 && uint64(-by) > n {
		return 0
	}
	return n + uint64(by)
}

// room is the pool's size.
func (m *mirror) room() *pb.PoolSize {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.size
}

// list returns all volumes by name; the slice is shared and must not be changed.
func (m *mirror) list() []*pb.Volume {
	m.mu.RLock()
	sorted := m.sorted
	m.mu.RUnlock()
	if sorted != nil {
		return sorted
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.sorted == nil {
		m.sorted = make([]*pb.Volume, 0, len(m.volumes.byName))
		for _, v := range m.volumes.byName {
			m.sorted = append(m.sorted, v)
		}
		slices.SortFunc(m.sorted, func(a, b *pb.Volume) int { return strings.Compare(a.Name, b.Name) })
	}
	return m.sorted
}

// find looks a volume up in one of the indexes.
func (m *mirror) find(index func(*picture) map[string]*pb.Volume, word string) *pb.Volume {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return index(&m.volumes)[word]
}
