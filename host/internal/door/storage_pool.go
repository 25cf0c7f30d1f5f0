package door

import (
	"context"

	libvirt "github.com/digitalocean/go-libvirt"
	"github.com/google/uuid"

	"github.com/lodgevirt/lodge/host/internal/images"
	"github.com/lodgevirt/lodge/sdk/verr"
)

const (
	// onlyShown is why what would change storage is refused.
	onlyShown = "storage pools are folders of this host, which it shows and does not change"
	// maxPools and maxVolumes are how many of them one list has at most; libvirt's clients refuse more.
	maxPools   = 16384
	maxVolumes = 16384
	// storageXMLInactive is the one flag of pool descriptions; a pool that is only shown has no other one.
	storageXMLInactive = 1
)

// refused makes a handler of a sentence that says why a call is not supported.
func refused(why string) *handler {
	return &handler{prepare: func([]byte) (action, error) {
		return nil, verr.New(verr.NoSupport, "%s", why).In(verr.FromStorage)
	}}
}

// poolFilter are the groups of bits of virConnectListAllStoragePoolsFlags, each with those that fit a folder: it is active, transient,
// not started by the host, and of type dir.
var poolFilter = []struct {
	group, fits libvirt.ConnectListAllStoragePoolsFlags
}{
	{libvirt.ConnectListStoragePoolsInactive | libvirt.ConnectListStoragePoolsActive, libvirt.ConnectListStoragePoolsActive},
	{libvirt.ConnectListStoragePoolsPersistent | libvirt.ConnectListStoragePoolsTransient, libvirt.ConnectListStoragePoolsTransient},
	{libvirt.ConnectListStoragePoolsAutostart | libvirt.ConnectListStoragePoolsNoAutostart, libvirt.ConnectListStoragePoolsNoAutostart},
	{poolTypes, libvirt.ConnectListStoragePoolsDir},
}

const (
	// poolTypes are the bits of all types of pools; those above are the other ones.
	poolTypes     = poolListKnown &^ (libvirt.ConnectListStoragePoolsDir - 1)
	poolListKnown = libvirt.ConnectListStoragePoolsIscsiDirect<<1 - 1
)

// poolsThat returns the pools that pass the flags of a list.
func poolsThat(s *session, flags libvirt.ConnectListAllStoragePoolsFlags) ([]*images.Pool, error) {
	for _, f := range poolFilter {
		if flags&f.group != 0 && flags&f.fits == 0 {
			return nil, nil
		}
	}
	pools := s.connection().Images.All()
	if len(pools) > maxPools {
		return nil, verr.New(verr.RPC, "too many storage pools %d for limit %d", len(pools), maxPools)
	}
	return pools, nil
}

func poolReference(p *images.Pool) libvirt.StoragePool {
	return libvirt.StoragePool{Name: p.Name, UUID: libvirt.UUID(p.UUID)}
}

// pool finds the pool that a client means, which is by UUID.
func (s *session) pool(ref libvirt.StoragePool) (*images.Pool, error) {
	return s.connection().Images.ByUUID(uuid.UUID(ref.UUID))
}

func connectListAllStoragePools(_ context.Context, s *session, args *libvirt.ConnectListAllStoragePoolsArgs) (*libvirt.ConnectListAllStoragePoolsRet, error) {
	if err := checkFlags(uint32(args.Flags), uint32(poolListKnown), "virConnectListAllStoragePools"); err != nil {
		return nil, err
	}
	pools, err := poolsThat(s, args.Flags)
	if err != nil {
		return nil, err
	}
	ret := &libvirt.ConnectListAllStoragePoolsRet{Ret: uint32(len(pools))}
	if args.NeedResults != 0 {
		for _, p := range pools {
			ret.Pools = append(ret.Pools, poolReference(p))
		}
	}
	return ret, nil
}

func connectNumOfStoragePools(_ context.Context, s *session, _ *void) (*libvirt.ConnectNumOfStoragePoolsRet, error) {
	pools, err := poolsThat(s, 0)
	return &libvirt.ConnectNumOfStoragePoolsRet{Num: int32(len(pools))}, err
}

func connectListStoragePools(_ context.Context, s *session, args *libvirt.ConnectListStoragePoolsArgs) (*libvirt.ConnectListStoragePoolsRet, error) {
	if err := room(args.Maxnames, "names"); err != nil {
		return nil, err
	}
	pools, err := poolsThat(s, 0)
	if err != nil {
		return nil, err
	}
	ret := &libvirt.ConnectListStoragePoolsRet{}
	for _, p := range firstOf(pools, args.Maxnames) {
		ret.Names = append(ret.Names, p.Name)
	}
	return ret, nil
}

// connectNumOfDefinedStoragePools and connectListDefinedStoragePools are about inactive pools, which there are none of.
func connectNumOfDefinedStoragePools(*session, *void) (*libvirt.ConnectNumOfDefinedStoragePoolsRet, error) {
	return &libvirt.ConnectNumOfDefinedStoragePoolsRet{}, nil
}

func connectListDefinedStoragePools(_ *session, args *libvirt.ConnectListDefinedStoragePoolsArgs) (*libvirt.ConnectListDefinedStoragePoolsRet, error) {
	return &libvirt.ConnectListDefinedStoragePoolsRet{}, room(args.Maxnames, "names")
}

func storagePoolLookupByName(_ context.Context, s *session, args *libvirt.StoragePoolLookupByNameArgs) (*libvirt.StoragePoolLookupByNameRet, error) {
	p, err := s.connection().Images.ByName(args.Name)
	if err != nil {
		return nil, err
	}
	return &libvirt.StoragePoolLookupByNameRet{Pool: poolReference(p)}, nil
}

func storagePoolLookupByUUID(_ context.Context, s *session, args *libvirt.StoragePoolLookupByUUIDArgs) (*libvirt.StoragePoolLookupByUUIDRet, error) {
	p, err := s.connection().Images.ByUUID(uuid.UUID(args.UUID))
	if err != nil {
		return nil, err
	}
	return &libvirt.StoragePoolLookupByUUIDRet{Pool: poolReference(p)}, nil
}

func storagePoolLookupByTargetPath(_ context.Context, s *session, args *libvirt.StoragePoolLookupByTargetPathArgs) (*libvirt.StoragePoolLookupByTargetPathRet, error) {
	p, err := s.connection().Images.ByPath(args.Path)
	if err != nil {
		return nil, err
	}
	return &libvirt.StoragePoolLookupByTargetPathRet{Pool: poolReference(p)}, nil
}

func storagePoolLookupByVolume(ctx context.Context, s *session, args *libvirt.StoragePoolLookupByVolumeArgs) (*libvirt.StoragePoolLookupByVolumeRet, error) {
	v, err := s.volume(ctx, args.Vol)
	if err != nil {
		return nil, err
	}
	return &libvirt.StoragePoolLookupByVolumeRet{Pool: poolReference(v.Pool)}, nil
}

func storagePoolGetInfo(ctx context.Context, s *session, args *libvirt.StoragePoolGetInfoArgs) (*libvirt.StoragePoolGetInfoRet, error) {
	p, err := s.pool(args.Pool)
	if err != nil {
		return nil, err
	}
	i, err := p.Info(ctx)
	return &libvirt.StoragePoolGetInfoRet{
		State: uint8(i.State), Capacity: i.Capacity, Allocation: i.Allocation, Available: i.Available,
	}, err
}

func storagePoolGetXMLDesc(ctx context.Context, s *session, args *libvirt.StoragePoolGetXMLDescArgs) (*libvirt.StoragePoolGetXMLDescRet, error) {
	if err := checkFlags(uint32(args.Flags), storageXMLInactive, "virStoragePoolGetXMLDesc"); err != nil {
		return nil, err
	}
	p, err := s.pool(args.Pool)
	if err != nil {
		return nil, err
	}
	xml, err := p.XML(ctx)
	return &libvirt.StoragePoolGetXMLDescRet{XML: xml}, err
}

// storagePoolRefresh has nothing to do: a folder is read whenever somebody asks.
func storagePoolRefresh(_ context.Context, s *session, args *libvirt.StoragePoolRefreshArgs) error {
	if err := checkFlags(args.Flags, 0, "virStoragePoolRefresh"); err != nil {
		return err
	}
	_, err := s.pool(args.Pool)
	return err
}

func storagePoolGetAutostart(_ context.Context, s *session, args *libvirt.StoragePoolGetAutostartArgs) (*libvirt.StoragePoolGetAutostartRet, error) {
	_, err := s.pool(args.Pool)
	return &libvirt.StoragePoolGetAutostartRet{}, err
}

func storagePoolIsActive(_ context.Context, s *session, args *libvirt.StoragePoolIsActiveArgs) (*libvirt.StoragePoolIsActiveRet, error) {
	_, err := s.pool(args.Pool)
	return &libvirt.StoragePoolIsActiveRet{Active: 1}, err
}

func storagePoolIsPersistent(_ context.Context, s *session, args *libvirt.StoragePoolIsPersistentArgs) (*libvirt.StoragePoolIsPersistentRet, error) {
	_, err := s.pool(args.Pool)
	return &libvirt.StoragePoolIsPersistentRet{}, err
}
