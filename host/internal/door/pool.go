package door

import (
	"context"

	libvirt "github.com/digitalocean/go-libvirt"
	"github.com/google/uuid"

	"github.com/lodgevirt/lodge/host/internal/pool"
	"github.com/lodgevirt/lodge/sdk/verr"
)

const (
	// maxPools and maxVolumes are how many of them one list has at most; libvirt's clients refuse more.
	maxPools   = 16384
	maxVolumes = 16384
	// poolCreateKnown are the bits of virStoragePoolCreateFlags.
	poolCreateKnown = 7
)

// poolTypeFlags are the bits of virConnectListAllStoragePoolsFlags that stand for types.
var poolTypeFlags = map[string]libvirt.ConnectListAllStoragePoolsFlags{
	"dir": libvirt.ConnectListStoragePoolsDir, "fs": libvirt.ConnectListStoragePoolsFs, "netfs": libvirt.ConnectListStoragePoolsNetfs,
	"logical": libvirt.ConnectListStoragePoolsLogical, "disk": libvirt.ConnectListStoragePoolsDisk,
	"iscsi": libvirt.ConnectListStoragePoolsIscsi, "scsi": libvirt.ConnectListStoragePoolsScsi,
	"mpath": libvirt.ConnectListStoragePoolsMpath, "rbd": libvirt.ConnectListStoragePoolsRbd,
	"sheepdog": libvirt.ConnectListStoragePoolsSheepdog, "gluster": libvirt.ConnectListStoragePoolsGluster,
	"zfs": libvirt.ConnectListStoragePoolsZfs, "vstorage": libvirt.ConnectListStoragePoolsVstorage,
	"iscsi-direct": libvirt.ConnectListStoragePoolsIscsiDirect,
}

const (
	// poolTypes are the bits of all types of pools; those below are the other ones.
	poolTypes     = poolListKnown &^ (libvirt.ConnectListStoragePoolsDir - 1)
	poolListKnown = libvirt.ConnectListStoragePoolsIscsiDirect<<1 - 1
)

// poolsThat returns the pools that pass the flags of a list.
func poolsThat(s *session, flags libvirt.ConnectListAllStoragePoolsFlags) ([]pool.View, error) {
	var views []pool.View
	for _, p := range s.connection().Pools.All() {
		v := p.View()
		is := func(yes bool, if_, else_ libvirt.ConnectListAllStoragePoolsFlags) bool {
			if flags&(if_|else_) == 0 {
				return true
			}
			return yes && flags&if_ != 0 || !yes && flags&else_ != 0
		}
		if is(v.Active(), libvirt.ConnectListStoragePoolsActive, libvirt.ConnectListStoragePoolsInactive) &&
			is(v.Persistent, libvirt.ConnectListStoragePoolsPersistent, libvirt.ConnectListStoragePoolsTransient) &&
			is(v.Autostart, libvirt.ConnectListStoragePoolsAutostart, libvirt.ConnectListStoragePoolsNoAutostart) &&
			(flags&poolTypes == 0 || flags&poolTypeFlags[v.Type] != 0) {
			views = append(views, v)
		}
	}
	if len(views) > maxPools {
		return nil, verr.New(verr.RPC, "too many storage pools %d for limit %d", len(views), maxPools)
	}
	return views, nil
}

func poolReference(v pool.View) libvirt.StoragePool {
	return libvirt.StoragePool{Name: v.Name, UUID: libvirt.UUID(v.UUID)}
}

// pool finds the pool that a client means, which is by UUID.
func (s *session) pool(ref libvirt.StoragePool) (*pool.Pool, error) {
	return s.connection().Pools.ByUUID(uuid.UUID(ref.UUID))
}

func connectListAllStoragePools(s *session, args *libvirt.ConnectListAllStoragePoolsArgs) (*libvirt.ConnectListAllStoragePoolsRet, error) {
	if err := checkFlags(uint32(args.Flags), uint32(poolListKnown), "virConnectListAllStoragePools"); err != nil {
		return nil, err
	}
	pools, err := poolsThat(s, args.Flags)
	if err != nil {
		return nil, err
	}
	ret := &libvirt.ConnectListAllStoragePoolsRet{Ret: uint32(len(pools))}
	if args.NeedResults != 0 {
		for _, v := range pools {
			ret.Pools = append(ret.Pools, poolReference(v))
		}
	}
	return ret, nil
}

func connectNumOfStoragePools(s *session, _ *void) (*libvirt.ConnectNumOfStoragePoolsRet, error) {
	pools, err := poolsThat(s, libvirt.ConnectListStoragePoolsActive)
	return &libvirt.ConnectNumOfStoragePoolsRet{Num: int32(len(pools))}, err
}

func connectNumOfDefinedStoragePools(s *session, _ *void) (*libvirt.ConnectNumOfDefinedStoragePoolsRet, error) {
	pools, err := poolsThat(s, libvirt.ConnectListStoragePoolsInactive)
	return &libvirt.ConnectNumOfDefinedStoragePoolsRet{Num: int32(len(pools))}, err
}

// poolNames are the names of at most so many pools.
func poolNames(s *session, flags libvirt.ConnectListAllStoragePoolsFlags, limit int32) ([]string, error) {
	if err := room(limit, "names"); err != nil {
		return nil, err
	}
	pools, err := poolsThat(s, flags)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, v := range firstOf(pools, limit) {
		names = append(names, v.Name)
	}
	return names, nil
}

func connectListStoragePools(s *session, args *libvirt.ConnectListStoragePoolsArgs) (*libvirt.ConnectListStoragePoolsRet, error) {
	names, err := poolNames(s, libvirt.ConnectListStoragePoolsActive, args.Maxnames)
	return &libvirt.ConnectListStoragePoolsRet{Names: names}, err
}

func connectListDefinedStoragePools(s *session, args *libvirt.ConnectListDefinedStoragePoolsArgs) (*libvirt.ConnectListDefinedStoragePoolsRet, error) {
	names, err := poolNames(s, libvirt.ConnectListStoragePoolsInactive, args.Maxnames)
	return &libvirt.ConnectListDefinedStoragePoolsRet{Names: names}, err
}

func storagePoolLookupByName(s *session, args *libvirt.StoragePoolLookupByNameArgs) (*libvirt.StoragePoolLookupByNameRet, error) {
	p, err := s.connection().Pools.ByName(args.Name)
	if err != nil {
		return nil, err
	}
	return &libvirt.StoragePoolLookupByNameRet{Pool: poolReference(p.View())}, nil
}

func storagePoolLookupByUUID(s *session, args *libvirt.StoragePoolLookupByUUIDArgs) (*libvirt.StoragePoolLookupByUUIDRet, error) {
	p, err := s.connection().Pools.ByUUID(uuid.UUID(args.UUID))
	if err != nil {
		return nil, err
	}
	return &libvirt.StoragePoolLookupByUUIDRet{Pool: poolReference(p.View())}, nil
}

func storagePoolLookupByTargetPath(s *session, args *libvirt.StoragePoolLookupByTargetPathArgs) (*libvirt.StoragePoolLookupByTargetPathRet, error) {
	p, err := s.connection().Pools.ByTarget(args.Path)
	if err != nil {
		return nil, err
	}
	return &libvirt.StoragePoolLookupByTargetPathRet{Pool: poolReference(p.View())}, nil
}

func storagePoolLookupByVolume(_ context.Context, s *session, args *libvirt.StoragePoolLookupByVolumeArgs) (*libvirt.StoragePoolLookupByVolumeRet, error) {
	p, err := s.connection().Pools.ByName(args.Vol.Pool)
	if err != nil {
		return nil, err
	}
	return &libvirt.StoragePoolLookupByVolumeRet{Pool: poolReference(p.View())}, nil
}

func storagePoolGetInfo(ctx context.Context, s *session, args *libvirt.StoragePoolGetInfoArgs) (*libvirt.StoragePoolGetInfoRet, error) {
	p, err := s.pool(args.Pool)
	if err != nil {
		return nil, err
	}
	ret := &libvirt.StoragePoolGetInfoRet{State: uint8(p.View().Condition)}
	ret.Capacity, ret.Allocation, ret.Available, err = p.Size(ctx)
	return ret, err
}

func storagePoolGetXMLDesc(ctx context.Context, s *session, args *libvirt.StoragePoolGetXMLDescArgs) (*libvirt.StoragePoolGetXMLDescRet, error) {
	p, err := s.pool(args.Pool)
	if err != nil {
		return nil, err
	}
	xml, err := p.XML(ctx, uint32(args.Flags))
	return &libvirt.StoragePoolGetXMLDescRet{XML: xml}, err
}

func storagePoolDefineXML(ctx context.Context, s *session, args *libvirt.StoragePoolDefineXMLArgs) (*libvirt.StoragePoolDefineXMLRet, error) {
	const validate = 1
	if err := checkFlags(args.Flags, validate, "virStoragePoolDefineXML"); err != nil {
		return nil, err
	}
	p, err := s.connection().Pools.Define(ctx, args.XML)
	if err != nil {
		return nil, err
	}
	return &libvirt.StoragePoolDefineXMLRet{Pool: poolReference(p.View())}, nil
}

func storagePoolCreateXML(ctx context.Context, s *session, args *libvirt.StoragePoolCreateXMLArgs) (*libvirt.StoragePoolCreateXMLRet, error) {
	p, err := s.connection().Pools.Create(ctx, args.XML, uint32(args.Flags)&^8) // 8 asks for a check against the schema
	if err != nil {
		return nil, err
	}
	return &libvirt.StoragePoolCreateXMLRet{Pool: poolReference(p.View())}, nil
}

// onPool runs a change of a pool.
func (s *session) onPool(ref libvirt.StoragePool, do func(*pool.Pool) error) error {
	p, err := s.pool(ref)
	if err != nil {
		return err
	}
	return do(p)
}

func storagePoolCreate(ctx context.Context, s *session, args *libvirt.StoragePoolCreateArgs) error {
	return s.onPool(args.Pool, func(p *pool.Pool) error { return p.Start(ctx, uint32(args.Flags)) })
}

func storagePoolBuild(ctx context.Context, s *session, args *libvirt.StoragePoolBuildArgs) error {
	return s.onPool(args.Pool, func(p *pool.Pool) error { return p.Build(ctx, uint32(args.Flags)) })
}

func storagePoolDestroy(ctx context.Context, s *session, args *libvirt.StoragePoolDestroyArgs) error {
	return s.onPool(args.Pool, func(p *pool.Pool) error { return p.Stop(ctx) })
}

func storagePoolDelete(ctx context.Context, s *session, args *libvirt.StoragePoolDeleteArgs) error {
	return s.onPool(args.Pool, func(p *pool.Pool) error { return p.Delete(ctx, uint32(args.Flags)) })
}

func storagePoolUndefine(ctx context.Context, s *session, args *libvirt.StoragePoolUndefineArgs) error {
	return s.onPool(args.Pool, func(p *pool.Pool) error { return p.Undefine(ctx) })
}

func storagePoolRefresh(ctx context.Context, s *session, args *libvirt.StoragePoolRefreshArgs) error {
	if err := checkFlags(args.Flags, 0, "virStoragePoolRefresh"); err != nil {
		return err
	}
	return s.onPool(args.Pool, func(p *pool.Pool) error { return p.Refresh(ctx) })
}

func storagePoolSetAutostart(ctx context.Context, s *session, args *libvirt.StoragePoolSetAutostartArgs) error {
	return s.onPool(args.Pool, func(p *pool.Pool) error { return p.SetAutostart(ctx, args.Autostart != 0) })
}

func storagePoolGetAutostart(s *session, args *libvirt.StoragePoolGetAutostartArgs) (*libvirt.StoragePoolGetAutostartRet, error) {
	p, err := s.pool(args.Pool)
	if err != nil {
		return nil, err
	}
	return &libvirt.StoragePoolGetAutostartRet{Autostart: number(p.View().Autostart)}, nil
}

func storagePoolIsActive(s *session, args *libvirt.StoragePoolIsActiveArgs) (*libvirt.StoragePoolIsActiveRet, error) {
	p, err := s.pool(args.Pool)
	if err != nil {
		return nil, err
	}
	v := p.View()
	return &libvirt.StoragePoolIsActiveRet{Active: number(v.Active())}, nil
}

func storagePoolIsPersistent(s *session, args *libvirt.StoragePoolIsPersistentArgs) (*libvirt.StoragePoolIsPersistentRet, error) {
	p, err := s.pool(args.Pool)
	if err != nil {
		return nil, err
	}
	return &libvirt.StoragePoolIsPersistentRet{Persistent: number(p.View().Persistent)}, nil
}

// number is libvirt's 1 or 0.
func number(yes bool) int32 {
	if yes {
		return 1
	}
	return 0
}

func connectFindStoragePoolSources(ctx context.Context, s *session, args *libvirt.ConnectFindStoragePoolSourcesArgs) (*libvirt.ConnectFindStoragePoolSourcesRet, error) {
	if err := checkFlags(args.Flags, 0, "virConnectFindStoragePoolSources"); err != nil {
		return nil, err
	}
	xml, err := s.connection().Pools.FindSources(ctx, args.Type, optional(args.SrcSpec))
	return &libvirt.ConnectFindStoragePoolSourcesRet{XML: xml}, err
}

func connectGetStoragePoolCapabilities(ctx context.Context, s *session, args *libvirt.ConnectGetStoragePoolCapabilitiesArgs) (*libvirt.ConnectGetStoragePoolCapabilitiesRet, error) {
	if err := checkFlags(args.Flags, 0, "virConnectGetStoragePoolCapabilities"); err != nil {
		return nil, err
	}
	xml, err := s.connection().Pools.Capabilities(ctx)
	return &libvirt.ConnectGetStoragePoolCapabilitiesRet{Capabilities: xml}, err
}
