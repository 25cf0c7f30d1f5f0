package pool

import (
	"context"
	"errors"
	"io"
	"math"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/lodgevirt/lodge/host/internal/catalog"
	"github.com/lodgevirt/lodge/host/internal/event"
	"github.com/lodgevirt/lodge/sdk/domxml"
	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/storage/v1"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// Volume is a volume as it was when it was found. It is a value.
type Volume struct {
	// Pool is where it is.
	Pool *Pool
	*pb.Volume
}

// Volumes returns all volumes of a pool in use, by name.
func (p *Pool) Volumes(ctx context.Context) ([]Volume, error) {
	if err := p.usable(ctx); err != nil {
		return nil, err
	}
	list := p.volumes.list()
	out := make([]Volume, len(list))
	for n, v := range list {
		out[n] = Volume{p, v}
	}
	return out, nil
}

// Count returns how many volumes a pool in use has.
func (p *Pool) Count(ctx context.Context) (int, error) {
	if err := p.usable(ctx); err != nil {
		return 0, err
	}
	return len(p.volumes.list()), nil
}

// usable waits until questions about volumes can be answered.
func (p *Pool) usable(ctx context.Context) error {
	if s := p.state.Load(); !s.Active() {
		return notActive(s.Name)
	}
	return p.looked(ctx)
}

// Volume finds a volume of a pool in use by its name, or fails with NoStorageVol.
func (p *Pool) Volume(ctx context.Context, name string) (Volume, error) {
	if err := p.usable(ctx); err != nil {
		return Volume{}, err
	}
	v := p.volumes.find(func(i *picture) map[string]*pb.Volume { return i.byName }, name)
	if v == nil {
		return Volume{}, noVolume("name", name)
	}
	return Volume{p, v}, nil
}

// Resolve finds the volume that a guest's disk names, with the type of its pool. It fails with NoStoragePool or NoStorageVol if there is none,
// with ConfigUnsupported if the pool is not in use. A pool that this boot starts is waited for, at most firstLook.
func (i *Inventory) Resolve(ctx context.Context, name, volume string) (poolType string, found *pb.Volume, err error) {
	p, err := i.ByName(name)
	if err != nil {
		return "", nil, err
	}
	p.awaitBoot(ctx)
	v, err := p.Volume(ctx, volume)
	switch {
	case !p.state.Load().Active():
		return "", nil, storageError(verr.ConfigUnsupported, "storage pool '%s' containing volume '%s' is not active", name, volume)
	case verr.Is(err, verr.NoStorageVol):
		return "", nil, storageError(verr.NoStorageVol, "no storage vol with matching name '%s' in storage pool '%s'", volume, name)
	case err != nil:
		return "", nil, err
	}
	return p.View().Type, v.Volume, nil
}

func noVolume(what, word string) error {
	return storageError(verr.NoStorageVol, "no storage vol with matching %s '%s'", what, word)
}

// VolumeByKey finds a volume of any pool in use, or fails with NoStorageVol.
func (i *Inventory) VolumeByKey(ctx context.Context, key string) (Volume, error) {
	return i.volumeBy(ctx, "key", key, func(p *picture) map[string]*pb.Volume { return p.byKey })
}

// VolumeByPath finds a volume of any pool in use, or fails with NoStorageVol.
func (i *Inventory) VolumeByPath(ctx context.Context, path string) (Volume, error) {
	return i.volumeBy(ctx, "path", path, func(p *picture) map[string]*pb.Volume { return p.byPath })
}

// volumeBy asks every pool that was looked at, and only then waits for those that were not, or may have changed.
func (i *Inventory) volumeBy(ctx context.Context, what, word string, index func(*picture) map[string]*pb.Volume) (Volume, error) {
	var unseen []*Pool
	for _, p := range i.All() {
		if s := p.state.Load(); !s.Active() {
			continue
		}
		if v := p.volumes.find(index, word); v != nil {
			return Volume{p, v}, nil
		}
		if _, is := p.volumes.outdated(); is {
			unseen = append(unseen, p)
		}
	}
	for _, p := range unseen {
		if p.looked(ctx) != nil {
			continue // a pool that does not answer hides nobody else's volume
		}
		if v := p.volumes.find(index, word); v != nil {
			return Volume{p, v}, nil
		}
	}
	return Volume{}, noVolume(what, word)
}

// busy reports whether work on volumes is under way.
func (p *Pool) busy() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.work) > 0
}

// take reserves a volume's name for one change.
func (p *Pool) take(name string) (release func(), err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.work[name] {
		return nil, storageError(verr.OperationInvalid, "volume '%s' is still in use by another job.", name)
	}
	p.work[name] = true
	return func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		delete(p.work, name)
	}, nil
}

// Bits of virStorageVolCreateFlags, virStorageVolDeleteFlags and virStorageVolResizeFlags.
const (
	volPreallocMetadata = 1 << 0
	volReflink          = 1 << 1
	volValidate         = 1 << 2
	volCreateKnown      = volPreallocMetadata | volReflink | volValidate

	volZeroed       = 1 << 0
	volWithSnapshot = 1 << 1

	volAllocate = 1 << 0
	volDelta    = 1 << 1
	volShrink   = 1 << 2
)

// CreateVolume makes a volume as its definition says, empty or from another one; flags are virStorageVolCreateFlags.
func (p *Pool) CreateVolume(ctx context.Context, xml string, flags uint32, from *Volume) (Volume, error) {
	if flags&^volCreateKnown != 0 {
		return Volume{}, unknownFlags(flags &^ volCreateKnown)
	}
	if len(xml) > maxXML {
		return Volume{}, storageError(verr.XMLError, "definition of volume has %d bytes, at most %d are allowed", len(xml), maxXML)
	}
	name, err := domxml.RootChild(xml, "volume", "name")
	if err != nil {
		return Volume{}, err
	}
	if name == "" {
		return Volume{}, storageError(verr.XMLError, "missing volume name element")
	}
	if err := p.usable(ctx); err != nil {
		return Volume{}, err
	}
	release, err := p.take(name)
	if err != nil {
		return Volume{}, err
	}
	defer release()
	if _, err := p.Volume(ctx, name); err == nil {
		return Volume{}, storageError(verr.StorageVolExist, "'%s'", name)
	}
	if from != nil {
		done, err := from.Pool.take(from.Name)
		if err != nil {
			return Volume{}, err
		}
		defer done()
	}
	made, err := p.create(ctx, name, &pb.CreateRequest{Xml: xml, Flags: flags}, from)
	if err != nil {
		return Volume{}, p.foundAfter(ctx, name, err)
	}
	p.volumes.put(made)
	p.untangle(ctx)
	return Volume{p, made}, nil
}

// untangle looks at the pool again after a change of a volume that may have changed others. The change itself is told already.
func (p *Pool) untangle(ctx context.Context) {
	if !p.volumes.room().GetEntangled() {
		return
	}
	ctx, cancel := detached(ctx)
	defer cancel()
	if err := p.look(ctx); err != nil {
		p.inv.cfg.Log.Warn("storage pool could not be looked at again", "pool", p.View().Name, "error", err)
	}
}

// create has the driver make a volume.
func (p *Pool) create(ctx context.Context, name string, req *pb.CreateRequest, from *Volume) (*pb.Volume, error) {
	conn, ref, err := p.driver(ctx)
	if err != nil {
		return nil, err
	}
	req.Pool = ref
	refs, err := encryptionSecrets(req.Xml)
	if err != nil {
		return nil, err
	}
	if req.Secrets, err = p.secrets(ctx, refs); err != nil {
		return nil, err
	}
	if from != nil {
		req.From = from.Volume
		if req.FromSecrets, err = from.passphrase(ctx); err != nil {
			return nil, err
		}
		if from.Pool.View().Type != p.View().Type {
			if other, err := from.Pool.conn(); err != nil || other != conn {
				return nil, storageError(verr.NoSupport, "a volume of pool '%s' cannot be copied into pool '%s', which has another driver",
					from.Pool.View().Name, p.View().Name)
			}
		}
		if req.FromPool, err = from.Pool.ref(ctx); err != nil {
			return nil, err
		}
	}
	var made *pb.Volume
	err = p.follow(ctx, "create", name, func(ctx context.Context, t *task) error {
		stream, err := pb.NewVolumeServiceClient(conn).Create(ctx, req)
		for err == nil {
			var msg *pb.CreateResponse
			if msg, err = stream.Recv(); err == nil {
				t.tell(msg.GetProgress())
				made = msg.GetVolume()
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		return err
	})
	if err != nil {
		return nil, unlessLacking(err, "volume creation")
	}
	if made.GetName() == "" || made.GetKey() == "" {
		return nil, storageError(verr.Internal, "driver of storage pool '%s' did not tell what it has made", ref.Name)
	}
	return made, nil
}

// secrets finds values; none are needed where nothing is named.
func (p *Pool) secrets(ctx context.Context, refs []catalog.SecretRef) ([]*pb.Secret, error) {
	if len(refs) == 0 {
		return nil, nil
	}
	return p.inv.cfg.Secrets.Values(ctx, refs)
}

// passphrase finds that of a volume that is encrypted: what it names, or else the secret for its path.
func (v Volume) passphrase(ctx context.Context) ([]*pb.Secret, error) {
	e := v.GetEncryption()
	if e == nil {
		return nil, nil
	}
	ref := catalog.SecretRef{Usage: v.GetPath(), Type: "volume"}
	if s := e.GetSecret(); s != nil {
		ref = catalog.SecretRef{UUID: s.GetUuid(), Usage: s.GetUsage(), Type: "volume"}
	}
	return v.Pool.secrets(ctx, []catalog.SecretRef{ref})
}

// foundAfter looks at a volume after a change of it has failed, so that what is known of it is true, and returns the error.
func (p *Pool) foundAfter(ctx context.Context, name string, cause error) error {
	ctx, cancel := detached(ctx)
	defer cancel()
	if err := p.lookAt(ctx, name); err != nil && !looksAtNone(err) {
		p.inv.cfg.Log.Warn("volume could not be looked at again", "pool", p.View().Name, "volume", name, "error", err)
	}
	p.untangle(ctx)
	return cause
}

// looksAtNone reports whether a look failed because the driver, which makes no volumes, looks at no single ones either: what it has told of
// them stays.
func looksAtNone(err error) bool { return lacks(err) }

// lacks reports whether a call failed because the driver has no such service. Its own refusals bring a libvirt error along.
func lacks(err error) bool {
	st, ok := status.FromError(err)
	return ok && st.Code() == codes.Unimplemented && len(st.Details()) == 0
}

// unlessLacking is an error of a call, in libvirt's words if the driver has no such service.
func unlessLacking(err error, what string) error {
	if lacks(err) {
		return storageError(verr.NoSupport, "storage pool does not support %s", what)
	}
	return err
}

// lookAt has the driver look at one volume, and takes in what it says.
func (p *Pool) lookAt(ctx context.Context, name string) error {
	conn, ref, err := p.driver(ctx)
	if err != nil {
		return err
	}
	rsp, err := pb.NewVolumeServiceClient(conn).Look(ctx, &pb.LookRequest{Pool: ref, Name: name})
	switch {
	case err == nil:
		p.volumes.put(rsp.GetVolume())
	case verr.From(err).Code == verr.NoStorageVol:
		p.volumes.drop(name)
	default:
		return err
	}
	return nil
}

// Delete removes a volume; flags are virStorageVolDeleteFlags.
func (v Volume) Delete(ctx context.Context, flags uint32) error {
	if flags&^(volZeroed|volWithSnapshot) != 0 {
		return unknownFlags(flags &^ (volZeroed | volWithSnapshot))
	}
	return v.change(ctx, func(ctx context.Context) error {
		conn, ref, err := v.Pool.driver(ctx)
		if err != nil {
			return err
		}
		_, err = pb.NewVolumeServiceClient(conn).Remove(ctx, &pb.RemoveRequest{Pool: ref, Volume: v.Volume, Flags: flags})
		if err == nil {
			v.Pool.volumes.drop(v.Name)
			v.Pool.untangle(ctx)
		}
		return unlessLacking(err, "vol deletion")
	})
}

// change runs the one change of a volume that may be under way, and looks at the volume again if it fails.
func (v Volume) change(ctx context.Context, do func(context.Context) error) error {
	release, err := v.Pool.take(v.Name)
	if err != nil {
		return err
	}
	defer release()
	if err := do(ctx); err != nil {
		return v.Pool.foundAfter(ctx, v.Name, err)
	}
	return nil
}

// Resize changes the capacity in bytes; flags are virStorageVolResizeFlags.
func (v Volume) Resize(ctx context.Context, size uint64, flags uint32) error {
	if flags&^(volAllocate|volDelta|volShrink) != 0 {
		return unknownFlags(flags &^ (volAllocate | volDelta | volShrink))
	}
	target := size
	switch {
	case flags&volDelta != 0 && flags&volShrink != 0:
		target = v.Capacity - min(v.Capacity, size)
	case flags&volDelta != 0:
		if size > math.MaxUint64-v.Capacity {
			return storageError(verr.InvalidArg, "capacity of volume '%s' would be too big", v.Name)
		}
		target = v.Capacity + size
	}
	if target < v.Capacity && flags&volShrink == 0 {
		return storageError(verr.InvalidArg, "Can't shrink capacity below current capacity unless shrink flag explicitly specified")
	}
	if target < v.Allocation && flags&volShrink == 0 {
		return storageError(verr.InvalidArg, "can't shrink capacity below existing allocation")
	}
	if room := v.Pool.volumes.room().GetAvailable(); flags&volAllocate != 0 && target > v.Capacity && target-v.Capacity > room {
		return storageError(verr.OperationFailed, "Not enough space left in storage pool")
	}
	return v.change(ctx, func(ctx context.Context) error {
		conn, ref, err := v.Pool.driver(ctx)
		if err != nil {
			return err
		}
		secrets, err := v.passphrase(ctx)
		if err != nil {
			return err
		}
		rsp, err := pb.NewResizeServiceClient(conn).Resize(ctx, &pb.ResizeRequest{
			Pool: ref, Secrets: secrets, Volume: v.Volume, Capacity: target, Flags: flags &^ volDelta,
		})
		if err == nil {
			v.Pool.volumes.put(rsp.GetVolume())
		}
		return unlessLacking(err, "changing of volume capacity")
	})
}

// lastAlgorithm is the highest of virStorageVolWipeAlgorithm.
const lastAlgorithm = 9

// Wipe overwrites a volume; the algorithm is one of virStorageVolWipeAlgorithm.
func (v Volume) Wipe(ctx context.Context, algorithm uint32) error {
	if algorithm > lastAlgorithm {
		return storageError(verr.InvalidArg, "wiping algorithm %d not supported", algorithm)
	}
	return v.change(ctx, func(ctx context.Context) error {
		conn, ref, err := v.Pool.driver(ctx)
		if err != nil {
			return err
		}
		err = v.Pool.follow(ctx, "wipe", v.Name, func(ctx context.Context, t *task) error {
			stream, err := pb.NewWipeServiceClient(conn).Wipe(ctx, &pb.WipeRequest{Pool: ref, Volume: v.Volume, Algorithm: algorithm})
			if err != nil {
				return err
			}
			return follow(t, stream)
		})
		err = unlessLacking(err, "volume wiping")
		if err != nil {
			return err
		}
		if err := v.Pool.lookAt(ctx, v.Name); err != nil && !looksAtNone(err) {
			return err
		}
		return nil
	})
}

// publishRefresh tells that the pool was looked at.
func (p *Pool) publishRefresh() {
	v := p.View()
	p.inv.cfg.Events.Publish(event.Event{URI: p.inv.URI(), Name: v.Name, UUID: v.UUID, Pool: &event.Pool{Refreshed: true}})
}
