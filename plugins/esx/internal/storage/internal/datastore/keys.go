package datastore

import (
	"context"
	"sync"
	"time"

	"github.com/vmware/govmomi/vim25"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/lodgevirt/lodge/plugins/esx/internal/storage/internal/ident"
	"github.com/lodgevirt/lodge/plugins/esx/internal/storage/internal/task"
)

// askers is how many disks of a datastore are asked for their UUIDs at the same time.
const askers = 4

// Keys remembers the UUIDs of the disks of a datastore. The zero value is empty; all methods are safe concurrently.
type Keys struct {
	mu sync.Mutex
	// known is by the disk's name, owner the name by UUID.
	known map[string]knownKey
	owner map[string]string
}

// knownKey is a UUID, good for as long as the disk looks the same.
type knownKey struct {
	uuid  string
	stamp stamp
}

// stamp is what of a disk changes when another one takes its name.
type stamp struct {
	modified time.Time
	size     int64
	capacity int64
}

func stampOf(f found) stamp {
	info := f.info.GetFileInfo()
	s := stamp{size: info.FileSize}
	if info.Modification != nil {
		s.modified = *info.Modification
	}
	if disk, ok := f.info.(*types.VmDiskFileInfo); ok {
		s.capacity = disk.CapacityKb
	}
	return s
}

// get returns what is known of a disk.
func (k *Keys) get(f found) (uuid string, ok bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	have, ok := k.known[f.name]
	return have.uuid, ok && have.stamp == stampOf(f)
}

// put remembers a UUID, empty for a disk without one, and returns the one that the disk is known by: of several with one UUID, which copies of
// files have, the first that was found has it, and the others none.
func (k *Keys) put(f found, uuid string) string {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.known == nil {
		k.known, k.owner = map[string]knownKey{}, map[string]string{}
	}
	k.forget(f.name)
	if _, taken := k.owner[uuid]; taken {
		uuid = ""
	}
	k.known[f.name] = knownKey{uuid, stampOf(f)}
	if uuid != "" {
		k.owner[uuid] = f.name
	}
	return uuid
}

// drop forgets a disk.
func (k *Keys) drop(name string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.forget(name)
}

// keep forgets all disks but some.
func (k *Keys) keep(all []found) {
	names := make(map[string]bool, len(all))
	for _, f := range all {
		names[f.name] = true
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	for name := range k.known {
		if !names[name] {
			k.forget(name)
		}
	}
}

// forget forgets a disk; mu is held.
func (k *Keys) forget(name string) {
	uuid := k.known[name].uuid
	delete(k.known, name)
	if k.owner[uuid] == name {
		delete(k.owner, uuid)
	}
}

// ask finds out the UUIDs of disks that are not known, a few at a time, and remembers them in the order of the disks.
func (p *Pool) ask(ctx context.Context, all []found) error {
	var unknown []found
	for _, f := range all {
		if _, known := p.keys.get(f); !known && isDisk(f.name) {
			unknown = append(unknown, f)
		}
	}
	uuids, errs := make([]string, len(unknown)), make([]error, askers)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var asking sync.WaitGroup
	for first := range askers {
		asking.Go(func() {
			for n := first; n < len(unknown) && errs[first] == nil; n += askers {
				if uuids[n], errs[first] = p.uuid(ctx, unknown[n].name); errs[first] != nil {
					cancel()
				}
			}
		})
	}
	asking.Wait()
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	for n, f := range unknown {
		p.keys.put(f, uuids[n])
	}
	return nil
}

// uuid asks for the UUID of a disk; it is empty for one whose host does not tell.
func (p *Pool) uuid(ctx context.Context, name string) (uuid string, err error) {
	err = p.place.Endpoint.Do(ctx, func(ctx context.Context, client *vim25.Client) error {
		h, err := p.hands(client)
		if err != nil {
			return err
		}
		text, err := h.disks.QueryVirtualDiskUuid(ctx, p.path(name), h.dc)
		if err == nil {
			uuid = ident.Disk(text)
		}
		return err
	})
	if err != nil && !task.Answered(err) {
		return "", task.Explain(err, "ask for the UUID of '%s'", p.path(name))
	}
	return uuid, nil
}
